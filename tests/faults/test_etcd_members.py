"""One of three members of etcd is lost: whoever talked to it goes on with another."""

from __future__ import annotations

import pytest

from tests.faults.etcdfaults import activate_by, relists, unharmed
from tests.faults.stage import Stage
from tests.servers.etcd import Member
from tests.servers.wait import eventually


def leader(stage: Stage) -> Member:
    status = [stage.etcd.call("maintenance/status", {}, number) for number in range(3)]
    ids = [each["header"]["member_id"] for each in status]
    return stage.etcd.members[ids.index(status[0]["leader"])]


def lead(stage: Stage, member: int) -> None:
    """Let this member be the leader."""
    wanted = stage.etcd.members[member]
    target = stage.etcd.call("maintenance/status", {}, member)["header"]["member_id"]
    now = leader(stage)
    if now != wanted:
        number = stage.etcd.members.index(now)
        stage.etcd.call("maintenance/transfer-leadership", {"targetID": target}, number)
    eventually(lambda: leader(stage) == wanted, 10, "the change of the leader")


@pytest.mark.parametrize(
    ("who", "how"), [("leader", "killed"), ("follower", "killed"), ("leader", "frozen")]
)
def test_when_the_member_we_talk_to_is_lost_another_one_tells_of_the_next_switch(
    stage_of_three: Stage, who: str, how: str
) -> None:
    stage = stage_of_three
    lead(stage, 0 if who == "leader" else 1)
    with unharmed(stage):
        lost = stage.etcd.members[0].process
        lost.kill() if how == "killed" else lost.pause()
        activate_by(stage, 1, "green")
        stage.served_by("todo-green-1")
        lost.start() if how == "killed" else lost.resume()
        stage.etcd.wait_ready()
        activate_by(stage, 0, "blue")
        stage.served_by("todo-blue-1", "todo-blue-2")
    assert relists(stage) == 0


def test_a_lost_member_that_we_do_not_talk_to_costs_nothing(
    stage_of_three: Stage,
) -> None:
    stage = stage_of_three
    lead(stage, 0)
    with unharmed(stage):
        connects = [relay.accepted for relay in stage.relays]
        stage.etcd.members[2].process.kill()
        stage.activate("green")
        stage.served_by("todo-green-1")
        assert [relay.accepted for relay in stage.relays] == connects
        stage.etcd.start()
