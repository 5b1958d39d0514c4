"""What this daemon has in effect, written to etcd for deployers: `<prefix>/instances/<instance>`.

A deployer disposes of an old version only when every live daemon says that the switch is in effect
and how many sessions are still on what it left. So a report must never say too much: a revision is
told once every target has confirmed the generation that was built from all activations up to it,
and sessions are counted after that.

The key is on a lease: it goes when the daemon does. A report is bounded, written when something
in it changed, and a few times a second at most: a moment after, for all of a fleet switch at once,
and those that have yet to must not wait for the reports of those that have.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec
import structlog

from vulcanized.deployer.words import Report, TargetReport, encode
from vulcanized.errors import LeaseLost, SourceError, TargetError
from vulcanized.etcd import EtcdClient, Lease
from vulcanized.model import ANY_VERSION, AppId, Applied, Built, Reached
from vulcanized.targets.runner import Observer, RunnerState, Target

log = structlog.get_logger(__name__)

TTL: Final = 10
"""Seconds that a report outlives its daemon."""

WRITE_EVERY: Final = 0.2
COUNT_EVERY: Final = 0.5
"""Seconds between two writes, and between two counts while sessions are left."""

GATHER: Final = (0.05, 0.15)
"""Seconds: from which range the wait before a report is drawn."""

MOST_APPS: Final = 100
"""Apps that are listed as held or quarantined, and versions whose sessions are counted."""

_MOST_PENDING = 1000
_LONGEST_ERROR = 200
_RETRY = 1.0


@runtime_checkable
class Counts(Protocol):
    """A target that can tell how many sessions versions without traffic still have.

    Raises `TargetError` when its proxy cannot be asked now. For any thread.
    """

    def sessions(self, versions: Mapping[AppId, frozenset[str]]) -> dict[AppId, dict[str, int]]: ...


class Ledger:
    """What the reconciler has decided, kept app by app as it changes.

    `took` and `settled` are for its thread, the rest for any.
    """

    def __init__(self, rung: Callable[[], None]) -> None:
        self._rung = rung
        self._lock = threading.Lock()
        self._held: set[AppId] = set()
        self._left: dict[AppId, frozenset[str]] = {}
        self._pending: list[tuple[Reached, int]] = []
        self._reached = Reached()

    def took(self, old: Built | None, new: Built) -> None:
        """An app was built anew."""
        del old
        left = frozenset(new.versions) - _in_traffic(new)
        with self._lock:
            if new.held:
                self._held.add(new.app)
            else:
                self._held.discard(new.app)
            if left:
                self._left[new.app] = left
            else:
                self._left.pop(new.app, None)

    def settled(self, reached: Reached, generation: int) -> None:
        """All that was written up to there is in what the targets were offered by now."""
        with self._lock:
            if self._pending and self._pending[-1][0] == reached:
                return
            self._pending.append((reached, generation))
            if len(self._pending) > _MOST_PENDING:
                del self._pending[-2]
        self._rung()

    def in_effect(self, generation: int) -> Reached:
        """How far all that was written is in effect once a generation is, on every target."""
        with self._lock:
            while self._pending and self._pending[0][1] <= generation:
                if len(self._pending) == 1:
                    # It stays, so that it is not noted again with a later generation.
                    self._reached = self._pending[0][0]
                    break
                self._reached = self._pending.pop(0)[0]
            return self._reached

    @property
    def newest(self) -> int:
        """The generation of what was settled last; 0 when nothing was."""
        with self._lock:
            return self._pending[-1][1] if self._pending else 0

    def held(self) -> list[AppId]:
        """Apps whose wanted activation is not in effect; one more than MOST_APPS at most."""
        with self._lock:
            return _some(self._held)

    def left(self) -> dict[AppId, frozenset[str]]:
        """Versions that have pods and no traffic: sessions of before may be on them."""
        with self._lock:
            return dict(self._left)


def _in_traffic(built: Built) -> frozenset[str]:
    if built.desired is None:
        return frozenset()
    named = frozenset(share.version for share in built.desired.split)
    return frozenset(built.versions) if ANY_VERSION in named else named


def _some(apps: set[AppId]) -> list[AppId]:
    if len(apps) <= MOST_APPS:
        return sorted(apps)
    return [app for app, _ in zip(apps, range(MOST_APPS + 1), strict=False)]


class Ringing:
    """An observer of applies that also rings."""

    def __init__(self, observer: Observer, reporter: Reporter) -> None:
        self._observer = observer
        self._reporter = reporter

    def applied(self, target: str, applied: Applied, seconds: float) -> None:
        """An apply succeeded."""
        self._observer.applied(target, applied, seconds)
        self._reporter.applied(target, applied)

    def took_effect(self, target: str, seconds: float) -> None:
        """A change is in effect."""
        self._observer.took_effect(target, seconds)

    def failed(self, target: str, error: str) -> None:
        """An apply failed."""
        self._observer.failed(target, error)
        self._reporter.ring()


class Reporter:
    """Writes the report; `run` is a thread's work, `ring` for any thread."""

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        blank: Report,
        targets: Sequence[Target],
        states: Callable[[], Sequence[RunnerState]],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`blank`: what never changes in it."""
        self.ledger = Ledger(self._settled)
        self._client = client
        self._key = f"{prefix}/instances/{blank.instance}"
        self._blank = blank
        self._targets = targets
        self._states = states
        self._clock = clock
        self._now = now
        self._uniform = uniform
        self._bell = threading.Event()
        self._applied: dict[str, float] = {target.name: 0 for target in targets}
        self._lease: Lease | None = None
        self._written: Report | None = None
        self._error = ""
        self._counted_for: Reached | None = None
        self._count_at = 0.0
        self._last_count: tuple[dict[str, dict[str, int]], bool] = {}, False

    def ring(self) -> None:
        """Something may be in effect that was not."""
        self._bell.set()

    def applied(self, target: str, applied: Applied) -> None:
        """A target has got to a generation. A standby has nothing to apply: nobody waits for it."""
        self._applied[target] = math.inf if applied.standby else applied.generation
        self.ring()

    def _settled(self) -> None:
        """What a target has yet to apply is reported when it has: it is not disturbed before."""
        if self.ledger.newest <= min(self._applied.values(), default=0):
            self.ring()

    def run(self, stop: threading.Event) -> None:
        """Report until `stop` is set; then nothing stands there any more."""
        try:
            while not stop.is_set():
                self._bell.clear()
                report = self._report()
                # Where a count was spared, or sessions are left, another one is due soon.
                spared = self._clock() < self._count_at
                pause = COUNT_EVERY if report.draining or spared else TTL / 3
                if self._write(report, stop):
                    stop.wait(WRITE_EVERY)
                elif self._error:
                    pause = _RETRY
                if self._rung(pause, stop):
                    stop.wait(self._uniform(*GATHER))
        finally:
            if self._lease is not None:
                self._lease.close()

    def _rung(self, seconds: float, stop: threading.Event) -> bool:
        """Sleep until it rings; `stop` is looked at now and then."""
        end = self._clock() + seconds
        while not stop.is_set() and (left := end - self._clock()) > 0:
            if self._bell.wait(min(left, 0.2)):
                return True
        return False

    def _report(self) -> Report:
        states = self._states()
        reached = self.ledger.in_effect(_generation(states))
        # After that: what was counted before it says nothing about it.
        draining, measures = self._counted(reached)
        held = self.ledger.held()
        quarantined = sorted({problem.app for s in states for problem in s.quarantined})
        return msgspec.structs.replace(
            self._blank,
            revision=reached.activations,
            configs=reached.configs,
            generation=min((state.in_effect for state in states), default=0),
            targets={
                state.name: TargetReport(state.kind, state.in_effect, state.error[:_LONGEST_ERROR])
                for state in states
            },
            held=tuple(map(str, held[:MOST_APPS])),
            quarantined=tuple(map(str, quarantined[:MOST_APPS])),
            draining=draining,
            measures=measures,
            left_out=len(held) > MOST_APPS or len(quarantined) > MOST_APPS,
        )

    def _counted(self, reached: Reached) -> tuple[dict[str, dict[str, int]], bool]:
        """The count after `reached` was; an older one that is young enough otherwise."""
        now = self._clock()
        if reached != self._counted_for or now >= self._count_at:
            self._counted_for, self._count_at = reached, now + COUNT_EVERY
            self._last_count = self._count()
        return self._last_count

    def _count(self) -> tuple[dict[str, dict[str, int]], bool]:
        """Sessions on versions without traffic, and whether all targets could tell."""
        left = self.ledger.left()
        counting = [target for target in self._targets if isinstance(target, Counts)]
        measures = len(counting) == len(self._targets) and len(left) <= MOST_APPS
        draining: dict[str, dict[str, int]] = {}
        if not left or not measures:
            return draining, measures
        for target in counting:
            try:
                found = target.sessions(left)
            except TargetError:
                return {}, False
            for app, versions in found.items():
                into = draining.setdefault(str(app), {})
                for version, sessions in versions.items():
                    if sessions:
                        into[version] = into.get(version, 0) + sessions
        return {app: versions for app, versions in draining.items() if versions}, measures

    def _write(self, report: Report, stop: threading.Event) -> bool:
        """Whether it was written: it is not if it says what is written already."""
        lost = self._lease is None or self._lease.lost.is_set()
        if not lost and report == self._written:
            return False
        try:
            if lost:
                self._written = None
                self._lease = Lease(self._client, TTL, stop)
            assert self._lease is not None  # noqa: S101 - as just made sure
            stamped = msgspec.structs.replace(report, time=round(self._now(), 3))
            self._client.put(self._key, encode(stamped), self._lease.id, stop)
        except (SourceError, LeaseLost) as error:
            if str(error) != self._error and not stop.is_set():
                log.warning("not reported", key=self._key, reason=str(error))
            self._error = str(error)
            return False
        if self._error:
            log.info("reported again", key=self._key)
        self._written, self._error = report, ""
        return True


def _generation(states: Sequence[RunnerState]) -> int:
    """The generation that is certainly in effect on all targets."""
    return min(map(_in_effect, states), default=0)


def _in_effect(state: RunnerState) -> int:
    """The generation that is certainly in effect on a target.

    Where another daemon writes what is shared, that one's report counts.
    """
    if state.standing.leading is False:
        return state.wanted
    proven = state.standing.proven
    return state.in_effect if proven is None else min(state.in_effect, proven)
