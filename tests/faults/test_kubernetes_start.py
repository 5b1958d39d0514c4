"""The API server fails while the daemon starts beside a HAProxy that serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import faults
from tests.faults.stage import TODO_HOST, Stage
from tests.servers.wait import eventually

STARTS = {
    "refused": None,
    "mute": faults.Mute(),
    "one resource forbidden": faults.Refuse(403, "Forbidden", "no"),
}


@pytest.fixture
def killed(impatient_stage: Stage) -> Iterator[Stage]:
    """A daemon killed under load; its HAProxy goes on."""
    stage = impatient_stage
    with stage.load(), stage.load(TODO_HOST):
        stage.daemon.wait_remembered("todo", "other")
        stage.daemon.process.kill()
        yield stage


@pytest.mark.parametrize("name", STARTS)
def test_synapse_78_nothing_is_written_before_every_source_has_spoken(
    killed: Stage, name: str
) -> None:
    stage, fault = killed, STARTS[name]
    plural = "replicasets" if name == "one resource forbidden" else ""
    files = {path: path.read_bytes() for path in sorted(stage.daemon.directory.glob("*.*"))}
    daemon = stage.daemon
    if fault is None:
        stage.cluster.stop()
        _starts_and_waits(stage, files)
        stage.cluster.start()
    else:
        with stage.cluster.suffering(fault, plural=plural):
            _starts_and_waits(stage, files)
    daemon.wait_ready(60)
    stage.like_a_fresh_start()


def _starts_and_waits(stage: Stage, files: dict[Path, bytes]) -> None:
    daemon = stage.daemon
    daemon.start(ready=False)
    eventually(
        lambda: any(each["error"] for each in daemon.status()["sources"]),
        60,
        daemon.process.log_tail,
        ignore=(OSError, ValueError),
    )
    assert daemon.page("/readyz")[0] == 503
    starting = {"source": "kubernetes/replicasets", "state": "starting"}
    assert daemon.metric("vulcanized_source_state", **starting) == 1
    stage.served_by("todo-blue-1", "todo-blue-2")
    running = {path: path.read_bytes() for path in files if path.suffix in (".cfg", ".map")}
    assert running == {path: files[path] for path in running}
