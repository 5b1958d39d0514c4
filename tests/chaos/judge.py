"""What a run is judged by: its requests, its convergence, what the daemon holds, what it logs."""

from __future__ import annotations

import contextlib
import http.client
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

HOSTS = {app: f"{app}.example.com" for app in (*STEADY, *BUSY)} | {"(moving)": MOVING}
"""What is asked all the time."""

CRASH_SECONDS = 2.0
"""For so long after a crash of one of its pods a request to an app may fail."""

MOST_KILOBYTES = 12_000
"""May be more in the last third than in the first of the life of the process that lived last."""

MOST_MORE = {"descriptors": 6, "threads": 5}
"""May be held in the end above what a fresh start holds: gRPC's own come and go."""


class Held(NamedTuple):
    """What a process holds: its descriptors by what they are, its threads by their names."""

    descriptors: Counter[str]
    threads: Counter[str]


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
        self._loads = {
            name: Load(port, host, keep_alive=1, one_shot=1, pause=0.04, limit=seconds)
            for name, host in HOSTS.items()
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
    """What the daemon holds now, None while there is none that is ready."""
    if not stage.daemon.process.running:
        return None
    pid = stage.daemon.process.pid
    try:
        if stage.daemon.page("/readyz")[0] != 200:
            return None  # what a start takes is no growth
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if "VmRSS" in line)
        held = held_by(pid)
    except (OSError, StopIteration, http.client.HTTPException):
        return None
    return Sample(
        pid, time.monotonic(), int(kilobytes), held.descriptors.total(), held.threads.total()
    )


def held_by(pid: int) -> Held:
    """What a process holds now. What it lets go of meanwhile is left out."""
    descriptors: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            descriptors[descriptor.readlink().name.partition("[")[0]] += 1
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            threads[(task / "comm").read_text().strip()] += 1
    return Held(descriptors, threads)


def growth(samples: Sequence[Sample]) -> int:
    """Kilobytes from the first third to the last of the process that lived last, by medians.

    0 for one that lived for less than half a minute.
    """
    mine = [each.kilobytes for each in samples if each.pid == samples[-1].pid]
    third = len(mine) // 3
    if third < 10:
        return 0
    return round(statistics.median(mine[-third:]) - statistics.median(mine[:third]))


def leaks(samples: Sequence[Sample], now: Held, fresh: Held) -> list[str]:
    """What grew more than it may, and what is held that a fresh start does not hold."""
    grown = growth(samples)
    found = [f"{grown} kB more in the end"] if grown > MOST_KILOBYTES else []
    for name, most in MOST_MORE.items():
        held, wanted = getattr(now, name), getattr(fresh, name)
        if held.total() > wanted.total() + most:
            more = ", ".join(f"{count} {what}" for what, count in sorted((held - wanted).items()))
            found.append(f"{held.total()} {name}, a fresh start has {wanted.total()}: {more}")
    return found


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
