"""Several daemons on one tree: one writes, and another takes over where it left off."""

from __future__ import annotations

import json

from tests.daemons import Vulcanized
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from tests.vulcand.fleet import LEASE, NOT_YET, Fleet, target_of

TAKEN_OVER = LEASE + 3.0
"""Seconds within which another leads."""


def leads(daemon: Vulcanized, within: float = 5.0) -> None:
    """Wait until it leads by its own word."""
    eventually(lambda: target_of(daemon)["leading"], within, "it to lead", ignore=NOT_YET)


def two(fleet: Fleet) -> tuple[Vulcanized, Vulcanized]:
    """The leader, and the one that stands by."""
    fleet.todo("blue-1", "green-1")
    first = fleet.daemon("one")
    leads(first)
    fleet.settled(first)
    return first, fleet.daemon("two")


def test_the_one_that_stands_by_is_ready_in_step_and_says_who_leads(fleet: Fleet) -> None:
    leader, standby = two(fleet)

    fleet.settled(standby)

    assert standby.page("/readyz")[0] == 200
    seen = [(target_of(each)["leading"], target_of(each)["leader"]) for each in (leader, standby)]
    assert seen == [(True, "one"), (False, "one")]
    metrics = [each.metric("vulcanized_target_leading") for each in (leader, standby)]
    assert metrics == [1, 0]
    assert [each.command("status").returncode for each in (leader, standby)] == [0, 0]
    fleet.activate("green")
    fleet.served_by("green-1")
    fleet.settled(standby)
    assert standby.log_lines("applied") == standby.log_lines("drift") == []


def test_what_the_leader_puts_back_leaves_the_one_that_stands_by_in_step(fleet: Fleet) -> None:
    leader, standby = two(fleet)
    before = fleet.tree()

    fleet.etcd.delete(fleet.backend_key())

    eventually(lambda: leader.log_lines("drift"), 5)
    eventually(lambda: fleet.tree() == before, 10, "the tree as it was")
    fleet.activate("green")
    fleet.settled(standby)
    assert standby.log_lines("drift") == []


def test_a_leader_that_is_told_to_end_lets_the_next_one_lead_at_once(fleet: Fleet) -> None:
    leader, standby = two(fleet)

    leader.process.stop()

    leads(standby, 3.0)


def test_a_leader_that_is_killed_is_followed_within_its_lease(fleet: Fleet) -> None:
    leader, standby = two(fleet)
    fleet.settled(standby)

    with fleet.load():
        leader.process.kill()
        fleet.activate("green")
        fleet.add_pod("green-2", "green")
        leads(standby, TAKEN_OVER)
        fleet.served_by("green-1", "green-2")
    fleet.like_a_fresh_start(standby)


def test_a_leader_that_was_frozen_past_its_lease_writes_nothing_over_the_next_ones_work(
    fleet: Fleet,
) -> None:
    leader, standby = two(fleet)
    leader.process.pause()
    leads(standby, TAKEN_OVER)
    fleet.activate("green")
    fleet.add_pod("green-2", "green")
    fleet.served_by("green-1", "green-2")
    fleet.settled(standby)
    before = fleet.written()

    leader.process.resume()

    eventually(lambda: target_of(leader)["leader"] == "two", 10, ignore=NOT_YET)
    assert target_of(leader)["leading"] is False
    fleet.settled(leader)
    assert fleet.written() == before
    fleet.activate("blue")
    fleet.served_by("blue-1")
    assert leader.log_lines("drift") == []


def test_a_leader_key_deleted_by_hand_leaves_one_leader(fleet: Fleet) -> None:
    both = two(fleet)

    fleet.etcd.delete(fleet.leader_key)
    fleet.activate("green")

    fleet.served_by("green-1")
    eventually(
        lambda: (
            sum(target_of(each)["leading"] for each in both) == 1
            and all(target_of(each)["leader"] for each in both)
        ),
        5,
        "one to lead",
    )
    fleet.activate("blue")
    fleet.served_by("blue-1")
    assert sum(len(each.log_lines("not written")) for each in both) < 5


def test_a_leader_cut_off_from_etcd_says_so_and_another_writes(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    with Relay(fleet.etcd.port) as relay:
        leader = fleet.daemon("one", etcd=[f"http://127.0.0.1:{relay.port}"])
        leads(leader)
        fleet.settled(leader)
        standby = fleet.daemon("two")

        relay.refuse()

        eventually(lambda: target_of(leader)["error"], 10, "its error")
        assert leader.metric("vulcanized_target_up") == 0
        assert "etcd at http://127.0.0.1:" in target_of(leader)["error"]
        leads(standby, TAKEN_OVER)
        fleet.activate("green")
        fleet.served_by("green-1")
        before = fleet.written()
        eventually(lambda: target_of(leader)["leading"] is False, 10)
        assert len(leader.log_lines("apply failed")) < 10
        relay.restore()
        fleet.settled(leader)
        assert leader.metric("vulcanized_target_up") == 1
        eventually(lambda: target_of(leader)["leader"] == "two", 5)
        assert fleet.written() == before


def test_only_the_leader_key_and_reports_are_on_a_lease(fleet: Fleet) -> None:
    two(fleet)
    reports = [f"{fleet.store}/instances/{name}" for name in ("one", "two")]
    eventually(lambda: fleet.written(f"{fleet.store}/").keys() >= {*reports}, 10)

    everything = fleet.written() | fleet.written(f"{fleet.store}/")

    leased = {key for key, kv in everything.items() if kv.lease}
    assert leased == {fleet.leader_key, *reports}


def test_a_takeover_in_the_midst_of_many_writes_ends_as_a_fresh_start_would(fleet: Fleet) -> None:
    leader, standby = two(fleet)
    for number in range(20):
        fleet.paper_pods(f"app-{number}", "1", 5, net=number)
        fleet.etcd.put(
            f"{fleet.store}/apps/default/app-{number}",
            json.dumps({"hosts": [f"{number}.example.com"]}),
        )
        if number == 10:
            leader.process.kill()

    leads(standby, TAKEN_OVER)

    fleet.like_a_fresh_start(standby)


def test_a_fleet_of_the_same_name_under_another_prefix_writes_nothing_until_the_first_is_gone(
    fleet: Fleet,
) -> None:
    fleet.todo("blue-1", "green-1")
    first = fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.tree(ours=True)
    store = f"{fleet.store}-other"
    try:
        for key, written in fleet.written(f"{fleet.store}/").items():
            fleet.etcd.put(store + key.removeprefix(fleet.store), written.value.decode())
        fleet.etcd.delete(f"{store}/leader/vulcanized")
        second = fleet.daemon("two", store=store, start=False)
        second.process.start()
        eventually(lambda: "another etcd.prefix" in target_of(second)["error"], 20, ignore=NOT_YET)

        told = target_of(second)["error"]
        assert fleet.leader_key in told
        assert "'one' leads" in told
        assert fleet.tree(ours=True) == before
        fleet.activate("green")
        fleet.served_by("green-1")

        first.process.stop()
        fleet.etcd.put(f"{store}/active/default/todo", "blue")

        fleet.served_by("blue-1", deadline=30)
        assert not target_of(second)["error"]
    finally:
        fleet.etcd.delete_prefix(f"{store}/")
