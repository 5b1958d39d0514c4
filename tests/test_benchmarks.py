"""The benchmarks measure what they say, in little: no figure is judged here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import figures, startup, switches
from benchmarks.figures import Sample
from benchmarks.pods import Pods
from benchmarks.stage import Stage
from tests.servers.controlplane import ControlPlane
from tests.servers.fixtures import NewEtcd
from tests.servers.nodeagent import NodeAgent


@pytest.fixture
def stage(
    control_plane: ControlPlane, node_agent: NodeAgent, new_etcd: NewEtcd, tmp_path: Path
) -> Iterator[Stage]:
    stage = Stage(control_plane, node_agent, new_etcd(), tmp_path, say=lambda line: None)
    try:
        stage.grow(4)
        yield stage
    finally:
        for namespace in (stage.stage, stage.shop, stage.bulk):
            control_plane.delete_namespace(namespace)


def test_every_figure_is_measured_beside_its_floor(stage: Stage) -> None:
    with stage.daemon() as daemon:
        daemon.start()
        with Pods(stage, daemon) as pods:
            ready, deleted = pods.calm(1)
            churned = pods.churn(0.3)
        switched = switches.switches(stage, daemon, 2)

    assert [len(each) for each in (ready, deleted, churned, switched)] == [1, 1, 3, 2]
    for sample in (*ready, *churned, *switched):
        assert 0 < sample.floor < 10
        assert 0 < sample.ours < 10


def test_load_counts_requests_over_switches_and_replacements(stage: Stage) -> None:
    with stage.daemon() as daemon:
        daemon.start()
        switched = switches.switches_under_load(stage, daemon, 2)
        replaced = switches.replacements_under_load(stage, daemon, 1)

    assert set(switched.versions) == {"blue", "green"}
    assert len(replaced.pods) == 3
    assert not switched.failed
    assert not replaced.failed


def test_a_start_is_timed_until_the_last_app_answers(stage: Stage) -> None:
    start = startup.start(stage)

    assert 0 < start.first <= start.last
    assert start.peak >= start.memory > 0
    assert [step for step, _ in start.steps][-1] == "ready"


def test_a_ratio_is_that_of_the_medians_and_is_held_against_its_goal() -> None:
    samples = [Sample(0.004, 0.008), Sample(0.005, 0.010), Sample(0.100, 0.020)]

    row = figures.compared("x", samples, most=2.5)
    assert (row.floor, row.ours, row.ratio, row.ok) == (
        "5.0 (100.0) ms",
        "10.0 (20.0) ms",
        "2.00x",
        True,
    )
    assert figures.compared("x", samples, most=2.0).ok is False
    assert figures.bounded("x", samples, 0.020).ok is True
    assert figures.bounded("x", samples, 0.019).ok is False


def test_the_table_is_markdown_with_its_notes() -> None:
    rows = [figures.Row("a", "1 ms", goal="< 2 ms", ok=True), figures.Row("b", "3 ms")]

    assert figures.markdown(rows, ["two cores"]) == (
        "| what | floor | ours | ratio | goal | ok |\n"
        "|---|---|---|---|---|---|\n"
        "| a |  | 1 ms |  | < 2 ms | yes |\n"
        "| b |  | 3 ms |  |  |  |\n"
        "\n"
        "two cores\n"
    )
