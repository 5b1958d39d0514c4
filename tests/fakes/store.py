"""What an API server knows: objects, their versions, and the history that watches read.

In memory, for one test; safe for any thread. `FakeKubernetes` speaks HTTP in front of it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Object = dict[str, Any]


class Kind(NamedTuple):
    """A resource as the API server serves it."""

    plural: str
    group: str
    name: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"


KINDS = {
    kind.plural: kind
    for kind in (
        Kind("pods", "", "Pod"),
        Kind("replicationcontrollers", "", "ReplicationController"),
        Kind("replicasets", "apps", "ReplicaSet"),
        Kind("deployments", "apps", "Deployment"),
    )
}


class StatusError(Exception):
    """A refusal, as the API server words it."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({"details": details} if details else {}),
            "code": code,
        }


class Item:
    """One state of one object; never changed. Made of a dict, or of what makes its JSON."""

    __slots__ = ("_make", "_object", "labels", "name", "namespace", "version")

    def __init__(
        self,
        namespace: str,
        name: str,
        labels: Mapping[str, str],
        version: int,
        content: Object | Callable[[int], bytes],
    ) -> None:
        self.namespace, self.name, self.labels, self.version = namespace, name, labels, version
        self._object = content if isinstance(content, dict) else None
        self._make = None if isinstance(content, dict) else content

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    def encoded(self) -> bytes:
        if self._make is not None:
            return self._make(self.version)
        return json.dumps(self._object, separators=(",", ":")).encode()

    def object(self) -> Object:
        """A copy, to be changed."""
        decoded: Object = json.loads(self.encoded())
        return decoded

    def at(self, version: int) -> Item:
        """The same state under another version, as a DELETED event shows it."""
        content = self.object()
        content["metadata"]["resourceVersion"] = str(version)
        return Item(self.namespace, self.name, self.labels, version, content)


@dataclass(frozen=True)
class Change:
    """One entry of the history: what was, and what is."""

    version: int
    plural: str
    before: Item | None
    after: Item | None

    def concerns(self, plural: str, namespace: str) -> bool:
        """Whether a watch of this resource, in one namespace or in all (""), is to look at it."""
        item = self.after or self.before
        return plural == self.plural and item is not None and namespace in ("", item.namespace)


Shown = tuple[Literal["ADDED", "MODIFIED", "DELETED"], Item]


class Store:
    """`changed` is called after each change, with the lock not held."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._lock = threading.RLock()
        self._items: dict[str, dict[tuple[str, str], Item]] = {plural: {} for plural in KINDS}
        self._history: list[Change] = []
        # A real server has a past before the first object.
        self.version = 1000
        self.oldest = self.version

    def compact(self) -> None:
        """Forget all versions before the present one."""
        with self._lock:
            self.oldest = self.version

    def get(self, plural: str, namespace: str, name: str) -> Item:
        with self._lock:
            item = self._items[plural].get((namespace, name))
        if item is None:
            raise _not_found(KINDS[plural], name)
        return item

    def select(
        self, plural: str, namespace: str, wanted: Callable[[Item], bool]
    ) -> tuple[int, list[Item]]:
        """The present version, and what is there in the order of its keys."""
        with self._lock:
            items = self._items[plural]
            found = [
                items[key]
                for key in sorted(items)
                if (not namespace or key[0] == namespace) and wanted(items[key])
            ]
            return self.version, found

    def since(self, position: int) -> tuple[int, list[Change]]:
        """The history from a position on, and the position after it."""
        with self._lock:
            return len(self._history), self._history[position:]

    def position(self, version: int) -> int:
        """Where in the history the changes after this version begin."""
        with self._lock:
            at = len(self._history)
            while at and self._history[at - 1].version > version:
                at -= 1
            return at

    def create(self, plural: str, content: Object) -> Item:
        """Add an object as it is, completed by what only a server gives."""
        kind = KINDS[plural]
        with self._lock:
            metadata = dict(content.get("metadata") or {})
            if not metadata.get("name"):
                metadata["name"] = metadata.get("generateName", "object-") + uuid.uuid4().hex[:5]
            metadata.setdefault("namespace", "default")
            key = metadata["namespace"], metadata["name"]
            if key in self._items[plural]:
                message = f'{kind.plural} "{key[1]}" already exists'
                raise StatusError(409, "AlreadyExists", message, name=key[1], kind=kind.plural)
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", _now())
            item = self._commit(
                plural,
                None,
                {"kind": kind.name, "apiVersion": kind.api_version}
                | {**content, "metadata": metadata},
            )
        self._changed()
        return item

    def seed(self, plural: str, items: Iterable[Item]) -> None:
        """Take in a great many objects at one version, without a history."""
        with self._lock:
            self.version += 1
            for item in items:
                item.version = self.version
                self._items[plural][item.key] = item
            self.oldest = self.version

    def patch(self, plural: str, namespace: str, name: str, patch: Object) -> Item:
        """A merge patch (RFC 7386); what changes nothing is no change."""
        with self._lock:
            before = self.get(plural, namespace, name)
            content = before.object()
            merged = merge(content, patch)
            if merged == content:
                return before
            item = self._commit(plural, before, merged)
        self._changed()
        return item

    def delete(self, plural: str, namespace: str, name: str) -> Item:
        """Take an object away at once."""
        with self._lock:
            before = self.get(plural, namespace, name)
            self.version += 1
            del self._items[plural][before.key]
            self._history.append(Change(self.version, plural, before, None))
        self._changed()
        return before

    def _commit(self, plural: str, before: Item | None, content: Object) -> Item:
        self.version += 1
        metadata = {**content["metadata"], "resourceVersion": str(self.version)}
        content = {**content, "metadata": metadata}
        labels = metadata.get("labels") or {}
        item = Item(metadata["namespace"], metadata["name"], labels, self.version, content)
        self._items[plural][item.key] = item
        self._history.append(Change(self.version, plural, before, item))
        return item


def shown(change: Change, wanted: Callable[[Item], bool]) -> Shown | None:
    """How a watch with this selection sees a change: to leave the selection is to be deleted."""
    before = change.before if change.before is not None and wanted(change.before) else None
    after = change.after if change.after is not None and wanted(change.after) else None
    if after is not None:
        return ("ADDED" if before is None else "MODIFIED"), after
    return ("DELETED", before.at(change.version)) if before is not None else None


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*)?(?P<key>[\w./-]+)\s*"
    r"(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)|(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?\s*(?:,|$)"
)


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A label selector as a predicate. Raises the API server's 400 for what is none."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    at = 0
    while at < len(text):
        found = _REQUIREMENT.match(text, at)
        if found is None or found.end() == at:
            raise StatusError(400, "BadRequest", f"unable to parse requirement: {text[at:]!r}")
        tests.append(_requirement(found))
        at = found.end()
    return lambda labels: all(test(labels) for test in tests)


def _requirement(found: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    key = found["key"]
    if found["absent"]:
        return lambda labels: key not in labels
    if found["op"] == "!=":
        return lambda labels: labels.get(key) != found["value"]
    if found["op"]:
        return lambda labels: labels.get(key) == found["value"]
    if found["set"]:
        values = {value.strip() for value in found["values"].split(",")}
        inside = found["set"] == "in"
        return lambda labels: (labels.get(key) in values) == inside
    return lambda labels: key in labels


def _not_found(kind: Kind, name: str) -> StatusError:
    details = {"name": name, "kind": kind.plural}
    if kind.group:
        details["group"] = kind.group
    where = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    return StatusError(404, "NotFound", f'{where} "{name}" not found', **details)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
