"""Killing the daemon before a chosen step of what it is about to do; see `mortal`."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons import Vulcanized
from tests.faults.stage import OTHER_HOST, TODO_HOST, Stage, files_of
from tests.servers.load import Load
from tests.servers.programs import find_program
from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable

EVERY_STEP = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""Else once before each kind of step."""
NEVER = 1_000_000

Way = Callable[[Stage], object]


@dataclass(frozen=True)
class Change:
    """Something that is done and undone. `host`: what it is about, which answers all the time."""

    do: Way
    undo: Way
    host: str = TODO_HOST


class Killer:
    """Says when a mortal daemon is to die."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.program = (sys.executable, "-m", "tests.faults.mortal", str(folder))
        self._kill = folder / "kill"
        self._steps = folder / "steps"

    def arm(self, step: int) -> None:
        """Kill it before this step, counted from now on, the first being 1."""
        self._steps.unlink(missing_ok=True)
        partial = self._kill.with_suffix(".part")
        partial.write_text(str(step))
        partial.replace(self._kill)

    def disarm(self) -> list[str]:
        """Let it live; the steps since it was armed."""
        self._kill.unlink(missing_ok=True)
        return self._steps.read_text().splitlines() if self._steps.exists() else []


def kind(step: str) -> str:
    """`rename` for every file, and each command by itself."""
    return step if step.startswith("send") else step.partition(" ")[0]


def one_of_each_kind(steps: Sequence[str]) -> dict[str, int]:
    """Kind -> number of a step of it, from the midst of them; the first of all is 1."""
    numbers: dict[str, list[int]] = {}
    for number, step in enumerate(steps, 1):
        numbers.setdefault(kind(step), []).append(number)
    return {each: those[len(those) // 2] for each, those in numbers.items()}


def kills(steps: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """(way, step): the way there and the way back in turns, and before which step to kill."""
    if EVERY_STEP:
        numbers = [range(1, len(each) + 2) for each in steps]
        for both in itertools.zip_longest(*numbers, fillvalue=NEVER):
            yield from enumerate(both)
        return
    left = [one_of_each_kind(each) for each in steps]
    for way in itertools.cycle(range(len(steps))):
        if not any(left):
            return
        each = next(iter(left[way]), "")
        yield way, left[way].get(each, NEVER)
        for those in left:
            those.pop(each, None)


def every_step_survives_a_kill(stage: Stage, killer: Killer, change: Change) -> None:
    """Do and undo it, killed before one step after the other: no request fails, and each time the
    next start reaches what a fresh one would.
    """
    change.undo(stage)
    ways, ends, steps = (change.do, change.undo), [], []
    for way in ways:
        stage.settled()
        killer.arm(NEVER)
        way(stage)
        ends.append(stage.fresh_state())
        stage.becomes(ends[-1])
        steps.append(killer.disarm())
    with _unfailing(stage, OTHER_HOST), _unfailing(stage, change.host) as load:
        for turn, number in kills(steps):
            end = ends[turn]
            killer.arm(number)
            ways[turn](stage)
            eventually(
                lambda end=end: not stage.daemon.process.running or stage.state() == end,  # type: ignore[misc]
                30,
                f"the end at step {number} of {steps[turn]}",
                ignore=(OSError, http.client.HTTPException, ValueError, ProxyUnreachable),
            )
            killer.disarm()
            what_is_left_is_whole(stage.daemon, ends)
            load.go_on(10)
            if not stage.daemon.process.running:
                stage.daemon.start()
            stage.becomes(end)
    stage.like_a_fresh_start()


@contextlib.contextmanager
def _unfailing(stage: Stage, host: str) -> Iterator[Load]:
    with Load(stage.daemon.port, host, keep_alive=2, one_shot=2, pause=0.02, limit=3600) as load:
        yield load
    assert not load.report.failed


def every_step_of_a_start_survives_a_kill(stage: Stage, killer: Killer) -> None:
    """Start a daemon where none was before, killed before one step after the other."""
    end, sides = stage.fresh_state(), stage.sides([stage.etcd.endpoint])

    def daemon(name: str) -> Vulcanized:
        return Vulcanized(stage.folder / name, sides, program=killer.program)

    killer.arm(NEVER)
    with daemon("unharmed") as first:
        first.start()
        stage.settled(first)
    steps = killer.disarm()
    numbers = range(1, len(steps) + 1) if EVERY_STEP else one_of_each_kind(steps).values()
    for number in numbers:
        killer.arm(number)
        with daemon(f"killed-{number}") as killed:
            killed.start(ready=False)
            eventually(
                lambda killed=killed: not killed.process.running,  # type: ignore[misc]
                30,
                f"the end at step {number} of {steps}",
            )
            killer.disarm()
            what_is_left_is_whole(killed, [end])
            killed.start()
            stage.settled(killed)
            eventually(
                lambda killed=killed: stage.state(killed) == end,  # type: ignore[misc]
                20,
                f"the state of a fresh start after a kill at step {number} of {steps}",
            )


def what_is_left_is_whole(daemon: Vulcanized, ends: Sequence[dict[str, Any]]) -> None:
    """HAProxy could be started with the files that there are, none of them is cut off, and the
    memory can be read. `ends`: the states between which the daemon was on its way.
    """
    for name, text in files_of(daemon).items():
        whole = [end["files"][name] for end in ends]
        if all(whole):
            # On the way, a file may say what neither end says.
            assert text.endswith("\n"), name
            assert len(ends) > 1 or text in whole, name
    config = daemon.directory / "haproxy.cfg"
    if config.exists():
        command = [str(find_program("haproxy")), "-c", "-f", str(config)]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert checked.returncode == 0, checked.stderr
    memory = daemon.directory / "state/memory.db"
    if memory.exists():
        with contextlib.closing(sqlite3.connect(memory)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
