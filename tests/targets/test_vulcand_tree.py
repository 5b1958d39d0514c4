"""What is known of the tree: the newest of each key, whoever told, and who may not follow it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.targets.mux import Etcd
from vulcanized.etcd import Delete, Event, Operation, Put
from vulcanized.model import AppId
from vulcanized.targets.vulcand.keys import Keys
from vulcanized.targets.vulcand.tree import MOST_STRANGE, Tree

KEYS = Keys("vulcand", "edge")
BLUE = KEYS.backend_id(AppId("default", "todo"), "blue")
GREEN = KEYS.backend_id(AppId("default", "todo"), "green")
F = KEYS.frontend_id("a.example", "x")
OBJECT = b'{"Type":"http"}'


def leads_to(backend: str) -> bytes:
    return f'{{"BackendId":"{backend}","Route":"r"}}'.encode()


def led(etcd: Etcd) -> Tree:
    """Blue with a frontend on it, as a daemon that has just started reads it."""
    etcd.transact([Put(KEYS.backend(BLUE), OBJECT)])
    etcd.transact([Put(KEYS.frontend(F), leads_to(BLUE))])
    return listed(etcd)


def listed(etcd: Etcd) -> Tree:
    tree = Tree(KEYS)
    tree.list(etcd.items(), etcd.revision)
    return tree


def told(etcd: Etcd, tree: Tree, *operations: Operation) -> None:
    """Somebody else writes one by one, and the tree hears of it."""
    for operation in operations:
        before = len(etcd.events)
        etcd.transact([operation])
        for event in etcd.events[before:]:
            tree.event(event)


def known(tree: Tree) -> dict[str, bytes]:
    """All keys with their values."""
    return tree.owned(frozenset(tree.frontends), frozenset(tree.backends))


def right(tree: Tree, etcd: Etcd) -> None:
    assert known(tree) == {key: stored.value for key, stored in etcd.keys.items()}
    users: dict[str, set[str]] = {}
    for id_, node in tree.frontends.items():
        if node.reference:
            users.setdefault(node.reference, set()).add(id_)
    assert tree.users == users


keys = st.sampled_from(
    [
        KEYS.backend(BLUE),
        KEYS.server(BLUE, "s"),
        KEYS.backend("theirs"),
        KEYS.frontend(F),
        KEYS.middleware(F, "m"),
        KEYS.frontend("theirs"),
    ]
)
values = st.sampled_from([OBJECT, leads_to(BLUE), leads_to(GREEN), b"{", b"\xff", b"[" * 9999])
operations = st.one_of(st.builds(Put, keys, values), st.builds(Delete, keys))


@settings(max_examples=200)
@given(data=st.data(), made=st.lists(st.tuples(operations, st.booleans()), max_size=12))
def test_of_two_words_the_newer_counts(
    data: st.DataObject, made: list[tuple[Operation, bool]]
) -> None:
    """What we wrote is known at once; the watch tells all of it, in order, at any time later."""
    etcd, tree = Etcd(), Tree(KEYS)
    tree.list([], etcd.revision)
    position = 0
    for operation, ours in made:
        position = _some_events(data, etcd, tree, position)
        revision = etcd.transact([operation])
        if ours:
            tree.made([operation], revision)
        if data.draw(st.integers(0, 5)) == 0:
            tree.list(etcd.items(), etcd.revision)
            right(tree, etcd)
    for event in etcd.events[position:]:
        tree.event(event)
    right(tree, etcd)


def _some_events(data: st.DataObject, etcd: Etcd, tree: Tree, position: int) -> int:
    upto = data.draw(st.integers(position, len(etcd.events)))
    for event in etcd.events[position:upto]:
        tree.event(event)
    return upto


def test_only_what_others_change_is_dirty() -> None:
    tree = Tree(KEYS)
    tree.list([], 1)
    tree.made([Put(KEYS.backend(BLUE), OBJECT)], 2)
    tree.event(Event(KEYS.backend(BLUE), OBJECT, 2, 2))
    assert not tree.dirty

    tree.event(Event(KEYS.server(BLUE, "s"), b"{}", 3, 3))
    tree.event(Event(KEYS.middleware(F, "m"), b"{}", 4, 4))
    assert (tree.dirty_backends, tree.dirty_frontends) == ({BLUE}, {F})
    assert not tree.foreign_changed

    tree.event(Event(KEYS.backend("theirs"), OBJECT, 5, 5))
    assert tree.foreign_changed


def test_what_was_deleted_while_we_were_away_is_dirty() -> None:
    etcd = Etcd()
    tree = led(etcd)
    tree.dirty_backends, tree.dirty_frontends = set(), set()
    etcd.transact([Delete(KEYS.frontend(F))])
    tree.list(etcd.items(), etcd.revision)
    assert (tree.dirty_backends, tree.dirty_frontends) == (set(), {F})
    right(tree, etcd)


def test_keys_that_belong_nowhere_are_told_until_they_are_gone() -> None:
    tree = Tree(KEYS)
    tree.event(Event("vulcand/backends/bare", b"{}", 2, 2))
    tree.event(Event("vulcand/listeners/l", b"{}", 3, 3))
    tree.event(Event("vulcand-staging/x", b"{}", 4, 4))
    assert tree.strange == {"vulcand/backends/bare", "vulcand-staging/x"}
    tree.event(Event("vulcand/backends/bare", None, 0, 5))
    assert tree.strange == {"vulcand-staging/x"}
    tree.list([], 6)
    assert tree.strange == set()
    for number in range(2 * MOST_STRANGE):
        tree.event(Event(f"vulcand/{number}", b"", 7, 7))
    assert len(tree.strange) == MOST_STRANGE


def test_foreign_routes() -> None:
    tree = Tree(KEYS)
    tree.event(Event(KEYS.frontend("theirs"), leads_to(BLUE), 2, 2))
    tree.event(Event(KEYS.frontend("broken"), b"{", 3, 3))
    tree.event(Event(KEYS.middleware("none", "m"), b"{}", 4, 4))
    tree.event(Event(KEYS.frontend(F), leads_to(BLUE), 5, 5))
    assert tree.foreign_routes() == {"theirs": "r", "broken": ""}


# --- who does not follow ----------------------------------------------------------------------


def test_a_frontend_follows_what_it_was_led_to() -> None:
    etcd = Etcd()
    tree = led(etcd)
    told(etcd, tree, Put(KEYS.backend(BLUE), b"{}"), Put(KEYS.frontend(F), leads_to(BLUE)))
    assert tree.orphans == {}


def test_a_frontend_does_not_follow_a_backend_that_was_deleted_under_it() -> None:
    etcd = Etcd()
    tree = led(etcd)
    told(etcd, tree, Delete(KEYS.backend(BLUE)))
    assert tree.orphans == {F: {BLUE}}
    told(etcd, tree, Put(KEYS.backend(BLUE), OBJECT), Put(KEYS.frontend(F), leads_to(BLUE)))
    assert tree.orphans == {F: {BLUE}}, "the same id again does not help"
    told(etcd, tree, Put(KEYS.backend(GREEN), OBJECT), Put(KEYS.frontend(F), leads_to(GREEN)))
    assert tree.orphans == {}


def test_nor_does_one_that_was_led_to_a_backend_too_early() -> None:
    etcd = Etcd()
    tree = led(etcd)
    told(etcd, tree, Put(KEYS.frontend(F), leads_to(GREEN)), Put(KEYS.backend(GREEN), OBJECT))
    assert tree.orphans == {F: {BLUE, GREEN}}
    assert tree.is_dropped(F)
    told(etcd, tree, Delete(KEYS.frontend(F)))
    assert tree.orphans == {}


def test_that_is_told_by_revisions_to_who_was_not_there() -> None:
    etcd = Etcd()
    led(etcd)
    etcd.transact([Delete(KEYS.backend(BLUE))])
    etcd.transact([Put(KEYS.backend(BLUE), OBJECT)])
    assert BLUE in listed(etcd).orphans[F]


def test_a_put_of_ours_on_what_was_deleted_just_before() -> None:
    """The deletion is older than what we wrote, so it tells nothing; the create revision does."""
    etcd = Etcd()
    tree = led(etcd)
    etcd.transact([Delete(KEYS.backend(BLUE))])
    put = Put(KEYS.backend(BLUE), b"{}")
    tree.made([put], etcd.transact([put]))
    assert tree.orphans == {}
    for event in etcd.events[-2:]:
        tree.event(event)
    assert tree.orphans == {F: {BLUE}}
    assert BLUE in tree.dirty_backends
