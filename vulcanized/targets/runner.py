"""One thread for each target: take from the Slot, apply, and try again what failed.

A slow, refusing or absent target delays nobody but itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from vulcanized.errors import TargetError
from vulcanized.model import (
    QUARANTINED,
    AppId,
    Applied,
    Change,
    DesiredApp,
    Outcome,
    Problem,
    Standing,
)
from vulcanized.slot import Slot

log = structlog.get_logger(__name__)

FIRST_RETRY = 0.2
LAST_RETRY = 10.0
MAX_WAITING = 1000


class Target(Protocol):
    """Something that can be kept in step with desired.

    `apply` merges a change into what it already holds (None: only what was due), and either
    returns what it did or raises TargetError, after which the same change may be handed in again.
    `problems` tells what is wrong with single apps here: those of code QUARANTINED are kept back
    since their own config is refused; the rest is in effect, and they hold up no generation.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def capabilities(self) -> frozenset[str]: ...
    def apply(self, change: Change | None, now: float) -> Applied: ...
    def problems(self) -> tuple[Problem, ...]: ...
    def standing(self) -> Standing: ...
    def rendered(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]: ...
    def actual(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]: ...
    def verify(self, apps: Mapping[AppId, DesiredApp]) -> None: ...
    def close(self, *, stop_proxy: bool) -> None: ...


class Observer(Protocol):
    """Hears of every apply; the metrics are one."""

    def applied(self, target: str, applied: Applied, seconds: float) -> None: ...
    def took_effect(self, target: str, seconds: float) -> None: ...
    def failed(self, target: str, error: str) -> None: ...


@dataclass(frozen=True, slots=True)
class RunnerState:
    """One target as `/status` shows it. `wanted`: the newest generation handed to it.

    `error` is what the last apply failed with, empty when it did not; `exit_code` is that error's.
    """

    name: str
    kind: str
    wanted: int
    in_effect: int
    applied_once: bool
    error: str
    exit_code: int
    outcomes: Mapping[str, int]
    reloads: Mapping[str, int]
    failures: int
    problems: tuple[Problem, ...] = ()
    standing: Standing = field(default_factory=Standing)

    @property
    def quarantined(self) -> tuple[Problem, ...]:
        """The apps that are kept back."""
        return tuple(problem for problem in self.problems if problem.code == QUARANTINED)


class Runner:
    """Drives one target until its Slot is closed."""

    def __init__(
        self,
        target: Target,
        slot: Slot,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._target = target
        self._slot = slot
        self._observer = observer
        self._clock = clock
        self._uniform = uniform
        self._lock = threading.Lock()
        self._wanted = 0
        self._in_effect = 0
        self._applied_once = False
        self._error = ""
        self._exit_code = 0
        self._failures = 0
        self._row = 0
        self._outcomes: Counter[str] = Counter()
        self._reloads: Counter[str] = Counter()
        self._waiting: list[tuple[int, float]] = []
        self._problems: tuple[Problem, ...] = ()

    def state(self) -> RunnerState:
        """What this target has done so far; a copy."""
        with self._lock:
            return RunnerState(
                self._target.name,
                self._target.kind,
                self._wanted,
                self._in_effect,
                self._applied_once,
                self._error,
                self._exit_code,
                dict(self._outcomes),
                dict(self._reloads),
                self._failures,
                self._problems,
                self._target.standing(),
            )

    def run(self) -> None:
        """Apply changes as they come, and whatever the target said is due, until closed."""
        pending: Change | None = None
        due: float | None = None
        while True:
            timeout = None if due is None else max(0.0, due - self._clock())
            change = self._slot.take(timeout)
            if self._slot.closed:
                return
            if change is not None:
                self._expect(change)
                pending = change if pending is None else pending.then(change)
            pending, due = self.step(pending)

    def step(self, pending: Change | None) -> tuple[Change | None, float | None]:
        """One apply. Returns what must be handed in again, and when to call the target next."""
        started = self._clock()
        try:
            try:
                applied = self._target.apply(pending, started)
            finally:
                self._problems = self._target.problems()
        except TargetError as error:
            self._fail(type(error).__name__, str(error), error.exit_code)
        except Exception as error:
            # A fault of ours in one target must not stop the others; it shows, and is tried again.
            log.exception("target failed", target=self._target.name)
            self._fail("internal", f"{type(error).__name__}: {error}")
        else:
            self._succeed(applied, self._clock() - started)
            return None, applied.due
        delay = min(LAST_RETRY, FIRST_RETRY * 2 ** min(self._row - 1, 10))
        return pending, self._clock() + delay * self._uniform(0.75, 1.25)

    def _expect(self, change: Change) -> None:
        with self._lock:
            self._wanted = change.generation
            self._waiting.append((change.generation, change.since))
            if len(self._waiting) > MAX_WAITING:
                # A target that is away for hours must not cost memory: the oldest tell how long.
                del self._waiting[-2]

    def _succeed(self, applied: Applied, seconds: float) -> None:
        now = self._clock()
        with self._lock:
            recovered, self._error, self._row = bool(self._error), "", 0
            self._exit_code = 0
            self._in_effect = applied.generation
            seen = applied.generation > 0 or applied.standby
            self._applied_once = self._applied_once or seen
            self._outcomes[applied.outcome.value] += 1
            if applied.outcome is Outcome.RELOADED:
                self._reloads[applied.cause] += 1
            done = [since for generation, since in self._waiting if generation <= self._in_effect]
            del self._waiting[: len(done)]
        self._observer.applied(self._target.name, applied, seconds)
        for since in done:
            self._observer.took_effect(self._target.name, now - since)
        if recovered:
            log.info("target recovered", target=self._target.name)
        if applied.outcome is not Outcome.UNCHANGED:
            why = {"cause": applied.cause} if applied.cause else {}
            log.info(
                "applied",
                target=self._target.name,
                generation=applied.generation,
                outcome=applied.outcome.value,
                seconds=round(seconds, 4),
                **why,
            )

    def _fail(self, kind: str, text: str, exit_code: int = 1) -> None:
        with self._lock:
            fresh, self._error = text != self._error, text
            self._exit_code = exit_code
            self._failures += 1
            self._row += 1
        self._observer.failed(self._target.name, kind)
        if fresh:
            log.error("apply failed", target=self._target.name, error=kind, reason=text)
