"""Servers and clients that are no better than a test wants them: bytes over TCP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class RawServer:
    """Hands each connection, once the head of a request is in, to `serve(connection, head)`, in a
    thread of its own, and closes it after; a context manager. `accepted` counts them."""

    def __init__(self, serve: Callable[[socket.socket, bytes], object]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._start(lambda taken=connection: self._answer(taken))  # type: ignore[misc]

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with connection:
            head = read_head(connection)
            if head:
                self._serve(connection, head)


def read_head(connection: socket.socket) -> bytes:
    """A message's head with what came along; what there was if the connection ended before."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return data


def exchange(port: int, request: bytes) -> bytes:
    """All that is answered until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer
