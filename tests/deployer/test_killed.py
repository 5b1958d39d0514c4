"""A deployer killed at each step; the next one finishes or undoes it, and no request fails."""

from __future__ import annotations

import sys

import pytest

from tests.deployer.stage import Stage
from tests.servers.load import Load
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(300)

MOMENTS = ("unnoted", "noted", "made", "done")


@pytest.mark.parametrize(
    "step", ["begin", "create", "switch", "empty", "drain", "delete", "finish"]
)
def test_killed_around_a_step_it_is_finished_or_undone(stage: Stage, step: str) -> None:
    assert stage.deploy().code == 0
    numbers = ["1"]
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        for moment in MOMENTS if step not in ("begin", "finish", "drain") else ("unnoted", "done"):
            before = stage.active
            program = (sys.executable, "-m", "tests.deployer.mortal", step, moment, "--")
            descriptor = stage.write(stage.descriptor())
            died = stage.wait(stage.start("deploy", descriptor, program=program))
            assert died.code == -9, died.text
            done = stage.run("recover")
            assert done.code == 0, done.text
            # Where there was nothing to recover, nobody has taken its lock yet.
            lock = f"{stage.prefix}/locks/{stage.app}"
            eventually(lambda: stage.etcd.get(lock) is None, 20, "its lock to run out")  # noqa: B023
            records = stage.records()
            assert records[-1]["status"] in ("DEPLOYED", "FAILURE")
            assert not records[-1]["needs_person"]
            if len(records) > len(numbers):
                numbers.append(records[-1]["version"])
                expected = before if records[-1]["status"] == "FAILURE" else numbers[-1]
            else:
                expected = before
            assert stage.active == expected
            assert stage.controllers() == {expected: 1}
            eventually(lambda: stage.pods() == [expected], 20, "one pod")  # noqa: B023
            load.go_on()
    assert load.report.failed == {}
    assert len(set(numbers)) == len(numbers)
    assert stage.deploy().code == 0
    assert stage.active not in numbers
