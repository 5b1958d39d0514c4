"""A schedule is made of its seed alone, and everything in it can be replayed."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import BUSY, KINDS, schedule


def test_the_same_seed_is_the_same_schedule_and_another_one_is_not() -> None:
    assert schedule(7, 120) == schedule(7, 120)
    assert schedule(7, 120) != schedule(8, 120)


@pytest.mark.parametrize("seed", range(5))
def test_steps_are_in_order_and_end_within_the_time(seed: int) -> None:
    steps = schedule(seed, 60)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert all(step.app in BUSY or step.app.startswith("extra") for step in steps)
    assert max(step.at + step.lasting for step in steps) < 66


def test_all_kinds_come_in_time() -> None:
    seen = {step.kind for seed in range(10) for step in schedule(seed, 120)}
    assert seen >= set(KINDS) - {"pod.replace", "app.release", "app.move"}


def test_only_the_kinds_that_are_asked_for_come() -> None:
    assert {step.kind for step in schedule(1, 60, ["etcd.cut"])} == {"etcd.cut"}


def test_a_pod_is_removed_once_and_only_after_it_was_added() -> None:
    there = {f"{app}-v1-{number}" for app in BUSY for number in (1, 2)}
    for step in schedule(3, 300):
        if step.kind == "pod.add":
            assert step.name not in there
            there.add(step.name)
        if step.kind == "pod.remove":
            there.remove(step.name)
