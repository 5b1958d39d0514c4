"""How threads hand over work: nothing else is shared.

`DirtyApps`: streams mark, the reconciler drains; many marks of one app cost one pass.
`Slot`: the reconciler offers, one target takes; the newest wins, what was missed is merged.
`HoldOff`: when to do what is worth gathering; the first after a calm at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from vulcanized.model import AppId, Change, Reached

Clock = Callable[[], float]


class DirtyApps:
    """The apps that must be looked at again, each with the time of its earliest unseen event."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._since: dict[AppId, float] = {}
        self._all: float | None = None
        self._closed = False
        self._reached = Reached()
        self.drained = Reached()

    def mark(
        self,
        apps: Iterable[AppId],
        since: float | None = None,
        reached: Reached | None = None,
    ) -> None:
        """Ask for a look at these apps. `since`: when the event came in; default: now.

        `reached`: with these, all that came up to there is marked. `drained` is that of what was
        taken last.
        """
        when = self._clock() if since is None else since
        with self._condition:
            for app in apps:
                self._since.setdefault(app, when)
            self._reached = reached or self._reached
            self._condition.notify()

    def mark_all(self, reached: Reached | None = None) -> None:
        """Ask for a full pass: a source has spoken for the first time, a resync is due."""
        with self._condition:
            if self._all is None:
                self._all = self._clock()
            self._reached = reached or self._reached
            self._condition.notify()

    def close(self) -> None:
        """Wake the reader for good; `drain` answers None from now on."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def drain(self, timeout: float) -> tuple[dict[AppId, float], float | None] | None:
        """Wait up to `timeout` seconds for marks and take them all.

        Returns ({app: since}, since of a full pass or None), both empty after a time-out, or None
        once closed.
        """
        with self._condition:
            if not (self._since or self._all is not None or self._closed) and (
                self._reached == self.drained
            ):
                self._condition.wait(timeout)
            if self._closed:
                return None
            self.drained = self._reached
            taken, self._since = self._since, {}
            full, self._all = self._all, None
            return taken, full


class Slot:
    """Holds at most one Change: the newest value per app that the target has not taken yet."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._change: Change | None = None
        self._rung = False
        self._closed = False

    def ring(self) -> None:
        """Have the target called though there is no change: it has heard something itself."""
        with self._condition:
            self._rung = True
            self._condition.notify()

    def offer(self, change: Change) -> None:
        """Merge a change in; never waits for the target."""
        with self._condition:
            self._change = change if self._change is None else self._change.then(change)
            self._condition.notify()

    def close(self) -> None:
        """Wake the target for good."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def take(self, timeout: float | None) -> Change | None:
        """Wait up to `timeout` seconds (None: for ever); None: nothing came, rung, or closed."""
        with self._condition:
            if self._change is None and not (self._rung or self._closed):
                self._condition.wait(timeout)
            self._rung = False
            taken, self._change = self._change, None
            return taken


class HoldOff:
    """When to do something dear that later requests can share. Pure: time is handed in.

    The first request after a calm is due at once. The next ones are due after `quiet` seconds
    without a further request, but never later than `ceiling` seconds after the first of them.
    """

    def __init__(self, quiet: float, ceiling: float) -> None:
        self._quiet = quiet
        self._ceiling = ceiling
        self._first: float | None = None
        self._last: float | None = None
        self._done: float | None = None

    def request(self, now: float) -> float:
        """Something wants it done; the time at which it is due."""
        if self._first is None:
            self._first = now
        self._last = now
        return self.due() or now

    def due(self) -> float | None:
        """The time at which it is due, None when nobody asked."""
        if self._first is None or self._last is None:
            return None
        if self._done is None or self._first - self._done > self._ceiling:
            return self._first
        return min(self._last + self._quiet, self._first + self._ceiling)

    def done(self, now: float) -> None:
        """It was done at `now`: whatever was asked before is served."""
        self._first = self._last = None
        self._done = now

    def withdraw(self) -> None:
        """Nobody wants it any more: nothing is due until the next request."""
        self._first = self._last = None
