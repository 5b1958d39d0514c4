"""The reconciler, driven by sources in memory: waits for all, costs only what changed."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.factory import TODO, pod
from tests.servers.wait import eventually
from vulcanized.model import (
    AppId,
    Change,
    Controller,
    Document,
    Pod,
    Remembered,
    Share,
    SourcePhase,
    SourceState,
)
from vulcanized.reconciler import REMEMBER_AFTER, Outlet, Reconciler, Stream
from vulcanized.slot import DirtyApps

OTHER = AppId("default", "other")
MARKER = AppId("default", "marker")
ALL = frozenset({"hosts", "paths", "port"})


@dataclass
class Source:
    """Both sides at once, in memory: a stand-in for the streams, which have their own tests."""

    dirty: DirtyApps
    name: str = "memory"
    spoken: bool = True
    pods_: dict[AppId, tuple[Pod, ...]] = field(default_factory=dict)
    configs: dict[AppId, Document] = field(default_factory=dict)
    activations: dict[AppId, Document] = field(default_factory=dict)
    reads: Counter[AppId] = field(default_factory=Counter)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (self,)

    def run(self, stop: threading.Event) -> None:
        stop.wait(30)

    def accept(self) -> int:
        return 0

    def state(self) -> SourceState:
        return SourceState(self.name, SourcePhase.SYNCED, 0.0, len(self.pods_))

    def pods(self, app: AppId) -> tuple[Pod, ...]:
        self.reads[app] += 1
        return self.pods_.get(app, ())

    def controllers(self, app: AppId) -> tuple[Controller, ...]:
        return ()

    def config(self, app: AppId) -> Document | None:
        return self.configs.get(app)

    def activation(self, app: AppId) -> Document | None:
        return self.activations.get(app)

    def apps(self) -> set[AppId]:
        return self.pods_.keys() | self.configs.keys() | self.activations.keys()

    def route(self, app: AppId, host: str, created: int = 1, **fields: object) -> None:
        text = json.dumps({"hosts": [host], **fields})
        self.configs[app] = Document(text, f"memory {app}", created)
        self.dirty.mark([app])

    def place(self, app: AppId, *pods: Pod) -> None:
        self.pods_[app] = pods
        self.dirty.mark([app])

    def activate(self, app: AppId, text: str) -> None:
        self.activations[app] = Document(text, f"memory {app}")
        self.dirty.mark([app])


@dataclass
class Kept:
    """A memory that is a dict."""

    rows: dict[AppId, Remembered] = field(default_factory=dict)
    saves: int = 0

    def load(self) -> dict[AppId, Remembered]:
        return dict(self.rows)

    def save(self, changed: Mapping[AppId, Remembered]) -> None:
        self.rows.update(changed)
        self.saves += 1


@dataclass
class Rig:
    source: Source
    outlet: Outlet
    reconciler: Reconciler
    memory: Kept
    beside: Outlet = field(default_factory=lambda: Outlet("beside", ALL))

    def take(self) -> Change:
        return self._take(self.outlet)

    def take_beside(self) -> Change:
        return self._take(self.beside)

    def _take(self, outlet: Outlet) -> Change:
        change = outlet.slot.take(5)
        assert change is not None, "no change was offered"
        return change

    def remembered(self, app: AppId, holds: Callable[[Remembered], bool]) -> None:
        """Return when what is written down of an app is so."""
        rows = self.memory.rows
        eventually(lambda: app in rows and holds(rows[app]), 5, lambda: f"{app} in {rows}")

    def pass_through(self) -> None:
        """Return when all that was marked before has been worked on."""
        before = self.source.reads[MARKER]
        self.source.dirty.mark([MARKER])
        eventually(lambda: self.source.reads[MARKER] > before, 5, "a pass of the reconciler")


@contextmanager
def running(
    source: Source | None = None,
    *,
    memory: Kept | None = None,
    strict: bool = False,
    beside: bool = False,
    resync: float = 300.0,
) -> Iterator[Rig]:
    given = source or Source(DirtyApps())
    outlet = Outlet("edge", ALL, strict)
    kept = memory or Kept()
    other = Outlet("beside", ALL)
    outlets = [outlet, other] if beside else [outlet]
    reconciler = Reconciler(given, given, outlets, given.dirty, kept, resync=resync)
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop,))
    given.dirty.mark_all()
    thread.start()
    try:
        yield Rig(given, outlet, reconciler, kept, other)
    finally:
        stop.set()
        given.dirty.close()
        thread.join(5)
        assert not thread.is_alive()


def ready_source() -> Source:
    source = Source(DirtyApps())
    source.route(TODO, "todo.example.com")
    source.place(TODO, pod("a"))
    return source


def two_versions() -> Source:
    source = ready_source()
    source.place(TODO, pod("a"), pod("b", "green", ip="10.0.0.2"))
    source.activate(TODO, "blue")
    return source


def test_nothing_is_offered_before_every_stream_has_spoken() -> None:
    source = ready_source()
    source.spoken = False
    with running(source) as rig:
        assert rig.outlet.slot.take(0.1) is None
        assert not rig.reconciler.synced
        source.spoken = True
        source.dirty.mark_all()
        change = rig.take()
        assert change.complete
        assert set(change.apps) == {TODO}
        assert rig.reconciler.synced


def test_an_empty_world_is_offered_as_complete_and_empty() -> None:
    with running() as rig:
        change = rig.take()
        assert change.complete
        assert change.apps == {}
        assert change.generation == 1


def test_a_change_carries_only_its_app_and_the_time_of_its_event() -> None:
    source = ready_source()
    source.route(OTHER, "other.example.com")
    with running(source) as rig:
        rig.take()
        source.pods_[TODO] = (pod("a"), pod("b", ip="10.0.0.2"))
        source.dirty.mark([TODO], since=123.0)
        change = rig.take()
        assert set(change.apps) == {TODO}
        assert not change.complete
        assert change.since == 123.0
        assert change.generation == 2


def test_an_event_that_changes_nothing_desired_costs_nothing_downstream() -> None:
    source = ready_source()
    with running(source) as rig:
        rig.take()
        source.place(TODO, pod("a"), pod("not ready", ready=False, ip="10.0.0.2"))
        rig.pass_through()
        assert rig.outlet.slot.take(0) is None
        assert rig.reconciler.snapshot().generation == 1


def test_work_is_done_for_the_apps_that_changed_and_no_others() -> None:
    source = ready_source()
    for number in range(500):
        source.route(AppId("default", f"app{number}"), f"app{number}.example.com")
    with running(source) as rig:
        rig.take()
        source.reads.clear()
        source.place(TODO, pod("b", ip="10.0.0.2"))
        rig.take()
        assert source.reads == {TODO: 1}


def test_an_app_that_is_gone_is_offered_as_gone_and_forgotten() -> None:
    source = ready_source()
    with running(source) as rig:
        rig.take()
        rig.remembered(TODO, lambda kept: kept.config is not None)
        del source.configs[TODO], source.pods_[TODO]
        source.dirty.mark([TODO])
        assert rig.take().apps == {TODO: None}
        rig.pass_through()
        assert rig.reconciler.snapshot().apps == {}
        rig.remembered(TODO, lambda kept: kept == Remembered())


def test_a_config_is_written_down_in_the_pass_that_accepts_it() -> None:
    source = ready_source()
    with running(source) as rig:
        rig.take()
        for number in range(20):
            source.route(TODO, f"todo{number}.example.com")
            rig.take()
            rig.pass_through()
            assert f"todo{number}." in str(rig.memory.rows[TODO].config)


def test_switches_that_follow_each_other_are_written_down_together() -> None:
    with running(two_versions()) as rig:
        rig.take()
        rig.remembered(TODO, lambda kept: kept.config is not None)
        saves = rig.memory.saves
        for version in ("green", "blue") * 10:
            rig.source.activate(TODO, version)
            rig.take()
    assert rig.memory.rows[TODO].activation == "blue"
    assert rig.memory.saves - saves < 20


def test_a_switch_is_written_down_while_it_never_gets_calm() -> None:
    with running(two_versions()) as rig:
        rig.take()
        stop = threading.Event()

        def restless() -> None:
            while not stop.wait(REMEMBER_AFTER / 10):
                rig.source.dirty.mark([OTHER])

        noise = threading.Thread(target=restless)
        noise.start()
        try:
            rig.source.activate(TODO, "green")
            rig.remembered(TODO, lambda kept: kept.activation == "green")
        finally:
            stop.set()
            noise.join()


def test_what_was_accepted_last_is_written_down_at_the_end() -> None:
    with running(two_versions()) as rig:
        rig.take()
        rig.source.activate(TODO, "green")
        rig.take()
    assert rig.memory.rows[TODO].activation == "green"


def test_one_bad_config_leaves_the_app_as_it_was_and_the_others_alone() -> None:
    source = ready_source()
    with running(source) as rig:
        first = rig.take().apps[TODO]
        source.configs[TODO] = Document("{", "memory default/todo", 1)
        source.route(OTHER, "other.example.com")
        source.place(OTHER, pod("o", app=OTHER))
        source.dirty.mark([TODO])
        rig.pass_through()
        rig.pass_through()
        change = rig.take()
        assert OTHER in change.apps
        assert TODO not in change.apps
        built = rig.reconciler.snapshot().apps[TODO]
        assert built.quarantined
        assert built.desired == first


def test_what_was_good_before_a_restart_still_is_after_it() -> None:
    source = ready_source()
    source.activate(TODO, "blue")
    memory = Kept()
    with running(source, memory=memory) as rig:
        rig.take()
        rig.pass_through()
    fresh = Source(DirtyApps(), pods_=source.pods_)
    fresh.configs[TODO] = Document("{", "memory default/todo", 1)
    fresh.activate(TODO, "gren")
    with running(fresh, memory=memory) as rig:
        desired = rig.take().apps[TODO]
        assert desired is not None
        assert desired.split == (Share("blue", 1),)
        assert desired.routes[0].host == "todo.example.com"


def test_a_held_activation_takes_effect_when_its_pods_are_ready() -> None:
    source = ready_source()
    source.activate(TODO, "blue")
    with running(source) as rig:
        rig.take()
        source.activate(TODO, "green")
        rig.pass_through()
        assert rig.reconciler.snapshot().apps[TODO].held
        source.place(TODO, pod("a"), pod("g", "green", ip="10.0.0.2"))
        eventually(
            lambda: not rig.reconciler.snapshot().apps[TODO].held, 5, "the activation in effect"
        )
        desired = rig.reconciler.snapshot().apps[TODO].desired
        assert desired is not None
        assert desired.split == (Share("green", 1),)


def test_of_two_apps_with_one_route_the_older_owns_it_and_the_other_gets_it_when_it_goes() -> None:
    source = ready_source()
    source.route(OTHER, "todo.example.com", created=2)
    source.place(OTHER, pod("o", app=OTHER))
    with running(source) as rig:
        change = rig.take()
        waiting = change.apps[OTHER]
        assert waiting is not None
        assert waiting.routes == ()
        codes = [p.code for p in rig.reconciler.snapshot().apps[OTHER].problems]
        assert codes == ["route_taken"]
        del source.configs[TODO]
        source.dirty.mark([TODO])
        moved = rig.take()
        assert moved.apps[TODO] is None
        now = moved.apps[OTHER]
        assert now is not None
        assert now.routes[0].host == "todo.example.com"


def test_what_a_target_cannot_do_is_a_problem_of_the_app_on_that_target() -> None:
    source = ready_source()
    source.route(TODO, "todo.example.com", sticky=True)
    with running(source) as rig:
        assert rig.take().apps[TODO] is not None
        (problem,) = rig.reconciler.snapshot().apps[TODO].problems
        assert (problem.code, problem.target) == ("not_in_effect", "edge")
        assert "sticky" in problem.message


def test_a_strict_target_keeps_an_app_as_it_was_rather_than_without_a_policy() -> None:
    source = ready_source()
    with running(source, strict=True) as rig:
        before = rig.take().apps[TODO]
        assert before is not None
        source.route(TODO, "new.example.com", sticky=True)
        rig.pass_through()
        assert rig.outlet.slot.take(0) is None
        built = rig.reconciler.snapshot().apps[TODO]
        assert built.quarantined
        (problem,) = built.problems
        assert (problem.code, problem.target) == ("not_in_effect", "edge")
        assert "sticky" in problem.message

        source.place(TODO, pod("a"), pod("b", ip="10.0.0.2"))
        after = rig.take().apps[TODO]
        assert after is not None
        assert after.routes == before.routes
        assert len(after.backends[0].servers) == 2


def test_a_strict_target_beside_another_refuses_for_itself_alone_also_after_a_restart() -> None:
    source = ready_source()
    memory = Kept()

    def routes(change: Change) -> list[str]:
        desired = change.apps[TODO]
        assert desired is not None
        return [route.host for route in desired.routes]

    with running(source, memory=memory, beside=True, strict=True) as rig:
        assert routes(rig.take()) == routes(rig.take_beside()) == ["todo.example.com"]
        source.route(TODO, "new.example.com", sticky=True)
        assert routes(rig.take_beside()) == ["new.example.com"]
        assert rig.take().apps == {}
        rig.pass_through()
        problems = rig.reconciler.snapshot().apps[TODO].problems
        assert [problem.target for problem in problems] == ["edge", "beside"]
        assert "its last good config stays" in problems[0].message
        assert "routed without" in problems[1].message
    fresh = Source(DirtyApps(), pods_=source.pods_, configs=source.configs)
    with running(fresh, memory=memory, beside=True, strict=True) as rig:
        assert routes(rig.take()) == ["todo.example.com"]
        assert routes(rig.take_beside()) == ["new.example.com"]
        fresh.route(TODO, "plain.example.com")
        assert routes(rig.take()) == routes(rig.take_beside()) == ["plain.example.com"]
        rig.pass_through()
        rig.remembered(TODO, lambda kept: not kept.elsewhere)


def test_an_app_that_vanished_while_nobody_looked_is_remembered_no_longer() -> None:
    memory = Kept({OTHER: Remembered(None, "7")})
    with running(ready_source(), memory=memory) as rig:
        rig.take()
        rig.pass_through()
        rig.remembered(OTHER, lambda kept: kept == Remembered())


def test_a_full_pass_finds_what_no_event_told() -> None:
    source = ready_source()
    with running(source, resync=0.05) as rig:
        rig.take()
        source.pods_[TODO] = (pod("silent", ip="10.0.0.9"),)
        eventually(
            lambda: "10.0.0.9" in str(rig.reconciler.snapshot().apps[TODO].desired), 5, "a resync"
        )
