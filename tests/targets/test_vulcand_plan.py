"""What is written, in which order: on a model of vulcand that drops what comes too early."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.targets.mux import Etcd, Mux, read
from vulcanized.etcd import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Compare, Delete, Operation, Put
from vulcanized.model import AppId
from vulcanized.targets.vulcand.keys import MIDDLEWARES, MIXED, Keys
from vulcanized.targets.vulcand.parts import BackendObject, FrontendObject, encoded
from vulcanized.targets.vulcand.plan import (
    Group,
    Touched,
    Wanted,
    detoured,
    lost,
    plan,
    transactions,
)
from vulcanized.targets.vulcand.tree import Tree

KEYS = Keys("vulcand", "edge")
TODO = AppId("default", "todo")
BLUE, GREEN, BOTH = (KEYS.backend_id(TODO, version) for version in ("blue", "green", MIXED))
BACKENDS = [BLUE, GREEN, BOTH]
COPIES = [KEYS.alternate(id_) for id_ in BACKENDS]
FRONTENDS = [KEYS.frontend_id("a.example", text) for text in ("/*1*/", "/*2*/", "/*3*/")]
F = FRONTENDS[0]
LIMIT, OTHER = f"{MIDDLEWARES}max-connections", f"{MIDDLEWARES}other"
BROKEN = [b"", b"{", b"[]", b'"x"', b"\xff"]


# --- a fleet's daemon, without threads --------------------------------------------------------


def backend(servers: Iterable[str] = ("s1",), settings: int = 0) -> BackendObject:
    """A backend with these servers; other settings are other values of all of its keys."""
    content = {"Type": "http", "Settings": {"KeepAlive": {"MaxIdleConnsPerHost": settings + 1}}}
    urls = {name: f"http{'s' * settings}://{name}:80" for name in servers}
    return BackendObject(encoded(content), {n: encoded({"URL": url}) for n, url in urls.items()})


def frontend(
    id_: str, leads_to: str, middlewares: Iterable[str] = (), settings: int = 0
) -> FrontendObject:
    """A frontend with these middlewares."""
    content = {"Type": "http", "BackendId": leads_to, "Route": id_, "Settings": {"x": settings}}
    limits = {name: encoded({"Type": "connlimit", "Priority": settings}) for name in middlewares}
    return FrontendObject(encoded(content), leads_to, id_, limits)


def wanted(backends: dict[str, BackendObject], *frontends: FrontendObject) -> Wanted:
    return Wanted(backends, {each.route: each for each in frontends})


def differing(old: Wanted, new: Wanted) -> Touched:
    """The ids that are not the same in both."""
    backends = old.backends.keys() | new.backends.keys()
    frontends = old.frontends.keys() | new.frontends.keys()
    return Touched(
        {id_ for id_ in backends if old.backends.get(id_) != new.backends.get(id_)}
        | old.adopted_backends
        | new.adopted_backends,
        {id_ for id_ in frontends if old.frontends.get(id_) != new.frontends.get(id_)}
        | old.adopted_frontends
        | new.adopted_frontends,
    )


class Watcher:
    """Called for each event that vulcand has taken."""

    def before(self, mux: Mux, etcd: Etcd) -> None: ...

    def after(self, mux: Mux, etcd: Etcd) -> None: ...


@dataclass
class World:
    """An etcd, a vulcand that follows it, and a daemon that knows what it was told.

    `lag`: vulcand looks at the events of a series of transactions when all of it is written.
    """

    lag: bool = False

    def __post_init__(self) -> None:
        self.etcd = Etcd()
        self.mux = Mux(KEYS)
        self.restart_daemon()
        self._told = self._taken = 0

    def restart_daemon(self) -> None:
        self.tree = Tree(KEYS)
        self.tree.list(self.etcd.items(), self.etcd.revision)
        self._told = len(self.etcd.events)

    def tell(self) -> None:
        """The daemon's watch delivers all there is."""
        for event in self.etcd.events[self._told :]:
            self.tree.event(event)
        self._told = len(self.etcd.events)

    def take(self, watcher: Watcher) -> None:
        """vulcand takes all events that there are."""
        for event in self.etcd.events[self._taken :]:
            watcher.before(self.mux, self.etcd)
            self.mux.event(event.key, self.etcd, deleted=event.value is None)
            watcher.after(self.mux, self.etcd)
        self._taken = len(self.etcd.events)

    def meddle(self, operations: Iterable[Operation]) -> None:
        """Somebody else writes, one by one, and vulcand takes it."""
        for operation in operations:
            self.etcd.transact([operation])
            self.take(Watcher())

    def bring(
        self, goal: Wanted, touched: Touched, watcher: Watcher | None = None, stop: int = -1
    ) -> bool:
        """Write what it takes, as the target does; False: stopped after so many transactions."""
        watcher = watcher or Watcher()
        tree = self.tree
        for _ in range(3):
            backends = touched.backends | tree.dirty_backends
            frontends = touched.frontends | tree.dirty_frontends
            tree.dirty_backends, tree.dirty_frontends = set(), set()
            going = lost(goal, tree)
            detours = going.keys()
            copies = {KEYS.alternate(id_) for id_ in detours}
            users = {user for some in going.values() for user in some}
            now = Touched(backends | detours | copies, frontends | users)
            for group in transactions(plan(detoured(goal, KEYS, detours), tree, now)):
                if stop == 0:
                    self.take(watcher)
                    return False
                stop -= 1
                self.write(group)
                if not self.lag:
                    self.take(watcher)
            self.take(watcher)
            if not detours:
                return True
            led = {user for copy in copies for user in tree.users.get(copy, set())}
            touched = Touched(detours | copies, led)
        raise AssertionError("detours without an end")

    def write(self, group: Group) -> None:
        fits(group)
        revision = self.etcd.transact(group.operations, group.compares)
        self.tree.made(group.operations, revision)


def fits(group: Group) -> None:
    """Whether etcd takes it, and one compare more."""
    keys = [operation.key for operation in group.operations]
    assert 0 < len(keys) <= MAX_OPERATIONS
    assert len(group.compares) < MAX_OPERATIONS
    assert len(set(keys)) == len(keys)
    size = sum(len(each.key.encode()) + len(getattr(each, "value", b"")) for each in group[0])
    assert size <= MAX_TRANSACTION_BYTES


class Survives(Watcher):
    """What must hold at each step while the goal is brought about."""

    def __init__(self, world: World, goal: Wanted) -> None:
        self._served = {
            id_: set(world.mux.frontends[id_].seen) | set(goal.backends[found.backend].servers)
            for id_, found in goal.frontends.items()
            if goal.backends[found.backend].servers
            and id_ in world.mux.frontends
            and world.mux.frontends[id_].seen
        }
        self._broken = dangling(world.etcd)

    def before(self, mux: Mux, etcd: Etcd) -> None:
        mux.dropped.clear()

    def after(self, mux: Mux, etcd: Etcd) -> None:
        assert not mux.dropped
        assert dangling(etcd) <= self._broken
        for id_, some in self._served.items():
            assert some & mux.frontends[id_].seen.keys(), f"{id_} has nobody who answers"


def dangling(etcd: Etcd) -> set[str]:
    """The frontends with which vulcand would not start."""
    found = set()
    for key, stored in etcd.keys.items():
        place = KEYS.place(key)
        if place is not None and place.kind == "frontends" and not place.part:
            content = read(stored.value) or {}
            name = content.get("BackendId")
            at = etcd.keys.get(KEYS.backend(str(name)))
            if content and (at is None or read(at.value) is None):
                found.add(place.id)
    return found


def arrived(world: World, goal: Wanted) -> None:
    """The tree is as wanted, vulcand shows it, and would after a restart; nothing is left."""
    tree, mux = world.tree, world.mux
    shown = {key: stored.value for key, stored in world.etcd.keys.items()}
    for id_, each in goal.backends.items():
        assert shown[KEYS.backend(id_)] == each.value
        assert parts(shown, KEYS.server(id_, "")) == dict(each.servers)
    for id_, found in goal.frontends.items():
        assert shown[KEYS.frontend(id_)] == found.value
        own = parts(shown, KEYS.middleware(id_, ""))
        assert {n: v for n, v in own.items() if n.startswith(MIDDLEWARES)} == found.middlewares
    fresh = Mux.started(world.etcd, KEYS)
    assert mux.shown(goal.frontends) == fresh.shown(goal.frontends)
    assert all(map(mux.follows, goal.frontends))
    ours = {place.id for place in map(KEYS.place, shown) if place and KEYS.owns(place.id)}
    left = ours - goal.backends.keys() - goal.frontends.keys()
    assert all(any(user not in goal.frontends for user in tree.users.get(id_, ())) for id_ in left)
    everything = Touched(set(tree.backends) | ours, set(tree.frontends) | ours)
    assert plan(goal, tree, everything) == ()


def parts(shown: dict[str, bytes], beginning: str) -> dict[str, bytes]:
    return {k.removeprefix(beginning): v for k, v in shown.items() if k.startswith(beginning)}


# --- whatever is there, whatever is wanted ----------------------------------------------------

server_names = st.sets(st.sampled_from(["s1", "s2", "s3"]))


@st.composite
def goals(draw: st.DrawFn) -> Wanted:
    some = draw(st.lists(st.sampled_from(BACKENDS), min_size=1, unique=True))
    backends = {id_: backend(draw(server_names), draw(st.integers(0, 1))) for id_ in some}
    backends[KEYS.nowhere_id] = backend(())
    frontends = [
        frontend(
            id_,
            draw(st.sampled_from([*some, KEYS.nowhere_id])),
            draw(st.sets(st.sampled_from([LIMIT, OTHER]))),
            draw(st.integers(0, 1)),
        )
        for id_ in draw(st.sets(st.sampled_from(FRONTENDS)))
    ]
    return wanted(backends, *frontends)


@st.composite
def meddlings(draw: st.DrawFn) -> list[Operation]:
    """Somebody writes on keys of ours and of their own, right things, others and nonsense."""
    kind = draw(st.sampled_from(["backend", "server", "frontend", "middleware"]))
    owned = [*BACKENDS, COPIES[0], KEYS.nowhere_id, "theirs"]
    broken = st.sampled_from(BROKEN)
    if kind in {"backend", "server"}:
        id_ = draw(st.sampled_from(owned))
        made = backend(["s1", "s2", "s3", "x"], draw(st.integers(0, 1)))
        name = draw(st.sampled_from(sorted(made.servers)))
        key = KEYS.backend(id_) if kind == "backend" else KEYS.server(id_, name)
        value = made.value if kind == "backend" else made.servers[name]
    else:
        id_ = draw(st.sampled_from([*FRONTENDS, "theirs"]))
        to = draw(st.sampled_from([*owned, "missing"]))
        name = draw(st.sampled_from([LIMIT, OTHER, "own"]))
        found = frontend(id_, to, [name], draw(st.integers(0, 1)))
        key = KEYS.frontend(id_) if kind == "frontend" else KEYS.middleware(id_, name)
        value = found.value if kind == "frontend" else found.middlewares[name]
    right = st.just(value)
    # What people put on frontends of ours stays, so it is no nonsense.
    put = Put(key, draw(right if key.endswith("/own") else st.one_of(right, right, broken)))
    return draw(st.sampled_from([[put], [Delete(key)], [Delete(key)], [Delete(key), put]]))


meddled = st.lists(meddlings(), max_size=5).map(
    lambda found: [each for some in found for each in some]
)


def foreign(etcd: Etcd) -> dict[str, object]:
    return {
        key: stored
        for key, stored in etcd.keys.items()
        if (place := KEYS.place(key)) is None or not KEYS.owns(place.id)
    }


@settings(max_examples=300)
@given(before=goals(), meddling=meddled, goal=goals(), lag=st.booleans(), restart=st.booleans())
def test_from_any_tree_to_any_goal(
    before: Wanted, meddling: list[Operation], goal: Wanted, lag: bool, restart: bool
) -> None:
    world = World()
    world.bring(before, differing(Wanted(), before), Survives(world, before))
    arrived(world, before)
    world.meddle(meddling)
    touched = differing(before, goal)
    if restart:
        world.restart_daemon()
        touched = differing(Wanted(), goal)
    world.tell()
    theirs = foreign(world.etcd)
    world.lag = lag

    world.bring(goal, touched, Survives(world, goal))

    arrived(world, goal)
    assert foreign(world.etcd) == theirs


@settings(max_examples=100)
@given(
    before=goals(),
    meddling=meddled,
    goal=goals(),
    crashes=st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_a_series_that_is_cut_off_is_taken_up_by_the_next_daemon(
    before: Wanted, meddling: list[Operation], goal: Wanted, crashes: list[int]
) -> None:
    world = World()
    world.bring(before, differing(Wanted(), before))
    world.meddle(meddling)
    for crash in crashes:
        world.restart_daemon()
        world.bring(goal, differing(Wanted(), goal), Survives(world, goal), stop=crash)
    world.restart_daemon()
    world.bring(goal, differing(Wanted(), goal), Survives(world, goal))
    arrived(world, goal)


# --- transactions -----------------------------------------------------------------------------


def _group(operations: list[tuple[int, int | None]], compares: int) -> Group:
    """Operations by the number of a key and the size of what is put, None for a deletion."""
    keys = [(f"k{key}-é", size) for key, size in operations]
    made = [Delete(key) if size is None else Put(key, bytes(size)) for key, size in keys]
    return Group(tuple(made), tuple(Compare(f"c{number}", 1) for number in range(compares)))


sizes = st.sampled_from([None, 0, 1000, 100_000])
rows = st.lists(
    st.tuples(st.integers(0, 300), sizes), min_size=1, max_size=6, unique_by=lambda row: row[0]
)
groups = st.lists(st.builds(_group, rows, st.integers(0, 1)), max_size=60)


@settings(max_examples=50)
@given(groups)
def test_transactions_hold_groups_together_in_their_order(some: list[Group]) -> None:
    made = list(transactions(some))
    for each in made:
        fits(each)
    assert [op for each in made for op in each[0]] == [op for each in some for op in each[0]]
    assert [c for each in made for c in each[1]] == [c for each in some for c in each[1]]
    held = [set(map(id, each.operations)) for each in made]
    for each in some:
        assert any(ids.issuperset(map(id, each.operations)) for ids in held)


def test_as_few_transactions_as_etcd_takes() -> None:
    some = [Group((Put(f"k{n}", b"x"),)) for n in range(MAX_OPERATIONS * 2)]
    assert [len(each.operations) for each in transactions(some)] == [MAX_OPERATIONS] * 2
    compared = [Group((Put(f"k{n}", b"x"),), (Compare(f"k{n}", 1),)) for n in range(MAX_OPERATIONS)]
    assert [len(each.compares) for each in transactions(compared)] == [MAX_OPERATIONS - 1, 1]


def test_a_group_that_is_too_large_by_itself_is_cut() -> None:
    put = tuple(Put(f"k{n}", b"x") for n in range(MAX_OPERATIONS + 1))
    made = list(transactions([Group(put, (Compare("k0", 1),))]))
    assert [len(each.operations) for each in made] == [MAX_OPERATIONS, 1]
    assert [len(each.compares) for each in made] == [1, 0]


# --- case by case -----------------------------------------------------------------------------


def brought(goal: Wanted) -> World:
    world = World()
    world.bring(goal, differing(Wanted(), goal))
    return world


def written(world: World, goal: Wanted, touched: Touched) -> list[Operation]:
    return [each for group in plan(goal, world.tree, touched) for each in group.operations]


def test_a_switch_is_one_put() -> None:
    backends = {BLUE: backend(["s1"]), GREEN: backend(["s2"])}
    before = wanted(backends, frontend(F, BLUE, [LIMIT]))
    after = wanted(backends, frontend(F, GREEN, [LIMIT]))
    world = brought(before)
    (group,) = plan(after, world.tree, differing(before, after))
    key = KEYS.frontend(F)
    assert group.operations == (Put(key, after.frontends[F].value),)
    assert group.compares == (Compare(key, world.etcd.keys[key].modified),)


def test_what_is_not_touched_is_not_looked_at() -> None:
    goal = wanted({BLUE: backend()}, frontend(F, BLUE))
    assert written(World(), goal, Touched(set(), set())) == []


def test_what_comes_comes_before_what_goes() -> None:
    before = wanted({BLUE: backend(["s1"])}, frontend(F, BLUE, [LIMIT]))
    after = wanted({GREEN: backend(["s2"])}, frontend(FRONTENDS[1], GREEN, [OTHER]))
    found = written(brought(before), after, differing(before, after))
    assert [(type(each).__name__, each.key) for each in found] == [
        ("Put", KEYS.backend(GREEN)),
        ("Put", KEYS.server(GREEN, "s2")),
        ("Put", KEYS.frontend(FRONTENDS[1])),
        ("Put", KEYS.middleware(FRONTENDS[1], OTHER)),
        ("Delete", KEYS.middleware(F, LIMIT)),
        ("Delete", KEYS.frontend(F)),
        ("Delete", KEYS.server(BLUE, "s1")),
        ("Delete", KEYS.backend(BLUE)),
    ]


def test_a_backend_that_somebody_else_leads_to_stays() -> None:
    before = wanted({BLUE: backend(["s1"])})
    world = brought(before)
    theirs = frontend("theirs", BLUE)
    world.meddle([Put(KEYS.frontend("theirs"), theirs.value)])
    world.tell()
    touched = Touched({BLUE}, set())
    assert written(world, Wanted(), touched) == []

    adopting = Wanted(adopted_frontends={"theirs"})
    found = written(world, adopting, replace(touched, frontends={"theirs"}))
    assert [each.key for each in found] == [
        KEYS.frontend("theirs"),
        KEYS.server(BLUE, "s1"),
        KEYS.backend(BLUE),
    ]


def test_objects_of_others_go_only_if_they_are_adopted() -> None:
    world = World()
    world.meddle([Put(KEYS.backend("theirs"), b"{}"), Put(KEYS.server("theirs", "s"), b"{}")])
    world.tell()
    touched = Touched({"theirs"}, set())
    assert written(world, Wanted(), touched) == []
    found = written(world, Wanted(adopted_backends={"theirs"}), touched)
    assert found == [Delete(KEYS.server("theirs", "s")), Delete(KEYS.backend("theirs"))]


def test_a_middleware_of_somebody_else_stays_unless_it_would_end_vulcand() -> None:
    goal = wanted({BLUE: backend()}, frontend(F, BLUE))
    world = brought(goal)
    world.tree.made([Put(KEYS.middleware(F, "own"), b"{}")], 100)
    assert written(world, goal, Touched(set(), {F})) == []
    world.tree.made([Put(KEYS.middleware(F, "own"), b" null ")], 101)
    assert written(world, goal, Touched(set(), {F})) == [Delete(KEYS.middleware(F, "own"))]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lag", [False, True])
def test_a_backend_that_was_deleted_under_its_frontends_and_put_again(
    restart: bool, lag: bool
) -> None:
    """They take a detour over a copy, and follow again; vulcand has lost its servers too."""
    goal = wanted({BLUE: backend(["s1", "s2"])}, frontend(F, BLUE, [LIMIT]))
    world = brought(goal)
    key = KEYS.backend(BLUE)
    world.meddle([Delete(key), Put(key, goal.backends[BLUE].value)])
    assert not world.mux.follows(F)
    if restart:
        world.restart_daemon()
    world.tell()
    world.lag = lag
    world.bring(goal, Touched(set(), set()), Survives(world, goal))
    arrived(world, goal)
