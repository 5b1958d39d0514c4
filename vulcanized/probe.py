"""Asks servers directly whether they are there: TCP connects, many at once, in bounded time.

Nothing is sent. A connection that comes about is reset at once, which is what HAProxy's own TCP
check does, and leaves no port of ours waiting.
"""

from __future__ import annotations

import enum
import errno
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator

from vulcanized.model import Endpoint
from vulcanized.slot import Clock

TIMEOUT = 1.0
"""Seconds that a server has to accept: a thousand times what it takes within a data centre."""

LIMIT = 4.0
"""Seconds for all that is asked at once; an event may wait for so long."""

_SLICE = 0.1  # seconds between two looks at the stop event
_RESET = struct.pack("ii", 1, 0)


class Answer(enum.Enum):
    """`refused`: told that nothing is there. `silent`: no word in time. `unasked`: no time left."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    SILENT = "silent"
    UNASKED = "unasked"


class Prober:
    """For any number of threads; one asks at a time, the others wait within their own limit."""

    def __init__(
        self, timeout: float = TIMEOUT, limit: float = LIMIT, clock: Clock = time.monotonic
    ) -> None:
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._turn = threading.Lock()

    def ask(self, endpoints: Iterable[Endpoint], stop: threading.Event) -> dict[Endpoint, Answer]:
        """What each of these endpoints answers, in the order in which they are given."""
        answers = dict.fromkeys(endpoints, Answer.UNASKED)
        end = self._clock() + self._limit
        if answers and self._turn.acquire(timeout=self._limit):
            try:
                self._ask(answers, end, stop)
            finally:
                self._turn.release()
        return answers

    def _ask(self, answers: dict[Endpoint, Answer], end: float, stop: threading.Event) -> None:
        waiting = iter(list(answers))
        room = _room()
        poll = select.poll()
        open_: dict[int, tuple[socket.socket, Endpoint, float]] = {}
        try:
            while not stop.is_set():
                self._begin(waiting, room - len(open_), answers, open_, poll, end)
                if not open_:
                    return
                for descriptor, _ in poll.poll(_SLICE * 1000):
                    sock, endpoint, _ = open_.pop(descriptor)
                    poll.unregister(descriptor)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    answers[endpoint] = _meaning(code)
                    sock.close()
                now = self._clock()
                for descriptor, (sock, endpoint, until) in list(open_.items()):
                    if now < until:
                        break  # they were begun in this order
                    poll.unregister(descriptor)
                    del open_[descriptor]
                    answers[endpoint] = Answer.SILENT
                    sock.close()
        finally:
            for sock, _, _ in open_.values():
                sock.close()

    def _begin(
        self,
        waiting: Iterator[Endpoint],
        room: int,
        answers: dict[Endpoint, Answer],
        open_: dict[int, tuple[socket.socket, Endpoint, float]],
        poll: select.poll,
        end: float,
    ) -> None:
        """Start as many connects as there is room for, none that could not be waited for."""
        for _ in range(room):
            now = self._clock()
            if now + self._timeout > end or (endpoint := next(waiting, None)) is None:
                return
            try:
                sock = _connecting(endpoint)
            except OSError as error:
                answers[endpoint] = _meaning(error.errno)
                continue
            open_[sock.fileno()] = (sock, endpoint, now + self._timeout)
            poll.register(sock, select.POLLOUT)


def _connecting(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        code = sock.connect_ex(tuple(endpoint))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "")
    except BaseException:
        sock.close()
        raise
    return sock


def _meaning(code: int | None) -> Answer:
    if code == 0:
        return Answer.ACCEPTED
    if code in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET):
        return Answer.REFUSED
    if code == errno.ETIMEDOUT:
        return Answer.SILENT
    return Answer.UNASKED  # a fault of ours: no descriptor or port left


def _room() -> int:
    """How many sockets at once: a part of those that we may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1000 if soft == resource.RLIM_INFINITY else max(16, min(1000, soft // 4))
