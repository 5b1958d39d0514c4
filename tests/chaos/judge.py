"""What a run is judged by: its requests, its convergence, what the daemon holds, what it logs."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.chaos.schedule import BUSY, MOVING, STEADY
from tests.faults.stage import Stage
from tests.servers.load import Failure, Load

CRASH_SECONDS = 2.0
"""For so long after a crash of one of its pods a request to an app may fail."""

MOST_GROWTH = {"kilobytes": 12_000, "descriptors": 8, "threads": 4}
"""From the first to the last third of the life of the process that lived last."""


class Sample(NamedTuple):
    """What the daemon holds at one moment."""

    pid: int
    at: float
    kilobytes: int
    descriptors: int
    threads: int


class Requests:
    """A strict load on every app and on the host that moves; a context manager."""

    def __init__(self, port: int, seconds: float) -> None:
        hosts = {app: f"{app}.example.com" for app in (*STEADY, *BUSY)} | {"(moving)": MOVING}
        self._loads = {
            name: Load(port, host, keep_alive=1, one_shot=1, pause=0.04, limit=seconds)
            for name, host in hosts.items()
        }
        self._stack = ExitStack()

    def __enter__(self) -> Requests:
        for load in self._loads.values():
            self._stack.enter_context(load)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answers(self) -> Mapping[str, int]:
        """How many there were, by app."""
        return {name: load.report.answers for name, load in self._loads.items()}

    def unexcused(self, crashes: Mapping[str, Sequence[float]]) -> list[tuple[str, Failure]]:
        """Failed requests that no crash of a pod of their app explains, the first one first."""
        everything = [moment for moments in crashes.values() for moment in moments]
        found: list[tuple[str, Failure]] = []
        for name, load in self._loads.items():
            excuses = everything if name == "(moving)" else crashes.get(name, ())
            moments = list(load.report.moments)
            found += [(name, failure) for failure in moments if not _excused(failure, excuses)]
        return sorted(found, key=lambda each: each[1].began)

    def failures(self) -> int:
        """All of them, excused ones too."""
        return sum(len(load.report.moments) for load in self._loads.values())


def _excused(failure: Failure, crashes: Sequence[float]) -> bool:
    return any(
        crash <= failure.ended and failure.began <= crash + CRASH_SECONDS for crash in crashes
    )


def sample(stage: Stage) -> Sample | None:
    """What the daemon holds now, None while there is none."""
    if not stage.daemon.process.running:
        return None
    pid = stage.daemon.process.pid
    process = Path(f"/proc/{pid}")
    try:
        status = (process / "status").read_text()
        if "vulcanized" not in (process / "cmdline").read_text():
            return None  # the launcher still
        kilobytes = next(line.split()[1] for line in status.splitlines() if "VmRSS" in line)
        usage = stage.usage()
    except (OSError, StopIteration):
        return None
    return Sample(pid, time.monotonic(), int(kilobytes), usage.descriptors, usage.threads)


def growth(samples: Sequence[Sample]) -> dict[str, int]:
    """From the first third to the last one of the process that lived last, by medians."""
    mine = [each for each in samples if each.pid == samples[-1].pid][3:]  # its start is no growth
    third = len(mine) // 3
    if third < 3:
        return {}
    return {
        name: round(
            statistics.median(getattr(each, name) for each in mine[-third:])
            - statistics.median(getattr(each, name) for each in mine[:third])
        )
        for name in MOST_GROWTH
    }


def leaks(samples: Sequence[Sample]) -> list[str]:
    """What grows more than it may."""
    return [
        f"{name} grew by {grown}, {MOST_GROWTH[name]} may be"
        for name, grown in growth(samples).items()
        if grown > MOST_GROWTH[name]
    ]


def faults_of_ours(log: Path) -> list[str]:
    """Lines of the log with a traceback, or that say that a thread failed; Python's own too."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            said = json.loads(line) if line.startswith("{") else {"message": line}
        except ValueError:
            continue  # cut by a SIGKILL
        message = str(said.get("message", ""))
        if "exception" in said or message.startswith(("Traceback", "thread failed", "Fatal")):
            found.append(line[:2000])
    return found


def messages(log: Path) -> Counter[str]:
    """How often each line was logged, for the table at the end."""
    found: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("level") in ("warning", "error"):
                found[f"{said['level']}: {said['message']}"] += 1
    return found
