"""Releases of many pods under load, and how much of their time is the deployer's own.

A release waits for pods that start, for sessions that end, for pods that end.
What is left is what `vulcanized-deployer` and the daemon add, Python's start included.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.pods import NoEffect
from tests.deployer.stage import PROGRAM, Stage
from tests.servers.load import Load, Report

_LOOK = 0.02
_LONGEST = 120.0
_PAUSE = 0.01  # between two requests of each of the twelve clients

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Release:
    """One release, in seconds: all of it; until its record was there; without what it waited for.

    `waits`: what it waited for, by name.
    """

    whole: float
    begun: float
    own: float
    waits: dict[str, float]


def without(whole: Span, waits: Iterable[Span]) -> float:
    """The seconds of a span that are in none of the others, which may overlap."""
    begin, end = whole
    left, at = 0.0, begin
    for start, stop in sorted(waits):
        left += max(0.0, min(start, end) - at)
        at = max(at, min(stop, end))
    return left + max(0.0, end - at)


def waits_of(journal: Sequence[dict[str, Any]], ready: float, gone: float) -> dict[str, Span]:
    """What a release waited for, by its journal.

    Its pods: from when their controller was there until the last said that it is Ready (`ready`).
    The old version's sessions, as long as the step took. Its pods: from when it was scaled to
    nothing until the last was gone (`gone`). What the deployer takes to notice is its own.
    """
    found: dict[str, Span] = {}
    for entry in journal:
        step, end = entry["step"].partition(" ")[0], entry["ended"]
        if step == "create":
            found["pods ready"] = end, max(end, ready)
        elif step == "idle":
            found["idle"] = entry["began"], end
        elif step == "empty":
            found["pods gone"] = end, max(end, gone)
    return found


def releases(stage: Stage, count: int, pods: int) -> tuple[list[Release], Report]:
    """Release version after version under load; each time measured, and the load's report."""
    descriptor = stage.write(stage.descriptor(replicas=pods))
    first = stage.run("deploy", descriptor)
    if first.code:
        raise NoEffect(first.text[-2000:])
    done = []
    with Load(stage.daemon.port, stage.host, pause=_PAUSE) as load:
        load.go_on()
        for number in range(count):
            done.append(_released(stage, descriptor, str(number + 1)))
            load.go_on()
    return done, load.report


def _released(stage: Stage, descriptor: Path, old: str) -> Release:
    with _Watched(stage, old) as watched:
        began = time.time()
        command = [*PROGRAM, "deploy", str(descriptor), "--config", str(stage.config)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, check=False)
        ended = time.time()
    if ran.returncode:
        raise NoEffect(ran.stderr[-2000:])
    keys = stage.etcd.list(f"{stage.prefix}/deployments/{stage.app}/")
    record = json.loads(keys[max(keys)])
    waits = waits_of(record["journal"], watched.ready, watched.gone)
    whole = began, ended
    return Release(
        ended - began,
        record["created"] - began,
        without(whole, waits.values()),
        {name: end - start for name, (start, end) in waits.items()},
    )


class _Watched:
    """When the last new pod told that it is Ready, and when the last old one was gone."""

    ready = gone = 0.0

    def __init__(self, stage: Stage, old: str) -> None:
        self._stage = stage
        self._old = old
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pods watched", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        clocks = time.time() - time.monotonic()
        while not self._done.wait(_LOOK):
            pods = self._stage.nodes.pods(self._stage.namespace)
            told = [p.ready_sent or 0.0 for p in pods if p.labels["version"] != self._old]
            if told:
                self.ready = max(self.ready, max(told) + clocks)
            if any(p.labels["version"] == self._old for p in pods):
                self.gone = time.time()
