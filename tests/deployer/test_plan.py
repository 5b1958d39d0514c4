"""The plan in a world in memory: every way to go, and a death at every point of each."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deployer.world import (
    TIMES,
    Daemon,
    FakeHeld,
    Life,
    World,
    old_controller,
    record_of,
)
from vulcanized.deployer import standing
from vulcanized.deployer.way import FIRST_TICK, SLOW_TICK, TICK, Way
from vulcanized.deployer.words import Entry, Record, Stage, Status, Times

replace = msgspec.structs.replace

WAYS = {
    "blue-green": (Stage(2),),
    "canary": (Stage(2, 10, 3.0), Stage(2, 50, 3.0), Stage(2)),
    "rolling": (Stage(1, 50, 0.0, 1), Stage(2, 100, 0.0, 0)),
}


def world_with(first: bool = False, pinned: bool = True, daemons: int = 2) -> World:
    world = World([Daemon(f"d{n}", lag=0.5 + n) for n in range(daemons)])
    if not first:
        world.controllers["todo-1"] = old_controller("1", 2)
        if pinned:
            world.put("1")
    world.pass_(10)
    for daemon in world.daemons:
        daemon.activation, daemon.revision = world.activation, world.revision
    return world


def judge(world: World, before: World, record: Record) -> None:
    """Nothing bad was done on the way, and nothing is left over at the end."""
    assert world.problems == []
    assert not record.under_way
    versions = {c.version: c.desired for c in world.controllers.values()}
    if record.status is Status.DEPLOYED:
        assert world.activation == "2"
        assert versions.get("2") == 2
        assert world.config == "new config"
        kept = record.dispose_at is not None and not record.disposed
        assert versions.keys() - {"2"} == ({"1"} if kept else set())
    elif not record.person:
        assert world.activation == before.activation
        assert versions == {c.version: c.desired for c in before.controllers.values()}
        assert world.config == "old config"


def copy(world: World) -> World:
    new = World(
        [Daemon(d.name, d.lag, activation=d.activation, revision=d.revision) for d in world.daemons]
    )
    new.controllers = dict(world.controllers)
    new.activation, new.revision, new.last = world.activation, world.revision, world.last
    return new


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pinned", [True, False], ids=["activation", "none"])
def test_a_new_version_takes_over_and_the_old_one_goes(way: str, pinned: bool) -> None:
    world = world_with(pinned=pinned)
    before = copy(world)
    record = Life(world, record_of(world, WAYS[way])).run()
    assert record.status is Status.DEPLOYED
    judge(world, before, record)


@pytest.mark.parametrize(
    ("waited", "tick"),
    [
        (0.0, FIRST_TICK),
        (0.4, 0.1),
        (3.0, TICK),
        (20.0, SLOW_TICK),
        (-3600.0, TICK),  # the clock was put back
        (None, TICK),
    ],
)
def test_the_longer_something_takes_the_seldomer_it_is_looked_at(
    waited: float | None, tick: float
) -> None:
    world = world_with()
    record = record_of(world, WAYS["blue-green"])
    if waited is not None:
        record = replace(record, journal=(Entry("ready", 0, world.now - waited),))
    life = Life(world, record)
    way = Way(life.deployer(), record, life.papers, FakeHeld(), None)  # type: ignore[arg-type]
    assert way._tick() == pytest.approx(tick)


@pytest.mark.parametrize("blind", [0, 1, 2])
def test_where_one_proxy_cannot_tell_of_sessions_all_of_the_drain_time_is_waited_for(
    blind: int,
) -> None:
    world = world_with()
    for daemon in world.daemons[:blind]:
        daemon.measures = False
    record = Life(world, record_of(world, WAYS["blue-green"])).run()
    assert record.status is Status.DEPLOYED
    waited = [e.ended - e.began for e in record.journal if e.step == "idle" and e.ended]
    # By the world's clock.
    assert waited == ([pytest.approx(TIMES.drain, abs=0.5)] if blind else [])


@pytest.mark.parametrize("way", WAYS)
def test_of_a_first_version_there_is_nobody_to_share_with(way: str) -> None:
    world = world_with(first=True)
    before = copy(world)
    record = Life(world, record_of(world, WAYS[way])).run()
    assert record.status is Status.DEPLOYED
    assert [entry.step for entry in record.journal].count("switch") == 1
    judge(world, before, record)


@pytest.mark.parametrize("fault", ["ready", "healthy"])
@pytest.mark.parametrize("pinned", [True, False], ids=["activation", "none"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_never_well_goes_and_the_old_one_never_notices(
    way: str, pinned: bool, fault: str
) -> None:
    world = world_with(pinned=pinned)
    before = copy(world)
    getattr(world, fault)["2"] = (1e9, 1e9)
    record = Life(world, record_of(world, WAYS[way])).run()
    assert record.status is Status.FAILURE
    assert not record.person
    assert "0 of" in record.reason
    assert not [line for line in world.done if line.startswith("switch")]
    judge(world, before, record)


def test_a_balancer_that_does_not_switch_has_it_put_back_and_stays_with_the_old_one() -> None:
    world = world_with()
    before = copy(world)
    world.daemons[1].stuck = world.now
    record = Life(world, record_of(world, WAYS["blue-green"])).run()
    assert record.status is Status.FAILURE
    assert "d1" in record.reason
    assert world.activation == "1"
    assert world.problems == []
    # It has not seen the switch back either, so nobody knows whether it saw the switch.
    assert record.person or {c.version for c in world.controllers.values()} == {"1"}
    assert before.controllers.keys() <= world.controllers.keys()


def test_it_is_not_put_back_to_a_version_that_is_not_healthy_any_more() -> None:
    world = world_with()
    world.daemons[1].stuck = world.now
    world.healthy["1"] = (0, world.now + 1)
    record = Life(world, record_of(world, WAYS["blue-green"])).run()
    assert record.status is Status.FAILURE
    assert record.person
    assert "not switched back" in record.reason
    assert world.activation == "2"
    assert {c.version for c in world.controllers.values()} == {"1", "2"}
    assert world.problems == []


def test_a_daemon_that_died_meanwhile_proves_nothing() -> None:
    world = world_with()
    world.daemons[1].away = (world.now + 0.1, 1e9)
    record = Life(world, record_of(world, WAYS["blue-green"])).run()
    assert record.status is Status.FAILURE
    assert "d1 is away" in record.reason
    assert "todo-1" in world.controllers
    assert world.problems == []


def test_the_previous_version_is_kept_and_disposed_of_when_its_time_is_up() -> None:
    world = world_with()
    life = Life(world, record_of(world, WAYS["blue-green"], replace(TIMES, keep=600)))
    record = life.run()
    assert record.status is Status.DEPLOYED
    assert record.dispose_at is not None
    assert {c.version for c in world.controllers.values()} == {"1", "2"}
    assert life.dispose().disposed
    assert {c.version for c in world.controllers.values()} == {"2"}
    assert world.problems == []


def test_what_serves_again_is_not_disposed_of() -> None:
    world = world_with()
    life = Life(world, record_of(world, WAYS["blue-green"], replace(TIMES, keep=600)))
    life.run()
    world.put("1")
    world.pass_(10)
    assert life.dispose().disposed
    assert {c.version for c in world.controllers.values()} == {"1", "2"}
    assert world.problems == []


def test_somebody_elses_switch_wins() -> None:
    world = world_with()
    world.meddle = (9, "1")  # after create: the activation is put again by hand
    record = Life(world, record_of(world, WAYS["blue-green"])).run()
    assert record.status is Status.FAILURE
    assert "somebody else" in record.reason
    assert world.activation == "1"
    assert {c.version for c in world.controllers.values()} == {"1"}
    assert world.problems == []


def effects_of(way: str, **options: bool) -> int:
    world = world_with(**options)
    Life(world, record_of(world, WAYS[way])).run()
    return world.effects


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "next"])
def test_killed_at_any_point_it_is_finished_or_undone(way: str, first: bool) -> None:
    for point in range(1, effects_of(way, first=first) + 1):
        world = world_with(first=first)
        before = copy(world)
        world.crashes = {point}
        record = Life(world, record_of(world, WAYS[way])).run()
        judge(world, before, record)
        assert not record.person, (point, record.reason)


@st.composite
def lives(draw: st.DrawFn) -> tuple[Life, World]:
    first = draw(st.booleans())
    world = world_with(first, draw(st.booleans()), draw(st.integers(0, 3)))
    before = copy(world)
    moments = st.sampled_from([0.0, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0, 1e6])
    for daemon in world.daemons:
        daemon.lag = draw(st.sampled_from([0.1, 1.0, 5.0, 20.0]))
        if draw(st.booleans()):
            start = world.now + draw(moments)
            daemon.away = (start, start + draw(moments))
        if not draw(st.integers(0, 3)):
            daemon.stuck = world.now + draw(moments)
    for version in ("1", "2"):
        for state in (world.ready, world.healthy):
            if not draw(st.integers(0, 3)):
                start = 0.0 if version == "1" else world.now + draw(moments)
                state[version] = (start, max(start, world.now) + draw(moments))
    world.crashes = draw(st.sets(st.integers(1, 80), max_size=4))
    if not draw(st.integers(0, 4)):
        world.meddle = (draw(st.integers(1, 60)), draw(st.sampled_from(["1", "2"])))
    times = Times(
        ready=draw(st.sampled_from([2.0, 20.0])),
        health=draw(st.sampled_from([2.0, 10.0])),
        switch=draw(st.sampled_from([2.0, 8.0])),
        drain=draw(st.sampled_from([0.0, 6.0])),
        keep=draw(st.sampled_from([0.0, 600.0])),
    )
    way = draw(st.sampled_from(sorted(WAYS)))
    return Life(world, record_of(world, WAYS[way], times)), before


@settings(max_examples=500)
@given(lives())
def test_whatever_happens_no_traffic_is_lost_and_nothing_is_left_behind(
    case: tuple[Life, World],
) -> None:
    life, before = case
    record = life.run()
    world = life.world
    assert world.problems == []
    assert not record.under_way
    versions = {c.version for c in world.controllers.values()}
    if record.status is Status.FAILURE and not record.person:
        assert "2" not in versions or world.meddle[1] == "2"
        assert versions - {"2"} == {c.version for c in before.controllers.values()}
    if world.activation and not record.person and world.meddle[0] < 0:
        assert standing.versions_of(world.activation) <= versions


def test_pods_that_are_not_there_are_not_switched_to() -> None:
    """The one thing that the test above does not look at."""
    world = world_with()
    world.ready["2"] = (world.now + 5, 1e9)
    world.healthy["2"] = (world.now + 9, 1e9)
    record = Life(world, record_of(world, WAYS["blue-green"])).run()
    assert record.status is Status.DEPLOYED
    assert world.problems == []


def test_a_canary_that_falls_ill_gets_no_more_traffic_and_goes() -> None:
    world = world_with()
    before = copy(world)
    world.healthy["2"] = (0, world.now + 3)
    record = Life(world, record_of(world, WAYS["canary"])).run()
    assert record.status is Status.FAILURE
    assert "0 of 2 pods are healthy" in record.reason
    assert record.ended("switch", 0)
    assert not record.entry("switch", 2)
    judge(world, before, record)
