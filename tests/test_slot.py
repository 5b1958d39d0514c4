"""How threads hand over work: nothing lost, newest wins, the first after a calm at once."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factory import TODO
from vulcanized.model import AppId, Change, DesiredApp
from vulcanized.slot import DirtyApps, HoldOff, Slot

OTHER = AppId("default", "other")


def app(name: AppId, *, maintenance: bool = False) -> DesiredApp:
    return DesiredApp(name, (), (), (), maintenance=maintenance)


def change(
    generation: int, apps: dict[AppId, DesiredApp | None], *, complete: bool = False
) -> Change:
    return Change(generation, apps, complete, float(generation))


def test_a_slow_target_gets_the_newest_value_of_each_app_and_the_oldest_time() -> None:
    slot = Slot()
    slot.offer(change(1, {TODO: app(TODO)}))
    slot.offer(change(2, {OTHER: app(OTHER)}))
    slot.offer(change(3, {TODO: app(TODO, maintenance=True)}))
    assert slot.take(0) == Change(
        3, {TODO: app(TODO, maintenance=True), OTHER: app(OTHER)}, complete=False, since=1.0
    )
    assert slot.take(0) is None


def test_an_app_gone_after_a_complete_change_is_simply_not_in_it() -> None:
    slot = Slot()
    slot.offer(change(1, {TODO: app(TODO), OTHER: app(OTHER)}, complete=True))
    slot.offer(change(2, {OTHER: None}))
    taken = slot.take(0)
    assert taken is not None
    assert taken.complete
    assert taken.apps == {TODO: app(TODO)}


def test_closing_wakes_a_waiting_target() -> None:
    slot = Slot()
    closer = threading.Timer(0.01, slot.close)
    closer.start()
    assert slot.take(30) is None
    assert slot.closed
    closer.join()


def test_many_marks_of_one_app_are_one_pass_with_the_earliest_time() -> None:
    dirty = DirtyApps(clock=lambda: 9.0)
    dirty.mark([TODO], since=5.0)
    dirty.mark([TODO, OTHER], since=6.0)
    assert dirty.drain(0) == ({TODO: 5.0, OTHER: 6.0}, None)
    assert dirty.drain(0) == ({}, None)


def test_a_full_pass_is_asked_for_apart_and_closing_ends_the_reader() -> None:
    dirty = DirtyApps(clock=lambda: 9.0)
    dirty.mark_all()
    dirty.mark_all()
    assert dirty.drain(0) == ({}, 9.0)
    dirty.close()
    assert dirty.drain(30) is None


def test_the_first_request_after_a_calm_is_due_at_once() -> None:
    hold = HoldOff(quiet=0.05, ceiling=0.5)
    assert hold.due() is None
    assert hold.request(10.0) == 10.0
    hold.done(10.1)
    assert hold.due() is None


def test_the_next_ones_wait_for_quiet_but_never_beyond_the_ceiling() -> None:
    hold = HoldOff(quiet=0.05, ceiling=0.5)
    hold.request(10.0)
    hold.done(10.0)
    assert hold.request(10.1) == pytest.approx(10.15)
    assert hold.request(10.14) == pytest.approx(10.19)
    for step in range(60):
        due = hold.request(10.14 + step / 100)
    assert due == pytest.approx(10.6)
    hold.done(10.6)
    assert hold.request(12.0) == 12.0


def test_what_nobody_wants_any_more_is_not_due() -> None:
    hold = HoldOff(quiet=0.05, ceiling=0.5)
    hold.request(10.0)
    hold.done(10.0)
    hold.request(10.1)
    hold.withdraw()
    assert hold.due() is None
    assert hold.request(10.2) == pytest.approx(10.25)


@given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=30))
def test_a_request_never_waits_longer_than_the_ceiling(gaps: list[float]) -> None:
    hold = HoldOff(quiet=0.05, ceiling=0.5)
    now, first = 0.0, None
    for gap in gaps:
        now += gap
        due = hold.due()
        if due is not None and due <= now:
            hold.done(due)
            first = None
        first = now if first is None else first
        assert hold.request(now) <= first + 0.5 + 1e-9
