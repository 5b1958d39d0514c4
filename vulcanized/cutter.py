"""Ends what other threads wait for on a socket: when we stop, and when a deadline passes.

A read time-out is the longest gap between two bytes. It does not end a thread when the daemon
stops, and a server that sends one byte now and then never reaches it. Both need somebody else to
shut the socket down, which wakes its reader at once.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection

from vulcanized.slot import Clock


@dataclass(slots=True, eq=False)
class Deadline:
    """When a socket is shut down. `passed`: it was."""

    sock: socket.socket
    when: float
    seconds: float
    clock: Clock
    passed: bool = False

    def renew(self) -> None:
        """As many seconds as in the beginning, from now."""
        self.when = self.clock() + self.seconds


class Cutter:
    """Watches over sockets in a thread of its own. `tick`: seconds by which it may be late."""

    def __init__(self, tick: float = 1.0, clock: Clock = time.monotonic) -> None:
        self._tick = tick
        self._clock = clock
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._deadlines: set[Deadline] = set()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def serve(self, stop: threading.Event) -> None:
        """Watch over the sockets until `stop`, then cut them all. Again and again is harmless."""
        with self._lock:
            if self._stop is not stop or self._thread is None:
                self._stop = stop
                self._thread = threading.Thread(
                    target=self._run, args=(stop,), name="cutter", daemon=True
                )
                self._thread.start()

    def add(self, sock: socket.socket) -> None:
        """Cut this socket when we stop; at once if we have."""
        with self._lock:
            self._sockets.add(sock)
            stopped = self._stop.is_set()
        if stopped:
            _cut(sock)

    @contextlib.contextmanager
    def deadline(self, sock: socket.socket, seconds: float) -> Iterator[Deadline]:
        """Cut this socket if the block takes longer."""
        deadline = Deadline(sock, self._clock() + seconds, seconds, self._clock)
        with self._lock:
            self._deadlines.add(deadline)
        try:
            yield deadline
        finally:
            with self._lock:
                self._deadlines.discard(deadline)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._tick):
            now = self._clock()
            with self._lock:
                overdue = [d for d in self._deadlines if d.when <= now and not d.passed]
                for deadline in overdue:
                    deadline.passed = True
                    _cut(deadline.sock)
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            _cut(sock)


def _cut(sock: socket.socket) -> None:
    # Not `sock.shutdown`: that of a TLS socket takes its state away under a reader's feet.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class NoAnswer(OSError):
    """A handshake, or the headers of an answer, were not complete in time."""


class _Bounded(io.BufferedReader):
    """Reads no more than it is asked for: http.client and urllib3 take chunks of negative sizes for
    "until the end", which a server need not come to.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk of a negative size")
        return super().read(size)


class _Response(http.client.HTTPResponse):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp: io.BufferedReader = _Bounded(self.fp.detach())


def cut_late(manager: urllib3.PoolManager, cutter: Cutter, seconds: float) -> None:
    """Have the cutter watch over every connection that this manager makes from now on.

    A request fails by `NoAnswer` when its connection's TLS handshake, or the headers of its answer,
    are not complete after `seconds`. No answer is read without a bound.
    """

    class Watched(HTTPConnection):
        """Knows its socket also after the response has taken it over."""

        response_class = _Response
        live: socket.socket | None = None

        def connect(self) -> None:
            self._handshake = contextlib.ExitStack()
            with self._handshake:
                super().connect()
            self.live = self.sock
            cutter.add(self.sock)

        def _new_conn(self) -> socket.socket:
            sock = super()._new_conn()
            # The TLS socket to be takes the descriptor away from this one; its twin stays.
            twin = self._handshake.enter_context(sock.dup())
            cutter.add(twin)
            deadline = self._handshake.enter_context(cutter.deadline(twin, seconds))
            self._handshake.enter_context(_no_answer_after(deadline))
            return sock

        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 has it
            with cutter.deadline(self.sock, seconds) as deadline, _no_answer_after(deadline):
                response = super().getresponse()
                if deadline.passed:
                    # http.client takes headers that are cut off for headers that are complete.
                    response.close()
                    raise NoAnswer
            return response

    def watched(pool: type[urllib3.HTTPConnectionPool]) -> type[urllib3.HTTPConnectionPool]:
        connection = type("WatchedConnection", (Watched, pool.ConnectionCls), {})
        return type("WatchedPool", (pool,), {"ConnectionCls": connection})

    schemes = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {name: watched(pool) for name, pool in schemes.items()}


@contextlib.contextmanager
def _no_answer_after(deadline: Deadline) -> Iterator[None]:
    """Name what goes wrong because this deadline has passed."""
    try:
        yield
    except Exception as error:
        if deadline.passed:
            raise NoAnswer(f"no answer within {deadline.seconds:g} s") from error
        raise


def live_socket(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    """The socket of a response that is still being read, of a manager given to `cut_late`."""
    live = getattr(response.connection, "live", None)
    return live if isinstance(live, socket.socket) else None
