"""What must be written to turn the tree into what it should be, in an order that vulcand survives.

Pure. vulcand works through events one by one, drops one that names something that is not there yet,
and never tries it again. So:

* a backend comes before its servers, these before the frontend that uses them, that before its
  middlewares; they go the other way round, and nothing goes before all that comes;
* a frontend that is made anew gets all its middlewares again, and a backend all its servers:
  vulcand has forgotten them with it, also where their keys stand still, and where somebody has put
  it again by now;
* a backend that somebody deleted under its frontends goes on living in vulcand without its key,
  and no server that comes or goes later is seen. Its frontends take a detour: they are led to a
  copy, and back to it once that was seen. Not at once: of each event vulcand takes the key only,
  and reads what stands there by then, which would be what stood there before;
* so does a frontend that was led to a backend before that was there: vulcand has dropped it, and
  its middlewares too if it had none by that id. Revisions tell of either (see `Tree`);
* a backend is not deleted while any frontend names it, whosever that is.

A frontend and its middlewares are written in one transaction. A put of a frontend is made only if
nobody else has changed it since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from vulcanized.etcd import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Compare, Delete, Operation, Put
from vulcanized.targets.vulcand.keys import MIDDLEWARES, Keys
from vulcanized.targets.vulcand.parts import BackendObject, FrontendObject
from vulcanized.targets.vulcand.tree import Node, Tree

_NO_BACKEND: Final = Node()
_FATAL: Final = b"null"
"""A middleware that is no one's: vulcand ends when it reads it, and at every start."""


class Group(NamedTuple):
    """Operations that stand in one transaction, and what must hold for it."""

    operations: tuple[Operation, ...]
    compares: tuple[Compare, ...] = ()


@dataclass(slots=True)
class Wanted:
    """All objects that there should be, by their ids, and foreign ones whose place they take."""

    backends: dict[str, BackendObject] = field(default_factory=dict)
    frontends: dict[str, FrontendObject] = field(default_factory=dict)
    adopted_frontends: set[str] = field(default_factory=set)
    adopted_backends: set[str] = field(default_factory=set)


def detoured(wanted: Wanted, keys: Keys, detours: Set[str]) -> Wanted:
    """What there should be while the frontends of these backends are led to copies."""
    if not detours:
        return wanted
    found = {id_: wanted.backends[id_] for id_ in detours & wanted.backends.keys()}
    led = {
        id_: replace(
            frontend,
            backend=keys.alternate(frontend.backend),
            value=frontend.value.replace(
                _named(frontend.backend), _named(keys.alternate(frontend.backend)), 1
            ),
        )
        for id_, frontend in wanted.frontends.items()
        if frontend.backend in found
    }
    return replace(
        wanted,
        backends=wanted.backends | {keys.alternate(id_): each for id_, each in found.items()},
        frontends=wanted.frontends | led,
    )


def lost(wanted: Wanted, tree: Tree) -> dict[str, set[str]]:
    """The backends that some of their frontends would not follow, with all frontends of each."""
    backends = {
        frontend.backend
        for id_, may_be in tree.orphans.items()
        if (frontend := wanted.frontends.get(id_)) is not None
        and not may_be.isdisjoint({frontend.backend, ""})
        and frontend.backend in wanted.backends
    }
    found = {id_: tree.users.get(id_, set()) & wanted.frontends.keys() for id_ in backends}
    for id_ in tree.orphans.keys() & wanted.frontends.keys():
        if wanted.frontends[id_].backend in backends:
            found[wanted.frontends[id_].backend].add(id_)
    return found


@dataclass(frozen=True, slots=True)
class Touched:
    """The ids to look at; whatever is not in it is as it should be."""

    backends: Set[str]
    frontends: Set[str]


def plan(wanted: Wanted, tree: Tree, touched: Touched) -> tuple[Group, ...]:
    """The groups to write, in their order. Nothing when all that is touched is as it should be."""
    backends = sorted(touched.backends)
    frontends = sorted(touched.frontends)
    coming = [
        *_coming_backends(wanted, tree, touched),
        *_coming_frontends(wanted, tree, touched),
    ]
    going = list(_going_frontends(wanted, tree, frontends))
    gone = {key for group in going for key in _deleted(group)}
    going += _going_backends(wanted, tree, backends, gone)
    return tuple(group for group in (*coming, *going) if group.operations)


def transactions(groups: Iterable[Group]) -> Iterator[Group]:
    """Put groups together into as few transactions as etcd takes, in their order.

    Each has room for one more compare (the leader's), at most `MAX_OPERATIONS` of each,
    `MAX_TRANSACTION_BYTES`, and no key twice. A group is never cut, unless it alone is too large.
    """
    operations: list[Operation] = []
    compares: list[Compare] = []
    keys: set[str] = set()
    size = 0
    for group in groups:
        for more, compared in _cut(group):
            weight = _weight(more)
            if operations and (
                len(operations) + len(more) > MAX_OPERATIONS
                or len(compares) + len(compared) > MAX_OPERATIONS - 1
                or size + weight > MAX_TRANSACTION_BYTES
                or _is_in(keys, more)
            ):
                yield Group(tuple(operations), tuple(compares))
                operations, compares, keys, size = [], [], set(), 0
            operations += more
            compares += compared
            for operation in more:
                keys.add(operation.key)
            size += weight
    if operations:
        yield Group(tuple(operations), tuple(compares))


def _cut(group: Group) -> Sequence[Group]:
    operations = group.operations
    if len(operations) <= MAX_OPERATIONS:
        return (group,)
    return [
        Group(operations[start : start + MAX_OPERATIONS], () if start else group.compares)
        for start in range(0, len(operations), MAX_OPERATIONS)
    ]


# Loops: most groups have one operation, and there are thousands of them.
def _weight(operations: Iterable[Operation]) -> int:
    size = 0
    for operation in operations:
        size += len(operation.key.encode())
        if isinstance(operation, Put):
            size += len(operation.value)
    return size


def _is_in(keys: Set[str], operations: Iterable[Operation]) -> bool:
    for operation in operations:  # noqa: SIM110 - see above
        if operation.key in keys:
            return True
    return False


def is_kept(middleware: str, value: bytes) -> bool:
    """Whether it was put on a frontend of ours by somebody else, and may stay there."""
    ours = not middleware or middleware.startswith(MIDDLEWARES)
    return not ours and value.strip() != _FATAL


# --- what comes -------------------------------------------------------------------------------


def _coming_backends(wanted: Wanted, tree: Tree, touched: Touched) -> Iterator[Group]:
    """Backends, then servers: one by one, so that they may be put together as they fit."""
    keys, servers = tree.keys, []
    for id_ in sorted(touched.backends):
        backend = wanted.backends.get(id_)
        if backend is None:
            continue
        node = tree.backends.get(id_, _NO_BACKEND)
        if _own(node) != backend.value:
            yield Group((Put(keys.backend(id_), backend.value),))
        servers += [
            Group((Put(keys.server(id_, name), value),))
            for name, value in backend.servers.items()
            if _forgotten(node, name) or _value(node, name) != value
        ]
    yield from servers


def _coming_frontends(wanted: Wanted, tree: Tree, touched: Touched) -> Iterator[Group]:
    keys = tree.keys
    for id_ in sorted(touched.frontends):
        frontend = wanted.frontends.get(id_)
        if frontend is None:
            continue
        node = tree.frontends.get(id_, _NO_BACKEND)
        operations: list[Operation] = []
        compares: tuple[Compare, ...] = ()
        anew = False
        if _own(node) != frontend.value or tree.is_dropped(id_):
            # vulcand may not have had it at all so far, nor its middlewares.
            anew = id_ in tree.orphans
            operations.append(Put(keys.frontend(id_), frontend.value))
            revision = node.own.revision if node.own is not None else 0
            compares = (Compare(keys.frontend(id_), revision),)
        for name, value in frontend.middlewares.items():
            if anew or _forgotten(node, name) or _value(node, name) != value:
                operations.append(Put(keys.middleware(id_, name), value))
        for name, entry in node.parts.items():
            if name in frontend.middlewares:
                continue
            if not is_kept(name, entry.value):
                operations.append(Delete(keys.middleware(id_, name)))
            elif anew or _forgotten(node, name):
                # Somebody's own.
                operations.append(Put(keys.middleware(id_, name), entry.value))
        yield Group(tuple(operations), compares)


def _named(backend_id: str) -> bytes:
    return f'"BackendId":"{backend_id}"'.encode()


def _own(node: Node) -> bytes | None:
    return None if node.own is None else node.own.value


def _forgotten(node: Node, part: str) -> bool:
    """Whether vulcand has lost a server or middleware with what it belongs to, or does now."""
    entry = node.parts.get(part)
    return node.own is None or (entry is not None and entry.revision < node.own.created)


def _value(node: Node, part: str) -> bytes | None:
    entry = node.parts.get(part)
    return None if entry is None else entry.value


# --- what goes --------------------------------------------------------------------------------


def _going_frontends(wanted: Wanted, tree: Tree, ids: Iterable[str]) -> Iterator[Group]:
    keys = tree.keys
    for id_ in ids:
        node = tree.frontends.get(id_)
        ours = keys.owns(id_) or id_ in wanted.adopted_frontends
        if node is None or id_ in wanted.frontends or not ours:
            continue
        middlewares = [Delete(keys.middleware(id_, name)) for name in sorted(node.parts)]
        own = [] if node.own is None else [Delete(keys.frontend(id_))]
        yield Group((*middlewares, *own))


def _going_backends(
    wanted: Wanted, tree: Tree, ids: Iterable[str], gone: Set[str]
) -> Iterator[Group]:
    keys = tree.keys
    whole: list[Group] = []
    for id_ in ids:
        node = tree.backends.get(id_)
        if node is None:
            continue
        backend = wanted.backends.get(id_)
        if backend is not None:
            for name in sorted(node.parts):
                if name not in backend.servers:
                    yield Group((Delete(keys.server(id_, name)),))
        elif keys.owns(id_) or id_ in wanted.adopted_backends:
            if any(_uses(wanted, tree, user, id_, gone) for user in tree.users.get(id_, ())):
                continue
            whole += [Group((Delete(keys.server(id_, name)),)) for name in sorted(node.parts)]
            if node.own is not None:
                whole.append(Group((Delete(keys.backend(id_)),)))
    yield from whole


def _uses(wanted: Wanted, tree: Tree, user: str, backend: str, gone: Set[str]) -> bool:
    """Whether a frontend will still name a backend when all that comes has been written."""
    if tree.keys.frontend(user) in gone:
        return False
    frontend = wanted.frontends.get(user)
    return frontend is None or frontend.backend == backend


def _deleted(group: Group) -> Iterator[str]:
    return (operation.key for operation in group.operations if isinstance(operation, Delete))
