"""`serve`: deployments over HTTP, with Amdatu's routes; described by `/openapi.json`.

Whoever reaches it holds neither threads nor memory: connections, rates, bodies and times are
bounded. Every route but `/healthz` and `/openapi.json` wants a bearer token with the right to the
namespace that is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

import structlog

from vulcanized import __version__
from vulcanized.cutter import Cutter
from vulcanized.deployer import plan
from vulcanized.deployer.descriptor import (
    MAX_BYTES,
    NEXT_VERSION,
    Draft,
    Lookup,
    descriptor_schema,
    read,
    redacted,
)
from vulcanized.deployer.progress import line_of, summary
from vulcanized.deployer.run import Deployer
from vulcanized.deployer.store import Store, new_id
from vulcanized.deployer.tokens import Bucket, Grant, Tokens
from vulcanized.deployer.views import journal_of
from vulcanized.deployer.words import AnyStep, Record, Report, Seen, Times
from vulcanized.errors import (
    DescriptorInvalid,
    Invalid,
    Locked,
    NotPossible,
    SettingsError,
    SourceError,
    VulcanizedError,
)
from vulcanized.model import AppId, Endpoint
from vulcanized.objects import Labels
from vulcanized.printable import printable_document

log = structlog.get_logger(__name__)

MOST_CONNECTIONS: Final = 64
MOST_DEPLOYMENTS: Final = 16
MOST_LINES: Final = 1000
"""Connections, deployments under way here, and lines kept of each for those who follow it."""

IDLE_SECONDS: Final = 15.0
REQUEST_SECONDS: Final = 30.0
BEGIN_SECONDS: Final = 60.0
FOLLOW_SECONDS: Final = 3600.0
RATE: Final = (20.0, 40.0)
STRANGERS: Final = (5.0, 20.0)
MAINTAIN_EVERY: Final = 15.0

Json = Any
Query = dict[str, str]


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Feed:
    """What a deployment here has said so far, for those who follow it; itself a `Progress`."""

    cancel: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    lines: list[Json] = field(default_factory=list)
    over: bool = False
    record: Record | None = None
    error: VulcanizedError | None = None

    def step(self, record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep) -> None:
        """What is done or waited for now."""
        line = line_of(record, seen, reports, step)
        if not self.lines or self.lines[-1] != line:
            self._say(line)

    def trouble(self, record: Record, error: str) -> None:
        """Something is away."""
        line = {"deployment": record.id, "message": "trying again", "reason": error}
        if not self.lines or self.lines[-1] != line:
            self._say(line)

    def details(self, record: Record, lines: Sequence[str]) -> None:
        """Why pods are not well."""
        for each in lines:
            self._say({"deployment": record.id, "message": "detail", "detail": each})

    def ended(self, record: Record) -> None:
        """How it ended."""
        self._say({"message": "ended", **summary(record)})

    def begin(self, record: Record) -> None:
        """It stands in etcd."""
        with self.changed:
            self.record = record
            self.changed.notify_all()

    def end(self, error: VulcanizedError | None) -> None:
        """Nothing follows."""
        with self.changed:
            self.error, self.over = error, True
            self.changed.notify_all()

    def _say(self, line: Json) -> None:
        with self.changed:
            if len(self.lines) < MOST_LINES:
                self.lines.append(printable_document(line))
            self.changed.notify_all()

    def follow(self, stop: threading.Event, seconds: float) -> Iterator[Json]:
        """Each line, as it comes, up to the last; None now and then while there is none."""
        at, waited = 0, 0.0
        while not stop.is_set() and waited < seconds:
            with self.changed:
                if at >= len(self.lines) and not self.over:
                    self.changed.wait(1.0)
                    waited += 1.0
                fresh, over = self.lines[at:], self.over
            yield from fresh or [None]
            at += len(fresh)
            if over and at >= len(self.lines):
                return


class Service:
    """Deployments in threads of their own; what the routes do."""

    def __init__(
        self, make: Callable[[Feed], Deployer], store: Store, stop: threading.Event
    ) -> None:
        """`make` gives a deployer for one deployment."""
        self._make = make
        self._store = store
        self._stop = stop
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MOST_DEPLOYMENTS)
        self._feeds: OrderedDict[str, Feed] = OrderedDict()

    # --- upkeep ---

    def maintain(self) -> None:
        """Finish what dead deployers left, take away what was kept long enough; until stopped."""
        while not self._stop.wait(MAINTAIN_EVERY):
            try:
                self._maintain_once()
            except VulcanizedError as error:
                log.warning("upkeep failed", reason=str(error))

    def _maintain_once(self) -> None:
        deployer = self._make(Feed())
        now = deployer.now()
        records = self._store.records()
        with self._lock:
            here = {id_ for id_, feed in self._feeds.items() if not feed.over}
        left = {r.app_id for r in records if r.under_way and r.id not in here}
        due = {r.app_id for r in records if r.keeps and (r.dispose_at or 0) <= now}
        for app in sorted(left | due):
            try:
                if app in left:
                    deployer.recover(app)
                deployer.dispose(app)
            except Locked:
                continue  # somebody is at it
            except VulcanizedError as error:
                log.warning("upkeep failed", app=str(app), reason=str(error))

    # --- deployments ---

    def begin(self, work: Callable[[Deployer], Record]) -> Record:
        """Begin a deployment in a thread of its own; its record, once it stands in etcd."""
        if not self._room.acquire(blocking=False):
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_DEPLOYMENTS} are under way: try again"
            )
        feed = Feed()
        deployer = self._make(feed)
        deployer.begun = feed.begin
        thread = threading.Thread(
            target=self._run, args=(work, deployer, feed), name="deployment", daemon=True
        )
        thread.start()
        with feed.changed:
            feed.changed.wait_for(lambda: feed.record or feed.over, BEGIN_SECONDS)
            record, error = feed.record, feed.error
        if record is None:
            feed.cancel.set()
            raise error or Problem(HTTPStatus.GATEWAY_TIMEOUT, "it did not begin in time")
        with self._lock:
            self._feeds[record.id] = feed
            while len(self._feeds) > 4 * MOST_DEPLOYMENTS:
                oldest = next((id_ for id_, each in self._feeds.items() if each.over), None)
                if oldest is None:
                    break
                del self._feeds[oldest]
        return record

    def _run(self, work: Callable[[Deployer], Record], deployer: Deployer, feed: Feed) -> None:
        error: VulcanizedError | None = None
        try:
            work(deployer)
        except VulcanizedError as caught:
            error = caught
            log.warning("deployment failed", reason=str(caught))
        except Exception as caught:
            log.exception("deployment failed")
            error = VulcanizedError(f"failed: {type(caught).__name__}: see the log")
        finally:
            self._room.release()
            feed.end(error)

    def join(self, seconds: float) -> None:
        """Wait for the deployments here to note where they are, once `stop` is set."""
        with self._lock:
            feeds = list(self._feeds.values())
        for feed in feeds:
            with feed.changed:
                feed.changed.wait_for(lambda: feed.over, seconds)  # noqa: B023 - called here

    def feed(self, id_: str) -> Feed | None:
        """What is said about a deployment that is or was under way here."""
        with self._lock:
            return self._feeds.get(id_)

    def record(self, namespace: str, id_: str) -> Record:
        """A record by its id."""
        for record in self._store.records_in(namespace):
            if record.id == id_:
                return record
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such deployment in this namespace")


# --- routes ------------------------------------------------------------------------------------


class Request:
    """One request whose sender may do what it asks for."""

    def __init__(
        self, service: Service, store: Store, namespace: str, query: Query, body: bytes, key: str
    ) -> None:
        self.service = service
        self.store = store
        self.namespace = namespace
        self.query = query
        self.body = body
        self.key = key

    def draft(self, content: bytes | None = None) -> Draft:
        """The descriptor in the body. It may not be about another namespace than is asked for."""
        found = read(self.body if content is None else content, "the descriptor")
        app = found.identity(self.values()).app
        if app.namespace != self.namespace:
            raise DescriptorInvalid(
                "the descriptor", f"namespace is {app.namespace}, and ?namespace= says otherwise"
            )
        return found

    def values(self) -> Lookup:
        """`?set=NAME=VALUE`, and nothing of our own environment: that is ours."""
        pairs = (each.partition("=") for each in self.query.get("set", "").split("\n") if each)
        return {name: value for name, _, value in pairs}.get


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers; `events`: a stream in place of a body."""

    status: HTTPStatus
    body: Json = None
    location: str = ""
    events: Feed | None = None


def _validate(request: Request) -> Answer:
    draft = request.draft()
    app, version = draft.identity(request.values())
    number = "1" if version == NEXT_VERSION else version
    draft.release(number, "validate", request.values(), (), Labels(), Times())
    return Answer(HTTPStatus.OK, {"app": str(app), "version": version})


def _store_descriptor(request: Request) -> Answer:
    app = request.draft().identity(request.values()).app
    id_ = new_id(request.service._make(Feed()).now())
    request.store.put_descriptor(app, id_, request.body.decode())
    place = f"/descriptors/{id_}/?namespace={request.namespace}"
    return Answer(HTTPStatus.CREATED, {"id": id_, "app": str(app)}, place)


def _descriptor(request: Request, id_: str) -> tuple[AppId, str]:
    found = request.store.stored(request.namespace).get(id_)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such descriptor in this namespace")
    return found[0], found[1].descriptor


def _shown(id_: str, app: AppId, text: str) -> Json:
    raw = read(text.encode(), "the descriptor").raw
    return {"id": id_, "app": str(app), "descriptor": redacted(raw)}


def _descriptors(request: Request) -> Answer:
    found = request.store.stored(request.namespace)
    return Answer(HTTPStatus.OK, [_shown(i, a, p.descriptor) for i, (a, p) in found.items()])


def _one_descriptor(request: Request, id_: str) -> Answer:
    return Answer(HTTPStatus.OK, _shown(id_, *_descriptor(request, id_)))


def _replace_descriptor(request: Request, id_: str) -> Answer:
    app, _ = _descriptor(request, id_)
    if request.draft().identity(request.values()).app != app:
        raise DescriptorInvalid("the descriptor", f"is about another app than {app}")
    request.store.put_descriptor(app, id_, request.body.decode())
    return Answer(HTTPStatus.NO_CONTENT)


def _delete_descriptor(request: Request, id_: str) -> Answer:
    request.store.delete_descriptor(_descriptor(request, id_)[0], id_)
    return Answer(HTTPStatus.NO_CONTENT)


def _deploy(request: Request, id_: str = "") -> Answer:
    id_ = id_ or request.query.get("descriptorId", "")
    content = _descriptor(request, id_)[1].encode() if id_ else request.body
    draft, values = request.draft(content), request.values()
    app = draft.identity(values).app
    for record in request.store.records(app) if request.key else ():
        if record.key == request.key:
            return _accepted(record)
    return _begun(request, lambda deployer: deployer.deploy(draft, values, request.key))


def _begun(request: Request, work: Callable[[Deployer], Record]) -> Answer:
    return _accepted(request.service.begin(work))


def _accepted(record: Record) -> Answer:
    place = f"/deployments/{record.id}/?namespace={record.namespace}"
    return Answer(HTTPStatus.ACCEPTED, summary(record), place)


def _deployments(request: Request) -> Answer:
    name, limit = request.query.get("appname"), request.query.get("limit", "100")
    most = int(limit) if limit.isdecimal() and len(limit) < 5 else 100
    found = [r for r in request.store.records_in(request.namespace) if name in (None, r.app)]
    return Answer(HTTPStatus.OK, [summary(record) for record in reversed(found)][:most])


def _deployment(request: Request, id_: str) -> Answer:
    record = request.service.record(request.namespace, id_)
    return Answer(HTTPStatus.OK, {**summary(record), "journal": journal_of(record)[:-1]})


def _logs(request: Request, id_: str) -> Answer:
    feed = request.service.feed(id_)
    record = request.service.record(request.namespace, id_)
    return Answer(HTTPStatus.OK, list(feed.lines) if feed is not None else journal_of(record))


def _events(request: Request, id_: str) -> Answer:
    record, feed = request.service.record(request.namespace, id_), request.service.feed(id_)
    if feed is None:
        feed = Feed(over=True)
        feed.lines = printable_document(journal_of(record))
    return Answer(HTTPStatus.OK, events=feed)


def _health(request: Request, id_: str) -> Answer:
    record = request.service.record(request.namespace, id_)
    cluster = request.service._make(Feed()).cluster
    pods = [pod for pod in cluster.pods(record.app_id) if pod.version == record.version]
    told = [{"name": pod.name, "ready": pod.ready, "why": pod.why} for pod in pods]
    return Answer(HTTPStatus.OK, told)


def _redeploy(request: Request, id_: str) -> Answer:
    """With a stored descriptor of the same app: what a record has kept is without its secrets."""
    record = request.service.record(request.namespace, id_)
    if not request.query.get("descriptorId") and not request.body:
        raise DescriptorInvalid(
            "the descriptor", f"give one, or ?descriptorId= of one, for {record.app_id}"
        )
    return _deploy(request)


def _delete_deployment(request: Request, id_: str) -> Answer:
    """Cancel it while it is under way, else take the app away if this is what serves."""
    record, feed = request.service.record(request.namespace, id_), request.service.feed(id_)
    app = record.app_id
    if record.under_way:
        if feed is None or feed.over:
            raise NotPossible(f"it is under way elsewhere: {record.by}")
        feed.cancel.set()
        return Answer(HTTPStatus.ACCEPTED, {"deployment": id_, "message": "is being undone"})
    active = plan.versions_of(request.store.activation(app).text)
    if record.version in active and request.query.get("deleteDeployment") != "only":
        return _begun(request, lambda deployer: deployer.undeploy(app))
    if request.query.get("deleteDeployment") in ("true", "only"):
        if record.version in active or (record.old and not record.disposed):
            raise NotPossible("its versions are still there: it is needed to take them away")
        request.service._make(Feed()).forget(record)
    return Answer(HTTPStatus.NO_CONTENT)


Route = tuple[str, str, Callable[..., Answer], str]

ROUTES: Final[tuple[Route, ...]] = (
    ("POST", "/descriptors/validate", _validate, "check a descriptor"),
    ("POST", "/descriptors/", _store_descriptor, "store a descriptor"),
    ("GET", "/descriptors/", _descriptors, "the stored descriptors, without secrets"),
    ("GET", "/descriptors/{id}/", _one_descriptor, "a stored descriptor, without secrets"),
    ("PUT", "/descriptors/{id}/", _replace_descriptor, "replace a stored descriptor"),
    ("DELETE", "/descriptors/{id}/", _delete_descriptor, "delete a stored descriptor"),
    ("POST", "/deployments/", _deploy, "deploy a descriptor, stored or in the body"),
    ("GET", "/deployments/", _deployments, "the deployments, the newest first"),
    ("GET", "/deployments/{id}/", _deployment, "a deployment with its journal"),
    ("GET", "/deployments/{id}/logs", _logs, "what was said about a deployment"),
    ("GET", "/deployments/{id}/events", _events, "the same as a stream, to its end"),
    ("GET", "/deployments/{id}/healthcheckdata", _health, "its pods, and why they are not well"),
    ("PUT", "/deployments/{id}/", _redeploy, "deploy again"),
    ("DELETE", "/deployments/{id}/", _delete_deployment, "cancel, undeploy or forget it"),
)


def openapi() -> Json:
    """The routes as an OpenAPI document."""
    paths: dict[str, dict[str, Json]] = {}
    for method, path, _, words in ROUTES:
        named = [("namespace", "query"), *([("id", "path")] if "{id}" in path else [])]
        operation: Json = {
            "summary": words,
            "parameters": [
                {"name": n, "in": where, "required": True, "schema": {"type": "string"}}
                for n, where in named
            ],
            "responses": {"default": {"description": "JSON; of an error, its reason"}},
        }
        if method in ("POST", "PUT"):
            body = {"schema": {"$ref": "#/components/schemas/Descriptor"}}
            operation["requestBody"] = {"content": {"application/json": body}}
        paths.setdefault(path, {})[method.lower()] = operation
    schema = descriptor_schema()
    definitions = schema.pop("$defs", {})
    text = json.dumps({"Descriptor": schema, **definitions})
    schemas = json.loads(text.replace("#/$defs/", "#/components/schemas/"))
    return {
        "openapi": "3.1.0",
        "info": {"title": "vulcanized-deployer", "version": __version__},
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    }


_PATTERNS = [
    (m, re.compile(p.replace("{id}", "([A-Za-z0-9-]{1,64})").rstrip("/") + "/?"), work)
    for m, p, work, _ in ROUTES
]
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
        family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
        server_class = type("Server", (_Server,), {"address_family": family})
        address = "0.0.0.0" if listen.address == "*" else listen.address  # noqa: S104 - asked for
        try:
            self._server = server_class((address, listen.port), handler)
        except OSError as error:
            problem = f"deployer.listen: cannot listen on {listen} ({error.strerror})"
            raise SettingsError("settings", (problem,)) from None

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._server.server_address[1])

    def serve(self) -> None:
        """Answer until `close`."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(*arguments)

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
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
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
    sys_version = ""
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
        if not grant.allows(namespace, writing=self.command != "GET"):
            raise Problem(HTTPStatus.FORBIDDEN, "the token does not allow this in this namespace")
        matches = [(m, p.fullmatch(url.path), work) for m, p, work in _PATTERNS]
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

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
        """Requests that change something are in the records."""
