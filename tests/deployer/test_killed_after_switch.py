"""A deployer killed after the switch; the next one finishes it, and no request fails."""

from __future__ import annotations

import pytest

from tests.deployer.killing import kill_around
from tests.deployer.stage import Stage

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("step", ["empty", "delete"])
def test_around_a_step(stage: Stage, step: str) -> None:
    kill_around(stage, step)


@pytest.mark.parametrize("step", ["drain", "finish"])
def test_before_and_after_what_is_only_noted(stage: Stage, step: str) -> None:
    kill_around(stage, step, ("unnoted", "done"))
