"""Watches that break, end, are refused or fall silent, again and again."""

from __future__ import annotations

import pytest

from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.faults import apifaults
from tests.faults.apifaults import Todo, broken, is_stale, relists
from tests.faults.stage import Stage

REFUSALS = {
    "reset": (faults.Reset(), "cannot"),
    "failing": (faults.Refuse(500), "an error on the server (500)"),
    "busy": (faults.Refuse(429, "TooManyRequests", "later", retry_after="2"), "later (429)"),
    "cut in the middle of a line": (faults.CutInLine(), "cannot watch pods"),
    "ended in the middle of a line": (faults.EndInLine(), "in the middle of a line"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_haproxytech_257_while_no_watch_lives_the_last_word_holds_and_dead_pods_cost_a_retry(
    impatient: tuple[Stage, Todo], name: str
) -> None:
    stage, todo = impatient
    fault, told = REFUSALS[name]
    before = relists(stage)
    with apifaults.unharmed(stage):
        with broken(stage, fault, verb="watch"):
            todo.replace()
            stage.served_by(todo.names[0])  # the one that is known of and lives
            is_stale(stage, told)
        todo.served()
    assert relists(stage) == before


@pytest.mark.parametrize(
    "fault", [faults.expired(), faults.expired_event()], ids=["status", "event"]
)
def test_a_place_that_is_lost_again_and_again_costs_lists_and_a_change_is_never_missed(
    impatient: tuple[Stage, Todo], fault: Fault
) -> None:
    stage, todo = impatient
    before = relists(stage)
    with apifaults.unharmed(stage), broken(stage, fault, verb="watch", plural="pods"):
        for _ in range(2):
            todo.replace()
            todo.served()
        assert relists(stage) >= before + 2
