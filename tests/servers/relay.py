"""A TCP relay between a client and a server, with the faults of a network."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.servers.ports import free_port

_CHUNK = 65536


class Relay:
    """Forwards a port of its own on loopback to `target`; a context manager.

    `accepted` counts the connections that clients have made, refused ones included.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.accepted = 0
        self._asking = threading.Event()
        self._answering = threading.Event()
        self.restore()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))

    def cut(self) -> None:
        """Cut all connections that there are; new ones are let through."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            _close(each)

    def refuse(self) -> None:
        """Cut all connections, and new ones as soon as they are made."""
        self._refusing = True
        self.cut()

    def mute(self, *, answers_only: bool = False) -> None:
        """Keep all connections open and pass nothing on, or no answers, until `restore`."""
        self._answering.clear()
        if not answers_only:
            self._asking.clear()

    def restore(self) -> None:
        """Pass everything on again."""
        self._refusing = False
        self._asking.set()
        self._answering.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _close(self._listener)
        self.restore()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for work in (
                (client, server, self._asking),
                (server, client, self._answering),
            ):
                threading.Thread(target=self._pump, args=work, name="relay", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, may: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                may.wait()
                sink.sendall(data)
        for each in (source, sink):
            with self._lock:
                self._sockets.discard(each)
            _close(each)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
