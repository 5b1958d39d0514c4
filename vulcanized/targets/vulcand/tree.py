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

from vulcanized.etcd import Event, KeyValue
from vulcanized.targets.vulcand.keys import Keys, Place

MOST_STRANGE: Final = 1000

Values = dict[str, bytes]
"""Values by their keys."""


class Entry(NamedTuple):
    """A value, and the revision at which it was written."""

    value: bytes
    revision: int


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


class Tree:
    """All backends and frontends by their ids, foreign ones too. Its owner holds `lock`.

    `quiet` is cleared while we write: what etcd tells of it is no news then.
    `dirty_*` are the ids of which something was changed by somebody else since they were taken.
    `orphans`: frontends whose backend was deleted under them, with its id. vulcand lets them go on
    with what they had, and they follow no more until they are led elsewhere (see `plan`).
    `reborn`: keys of objects that somebody else deleted, and that we have not put since. With each
    vulcand forgot its servers or middlewares, whose keys stand there still.
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
        self.revision = 0
        self.listed = False
        self.dirty_backends: set[str] = set()
        self.dirty_frontends: set[str] = set()
        self.orphans: dict[str, str] = {}
        self.reborn: set[str] = set()
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
            self._put(item.key, item.value, item.mod_revision, ours=False)
        for key in [key for key, entry in self._entries() if key not in seen]:
            self._delete(key, revision, ours=False)
        for id_, users in self.users.items():
            if not self._has_backend(id_):
                self.orphans |= dict.fromkeys(users, id_)
        self._deleted = {key: at for key, at in self._deleted.items() if at > revision}
        self.strange &= seen
        self.revision = max(self.revision, revision)
        self.listed = True

    def event(self, event: Event) -> None:
        """Take over one change."""
        if self._deleted.get(event.key, 0) <= event.mod_revision:
            self._deleted.pop(event.key, None)
        if event.value is None:
            self._delete(event.key, event.mod_revision, ours=False)
        else:
            self._put(event.key, event.value, event.mod_revision, ours=False)
        self.revision = max(self.revision, event.mod_revision)

    # --- what we wrote ---

    def wrote(self, key: str, value: bytes | None, revision: int) -> None:
        """A key was put by us, or deleted."""
        self.reborn.discard(key)
        if value is None:
            self._delete(key, revision, ours=True)
            self._deleted[key] = revision
        else:
            self._deleted.pop(key, None)
            self._put(key, value, revision, ours=True)
        self.revision = max(self.revision, revision)

    def forget(self) -> None:
        """Forget all revisions, as etcd has: it was wiped, or restored from a backup."""
        for node in (*self.backends.values(), *self.frontends.values()):
            if node.own is not None:
                node.own = node.own._replace(revision=0)
            for part, entry in node.parts.items():
                node.parts[part] = entry._replace(revision=0)
        self._deleted.clear()
        self.revision = 0

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

    def _node(self, place: Place, *, make: bool = False) -> Node | None:
        nodes = self.backends if place.kind == "backends" else self.frontends
        return nodes.setdefault(place.id, Node()) if make else nodes.get(place.id)

    def _put(self, key: str, value: bytes, revision: int, *, ours: bool) -> None:
        place = self.keys.place(key)
        if place is None:
            if not self.keys.is_vulcands(key) and len(self.strange) < MOST_STRANGE:
                self.strange.add(key)
            return
        if self._deleted.get(key, 0) >= revision:
            return
        node = self._node(place, make=True)
        assert node is not None  # noqa: S101 - it was made
        known = node.parts.get(place.part) if place.part else node.own
        if known is not None and known.revision >= revision:
            return
        entry = Entry(value, revision)
        if place.part:
            node.parts[place.part] = entry
        else:
            node.own = entry
            if place.kind == "frontends":
                self._refer(place.id, node, value)
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
            if not ours and self.keys.owns(place.id):
                self.reborn.add(key)
            if place.kind == "frontends":
                self._refer(place.id, node, b"")
                self.orphans.pop(place.id, None)
            elif not ours:
                self.orphans |= dict.fromkeys(self.users.get(place.id, ()), place.id)
        if node.own is None and not node.parts:
            nodes = self.backends if place.kind == "backends" else self.frontends
            del nodes[place.id]
        if not ours:
            self._mark(place)

    def _refer(self, id_: str, node: Node, value: bytes) -> None:
        """Keep the index of who uses a backend."""
        if node.reference:
            users = self.users.get(node.reference, set())
            users.discard(id_)
            if not users:
                self.users.pop(node.reference, None)
        node.reference = node.route = ""
        try:
            frontend = _DECODER.decode(value) if value else _Frontend()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        node.reference, node.route = frontend.BackendId, frontend.Route
        if node.reference:
            self.users.setdefault(node.reference, set()).add(id_)
        if self.orphans.get(id_, node.reference) != node.reference and self._has_backend(
            node.reference
        ):
            del self.orphans[id_]

    def _has_backend(self, id_: str) -> bool:
        node = self.backends.get(id_)
        return node is not None and node.own is not None

    def _mark(self, place: Place) -> None:
        if not self.keys.owns(place.id):
            # Servers and middlewares of others are nothing to us: another fleet's pods come and go.
            if not place.part:
                self.foreign_changed = True
        elif place.kind == "backends":
            self.dirty_backends.add(place.id)
        else:
            self.dirty_frontends.add(place.id)
