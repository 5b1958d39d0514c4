"""SIGKILL of the daemon before every step of an apply: traffic goes on, the next start makes good.

In `make test` once before each kind of step, in `make nightly` before every single one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.killing import (
    EVERY_STEP,
    Change,
    Killer,
    every_step_of_a_start_survives_a_kill,
    every_step_survives_a_kill,
)
from tests.faults.stage import Stage

pytestmark = pytest.mark.timeout(3600 if EVERY_STEP else 600)


def is_ready(name: str, *, ready: bool) -> Callable[[Stage], object]:
    """A pod gets ready or unready, and answers all the time."""
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    return lambda s: s.cluster.store.patch("pods", "default", name, {"status": status})


def test_a_switch(mortal_stage: Stage, killer: Killer) -> None:
    stage = mortal_stage
    stage.add_pod("todo-green-1", version="green")
    change = Change(lambda s: s.activate("green"), lambda s: s.activate("blue"))
    every_step_survives_a_kill(stage, killer, change)


def test_a_server_that_comes_and_goes(mortal_stage: Stage, killer: Killer) -> None:
    stage = mortal_stage
    stage.add_pod("todo-blue-3")
    name = "todo-blue-3"
    change = Change(is_ready(name, ready=True), is_ready(name, ready=False))
    every_step_survives_a_kill(stage, killer, change)


def test_the_first_start(stage: Stage, killer: Killer) -> None:
    every_step_of_a_start_survives_a_kill(stage, killer)
