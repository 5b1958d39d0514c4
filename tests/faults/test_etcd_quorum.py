"""A member of etcd that is without its cluster, or behind it, is not believed."""

from __future__ import annotations

from tests.faults.etcdfaults import activate_by, is_stale, relists, unharmed
from tests.faults.stage import Stage


def test_a_member_without_its_cluster_is_left_and_the_return_of_the_cluster_noticed(
    stage_of_three: Stage,
) -> None:
    """With two of three frozen nobody can write, and what one alone says is not believed."""
    stage = stage_of_three
    with unharmed(stage):
        for member in stage.etcd.members[1:]:
            member.process.pause()
        is_stale(stage)
        stage.add_pod("todo-blue-3")
        stage.served_by("todo-blue-1", "todo-blue-2", "todo-blue-3")
        for member in stage.etcd.members[1:]:
            member.process.resume()
        stage.etcd.wait_ready()
        stage.activate("green")
        stage.served_by("todo-green-1")
    assert relists(stage) == 0


def test_a_member_that_is_behind_takes_nothing_back(stage_of_three: Stage) -> None:
    """It was frozen while the others went on, and is all there is when we come to it."""
    stage = stage_of_three
    first, *others = stage.etcd.members
    with unharmed(stage):
        first.process.pause()
        activate_by(stage, 1, "green")
        stage.served_by("todo-green-1")
        for member in others:
            member.process.pause()
        first.process.resume()
        is_stale(stage)
        stage.served_by("todo-green-1")
        for member in others:
            member.process.resume()
        stage.etcd.wait_ready()
        activate_by(stage, 0, "blue")
        stage.served_by("todo-blue-1", "todo-blue-2")
    assert relists(stage) == 0
