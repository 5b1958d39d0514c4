"""A deployer that is killed around a step, and what the next one makes of it."""

from __future__ import annotations

import sys

from tests.deployer.stage import Stage
from tests.servers.load import Load
from tests.servers.wait import eventually

MOMENTS = ("unnoted", "noted", "made", "done")


def kill_around(stage: Stage, step: str, moments: tuple[str, ...] = MOMENTS) -> None:
    """Killed at each of these moments, a deployment is finished or undone; no request fails."""
    assert stage.deploy().code == 0
    numbers = ["1"]
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        for moment in moments:
            before = stage.active
            program = (sys.executable, "-m", "tests.deployer.mortal", step, moment, "--")
            descriptor = stage.write(stage.descriptor())
            died = stage.wait(stage.start("deploy", descriptor, program=program))
            assert died.code == -9, died.text
            stage.expire_lock()
            done = stage.run("recover")
            assert done.code == 0, done.text
            records = stage.records()
            assert records[-1]["status"] in ("DEPLOYED", "FAILURE")
            assert not records[-1].get("person")
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
