"""The admin server: /metrics /healthz /readyz /status, and a page for people at /.

Read-only, GET and HEAD only. It is meant for loopback or a scrape network; still, whoever reaches
it can neither hold threads nor memory: connections, time and sizes are bounded.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from vulcanized import __version__
from vulcanized.errors import VulcanizedError
from vulcanized.httpserver import BoundedServer, Handler
from vulcanized.model import Endpoint

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 32
IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path answers."""

    status: HTTPStatus
    content_type: str
    body: bytes


Page = Callable[[], Answer]


def text(status: HTTPStatus, words: str) -> Answer:
    """A plain answer of one line."""
    return Answer(status, "text/plain; charset=utf-8", words.encode() + b"\n")


def json_answer(document: Any) -> Answer:
    """A JSON answer."""
    body = json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Answer(HTTPStatus.OK, "application/json", body)


def metrics_answer(exposition: bytes) -> Answer:
    """The metrics in Prometheus' text format."""
    return Answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, exposition)


def html_answer(page: str) -> Answer:
    """A page."""
    return Answer(HTTPStatus.OK, "text/html; charset=utf-8", page.encode("utf-8", "replace"))


class AdminError(VulcanizedError):
    """The address cannot be listened on."""

    exit_code = 2


class AdminServer:
    """Serves `pages` (path -> what it answers) until closed."""

    def __init__(self, listen: Endpoint, pages: Mapping[str, Page]) -> None:
        handler = type("Handler", (_Handler,), {"pages": dict(pages)})
        try:
            self._server = BoundedServer(listen, handler, MAX_CONNECTIONS)
        except OSError as error:
            raise AdminError(
                f"admin.listen: cannot listen on {listen} ({error.strerror}): is another daemon "
                "running? Choose a free address"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="admin"
        )
        self._thread.daemon = True
        self._thread.start()

    @property
    def port(self) -> int:
        """The port listened on; tells which one the system chose for port 0."""
        return self._server.port

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2.0)


class _Handler(Handler):
    pages: ClassVar[Mapping[str, Page]] = {}
    protocol_version = "HTTP/1.1"
    server_version = f"vulcanized/{__version__}"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer a page; http.server calls it by this name."""
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            known = " ".join(sorted(self.pages))
            self._send(text(HTTPStatus.NOT_FOUND, f"not here; there are: {known}"))
            return
        try:
            answer = page()
        except Exception:
            log.exception("admin page failed", path=self.path)
            answer = text(HTTPStatus.INTERNAL_SERVER_ERROR, "failed: see the log")
        self._send(answer)

    do_HEAD = do_GET

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
