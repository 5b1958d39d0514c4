"""The stage itself: it judges as it should."""

from __future__ import annotations

import pytest

from tests.fakes import faults
from tests.faults.stage import Stage
from tests.servers.wait import TooLate


def test_a_daemon_that_has_seen_changes_is_like_a_fresh_one(stage: Stage) -> None:
    with stage.load(), stage.no_leak():
        stage.add_pod("todo-green-1", version="green")
        stage.activate("green")
        stage.served_by("todo-green-1")
        stage.remove_pod("todo-blue-1")
        stage.like_a_fresh_start()


def test_a_state_that_differs_from_a_fresh_one_is_seen(stage: Stage) -> None:
    with (
        stage.cluster.suffering(faults.HalfList(), verb="list", plural="pods"),
        pytest.raises(TooLate, match="todo-blue-2"),
    ):
        stage.like_a_fresh_start(2.0)


def test_a_failed_request_is_seen(stage: Stage) -> None:
    with pytest.raises(AssertionError, match="status 404"), stage.load("nobody.example.com"):
        pass
