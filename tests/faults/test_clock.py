"""The clock on the wall jumps, or time passes without us: nothing is late, nothing is pestered."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.faults.etcdfaults import unharmed
from tests.faults.stage import Stage
from tests.faults.stage import stage as made
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually

HOUR = 3600
OFFSETS = (6 * HOUR, -12 * HOUR, 400 * 24 * HOUR, -40 * 365 * 24 * HOUR, 0)
BLUE, GREEN = ("todo-blue-1", "todo-blue-2"), ("todo-green-1",)


class WallClock:
    """What the clock on the wall says to a process and its children; all others are not touched.

    Where HAProxy cannot be told another time, it alone keeps the real one.
    """

    def __init__(self, folder: Path) -> None:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        if library is None:
            raise ServerMissing("libfaketime is not installed: apt-get install libfaketime")
        self._file = folder / "clock"
        self.set(0)
        environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            # Nobody can set that one: it would be no test of ours, but one of the kernel.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        if not _starts(find_program("haproxy"), environment):
            # With jemalloc in it (Debian 13), the library and it wait for each other for ever.
            spared = folder / "spared"
            spared.mkdir()
            wrapper = spared / "haproxy"
            wrapper.write_text(
                f'#!/bin/sh\nunset LD_PRELOAD\nexec {find_program("haproxy")} "$@"\n'
            )
            wrapper.chmod(0o755)
            environment["PATH"] = f"{spared}{os.pathsep}{os.environ['PATH']}"
        words = [f"{name}={value}" for name, value in environment.items()]
        self.program = ("/usr/bin/env", *words, sys.executable, "-m", "vulcanized")

    def set(self, seconds: int) -> None:
        """Let it be so much ahead of the real one."""
        partial = self._file.with_suffix(".new")
        partial.write_text(f"{seconds:+d}\n")
        partial.replace(self._file)


def _starts(program: Path, environment: Mapping[str, str]) -> bool:
    try:
        subprocess.run([program, "-v"], env={**os.environ, **environment}, timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    try:
        find_program("haproxy")
        find_program("etcd")
        return WallClock(tmp_path)
    except ServerMissing as reason:
        missing(reason)


@pytest.fixture
def stage(tmp_path: Path, clock: WallClock) -> Iterator[Stage]:
    with made(tmp_path, program=clock.program) as started:
        yield started


def ahead(stage: Stage) -> float:
    """How far the last line of the log is ahead of the real time."""
    line = stage.daemon.log_lines("switched")[-1]
    told = dt.datetime.fromisoformat(line["@timestamp"])
    return (told - dt.datetime.now(dt.UTC)).total_seconds()


def test_a_clock_that_is_set_forward_and_back_disturbs_nothing_but_the_times_in_the_log(
    stage: Stage, clock: WallClock
) -> None:
    stage.add_pod("todo-green-1", version="green")
    stage.activate("green")
    stage.served_by("todo-green-1")
    sources = [source["name"] for source in stage.daemon.status()["sources"]]
    daemon, connects = stage.daemon, stage.relay.accepted
    failures = daemon.metric("vulcanized_apply_failures_total")
    with unharmed(stage):
        for turn, offset in enumerate(OFFSETS):
            clock.set(offset)
            settled = time.monotonic() + 2.5
            eventually(lambda settled=settled: time.monotonic() > settled)  # type: ignore[misc]
            version, pods = ("green", GREEN) if turn % 2 else ("blue", BLUE)
            stage.activate(version)
            stage.served_by(*pods)
            assert abs(ahead(stage) - offset) < 60
            for source in sources:
                assert 0 <= daemon.metric("vulcanized_source_age_seconds", source=source) < 60
                assert daemon.metric("vulcanized_source_state", source=source, state="synced") == 1
            assert daemon.page("/healthz")[0] == 200
    assert stage.relay.accepted == connects
    assert daemon.metric("vulcanized_source_relists_total") == 0
    assert daemon.metric("vulcanized_apply_failures_total") == failures
    assert daemon.metric("vulcanized_event_to_effect_seconds_sum") < 60
