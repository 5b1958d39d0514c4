"""The list and watch answers of an API server, decoded. Pure; nothing here does I/O.

`Codec.page` takes the body of a list request, `Codec.event` one line of a watch, `status_error` the
body of a refused request. See https://kubernetes.io/docs/reference/using-api/api-concepts/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from vulcanized.errors import Expired, Invalid, Refused, SourceError, Unreachable
from vulcanized.objects import WRONG, Metadata, Record, Resource, named_object, shown, uid_of

Action = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


class Unreadable(NamedTuple):
    """One object that could not be used. `uid` is empty where not even that could be read."""

    uid: str
    error: Invalid


@dataclass(frozen=True, slots=True)
class Page(Generic[Record]):
    """One answer to a list request.

    `version` is the list's resource version; `more` the token for the next page, "" on the last.
    Objects that are no app's are in neither `records` nor `unreadable`.
    """

    records: tuple[Record, ...]
    unreadable: tuple[Unreadable, ...]
    version: str
    more: str


class Event(NamedTuple, Generic[Record]):
    """One watch line.

    `version` is the object's resource version, "" when it has none to go on from. `record` is None
    for a deletion, a bookmark, and an object that is no app's (any more).
    """

    action: Action
    uid: str
    version: str
    record: Record | None


# Opaque, but to be handed back in a URL: one that no server could read again is none.
_VERSION = re.compile(r"[!-~]{1,256}").fullmatch


def _place(version: str | None) -> str:
    return version if version and _VERSION(version) else ""


class Codec(Generic[Record]):
    """Decodes lists and watch lines of one resource. Not for several threads at once."""

    def __init__(self, resource: Resource[Record]) -> None:
        self.kind = resource.kind
        self._lean = resource.lean
        self._list: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_list_of(resource.wire))
        self._item: msgspec.json.Decoder[Any] = msgspec.json.Decoder(resource.wire)
        self._event: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_event_of(resource.wire))

    def page(self, body: bytes) -> Page[Record]:
        """One page of a list. Raises `Invalid` when the body as a whole is not one."""
        where = f"list of {self.kind}"
        unreadable: list[Unreadable] = []
        try:
            page = self._list.decode(body)
            records = [record for thing in page.items or () if (record := self._lean(thing))]
        except (Invalid, *WRONG):
            # One of them is odd, or all of it: only then is each looked at by itself.
            try:
                page = _list.decode(body)
            except WRONG as error:
                raise Invalid(where, str(error)) from error
            records = list(self._readable(page.items or (), unreadable))
        # An empty answer takes every server away, so it has to be a list beyond doubt.
        if page.kind != f"{self.kind}List":
            raise Invalid(where, f"the answer is not a {self.kind}List but {shown(page.kind)}")
        version = page.metadata.resource_version if page.metadata is not None else None
        if page.metadata is None or not version:
            raise Invalid(where, "the answer has no resource version")
        if not _VERSION(version):
            raise Invalid(where, f"the answer's resource version is {shown(version)}")
        return Page(tuple(records), tuple(unreadable), version, page.metadata.more or "")

    def _readable(
        self, items: Iterable[msgspec.Raw], unreadable: list[Unreadable]
    ) -> Iterator[Record]:
        """The records of those that can be read; the others are added to `unreadable`."""
        for raw in items:
            try:
                record = self._lean(self._item.decode(raw))
            except (Invalid, *WRONG) as error:
                unreadable.append(self._unreadable(raw, error))
            else:
                if record is not None:
                    yield record

    def event(self, line: bytes) -> Event[Record]:
        """One watch line.

        Raises `Invalid` for an object that cannot be used, and for an ERROR event what
        `status_error` makes of it.
        """
        try:
            event = self._event.decode(line)
        except WRONG as error:
            return self._odd_event(line, error)
        action, thing = event.type, event.object
        if thing is None or (meta := thing.metadata) is None:
            return self._odd_event(line, None)
        version = _place(meta.resource_version)
        if action in ("MODIFIED", "ADDED"):
            record = self._lean(thing)
            uid = record.uid if record is not None else uid_of(self.kind, meta)
            return Event(action, uid, version, record)
        if action == "DELETED":
            return Event("DELETED", uid_of(self.kind, meta), version, None)
        if action == "BOOKMARK":
            return Event("BOOKMARK", "", version, None)
        return self._odd_event(line, None)

    def _odd_event(self, line: bytes, error: Exception | None) -> Event[Record]:
        """An ERROR event, a deletion of a broken object that has its uid, or neither."""
        where = f"watch of {self.kind}"
        try:
            event = _any_event.decode(line)
        except WRONG as broken:
            raise Invalid(where, str(broken)) from broken
        if event.type == "ERROR":
            raise status_error(event.object, where)
        uid, meta = _identity(self.kind, event.object)
        if event.type == "DELETED" and uid:
            return Event("DELETED", uid, _place(meta.resource_version), None)
        if error is None:
            raise Invalid(where, f"an event of type {shown(event.type)} with no object of ours")
        raise Invalid(named_object(self.kind, meta), str(error)) from error

    def _unreadable(self, raw: msgspec.Raw, error: Exception) -> Unreadable:
        uid, meta = _identity(self.kind, raw)
        if not isinstance(error, Invalid):
            error = Invalid(named_object(self.kind, meta), str(error))
        return Unreadable(uid, error)


def status_error(
    body: bytes | msgspec.Raw, where: str, code: int = 0, retry_after: float | None = None
) -> SourceError:
    """The error that a Status object means, of a refused request or of an ERROR event.

    `code` is the HTTP status where there is one, `retry_after` its Retry-After in seconds. A body
    that is no Status is quoted, shortened.
    """
    try:
        status = _status.decode(body)
    except WRONG:
        status = _Status(message=bytes(body).decode(errors="replace").strip())
    code = code or status.code or 0
    details = status.details or _Details()
    if retry_after is None:
        retry_after = details.retry_after_seconds
    said = status.message or status.reason or "no reason given"
    text = f"{where}: {shown(said, '')}" + (f" ({code})" if code else "")
    # A version that the server has not reached (it was restored) will not come: list again.
    causes = {cause.reason for cause in details.causes or ()}
    too_large = "ResourceVersionTooLarge" in causes or "Too large resource version" in said
    if code == 410 or status.reason in ("Expired", "Gone") or too_large:
        return Expired(text)
    if code in (401, 403):
        return Refused(text)
    return Unreachable(text, retry_after)


# --- the wire ---------------------------------------------------------------------------------


def _event_of(wire: type[Any]) -> type[Any]:
    return msgspec.defstruct(
        "WatchEvent", [("type", str | None, None), ("object", wire | None, None)], gc=False
    )


def _list_of(wire: type[Any]) -> type[Any]:
    return msgspec.defstruct(
        "WholeList",
        [
            ("kind", str | None, None),
            ("metadata", _ListMetadata | None, None),
            ("items", list[wire] | None, None),  # type: ignore[valid-type]
        ],
        gc=False,
    )


class _ListMetadata(Struct, gc=False, rename="camel"):
    resource_version: str | None = None
    more: str | None = field(default=None, name="continue")


class _List(Struct, gc=False):
    kind: str | None = None
    metadata: _ListMetadata | None = None
    items: list[msgspec.Raw] | None = None


class _AnyEvent(Struct, gc=False):
    type: str | None = None
    object: msgspec.Raw = msgspec.Raw(b"null")


class _Identity(Struct, gc=False, rename="camel"):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None


class _AnyObject(Struct, gc=False):
    metadata: _Identity | None = None


class _Cause(Struct, gc=False):
    reason: str | None = None


class _Details(Struct, gc=False, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: float | None = None


class _Status(Struct, gc=False):
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None


_list = msgspec.json.Decoder(_List)
_any_event = msgspec.json.Decoder(_AnyEvent)
_any_object = msgspec.json.Decoder(_AnyObject)
_status = msgspec.json.Decoder(_Status)


def _identity(kind: str, raw: msgspec.Raw) -> tuple[str, Metadata]:
    """The uid, "" where there is none to trust, and what else says which object it is."""
    try:
        known = _any_object.decode(raw).metadata or _Identity()
    except WRONG:
        known = _Identity()
    meta = Metadata(known.name, known.namespace, known.uid, known.resource_version)
    try:
        return uid_of(kind, meta), meta
    except Invalid:
        return "", meta
