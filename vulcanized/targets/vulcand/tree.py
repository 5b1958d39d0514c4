"""What stands in etcd below the prefix: the newest that is known of it. For several threads.

A thread of the target's lists and watches; what the target itself has written is known at once. Of
two words about one key the one with the higher revision counts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from vulcanized.etcd import Event, KeyValue, Operation, Put
from vulcanized.targets.vulcand.keys import Keys, Place

MOST_STRANGE: Final = 1000

Values = dict[str, bytes]
"""Values by their keys."""


class Entry(NamedTuple):
    """A value, the revision at which it was written, and that at which its key was made."""

    value: bytes
    revision: int
    created: int


@dataclass(slots=True)
class Node:
    """A backend with its servers, or a frontend with its middlewares. `own` None: it is not there.

    `reference`: of a frontend the backend that it names, "" if that cannot be read.
    """

    own: Entry | None = None
    parts: dict[str, Entry] = field(default_factory=dict)
    reference: str = ""
    route: str = ""


class _Frontend(msgspec.Struct):
    BackendId: str = ""
    Route: str = ""


_DECODER = msgspec.json.Decoder(_Frontend)
_OBJECT = msgspec.json.Decoder(dict[str, object])


def _read(value: bytes) -> tuple[str, str]:
    """The backend and the route that a frontend names, "" for what cannot be read."""
    try:
        frontend = _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""
    return frontend.BackendId, frontend.Route


class Tree:
    """All backends and frontends by their ids, foreign ones too. Its owner holds `lock`.

    `quiet` is cleared while we write: what etcd tells of it is no news then.
    `dirty_*` are the ids of which something was changed by somebody else since they were taken.
    `orphans`: frontends that may not hear of what their backend becomes, since it was deleted under
    them or was not there when they were led to it; with the ids of the backends that vulcand may
    have them on. They follow again when they are led to another one (see `plan`). The id "" is
    among them where nothing is known of what was before.
    """

    def __init__(self, keys: Keys) -> None:
        self.lock = threading.Lock()
        self.quiet = threading.Event()
        self.quiet.set()
        self.keys = keys
        self.backends: dict[str, Node] = {}
        self.frontends: dict[str, Node] = {}
        self.users: dict[str, set[str]] = {}
        self.strange: set[str] = set()
        self.listed = False
        self.dirty_backends: set[str] = set()
        self.dirty_frontends: set[str] = set()
        self.orphans: dict[str, frozenset[str]] = {}
        self.foreign_changed = False
        # What we deleted, until etcd tells of it: what it tells before that is older.
        self._deleted: dict[str, int] = {}

    @property
    def dirty(self) -> bool:
        """Whether somebody else has changed something since it was last taken."""
        return bool(self.dirty_backends or self.dirty_frontends or self.foreign_changed)

    # --- what others tell ---

    def list(self, items: Iterable[KeyValue], revision: int) -> None:
        """Take over all there is, as it was at a revision."""
        seen: set[str] = set()
        for item in items:
            seen.add(item.key)
            known = self.entry(item.key)
            if known is not None and known.revision < item.create_revision:
                self._delete(item.key, item.create_revision - 1, ours=False)
            self._put(item.key, item.value, item.mod_revision, item.create_revision)
        for key in [key for key, entry in self._entries() if key not in seen]:
            self._delete(key, revision, ours=False)
        self._deleted = {key: at for key, at in self._deleted.items() if at > revision}
        self.strange &= seen
        self.listed = True

    def event(self, event: Event) -> None:
        """Take over one change."""
        if self._deleted.get(event.key, 0) <= event.mod_revision:
            self._deleted.pop(event.key, None)
        if event.value is None:
            self._delete(event.key, event.mod_revision, ours=False)
        else:
            self._put(event.key, event.value, event.mod_revision, event.create_revision)

    # --- what we wrote ---

    def made(self, operations: Iterable[Operation], revision: int) -> None:
        """A transaction of ours was made. Most of what is ever written are servers, row by row."""
        row, node = "", None
        for operation in operations:
            key = operation.key
            base, _, part = key.rpartition("/")
            if base != row:
                place = self.keys.place(key)
                row, node = base, None
                if place is not None and place.kind == "backends" and place.part:
                    node = self.backends.get(place.id)
            if node is None or self._deleted or not isinstance(operation, Put):
                self._made(operation, revision)
                row = ""
                continue
            known = node.parts.get(part)
            if known is None or known.revision < revision:
                created = revision if known is None else known.created
                node.parts[part] = Entry(operation.value, revision, created)

    def _made(self, operation: Operation, revision: int) -> None:
        key = operation.key
        if isinstance(operation, Put):
            self._deleted.pop(key, None)
            self._put(key, operation.value, revision)
        else:
            self._delete(key, revision, ours=True)
            self._deleted[key] = revision

    def forget(self) -> None:
        """Forget all revisions, as etcd has: it was wiped, or restored from a backup."""
        for node in (*self.backends.values(), *self.frontends.values()):
            if node.own is not None:
                node.own = node.own._replace(revision=0, created=0)
            for part, entry in node.parts.items():
                node.parts[part] = entry._replace(revision=0, created=0)
        self._deleted.clear()

    # --- questions ---

    def entry(self, key: str) -> Entry | None:
        """A key as it is known."""
        place = self.keys.place(key)
        node = None if place is None else self._node(place)
        if place is None or node is None:
            return None
        return node.parts.get(place.part) if place.part else node.own

    def foreign_routes(self) -> dict[str, str]:
        """The frontends of other people by their ids: the text of their routes."""
        return {
            id_: node.route
            for id_, node in self.frontends.items()
            if node.own is not None and not self.keys.owns(id_)
        }

    def owned(self, frontends: Set[str] = frozenset(), backends: Set[str] = frozenset()) -> Values:
        """All keys of our objects with their values, and of these of other people."""
        others = {"frontends": frontends, "backends": backends}
        return {
            key: entry.value
            for key, entry in self._entries()
            if (place := self.keys.place(key)) is not None
            and (self.keys.owns(place.id) or place.id in others[place.kind])
        }

    def is_dropped(self, frontend: str) -> bool:
        """Whether vulcand has dropped what stands there, since the backend was not there yet."""
        node = self.frontends.get(frontend)
        if node is None or node.own is None:
            return False
        backend = self.backends.get(node.reference)
        return backend is None or backend.own is None or backend.own.created > node.own.revision

    # --- parts ---

    def _entries(self) -> Iterable[tuple[str, Entry]]:
        keys = self.keys
        for id_, node in self.backends.items():
            if node.own is not None:
                yield keys.backend(id_), node.own
            for part, entry in node.parts.items():
                yield keys.server(id_, part), entry
        for id_, node in self.frontends.items():
            if node.own is not None:
                yield keys.frontend(id_), node.own
            for part, entry in node.parts.items():
                yield keys.middleware(id_, part), entry

    def _nodes(self, place: Place) -> dict[str, Node]:
        return self.backends if place.kind == "backends" else self.frontends

    def _node(self, place: Place) -> Node | None:
        return self._nodes(place).get(place.id)

    def _put(self, key: str, value: bytes, revision: int, created: int | None = None) -> None:
        """A key was put; `created` None: by us, who know that it is the one that was there."""
        place = self.keys.place(key)
        if place is None:
            if not self.keys.is_vulcands(key) and len(self.strange) < MOST_STRANGE:
                self.strange.add(key)
            return
        if self._deleted.get(key, 0) >= revision:
            return
        node = self._node(place)
        if node is None:
            node = Node()
            self._nodes(place)[place.id] = node
        known = node.parts.get(place.part) if place.part else node.own
        ours = created is None
        if created is None:
            created = revision if known is None else known.created
        if known is not None and (known.revision, known.created) >= (revision, created):
            return
        entry = Entry(value, revision, created)
        if place.part:
            node.parts[place.part] = entry
        else:
            node.own = entry
            if place.kind == "frontends":
                self._refer(place.id, node, entry)
            elif known is not None and known.created != entry.created:
                self._bereave(place.id)
        if not ours:
            self._mark(place)

    def _delete(self, key: str, revision: int, *, ours: bool) -> None:
        place = self.keys.place(key)
        if place is None:
            self.strange.discard(key)
            return
        node = self._node(place)
        known = None if node is None else node.parts.get(place.part) if place.part else node.own
        if node is None or known is None or known.revision >= revision:
            return
        if place.part:
            del node.parts[place.part]
        else:
            node.own = None
            if place.kind == "frontends":
                self._refer(place.id, node, None)
            else:
                self._bereave(place.id)
        if node.own is None and not node.parts:
            del self._nodes(place)[place.id]
        if not ours:
            self._mark(place)

    def _refer(self, id_: str, node: Node, entry: Entry | None) -> None:
        """Keep the index of who uses a backend, and tell who hears of what it becomes."""
        before = node.reference
        if before:
            users = self.users.get(before, set())
            users.discard(id_)
            if not users:
                self.users.pop(before, None)
        node.reference, node.route = ("", "") if entry is None else _read(entry.value)
        if node.reference:
            self.users.setdefault(node.reference, set()).add(id_)
        if entry is None:
            self.orphans.pop(id_, None)
            return
        may_be = self.orphans.get(id_)
        if not self._takes(node.reference, entry.revision):
            # vulcand drops it, and has the frontend where it was.
            self.orphans[id_] = (may_be or frozenset({before})) | {node.reference or before}
        elif may_be is not None and not may_be.isdisjoint({node.reference, ""}):
            # It is put on the backend of this id, which does not know of it if it was there before.
            self.orphans[id_] = frozenset({node.reference})
        else:
            self.orphans.pop(id_, None)

    def _takes(self, backend: str, revision: int) -> bool:
        """Whether vulcand had a backend when a frontend was led to it."""
        node = self.backends.get(backend)
        if node is None or node.own is None or node.own.created > revision:
            return False
        try:
            _OBJECT.decode(node.own.value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def _bereave(self, backend: str) -> None:
        """A backend was deleted under all that use it."""
        for user in self.users.get(backend, ()):
            self.orphans[user] = self.orphans.get(user, frozenset()) | {backend}

    def _mark(self, place: Place) -> None:
        if not self.keys.owns(place.id):
            # Servers and middlewares of others are nothing to us: another fleet's pods come and go.
            if not place.part:
                self.foreign_changed = True
        elif place.kind == "backends":
            self.dirty_backends.add(place.id)
        else:
            self.dirty_frontends.add(place.id)
