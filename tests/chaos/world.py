"""Carries the steps of a schedule out on real servers, as long as they are fair.

A step is fair when a perfect daemon could get through it without a failed request: no pod is taken
away while the proxy knows of no other one that is alive, and no version is switched to of which the
proxy knows dead pods. Whether that is so is asked of the proxy itself. An unfair step is left out.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos.apps import Apps
from tests.chaos.schedule import Step
from tests.chaos.trouble import Trouble
from tests.chaos.unfair import Unfair
from tests.fakes.store import StatusError
from tests.faults.stage import Stage
from vulcanized.errors import ProxyUnreachable

_TRIES = 8
"""A second apart."""

_AGAIN = "another try"
_UNFAIR = (Unfair, ProxyUnreachable, StatusError, FileNotFoundError)


class World:
    """Everything that the daemon lives in.

    `done` and `left_out` count the steps by kind, `history` has them with their moments.
    """

    def __init__(self, stage: Stage, templates: Path) -> None:
        self.began = time.monotonic()
        self.done: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.history: list[str] = []
        self._endings: list[tuple[float, int, str, Callable[[], None]]] = []
        self._number = itertools.count()
        self.trouble = Trouble(stage, templates, self._later)
        self.apps = Apps(stage, self.trouble, self._later)

    def carry_out(self, step: Step, tries: int = _TRIES) -> None:
        """Do a step, if it is fair; what a person or a deployer wants is tried again."""
        area, _, what = step.kind.partition(".")
        side = self.apps if area in ("pod", "app") else self.trouble
        try:
            getattr(side, f"{area}_{what}")(step)
        except _UNFAIR as why:
            if side is self.apps and tries > 1:
                self._later(1.0, _AGAIN, functools.partial(self.carry_out, step, tries - 1))
                return
            self.left_out[step.kind] += 1
            self._note(f"{step.kind} {step.app} {step.name}: left out: {why}")
        else:
            self.done[step.kind] += 1
            self._note(" ".join(str(step).split()[2:]))

    def end_what_is_due(self) -> None:
        """End whatever has lasted long enough."""
        while self._endings and self._endings[0][0] <= time.monotonic():
            _, _, what, end = heapq.heappop(self._endings)
            self._end(what, end)

    def next_ending(self) -> float:
        """When something ends next."""
        return self._endings[0][0] if self._endings else float("inf")

    def going_on(self) -> list[str]:
        """What lasts now."""
        return sorted({what for _, _, what, _ in self._endings if what != _AGAIN})

    def mend(self) -> None:
        """End everything that lasts, and leave nothing behind that a person would have to mend."""
        while self._endings:
            _, _, what, end = heapq.heappop(self._endings)
            if what != _AGAIN:
                self._end(what, end)
        self.trouble.etcd_is_back()
        self.apps.mend()
        self._note("everything is mended")

    def _end(self, what: str, end: Callable[[], None]) -> None:
        if what == _AGAIN:
            end()
            return
        try:
            end()
        except _UNFAIR as why:
            self._note(f"end of {what}: {why}")
        else:
            self._note(f"end of {what}")

    def _note(self, text: str) -> None:
        self.history.append(f"{time.monotonic() - self.began:7.2f} s  {text}")

    def _later(self, seconds: float, what: str, end: Callable[[], None]) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._endings, (due, next(self._number), what, end))
