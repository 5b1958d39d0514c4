"""The benchmarks of vulcand measure what they say, in little: no figure is judged here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import tree, vulcand
from benchmarks.everyone import everyone
from benchmarks.figures import Row
from benchmarks.stage import Stage
from tests.servers.build import VULCAND, ensure
from tests.servers.controlplane import ControlPlane
from tests.servers.fixtures import NewEtcd, missing
from tests.servers.nodeagent import NodeAgent
from tests.servers.programs import ServerMissing, find_program


@pytest.fixture
def stage(
    control_plane: ControlPlane, node_agent: NodeAgent, new_etcd: NewEtcd, tmp_path: Path
) -> Iterator[Stage]:
    try:
        ensure(VULCAND)
    except ServerMissing as reason:
        missing(reason)
    stage = Stage(control_plane, node_agent, new_etcd(), tmp_path, say=lambda line: None)
    try:
        yield stage
    finally:
        for namespace in (stage.stage, stage.shop, stage.bulk):
            control_plane.delete_namespace(namespace)


def test_what_goes_through_vulcand_is_measured_beside_its_floor(stage: Stage) -> None:
    rows: list[Row] = []
    with everyone() as port:
        vulcand.served(stage, port, vulcand.QUICK, rows)

    told = "\n".join(row.what for row in rows)
    for what in (
        "Ready sent → first answer, calm",
        "Ready sent → first answer, churn",
        "DELETE sent → last answer",
        "switch put → first answer",
    ):
        assert what in told
    loads = [row for row in rows if "under load" in row.what]
    assert [row.ok for row in loads] == [True, True], loads
    assert all(row.floor and row.ratio for row in rows if row not in loads)


def test_a_tree_is_written_whole_and_by_the_pod(tmp_path: Path) -> None:
    try:
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)

    alone, watched = tree.whole(20, 3, 1)
    assert [0 < each.floor < 10 and 0 < each.ours < 10 for each in alone + watched] == [True, True]

    rows = tree.one_pod(tmp_path, lambda line: None, (3, 6), (20, 60), 2)
    assert [row.what.partition(",")[0] for row in rows] == [
        "Ready sent → its key in etcd",
        "processor time of it",
    ]


def test_the_version_is_that_of_the_lock() -> None:
    assert vulcand.version() == "vulcand 0.9.2"
