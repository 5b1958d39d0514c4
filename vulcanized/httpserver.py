"""An HTTP server that whoever reaches it can fill neither with threads nor with connections."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from vulcanized.model import Endpoint

log = structlog.get_logger(__name__)


class Handler(BaseHTTPRequestHandler):
    """What all handlers of ours are. They set `timeout`: the longest that a client may say nothing.

    `server_version` is what clients are told; that it is Python is none of their business.
    """

    def version_string(self) -> str:
        """The header `Server`."""
        return self.server_version

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
        """Requests are not worth a line; http.server would print each."""


class BoundedServer(ThreadingHTTPServer):
    """A thread for each connection, `most` of them at a time: further ones are closed at once.

    Raises OSError if it cannot listen at `listen`, whose address may be `*`.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    block_on_close = False

    def __init__(self, listen: Endpoint, handler: type[Handler], most: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
        self._room = threading.BoundedSemaphore(most)
        address = "0.0.0.0" if listen.address == "*" else listen.address  # noqa: S104 - asked for
        super().__init__((address, listen.port), handler)

    @property
    def port(self) -> int:
        """The port listened on; tells which one the system chose for port 0."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread if there is room, else drop it."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; a fault of ours is."""
        log.debug("request failed", client=str(client_address), error=repr(sys.exception()))
