"""The routes of `serve`: those of Amdatu's deployer, and an event stream. `openapi` tells them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from vulcanized import __version__
from vulcanized.deployer import standing
from vulcanized.deployer.descriptor import (
    NEXT_VERSION,
    Draft,
    Lookup,
    descriptor_schema,
    read,
    redacted,
)
from vulcanized.deployer.progress import summary
from vulcanized.deployer.run import Deployer
from vulcanized.deployer.service import Feed, Problem, Service
from vulcanized.deployer.store import Store, Stored, new_id
from vulcanized.deployer.views import journal_of, listed
from vulcanized.deployer.words import Record, Times
from vulcanized.errors import DescriptorInvalid, Invalid, NotPossible, Unreadable
from vulcanized.model import AppId
from vulcanized.objects import Labels
from vulcanized.printable import printable_document

Json = Any
Query = dict[str, str]


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
        given = self.body if content is None else content
        found = read(given, "the descriptor", "give ?set=NAME=VALUE for each")
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
    id_ = new_id(request.service.make(Feed()).now())
    request.store.put_descriptor(app, id_, request.body.decode())
    place = f"/descriptors/{id_}/?namespace={request.namespace}"
    return Answer(HTTPStatus.CREATED, {"id": id_, "app": str(app)}, place)


def _stored(request: Request, id_: str) -> Stored:
    found = request.store.stored(request.namespace).get(id_)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such descriptor in this namespace")
    return found


def _given(request: Request, id_: str) -> bytes:
    found = _stored(request, id_)
    if found.unread:
        raise Unreadable(found.unread)
    return found.text.encode()


def _shown(id_: str, found: Stored) -> Json:
    told = {"id": id_, "app": str(found.app)}
    try:
        if not found.unread:
            raw = read(found.text.encode(), "the descriptor").raw
            return told | {"descriptor": redacted(raw)}
    except Invalid as error:  # somebody else has written there
        return told | {"unreadable": f"{error}: store it anew"}
    return told | {"unreadable": found.unread}


def _descriptors(request: Request) -> Answer:
    name, found = request.query.get("appname"), request.store.stored(request.namespace)
    told = [_shown(id_, each) for id_, each in found.items() if name in (None, each.app.name)]
    return Answer(HTTPStatus.OK, told)


def _one_descriptor(request: Request, id_: str) -> Answer:
    return Answer(HTTPStatus.OK, _shown(id_, _stored(request, id_)))


def _replace_descriptor(request: Request, id_: str) -> Answer:
    app = _stored(request, id_).app
    if request.draft().identity(request.values()).app != app:
        raise DescriptorInvalid("the descriptor", f"is about another app than {app}")
    request.store.put_descriptor(app, id_, request.body.decode())
    return Answer(HTTPStatus.NO_CONTENT)


def _delete_descriptor(request: Request, id_: str) -> Answer:
    request.store.delete_descriptor(_stored(request, id_).app, id_)
    return Answer(HTTPStatus.NO_CONTENT)


def _deploy(request: Request, id_: str = "") -> Answer:
    id_ = id_ or request.query.get("descriptorId", "")
    content = _given(request, id_) if id_ else request.body
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
    history = request.store.history(namespace=request.namespace)
    if name is not None:
        history = history.of(AppId(request.namespace, name))
    return Answer(HTTPStatus.OK, listed(history, most))


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
    cluster = request.service.make(Feed()).cluster
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
    active = standing.versions_of(request.store.activation(app).text)
    if record.version in active and request.query.get("deleteDeployment") != "only":
        return _begun(request, lambda deployer: deployer.undeploy(app))
    if request.query.get("deleteDeployment") in ("true", "only"):
        if record.version in active or (record.old and not record.disposed):
            raise NotPossible("its versions are still there: it is needed to take them away")
        request.service.make(Feed()).forget(record)
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


PATTERNS = [
    (m, re.compile(p.replace("{id}", "([A-Za-z0-9-]{1,64})").rstrip("/") + "/?"), work)
    for m, p, work, _ in ROUTES
]
