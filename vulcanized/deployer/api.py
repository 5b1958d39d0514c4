"""`serve`: deployments over HTTP, with Amdatu's routes; described by `/openapi.json`.

Whoever reaches it holds neither threads nor memory: connections, rates, bodies and times are
bounded. Every route but `/healthz` and `/openapi.json` wants a bearer token with the right to the
namespace that is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http import HTTPStatus
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

import structlog

from vulcanized import __version__
from vulcanized.cutter import Cutter
from vulcanized.deployer.descriptor import (
    MAX_BYTES,
)
from vulcanized.deployer.routes import PATTERNS, Answer, Request, openapi
from vulcanized.deployer.service import Feed, Problem, Service
from vulcanized.deployer.store import Store
from vulcanized.deployer.tokens import Bucket, Grant, Tokens
from vulcanized.errors import (
    Invalid,
    Locked,
    SettingsError,
    SourceError,
    VulcanizedError,
)
from vulcanized.httpserver import BoundedServer, Handler
from vulcanized.model import Endpoint
from vulcanized.printable import printable_document

log = structlog.get_logger(__name__)

MOST_CONNECTIONS: Final = 64
IDLE_SECONDS: Final = 15.0
REQUEST_SECONDS: Final = 30.0
FOLLOW_SECONDS: Final = 3600.0
RATE: Final = (20.0, 40.0)
STRANGERS: Final = (5.0, 20.0)
"""Requests a second and at once: of one token, and of all who have none that counts."""

Json = Any

_STATUS: Final = (
    (Problem, None),
    (Invalid, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Locked, HTTPStatus.LOCKED),
    (SourceError, HTTPStatus.SERVICE_UNAVAILABLE),
    (VulcanizedError, HTTPStatus.CONFLICT),
)


# --- the server --------------------------------------------------------------------------------


class ApiServer:
    """Listens until closed."""

    def __init__(
        self,
        listen: Endpoint,
        service: Service,
        store: Store,
        tokens: Tokens,
        stop: threading.Event,
    ) -> None:
        shared: dict[str, Any] = {
            "service": service,
            "store": store,
            "tokens": tokens,
            "stop": stop,
            "strangers": Bucket(*STRANGERS),
            "buckets": {},
            "cutter": Cutter(),
        }
        shared["cutter"].serve(stop)
        handler = type("Handler", (_Handler,), shared)
        try:
            self._server = BoundedServer(listen, handler, MOST_CONNECTIONS)
        except OSError as error:
            problem = f"deployer.listen: cannot listen on {listen} ({error.strerror})"
            raise SettingsError("settings", (problem,)) from None

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._server.port

    def serve(self) -> None:
        """Answer until `close`."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(Handler):
    service: ClassVar[Service]
    store: ClassVar[Store]
    tokens: ClassVar[Tokens]
    stop: ClassVar[threading.Event]
    strangers: ClassVar[Bucket]
    buckets: ClassVar[dict[str, Bucket]]
    cutter: ClassVar[Cutter]
    # One request a connection, and so long to send it.
    protocol_version = "HTTP/1.0"
    server_version = f"vulcanized-deployer/{__version__}"
    timeout = IDLE_SECONDS

    def setup(self) -> None:
        """A connection begins."""
        super().setup()
        self._sending = contextlib.ExitStack()
        self._sending.enter_context(self.cutter.deadline(self.connection, REQUEST_SECONDS))

    def finish(self) -> None:
        """A connection ends."""
        self._sending.close()
        with contextlib.suppress(OSError):
            super().finish()

    def _answer(self) -> None:
        try:
            answer = self._routed()
        except Exception as error:
            self._refuse(error)
            return
        if answer.events is not None:
            self._stream(answer.events)
        else:
            self._send(answer.status, answer.body, answer.location)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, Problem):
            status: HTTPStatus | None = error.status
        else:
            status = next((s for kind, s in _STATUS if s and isinstance(error, kind)), None)
        if status is None:
            log.error("request failed", path=self.path, error=repr(error))
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"reason": "failed: see the log"})
            return
        self._send(status, {"reason": str(error)})

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses."""
        del explain
        status = HTTPStatus(code)
        self.close_connection = True
        self._send(status, {"reason": message or status.phrase})

    def _routed(self) -> Answer:
        url = urlsplit(self.path)
        if (self.command, url.path) == ("GET", "/healthz"):
            return Answer(HTTPStatus.OK, {"healthy": True})
        if (self.command, url.path) == ("GET", "/openapi.json"):
            return Answer(HTTPStatus.OK, openapi())
        pairs = parse_qs(url.query, max_num_fields=100)
        query = {name: "\n".join(values) for name, values in pairs.items()}
        namespace = query.get("namespace", "")
        grant = self._who()
        if not namespace:
            raise Problem(HTTPStatus.BAD_REQUEST, "say which namespace: ?namespace=NAME")
        if not grant.allows(namespace, writing=self.command != "GET"):
            raise Problem(HTTPStatus.FORBIDDEN, "the token does not allow this in this namespace")
        matches = [(m, p.fullmatch(url.path), work) for m, p, work in PATTERNS]
        fitting = [(m, found, work) for m, found, work in matches if found]
        if not fitting:
            raise Problem(HTTPStatus.NOT_FOUND, "not here: see /openapi.json")
        chosen = next(((f, w) for m, f, w in fitting if m == self.command), None)
        if chosen is None:
            raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, "not by this method: see /openapi.json")
        found, work = chosen
        key = self.headers.get("Idempotency-Key", "")[:256]
        digest = hashlib.sha256(f"{grant.name} {key}".encode("utf-8", "replace")).hexdigest()
        request = Request(
            self.service, self.store, namespace, query, self._body(), digest if key else ""
        )
        return work(request, *found.groups())

    def _who(self) -> Grant:
        grant = self.tokens.grant(self.headers.get("Authorization", ""))
        if grant is None:
            if not self.strangers.take():
                raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too many without a token that counts")
            raise Problem(HTTPStatus.UNAUTHORIZED, "give a token: Authorization: Bearer ...")
        bucket = self.buckets.setdefault(grant.name, Bucket(*RATE))
        if not bucket.take():
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too many at once: slow down")
        return grant

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            raise Problem(HTTPStatus.LENGTH_REQUIRED, "send the body with its Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length[:10]) > MAX_BYTES:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES} bytes")
        body = self.rfile.read(int(length))
        self._sending.close()
        if len(body) < int(length):
            raise Problem(HTTPStatus.BAD_REQUEST, "the body ended early")
        return body

    def _send(self, status: HTTPStatus, body: Json, location: str = "") -> None:
        data = b""
        if status is not HTTPStatus.NO_CONTENT:
            data = json.dumps(printable_document(body), indent=1).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if location:
            self.send_header("Location", location)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, feed: Feed) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        for line in feed.follow(self.stop, FOLLOW_SECONDS):
            data = ": \n\n" if line is None else f"data: {json.dumps(line)}\n\n"
            self.wfile.write(data.encode())
