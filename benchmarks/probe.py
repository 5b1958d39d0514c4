"""Asks a proxy for one app, over and over, as lightly as Python can: who answers, and when."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

INTERVAL = 0.0005
"""Seconds between two questions: what a figure of ours is too large by, at most."""

_TIMEOUT = 5.0
_POD = re.compile(rb"\r\nx-pod: *([^\r\n]*)", re.IGNORECASE)
_VERSION = re.compile(rb"\r\nx-version: *([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Answer(NamedTuple):
    """`at`: monotonic time at which the whole of it was in. `pod` is empty for the proxy's own."""

    status: int
    pod: str
    version: str
    at: float


class Probe:
    """One connection to a proxy on loopback, made again whenever it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """End the connection; the next question makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, host: str) -> Answer:
        """One question and its answer. Raises OSError when there is none."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
            head = self._read()
        except OSError:
            self.close()
            raise
        at = time.monotonic()
        if _CLOSE.search(head):
            self.close()
        pod, version = _POD.search(head), _VERSION.search(head)
        return Answer(
            int(head[9:12]),
            pod[1].decode() if pod else "",
            version[1].decode() if version else "",
            at,
        )

    def answers(self, host: str, until: float) -> Iterator[Answer]:
        """Ask every `INTERVAL` up to a moment, and at least once."""
        due = time.monotonic()
        while True:
            yield self.ask(host)
            due += INTERVAL
            now = time.monotonic()
            if now >= until:
                return
            if due > now:
                time.sleep(due - now)
            else:
                due = now

    def _read(self) -> bytes:
        """One answer; its head."""
        assert self._socket is not None
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = data[: end + 2]
        length = _LENGTH.search(head)
        left = int(length[1]) - (len(data) - end - 4) if length else 0
        while left > 0:
            left -= len(self._more())
        return head

    def _more(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("closed without an answer")
        return data
