"""What tests of the guard do and look at."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, Final

from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.faults.stage import Stage
from tests.servers.wait import eventually

PODS: Final = "kubernetes/pods"


def source(stage: Stage, name: str = PODS) -> dict[str, Any]:
    return next(each for each in stage.daemon.status()["sources"] if each["name"] == name)


def held(stage: Stage, count: int, name: str = PODS) -> None:
    """Wait until so many objects are held."""
    eventually(
        lambda: source(stage, name)["held"] == count,
        30,
        lambda: f"{count} held: {source(stage, name)}",
        ignore=(OSError, ValueError),
    )


@contextlib.contextmanager
def listing(stage: Stage, fault: Fault) -> Iterator[None]:
    """All lists of pods have this fault; one is asked for at once, since the watch is lost."""
    before = stage.cluster.count("list", "pods")
    with (
        stage.cluster.suffering(fault, verb="list", plural="pods"),
        stage.cluster.suffering(faults.expired_event(), verb="watch", plural="pods", times=1),
    ):
        stage.cluster.cut()
        eventually(lambda: stage.cluster.count("list", "pods") > before, 30, "a list")
        yield


def told(stage: Stage) -> None:
    """As an operator: take what the sources say."""
    os.kill(stage.daemon.process.pid, signal.SIGUSR1)


def still_answered(stage: Stage, name: str = PODS) -> None:
    """Wait until a second list has come, and the servers of what is held have answered."""
    eventually(lambda: "still answered" in source(stage, name)["holding"], 30, "a second list")
