"""What vulcand has applied is proven by requests: its API shows what stands in etcd."""

from __future__ import annotations

from tests.daemons import Vulcanized
from tests.servers.fixtures import NewVulcand
from tests.servers.wait import eventually
from tests.vulcand.fleet import Fleet, target_of


def is_proven(daemon: Vulcanized, deadline: float = 10.0) -> None:
    """Wait until all that is in effect is proven."""

    def proven() -> bool:
        target = target_of(daemon)
        generation = daemon.status()["generation"]
        return bool(target["proven"] == generation and target["unproven"] == "")

    eventually(proven, deadline, lambda: str(target_of(daemon)))


def is_past(daemon: Vulcanized, generation: int) -> None:
    """Wait until it knows of what came after this generation."""
    eventually(lambda: daemon.status()["generation"] > generation, 10, "the change is known")


def test_each_generation_becomes_proven(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon(probes=[fleet.vulcand])

    for version in ("green", "blue") * 3:
        before = daemon.status()["generation"]
        fleet.activate(version)
        is_past(daemon, before)
        is_proven(daemon)
        # Whoever waits for the proof asks the new version only.
        assert fleet.hand.ask("todo.example.com").headers["X-Version"] == version
    assert daemon.metric("vulcanized_target_proven_generation") == daemon.status()["generation"]


def test_one_that_stands_by_proves_too(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    is_proven(fleet.daemon("one", probes=[fleet.vulcand]))
    standby = fleet.daemon("two", probes=[fleet.vulcand])

    before = standby.status()["generation"]
    fleet.activate("green")

    is_past(standby, before)
    is_proven(standby)
    assert target_of(standby)["leading"] is False


def test_without_a_probe_nothing_is_said_of_proof(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")

    assert target_of(daemon)["proven"] is None
    assert target_of(daemon)["unproven"] == ""
    assert not [key for key in fleet.etcd.list(fleet.vulcand.prefix) if "_proof" in key]


def test_a_vulcand_that_is_down_or_frozen_leaves_it_unproven_until_it_is_back(
    mortal: Fleet,
) -> None:
    mortal.todo("blue-1", "green-1")
    daemon = mortal.daemon(probes=[mortal.vulcand])
    is_proven(daemon)
    for away, back, version in (
        (mortal.vulcand.kill, mortal.vulcand.start, "green"),
        (mortal.vulcand.pause, mortal.vulcand.resume, "blue"),
    ):
        told = len(daemon.log_lines("unproven"))
        away()
        mortal.activate(version)
        eventually(lambda: len(daemon.log_lines("unproven")) > told, 12, "it to be told")  # noqa: B023
        assert f"vulcand at 127.0.0.1:{mortal.vulcand.port}" in target_of(daemon)["unproven"]
        assert target_of(daemon)["proven"] < target_of(daemon)["generation"]
        back()
        is_proven(daemon)


def test_of_two_vulcands_both_must_show_it(mortal: Fleet, new_vulcand: NewVulcand) -> None:
    second = new_vulcand(mortal.etcd.endpoint, mortal.vulcand.prefix)
    mortal.todo("blue-1", "green-1")
    daemon = mortal.daemon(probes=[mortal.vulcand, second])
    is_proven(daemon)
    proven = target_of(daemon)["proven"]

    second.pause()
    mortal.activate("green")

    mortal.served_by("green-1")
    eventually(lambda: f":{second.port}" in target_of(daemon)["unproven"], 12, "the reason")
    assert target_of(daemon)["proven"] == proven
    second.resume()
    is_proven(daemon)


def test_somebody_elses_hands_on_the_proof_are_undone(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon(probes=[fleet.vulcand])
    is_proven(daemon)

    fleet.etcd.delete_prefix(f"{fleet.vulcand.prefix}/frontends/{fleet.keys.proof_id}/")
    fleet.activate("green")

    fleet.settled(daemon)
    is_proven(daemon)
