"""Kubernetes objects as they are written -> the lean records of `model`. Pure.

Only the fields that decide something are decoded (msgspec, typed, in one step: a tenth of the CPU
time and memory of `json`, a fiftieth of the client's own models). Every wire field is optional and
may be null, since servers, proxies and people leave out what they like. A field of a wrong type or
a name that Kubernetes would not allow costs that one object (`Invalid`).

`Resource` is for the bytes of an API server (see `listwatch`), `Manifests` for what a YAML or JSON
loader made of a file.
"""

from __future__ import annotations

import datetime as dt
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from vulcanized.errors import Invalid
from vulcanized.model import Controller, Pod, Port

CONFIG_ANNOTATION = "vulcanized.io/config"
POD_TEMPLATE_HASH = "pod-template-hash"
UNVERSIONED = "unversioned"

POD = "Pod"
REPLICATION_CONTROLLER = "ReplicationController"
REPLICA_SET = "ReplicaSet"
DEPLOYMENT = "Deployment"
KINDS = (POD, REPLICATION_CONTROLLER, REPLICA_SET, DEPLOYMENT)

WRONG = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for hostile input: wrong types, broken JSON or UTF-8, endless nesting."""

Record = TypeVar("Record", bound=Pod | Controller)


@dataclass(frozen=True, slots=True)
class Labels:
    """Which labels name the app and the version of an object (settings)."""

    app: str = "app"
    version: str = "version"


@dataclass(frozen=True, slots=True)
class Resource(Generic[Record]):
    """How one kind of object is read: the type to decode, and what makes a record of it.

    `lean` answers None for an object that is no app's and raises `Invalid`.
    """

    kind: str
    wire: type[Any]
    lean: Callable[[Any], Record | None]


def pods(labels: Labels) -> Resource[Pod]:
    """How pods are read."""
    return Resource(POD, WirePod, lambda wire: _lean_pod(wire, labels))


def controllers(kind: str, labels: Labels) -> Resource[Controller]:
    """How ReplicationControllers, ReplicaSets and Deployments are read."""
    return Resource(kind, WireController, lambda wire: _lean_controller(wire, kind, labels))


class Manifests:
    """Reads loaded YAML or JSON documents: single objects as `kubectl get -o yaml` prints them."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels

    def record(self, document: object) -> Pod | Controller | None:
        """The record of one document; None when its kind is not in `KINDS` or it is no app's.

        What only a server gives is made up where absent: the namespace is "default", the uid
        `Kind/namespace/name`. Raises `Invalid` for whatever else is amiss. A List is no object:
        hand in its items.
        """
        if not isinstance(document, dict):
            raise Invalid("manifest", f"expected an object, got {type(document).__name__}")
        kind = document.get("kind")
        if kind == POD:
            pod = _convert(document, WirePod)
            _complete(kind, pod.metadata)
            return _lean_pod(pod, self._labels)
        if kind in KINDS:
            controller = _convert(document, WireController)
            _complete(kind, controller.metadata)
            return _lean_controller(controller, kind, self._labels)
        return None


# --- the wire ---------------------------------------------------------------------------------


class _Owner(Struct, gc=False):
    name: str | None = None
    controller: bool | None = None


class Metadata(Struct, gc=False, rename="camel"):
    """What we read of every object's metadata."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _ContainerPort(Struct, frozen=True, gc=False, rename="camel"):
    name: str | None = None
    container_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    protocol: str | None = None


class _Container(Struct, frozen=True, gc=False, rename="camel"):
    ports: tuple[_ContainerPort, ...] | None = None
    restart_policy: str | None = None


class _PodSpec(Struct, frozen=True, gc=False, rename="camel"):
    """Frozen, so that the ports of what is equal are found out once."""

    containers: tuple[_Container, ...] | None = None
    init_containers: tuple[_Container, ...] | None = None


class _Condition(Struct, gc=False):
    type: str | None = None
    status: str | None = None


class _PodStatus(Struct, gc=False):
    phase: str | None = None
    pod_ip: str | None = field(default=None, name="podIP")
    conditions: list[_Condition] | None = None


class WirePod(Struct, gc=False):
    """A pod as it is written."""

    metadata: Metadata | None = None
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


class _Annotations(Struct, gc=False):
    config: str | None = field(default=None, name=CONFIG_ANNOTATION)


class _ControllerMetadata(Metadata, gc=False, rename="camel"):
    annotations: _Annotations | None = None


class _TemplateMetadata(Struct, gc=False):
    labels: dict[str, str] | None = None


class _Template(Struct, gc=False):
    metadata: _TemplateMetadata | None = None


class _ControllerSpec(Struct, gc=False):
    replicas: Annotated[int, Meta(ge=0)] | None = None
    template: _Template | None = None


class WireController(Struct, gc=False):
    """A ReplicationController, ReplicaSet or Deployment as it is written."""

    metadata: _ControllerMetadata | None = None
    spec: _ControllerSpec | None = None


# --- lean -------------------------------------------------------------------------------------

# What Kubernetes itself allows. Files have no API server in front of them that would check.
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?").fullmatch
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?").fullmatch
_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?").fullmatch
_UID = re.compile(r"[A-Za-z0-9._/-]{1,600}").fullmatch
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z").fullmatch


def _lean_pod(pod: WirePod, labels: Labels) -> Pod | None:
    meta, status = pod.metadata, pod.status
    if meta is None or not meta.labels or not (app := meta.labels.get(labels.app)):
        return None
    phase = status.phase if status is not None else None
    uid, namespace, name = _who(POD, meta)
    version = meta.labels.get(labels.version) or meta.labels.get(POD_TEMPLATE_HASH)
    return Pod(
        uid=uid,
        namespace=namespace,
        name=name,
        app=_label(POD, meta, labels.app, app),
        version=_label(POD, meta, labels.version, version) if version else _owner(meta),
        ip=_ip(status.pod_ip) if status is not None and status.pod_ip else "",
        ports=_ports(pod.spec, meta) if pod.spec is not None else (),
        ready=phase == "Running" and status is not None and _is_ready(status),
        terminating=bool(meta.deletion_timestamp),
        finished=phase in ("Succeeded", "Failed"),
    )


def _lean_controller(thing: WireController, kind: str, labels: Labels) -> Controller | None:
    meta, spec = thing.metadata, thing.spec
    if meta is None:
        return None
    template = spec.template if spec is not None else None
    inside = template.metadata.labels if template is not None and template.metadata else None
    inside = inside or {}
    app = (meta.labels or {}).get(labels.app) or inside.get(labels.app)
    if not app:
        return None
    uid, namespace, name = _who(kind, meta)
    version = inside.get(labels.version) or inside.get(POD_TEMPLATE_HASH)
    if not version and kind != DEPLOYMENT:
        version = name
    elif version:
        version = _label(kind, meta, labels.version, version)
    replicas = spec.replicas if spec is not None else None
    created = meta.creation_timestamp or ""
    return Controller(
        uid=uid,
        kind=kind,
        namespace=namespace,
        name=name,
        app=_label(kind, meta, labels.app, app),
        version=version or "",
        desired=1 if replicas is None else replicas,
        created=created if _TIME(created) else "",
        config=meta.annotations.config if meta.annotations is not None else None,
    )


def _who(kind: str, meta: Metadata) -> tuple[str, str, str]:
    """uid, namespace and name, each as Kubernetes allows it; raises `Invalid`."""
    name, namespace = meta.name or "", _known_namespace(meta.namespace or "")
    if not _OBJECT_NAME(name) or not namespace:
        named = bool(_OBJECT_NAME(name))
        field_, value = ("namespace", meta.namespace or "") if named else ("name", name)
        _refuse(
            kind,
            meta,
            f"metadata.{field_} is {shown(value[:60])}: write at most 253 small letters, "
            "digits, - and ., the first and last a letter or digit",
        )
    return uid_of(kind, meta), namespace, name


@lru_cache(maxsize=4096)
def _known_namespace(namespace: str) -> str:
    """The one text of a namespace that many objects have, "" where it is none."""
    return sys.intern(namespace) if _OBJECT_NAME(namespace) else ""


def uid_of(kind: str, meta: Metadata) -> str:
    """The uid, checked; raises `Invalid`."""
    if not meta.uid or not _UID(meta.uid):
        _refuse(kind, meta, f"metadata.uid is {shown(meta.uid)}: leave it as the server gave it")
    return meta.uid


def _label(kind: str, meta: Metadata, name: str, value: str) -> str:
    return _known_label(value) or _refuse(
        kind,
        meta,
        f"label {name} is {shown(value)}: write at most 63 letters, digits and -_., the first "
        "and last a letter or digit",
    )


@lru_cache(maxsize=1 << 14)
def _known_label(value: str) -> str:
    """The one text of a label value that many objects have, "" where it is none."""
    return sys.intern(value) if _LABEL_VALUE(value) else ""


def _owner(meta: Metadata) -> str:
    """The name of the controller that made this pod, as its version."""
    for owner in meta.owner_references or ():
        if owner.controller and owner.name and _OBJECT_NAME(owner.name):
            return sys.intern(owner.name)
    return UNVERSIONED


def _is_ready(status: _PodStatus) -> bool:
    for condition in status.conditions or ():
        if condition.type == "Ready" and condition.status == "True":
            return True
    return False


def _ports(spec: _PodSpec, meta: Metadata) -> tuple[Port, ...]:
    ports = _shared_ports(spec)
    if isinstance(ports, str):
        _refuse(
            POD,
            meta,
            f"a port is named {shown(ports)}: write at most 15 small letters, digits and -",
        )
    return ports


@lru_cache(maxsize=1024)
def _shared_ports(spec: _PodSpec) -> tuple[Port, ...] | str:
    """The TCP ports in the manifest's order: containers first, then native sidecars'.

    The first name that cannot be one instead, if there is. The pods of an app have equal ports,
    and most apps have: each is kept once. The bound is for hostile variety.
    """
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    found = []
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            if port.container_port is None or (port.protocol or "TCP") != "TCP":
                continue
            name = port.name or ""
            if name and not _PORT_NAME(name):
                return name
            found.append(Port(sys.intern(name), port.container_port))
    return tuple(found)


def _ip(text: str) -> str:
    """The address in its canonical form, "" for what is none.

    `0.0.0.0` and `::` are none: a proxy takes them for "where the client wanted to go".
    """
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except (OSError, ValueError):
        return ""
    if family == socket.AF_INET:
        return text if text != "0.0.0.0" else ""  # noqa: S104 - one form of each, and no bind
    return socket.inet_ntop(family, packed) if any(packed) else ""


# --- files ------------------------------------------------------------------------------------

_Wire = TypeVar("_Wire", WirePod, WireController)


def _convert(document: dict[Any, Any], wire: type[_Wire]) -> _Wire:
    metadata = document.get("metadata")
    try:
        if isinstance(metadata, dict):
            times = {
                key: _rfc3339(value)  # YAML loaders make times of what the wire has as text
                for key in ("creationTimestamp", "deletionTimestamp")
                if isinstance(value := metadata.get(key), dt.date)
            }
            document = {**document, "metadata": {**metadata, **times}} if times else document
        return msgspec.convert(document, wire)
    except (*WRONG, OverflowError) as error:  # the latter: a time zone that leads out of all years
        name = metadata.get("name") if isinstance(metadata, dict) else None
        named = Metadata(name=name) if isinstance(name, str) else None
        raise Invalid(named_object(str(document["kind"]), named), wrong(error)) from error


def _rfc3339(when: dt.date) -> str:
    if not isinstance(when, dt.datetime):
        when = dt.datetime(when.year, when.month, when.day, tzinfo=dt.UTC)
    elif when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _complete(kind: str, meta: Metadata | None) -> None:
    if meta is not None:
        meta.namespace = meta.namespace or "default"
        meta.uid = meta.uid or f"{kind}/{meta.namespace}/{meta.name}"


# --- what is said about it --------------------------------------------------------------------


def named_object(kind: str, meta: Metadata | None) -> str:
    """Which object is meant, for a message: `Pod default/todo-1`."""
    if meta is None or not meta.name:
        return f"{kind} without a name"
    return f"{kind} {shown(meta.namespace or 'default', '')}/{shown(meta.name, '')}"


def shown(value: object, quote: str = "'") -> str:
    """A hostile value, fit for one line of a log."""
    text = ascii(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return text if quote or not isinstance(value, str) else text[1:-1]


_MISMATCH = re.compile(r"Expected `([^`]+)`(.*?)(?:, got `([^`]+)`)?(?: - at `\$\.?(.*)`)?")
_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "nothing",
}


def wrong(error: Exception) -> str:
    """What msgspec finds wrong with a document, in words for who wrote it."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    found = _MISMATCH.fullmatch(str(error))
    if found is None:
        return shown(str(error), "")
    wanted, bound, got, place = found.groups("")
    words = " or ".join(_WORDS.get(kind, kind) for kind in wanted.split(" | ") if kind != "null")
    words += " in quotes" if wanted.startswith("str") else ""
    bound = bound.replace(" >= ", " from ").replace(" <= ", " up to ")
    instead = f", not {_WORDS.get(got, got)}" if got else ""
    where = f"{shown(place, '')}: " if place else ""
    return f"{where}must be {words}{bound}{instead}"


def _refuse(kind: str, meta: Metadata, reason: str) -> NoReturn:
    raise Invalid(named_object(kind, meta), reason)
