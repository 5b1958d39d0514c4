"""The old workers of an nginx: how many there are, since when, and how reloads wait for them."""

from __future__ import annotations

from typing import Final

import structlog

from vulcanized.model import OldWorkers
from vulcanized.slot import Clock
from vulcanized.targets.nginx import process
from vulcanized.targets.nginx.process import Master, Workers

log = structlog.get_logger(__name__)

MANY: Final = 8
"""Reloads whose old workers have not ended, from which on reloads are spaced ever more."""
LONG: Final = 600.0
"""Seconds after which an old worker is worth a person's look."""
LONGEST_SPACE: Final = 60.0
_TELL_EVERY: Final = 600.0
_WHAT_TO_DO: Final = (
    "`ss -tnp` shows whose connections they keep, worker_shutdown_timeout of nginx ends them"
)


class Old:
    """Follows the old workers of one target. `told` may be asked by other threads."""

    def __init__(self, target: str, ceiling: float, clock: Clock) -> None:
        self._target = target
        self._ceiling = ceiling
        self._clock = clock
        self._since: dict[int, float] = {}
        self._reloads = 0
        self._told_at: float | None = None
        self._now: tuple[int, int | None, float] | None = None

    def look(self, master: Master | None) -> None:
        """See who is there now, and log it when that is worth a look."""
        if master is None:
            self._since, self._reloads, self._now = {}, 0, None
            return
        now, found = self._clock(), process.workers(master)
        # Who left while nobody looked did so at the last reload at the latest, and that made those
        # who take connections now. An age of its own says only when it was started.
        left_at = now - (0.0 if self._knows(found) else _age_of_youngest(found))
        self._since = {pid: self._since.get(pid, left_at) for pid in found.leaving}
        self._reloads = len(found.leaving) // max(1, len(found.active))
        since, pid = min(((at, pid) for pid, at in self._since.items()), default=(now, None))
        self._now = len(found.leaving), pid, since
        self._tell(now)

    def _knows(self, found: Workers) -> bool:
        return self._since.keys() >= found.leaving

    def space(self) -> float:
        """Seconds between two reloads: ever more while old workers pile up."""
        if self._reloads < MANY:
            return 0.0
        return min(LONGEST_SPACE, self._ceiling * 2.0 ** min(self._reloads - MANY + 1, 20))

    def told(self) -> OldWorkers | None:
        """What is known of them now; None where they cannot be seen."""
        seen = self._now
        if seen is None:
            return None
        count, pid, since = seen
        age = max(0.0, self._clock() - since)
        return OldWorkers(count, pid, age, self._notice(age))

    def _notice(self, age: float) -> str:
        space = self.space()
        if not space and age < LONG:
            return ""
        waiting = f" and reloads wait {space:.3g} s" if space else ""
        return (
            "old workers of nginx do not end, since clients stay: each costs memory"
            f"{waiting}; {_WHAT_TO_DO}"
        )

    def _tell(self, now: float) -> None:
        told = self.told()
        if told is None or not told.notice:
            if self._told_at is not None:
                log.info("old workers of nginx have ended", target=self._target)
            self._told_at = None
        elif self._told_at is None or now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            log.warning(
                "old workers of nginx do not end",
                target=self._target,
                workers=told.count,
                oldest=told.pid,
                oldest_seconds=round(told.age),
                space=self.space(),
            )


def _age_of_youngest(found: Workers) -> float:
    return min(map(process.age_of, found.active), default=0.0)
