"""A fault of one resource only; and more than is usual."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fakes import attacks, faults, manifests
from tests.fakes.faults import Fault
from tests.faults import apifaults
from tests.faults.apifaults import Todo, broken, is_stale, relists
from tests.faults.guarding import PODS, source
from tests.faults.stage import Stage, cpu_seconds
from tests.servers.wait import eventually


@pytest.mark.parametrize(
    ("plural", "fault", "told"),
    [
        ("replicasets", faults.Refuse(403, "Forbidden", "no"), "grant verbs list, watch on"),
        ("deployments", faults.Refuse(404, "NotFound", "could not find"), "could not find (404)"),
    ],
)
def test_a_resource_that_is_refused_is_told_and_pods_are_followed_as_ever(
    impatient: tuple[Stage, Todo], plural: str, fault: Fault, told: str
) -> None:
    stage, todo = impatient
    with apifaults.unharmed(stage), broken(stage, fault, plural=plural):
        is_stale(stage, told, name=f"kubernetes/{plural}")
        todo.replace()
        todo.served()
        assert source(stage, PODS)["state"] == "synced"


def test_a_pod_of_a_megabyte_is_read_in_events_and_in_lists(impatient: tuple[Stage, Todo]) -> None:
    stage, todo = impatient
    large = {"metadata": {"annotations": {"example.com/large": "x" * (1 << 20)}}}
    with apifaults.unharmed(stage):
        todo.replace()
        stage.cluster.store.patch("pods", "default", todo.names[-1], large)
        before = relists(stage)
        with broken(stage, faults.expired(), verb="watch", plural="pods", times=1):
            eventually(lambda: relists(stage) > before, 30, "a list")
        todo.served()
        assert source(stage, PODS)["skipped"] == 0


def test_a_burst_of_five_thousand_events_is_taken_in_its_stride(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    store = stage.cluster.store
    with apifaults.unharmed(stage):
        for number in range(500):
            pod = manifests.pod(f"crowd-{number}", f"crowd-{number % 50}", ip="127.0.0.9")
            store.create("pods", pod)
        for turn in range(9):
            for number in range(500):
                ready = manifests.status(ready=turn % 2 == 0, ip="127.0.0.9")
                store.patch("pods", "default", f"crowd-{number}", {"status": ready})
        todo.replace()
        todo.served()
        for number in range(500):
            store.delete("pods", "default", f"crowd-{number}")
        eventually(lambda: source(stage, PODS)["records"] < 20, 60, "the burst to be over")


def test_a_token_for_the_next_page_that_has_expired_starts_the_list_again(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    for number in range(600):
        stage.cluster.store.create("pods", manifests.pod(f"zz-{number:03}", "crowd"))

    class Late(Fault):
        """Ten minutes pass between two pages."""

        passed = False

        def page(self, body: bytes) -> bytes:
            if not self.passed:
                self.passed = True
                todo.replace()
                stage.cluster.store.compact()
            return body

    eventually(lambda: source(stage, PODS)["records"] > 600, 30, "the crowd")
    with (
        apifaults.unharmed(stage),
        stage.cluster.suffering(Late(), verb="list", plural="pods"),
    ):
        before = relists(stage)
        with broken(stage, faults.expired(), verb="watch", plural="pods", times=1):
            eventually(lambda: relists(stage) > before, 30, "a list")
        todo.served()
    for number in range(600):
        stage.cluster.store.delete("pods", "default", f"zz-{number:03}")


@pytest.mark.parametrize("name", ["a line without an end", "a body without an end"])
def test_a_flood_leaves_the_memory_and_the_processor_to_others(
    impatient: tuple[Stage, Todo], name: str
) -> None:
    stage, todo = impatient
    pid = stage.daemon.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    with apifaults.unharmed(stage):
        busy, began = cpu_seconds(pid), time.monotonic()
        with broken(stage, attacks.FLOODS[name], plural="pods"):
            is_stale(stage, seconds=0.0)
            todo.replace()
            stage.served_by(todo.names[0])
            eventually(lambda: time.monotonic() - began > 4, 10)
            assert cpu_seconds(pid) - busy < 0.8 * (time.monotonic() - began)
        todo.served()
    assert _peak(pid) < 400


def _peak(pid: int) -> int:
    """The most memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if "VmHWM" in line) >> 10
