"""One run: a schedule under load, then judgement."""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import judge
from tests.chaos.judge import Held, Requests, Sample
from tests.chaos.schedule import KINDS, Step, schedule
from tests.chaos.world import World
from tests.daemons import ask
from tests.faults.stage import Stage, stage
from tests.servers.process import ServerFailed
from tests.servers.wait import TooLate, eventually
from vulcanized.errors import ProxyUnreachable

CONVERGED_WITHIN = 60.0
"""Seconds from the last fault to the state of a fresh start, on a busy machine."""

_LAST_STEPS = 25


@dataclass
class Verdict:
    """How a run ended; `wrong` is empty when all went well.

    `course` is all that happened, `history` the last of it before the first failure or the end.
    """

    seed: int
    wrong: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    course: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    answers: Mapping[str, int] = field(default_factory=dict)
    excused: int = 0
    converged: float = 0.0
    growth: int = 0
    logged: Counter[str] = field(default_factory=Counter)
    generation: float = 0.0
    reloads: float = 0.0


def run(
    seed: int,
    seconds: float,
    kinds: Collection[str] = KINDS,
    progress: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Carry out the schedule of a seed on servers of its own, and judge."""
    steps = schedule(seed, seconds, kinds)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        templates = Path(folder) / "templates"
        templates.mkdir()
        # Every third HAProxy is not the daemon's child.
        start = "" if seed % 3 == 0 else "start = true\n"
        with stage(Path(folder), target=f'{start}templates = "{templates}"') as servers:
            return _Run(servers, World(servers, templates), seed, seconds, progress).judged(steps)


class _Run:
    def __init__(
        self,
        stage: Stage,
        world: World,
        seed: int,
        seconds: float,
        progress: Callable[[str], None],
    ) -> None:
        self._stage = stage
        self._world = world
        self._seconds = seconds
        self._progress = progress
        self._samples: list[Sample] = []
        self._verdict = Verdict(seed)
        self._told = 0.0
        self._sampled = 0.0

    def judged(self, steps: tuple[Step, ...]) -> Verdict:
        verdict = self._verdict
        self._stage.settled()
        eventually(self._all_answer, 60, "answers of all apps", ignore=OSError)
        requests = Requests(self._stage.daemon.port, self._seconds + 300)
        with requests:
            try:
                eventually(lambda: min(requests.answers().values()) > 5, 60, "answers of all apps")
                self._course(steps, requests)
                self._world.mend()
                self._converge(time.monotonic())
                calm = sum(requests.answers().values())
                eventually(lambda: sum(requests.answers().values()) > calm + 100, 60, "answers")
            except AssertionError as error:
                verdict.wrong.append(str(error))
        verdict.answers = requests.answers()
        failed = requests.unexcused(self._world.apps.crashes)
        verdict.excused = requests.failures() - len(failed)
        for name, failure in failed[:10]:
            began, ended = (moment - self._world.began for moment in failure[:2])
            verdict.wrong.append(f"{name}: {failure.reason}, from {began:.2f} s to {ended:.2f} s")
        if len(failed) > 10:
            verdict.wrong.append(f"and {len(failed) - 10} more failed requests")
        verdict.growth = judge.growth(self._samples)
        log = self._stage.daemon.process.log
        verdict.wrong += judge.faults_of_ours(log)
        verdict.logged = judge.messages(log)
        verdict.done, verdict.left_out = self._world.done, self._world.left_out
        verdict.generation = self._stage.daemon.metric("vulcanized_generation")
        verdict.reloads = self._stage.daemon.metric("vulcanized_reloads_total")
        if verdict.generation > 10 * len(steps) + 100:
            verdict.wrong.append(f"{verdict.generation:.0f} generations of {len(steps)} steps")
        verdict.course = self._world.history
        verdict.history = self._history(failed[0][1].began if failed else None)
        return verdict

    def _all_answer(self) -> bool:
        url = self._stage.daemon.url
        return all(ask(url, host)[0] == 200 for host in judge.HOSTS.values())

    def _course(self, steps: tuple[Step, ...], requests: Requests) -> None:
        world = self._world
        world.began = time.monotonic()
        for step in steps:
            self._wait_until(world.began + step.at, requests)
            world.carry_out(step)
        self._wait_until(world.began + self._seconds, requests)

    def _wait_until(self, moment: float, requests: Requests) -> None:
        while (now := time.monotonic()) < moment:
            self._world.end_what_is_due()
            self._look(now, requests)
            time.sleep(max(0.0, min(0.05, moment - now, self._world.next_ending() - now)))
        self._world.end_what_is_due()

    def _look(self, now: float, requests: Requests) -> None:
        if now - self._sampled >= 1.0:
            self._sampled = now
            if (seen := judge.sample(self._stage)) is not None:
                self._samples.append(seen)
            elif self._world.trouble.daemon_should_run and not self._stage.daemon.process.running:
                raise AssertionError(f"it ended: {self._stage.daemon.process.log_tail()}")
        if now - self._told >= 5.0:
            self._told = now
            self._progress(self._line(now, requests))

    def _line(self, now: float, requests: Requests) -> str:
        failed = len(requests.unexcused(self._world.apps.crashes))
        held = self._samples[-1] if self._samples else None
        words = [
            f"{now - self._world.began:5.0f} of {self._seconds:.0f} s",
            f"{sum(self._world.done.values())} steps",
            f"{sum(requests.answers().values())} answers, {failed} failed",
            f"{held.kilobytes // 1024} MB {held.descriptors} fds" if held else "",
            " ".join(self._world.going_on()),
        ]
        return "  ".join(words)

    def _converge(self, mended: float) -> None:
        """Wait for the state of a fresh start, find out when it was reached, and compare."""
        wanted, held = self._fresh_start()
        changed, seen = mended, None
        while True:
            now = time.monotonic()
            state = self._state()
            if state != seen:
                changed, seen = now, state
            if seen == wanted or now > mended + CONVERGED_WITHIN:
                break
            time.sleep(0.2)
        try:  # all sources too: one may have been told to wait long just before
            self._stage.becomes(wanted, max(10.0, mended + CONVERGED_WITHIN - time.monotonic()))
        except TooLate as late:
            raise TooLate(f"not within {CONVERGED_WITHIN:g} s: {late}") from None
        self._verdict.converged = changed - mended
        with contextlib.suppress(TooLate):  # connections that are being closed
            eventually(lambda: not self._leaks(held), 15)
        self._verdict.wrong += self._leaks(held)

    def _leaks(self, fresh: Held) -> list[str]:
        return judge.leaks(self._samples, judge.held_by(self._stage.daemon.process.pid), fresh)

    def _state(self) -> dict[str, Any] | None:
        """None in the midst of a reload or a start."""
        try:
            return self._stage.state()
        except (OSError, ValueError, ProxyUnreachable, http.client.HTTPException):
            return None

    def _fresh_start(self) -> tuple[dict[str, Any], Held]:
        """What a daemon without a past makes of all this. A busy machine gets another try."""
        for last in (False, False, True):
            with contextlib.suppress(*(() if last else (ServerFailed, TooLate))):
                return self._fresh()
        raise AssertionError("one of them returns or raises")

    def _fresh(self) -> tuple[dict[str, Any], Held]:
        with self._stage._fresh_start() as fresh:
            state = self._stage.state(fresh)
            held = []
            for _ in range(6):  # some of it comes only after the start
                held.append(judge.held_by(fresh.process.pid))
                time.sleep(0.5)
            return state, max(held, key=lambda each: each.descriptors.total())

    def _history(self, failed_at: float | None) -> list[str]:
        """The last steps before the first failure, or of the run."""
        lines = self._world.history
        if failed_at is None:
            return lines[-_LAST_STEPS:]
        moment = failed_at - self._world.began
        until = [line for line in lines if float(line.split()[0]) <= moment + 3.0]
        return until[-_LAST_STEPS:]
