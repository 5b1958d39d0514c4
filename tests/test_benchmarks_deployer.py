"""The benchmark of the deployer: its arithmetic, and in little that it measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import deployer
from benchmarks.figures import Row, Switched
from benchmarks.releases import Release, waits_of, without
from tests.behaviour.front import FRONTS
from tests.servers.build import VULCAND, ensure
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.fixtures import missing
from tests.servers.load import Report
from tests.servers.nodeagent import NodeAgent
from tests.servers.programs import ServerMissing, find_program


@pytest.mark.parametrize(
    ("waits", "left"),
    [
        ([], 10.0),
        ([(12.0, 14.0)], 8.0),
        ([(12.0, 14.0), (13.0, 15.0)], 7.0),
        ([(12.0, 18.0), (13.0, 14.0)], 4.0),
        ([(14.0, 15.0), (11.0, 12.0)], 8.0),
        ([(5.0, 11.0), (19.0, 30.0)], 8.0),
        ([(5.0, 30.0)], 0.0),
        ([(1.0, 2.0), (25.0, 30.0)], 10.0),
    ],
)
def test_what_was_waited_for_counts_once_and_only_within_the_release(
    waits: list[tuple[float, float]], left: float
) -> None:
    assert without((10.0, 20.0), waits) == pytest.approx(left)


def test_what_the_deployer_takes_to_notice_is_its_own() -> None:
    journal = [
        {"step": "create", "began": 1.0, "ended": 1.1},
        {"step": "ready", "began": 1.2, "ended": 4.0},
        {"step": "health", "began": 4.0, "ended": 4.3},
        {"step": "switch", "began": 4.3, "ended": 4.4},
        {"step": "idle", "began": 4.6, "ended": 6.6},
        {"step": "empty todo-1", "began": 6.7, "ended": 6.8},
        {"step": "drain todo-1", "began": 6.9, "ended": 9.0},
    ]
    waits = waits_of(journal, ready=3.5, gone=8.0)
    assert waits == {"pods ready": (1.1, 3.5), "idle": (4.6, 6.6), "pods gone": (6.8, 8.0)}
    assert without((0.0, 10.0), waits.values()) == pytest.approx(4.4)


def test_a_ratio_is_of_medians_and_the_call_has_what_was_before_the_switch() -> None:
    samples = [Switched(0.002, 0.010, 0.004, 0.05), Switched(0.002, 0.010, 0.005, 0.07)]
    handed, called, proven = deployer.rows_of_switches(50, samples)
    assert (handed.ratio, handed.goal, handed.ok) == ("2.25x", "< 3x", True)
    assert (called.ratio, called.goal, called.ok) == ("7.25x", "", None)
    assert "all 50 have proven it (2x)" in proven.what
    assert proven.ok is None


@pytest.mark.parametrize(("own", "ok"), [(1.9, True), (2.0, False)])
def test_a_release_is_judged_by_its_own_time_and_by_its_requests(own: float, ok: bool) -> None:
    report = Report(answers=100)
    report.statuses[200] = 99
    report.statuses[503] = 1
    done = [Release(9.0, 0.5, own, {"idle": 2.0}), Release(9.0, 0.5, own, {"pods gone": 1.0})]
    load, time = deployer.rows_of_releases("HAProxy", done, report)
    assert (load.ours, load.ok) == ("1 failed of 100; 1 status 503", False)
    assert time.ok is ok
    assert time.ours.endswith("all 9.00: idle 2.00, pods gone 1.00")


@pytest.fixture
def programs() -> None:
    try:
        for program in ("haproxy", "nginx", "etcd", "etcdctl"):
            find_program(program)
        ensure(VULCAND)
    except ServerMissing as reason:
        missing(reason)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("programs")
def test_a_fleet_is_switched_by_function_and_command_beside_its_floor(
    tmp_path: Path, etcd_server: Etcd
) -> None:
    rows: list[Row] = []
    deployer.switches(tmp_path, etcd_server, lambda line: None, deployer.QUICK, rows)
    (size,) = deployer.QUICK.fleets
    told = [row.what.rpartition(" (")[0] for row in rows]
    assert told == [
        f"switch handed to etcd → last of {size} serves",
        f"`Deployer.switch` called → last of {size} serves",
        f"`Deployer.switch` called → all {size} have proven it",
        f"`vulcanized-deployer switch` started → last of {size} serves",
    ]
    assert all(row.floor and row.ratio for row in rows if "proven" not in row.what)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("programs")
def test_a_release_on_each_proxy_fails_no_request_and_its_waits_are_told(
    control_plane: ControlPlane, node_agent: NodeAgent, etcd_server: Etcd
) -> None:
    rows: list[Row] = []
    deployer.released(
        control_plane, node_agent, etcd_server, lambda line: None, deployer.QUICK, rows
    )
    loads = [row for row in rows if "under load" in row.what]
    assert [row.what.partition(":")[0] for row in loads] == [front.title for front in FRONTS]
    assert [row.ok for row in loads] == [True] * len(FRONTS), loads
    for row in rows:
        if row not in loads:
            assert "pods ready" in row.ours
            assert "pods gone" in row.ours
