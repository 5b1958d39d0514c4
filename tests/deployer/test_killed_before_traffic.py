"""A deployer killed up to the switch; the next one finishes or undoes it, and no request fails."""

from __future__ import annotations

import pytest

from tests.deployer.killing import kill_around
from tests.deployer.stage import Stage
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)


def test_before_and_after_the_record_is_written(stage: Stage) -> None:
    kill_around(stage, "begin", ("unnoted", "done"))


@pytest.mark.parametrize("step", ["create", "switch"])
def test_around_a_step(stage: Stage, step: str) -> None:
    kill_around(stage, step)


def test_the_lock_of_who_was_killed_runs_out_by_itself(stage: Stage) -> None:
    new = {"app": "todo", "version": "1"}
    stage.nodes.behave(Behaviour(hold_ready=True), new)
    process = stage.start("deploy", stage.write(stage.descriptor()))
    (pod,) = stage.nodes.wait_pods(1, stage.namespace, new, state="Running")
    process.kill()
    assert stage.run("recover", "--wait", "0").code == 4
    stage.nodes.set_ready(pod)
    done = stage.run("recover", "--wait", "30")
    assert done.code == 0, done.text
    assert stage.active == "1"
    lock = f"{stage.prefix}/locks/{stage.app}"
    eventually(lambda: stage.etcd.get(lock) is None, 20, "its lock to go with its work")
