"""vulcand as a model: what its mux does with each event, and what it makes of a tree at its start.

After `proxy/mux/mux.go` and `engine/etcdng/v3/etcd.go` of 0.9.2. Behind it an etcd of a dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vulcanized.etcd import Compare, Event, KeyValue, Operation, Put
from vulcanized.targets.vulcand.keys import Keys


class Stored(NamedTuple):
    value: bytes
    created: int
    modified: int


class Etcd:
    """Keys with revisions. `events` has all changes that were made."""

    def __init__(self) -> None:
        self.keys: dict[str, Stored] = {}
        self.revision = 1
        self.events: list[Event] = []

    def transact(self, operations: Iterable[Operation], compares: Iterable[Compare] = ()) -> int:
        """All operations at one revision; every compare must hold."""
        for compare in compares:
            stored = self.keys.get(compare.key)
            assert (0 if stored is None else stored.modified) == compare.mod_revision
        self.revision += 1
        for operation in operations:
            self._make(operation)
        return self.revision

    def _make(self, operation: Operation) -> None:
        key, revision = operation.key, self.revision
        before = self.keys.get(key)
        if isinstance(operation, Put):
            created = revision if before is None else before.created
            self.keys[key] = Stored(operation.value, created, revision)
            self.events.append(Event(key, operation.value, created, revision))
        elif before is not None:
            del self.keys[key]
            self.events.append(Event(key, None, 0, revision))

    def items(self) -> list[KeyValue]:
        return [KeyValue(key, *self.keys[key]) for key in sorted(self.keys)]


def read(value: bytes) -> dict[str, Any] | None:
    """The JSON of an object; None: vulcand leaves it out and warns."""
    try:
        found = json.loads(value)
    except ValueError:
        return None
    assert found is not None, "vulcand panics"
    return found if isinstance(found, dict) else None


@dataclass(eq=False)
class Backend:
    """A backend object. `frontends` hear of its changes."""

    id: str
    settings: Any = None
    servers: dict[str, str] = field(default_factory=dict)
    frontends: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Frontend:
    """A frontend and the object that it has for a backend, whatever is in the mux by that id.

    `seen` are the servers as they were when it was last told of a change.
    """

    content: dict[str, Any]
    backend: Backend
    middlewares: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def rebuild(self) -> None:
        self.seen = dict(self.backend.servers)


class Mux:
    """One vulcand. `dropped` names the puts that it could not apply: it never tries them again."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.backends: dict[str, Backend] = {}
        self.frontends: dict[str, Frontend] = {}
        self.dropped: list[str] = []

    @classmethod
    def started(cls, etcd: Etcd, keys: Keys) -> Mux:
        """One that has just read a tree. Frontends without a backend are left out: they end it."""
        mux = cls(keys)
        places = {key: keys.place(key) for key in etcd.keys}
        contents = {key: read(stored.value) for key, stored in etcd.keys.items()}
        for key, place in places.items():
            content = contents[key]
            if place is None or place.kind != "backends" or place.part or content is None:
                continue
            backend = mux.backends[place.id] = Backend(place.id, content.get("Settings"))
            for other, part in places.items():
                server = contents[other]
                # As vulcand does it: by how the id begins.
                if part is None or part.kind != "backends" or not part.part or not server:
                    continue
                if part.id.startswith(place.id) and "URL" in server:
                    backend.servers[part.part] = server["URL"]
        for key, place in places.items():
            if place is not None and place.kind == "frontends" and not place.part:
                mux.event(key, etcd)
        for key, place in places.items():
            if place is not None and place.kind == "frontends" and place.part:
                mux.event(key, etcd)
        mux.dropped = []
        return mux

    def event(self, key: str, etcd: Etcd, *, deleted: bool = False) -> None:
        """Take one event: of a put only the key, what stands there is read now."""
        place = self.keys.place(key)
        if place is None:
            return
        kind, id_, part = place
        if deleted:
            if kind == "backends":
                self._delete_server(id_, part) if part else self.backends.pop(id_, None)
            elif part:
                if (frontend := self.frontends.get(id_)) is not None:
                    frontend.middlewares.pop(part, None)
            else:
                self._delete_frontend(id_)
            return
        stored = etcd.keys.get(key)
        content = None if stored is None else read(stored.value)
        if content is None or not self._put(kind, id_, part, content):
            self.dropped.append(key)

    def _put(self, kind: str, id_: str, part: str, content: dict[str, Any]) -> bool:
        if kind == "frontends" and part:
            frontend = self.frontends.get(id_)
            if frontend is None:
                return False
            frontend.middlewares[part] = content
            return True
        if kind == "frontends":
            return self._put_frontend(id_, content)
        if part and "URL" not in content:
            return False
        # A server makes its backend, if there is none.
        backend = self.backends.setdefault(id_, Backend(id_))
        if part:
            backend.servers[part] = content["URL"]
        else:
            backend.settings = content.get("Settings")
        self._tell(backend)
        return True

    def _put_frontend(self, id_: str, content: dict[str, Any]) -> bool:
        backend = self.backends.get(content.get("BackendId", ""))
        if backend is None or "Route" not in content:
            return False
        frontend = self.frontends.get(id_)
        if frontend is None:
            frontend = self.frontends[id_] = Frontend(content, backend)
            backend.frontends.add(id_)
        elif frontend.backend.id != backend.id:
            if (old := self.backends.get(frontend.backend.id)) is not None:
                old.frontends.discard(id_)
            backend.frontends.add(id_)
        # Else it has the new object, and that does not know of it.
        frontend.content, frontend.backend = content, backend
        frontend.rebuild()
        return True

    def _delete_server(self, id_: str, server: str) -> None:
        if (backend := self.backends.get(id_)) is not None:
            backend.servers.pop(server, None)
            self._tell(backend)

    def _delete_frontend(self, id_: str) -> None:
        frontend = self.frontends.pop(id_, None)
        if frontend is not None and (backend := self.backends.get(frontend.backend.id)) is not None:
            backend.frontends.discard(id_)

    def _tell(self, backend: Backend) -> None:
        for id_ in backend.frontends:
            if id_ in self.frontends:
                self.frontends[id_].rebuild()

    # --- questions ---

    def follows(self, id_: str) -> bool:
        """Whether a frontend hears of the changes of the backend that has the id it names."""
        frontend = self.frontends[id_]
        backend = self.backends.get(frontend.backend.id)
        return backend is frontend.backend and id_ in backend.frontends

    def shown(self, ids: Iterable[str]) -> dict[str, object]:
        """All that a request to these frontends depends on."""
        found: dict[str, object] = {}
        for id_ in ids:
            frontend = self.frontends.get(id_)
            if frontend is not None:
                settings = frontend.backend.settings
                found[id_] = (frontend.content, settings, frontend.seen, frontend.middlewares)
        return found
