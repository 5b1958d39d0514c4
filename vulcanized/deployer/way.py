"""One deployment on its way: carries out what the plan decides, and notes it in etcd.

Each step is noted before it is made and after. What fails because a server is away is tried again
until the deployment's patience ends: nothing is lost by waiting, for what served before goes on
serving.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from vulcanized.deployer import plan
from vulcanized.deployer.cluster import Cluster
from vulcanized.deployer.descriptor import (
    Release,
)
from vulcanized.deployer.health import Checker
from vulcanized.deployer.store import Papers, Store
from vulcanized.deployer.words import (
    Adopt,
    AnyStep,
    Create,
    Delete,
    Entry,
    Finish,
    GiveUp,
    Health,
    PodState,
    Record,
    Ref,
    Report,
    Scale,
    Seen,
    Switch,
    Times,
    Wait,
)
from vulcanized.errors import (
    AlreadyThere,
    Conflict,
    LeaseLost,
    Locked,
    NotAccepted,
    NotFound,
    NotPossible,
    Refused,
    SourceError,
    VulcanizedError,
)
from vulcanized.etcd import Held

log = structlog.get_logger(__name__)

replace = msgspec.structs.replace

FIRST_TICK: Final = 0.05
TICK: Final = 0.25
"""Seconds between two looks while something is waited for: at first, and after a second of it."""

SLOW_TICK: Final = 1.0
LONG: Final = 15.0
"""The same once it has taken so long."""

_MOST_ENTRIES = 500
_WRITES = frozenset({"pin", "switch", "put back", "unpin", "close"})


class Progress(Protocol):
    """Hears how a deployment goes on; called in the thread that carries it out."""

    def step(
        self, record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep
    ) -> None: ...
    def trouble(self, record: Record, error: str) -> None: ...
    def details(self, record: Record, lines: Sequence[str]) -> None: ...
    def ended(self, record: Record) -> None: ...


class Checks(Protocol):
    """Asks pods for their health: see `Checker`."""

    def begin(self, name: tuple[str, int]) -> None: ...
    def look(
        self, namespace: str, pods: Iterable[tuple[PodState, Health]]
    ) -> tuple[frozenset[str], tuple[str, ...]]: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Means:
    """What a deployment is carried out with. `cancel`: undo it; `stop`: end now, as it is."""

    store: Store
    cluster: Cluster
    progress: Progress
    times: Times
    lease: int = 15
    cancel: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    now: Callable[[], float] = time.time
    checks: Callable[[Cluster], Checks] = lambda cluster: Checker(cluster.api)


class Look(NamedTuple):
    """The cluster, the activation and the reports at one moment."""

    seen: Seen
    reports: Sequence[Report]


@dataclass(slots=True)
class Way:
    """One deployment under way. `look`: the one to begin with, None: a new one."""

    means: Means
    record: Record
    papers: Papers
    held: Held
    release: Release | None
    look: Look | None = None
    checker: Checks = field(init=False)
    away_since: float | None = None
    complaints: tuple[str, ...] = ()
    checked: tuple[tuple[str, int], frozenset[str]] = ("", 0), frozenset()

    def __post_init__(self) -> None:
        self.checker = self.means.checks(self.means.cluster)

    def go(self) -> Record:
        """To the end of it."""
        disposal = not self.record.under_way
        while True:
            pause = None
            try:
                step = self._step()
            except LeaseLost as error:
                self._trouble(error)
                self._lock_again()
            except Conflict as error:
                # The next look tells what was changed, and by whom the plan goes on.
                self._trouble(error)
            except (SourceError, NotAccepted, AlreadyThere) as error:
                self._trouble(error)
            else:
                self.away_since = None
                if isinstance(step, Finish):
                    self.means.progress.ended(self.record)
                    return self.record
                if isinstance(step, Switch):
                    # No daemon has proven it any sooner, and to look would be in their way.
                    pause = FIRST_TICK
                elif not isinstance(step, Wait):
                    continue
                elif disposal and step.step == "keep":
                    return self.record
            if self.means.stop.wait(self._tick() if pause is None else pause):
                raise NotPossible(
                    f"{self.record.app_id}: told to end in the midst of deployment "
                    f"{self.record.id}: `recover` finishes or undoes it"
                )

    def _tick(self) -> float:
        """A quarter of what was waited so far: few looks find out soon, whatever it takes."""
        open_ = [entry.began for entry in self.record.journal if entry.ended is None]
        waited = self.means.now() - open_[-1] if open_ else TICK * 4
        if waited > LONG:
            return SLOW_TICK
        # A clock that was put back must not have us look without a pause until it is there again.
        return min(TICK, max(FIRST_TICK, waited / 4)) if waited >= 0 else TICK

    def _step(self) -> AnyStep:
        record, means = self.record, self.means
        look, self.look = self.look, None
        seen, reports = look or Look(self._look(), means.store.reports())
        step = plan.next_step(record, seen, reports, means.now())
        if self._is_cancelled(step):
            step = GiveUp(step="fail", reason="it was cancelled")
        if isinstance(step, Wait) and step.check:
            seen = self._check(step, seen)
            step = plan.next_step(record, seen, reports, means.now())
        means.progress.step(record, seen, reports, step)
        self._carry_out(step, seen)
        return step

    def _is_cancelled(self, step: AnyStep) -> bool:
        record = self.record
        open_ = record.under_way and not record.reason and not isinstance(step, Finish)
        return self.means.cancel.is_set() and open_ and not plan.is_committed(record)

    def _look(self) -> Seen:
        app, cluster = self.record.app_id, self.means.cluster
        activation = self.means.store.activation(app)
        return Seen(
            controllers=cluster.controllers(app),
            pods=cluster.pods(app),
            activation=activation.text.strip(),
            revision=activation.revision,
            checked=self.checked[0],
            healthy=self.checked[1],
            complaints=self.complaints,
        )

    def _check(self, step: Wait, seen: Seen) -> Seen:
        """The health of the pods that the step waits for, as far as they have answered by now."""
        self.checker.begin((step.step, step.stage))
        health = {c.version: c.health for c in seen.controllers if c.health is not None}
        if self.record.health is not None:
            health[self.record.new.version] = self.record.health
        asked = [
            (pod, health[version])
            for version in step.check
            if version in health
            for pod in seen.ready(version)
        ]
        healthy, self.complaints = self.checker.look(self.record.namespace, asked)
        self.checked = (step.step, step.stage), healthy
        return replace(seen, checked=self.checked[0], healthy=healthy, complaints=self.complaints)

    # --- one step ---

    def _carry_out(self, step: AnyStep, seen: Seen) -> None:
        match step:
            case Wait():
                self._enter(step)
            case Finish():
                self._finish(step)
            case GiveUp():
                self._give_up(step, seen)
            case Adopt():
                config = self.means.store.config(self.record.app_id)
                configured = config.revision == step.revision
                self._note_done(step.step, step.stage, step.revision, configured)
            case _:
                self._make(step, seen)

    def _make(self, step: Create | Scale | Delete | Switch, seen: Seen) -> None:
        self._note_begun(step)
        log.debug("step", deployment=self.record.id, step=step.step, stage=step.stage)
        revision, configured = 0, False
        app, cluster = self.record.app_id, self.means.cluster
        try:
            match step:
                case Create():
                    self._fenced(seen)
                    if not self._create(step):
                        return
                case Scale():
                    self._fenced(seen)
                    cluster.scale(app, self._whole(step.controller, seen), step.replicas)
                case Delete():
                    self._fenced(seen)
                    cluster.delete(app, self._whole(step.controller, seen))
                case Switch():
                    revision, configured = self.means.store.switch(
                        self.record, step, self.papers, self.held
                    )
        except NotFound:
            pass  # somebody else took it away: the next look sees it so
        self._note_done(step.step, step.stage, revision, configured)

    def _fenced(self, seen: Seen) -> None:
        """Kubernetes knows neither our lock nor the activation: look at both as late as can be."""
        store = self.means.store
        if store.activation(self.record.app_id).revision != seen.revision:
            raise Conflict("the activation was changed meanwhile", ())
        if not self.held.alive or not store.is_ours(self.held):
            raise LeaseLost("the lock is lost, another may have it by now")

    def _create(self, step: Create) -> bool:
        """Whether it was created; what cannot be is given up."""
        if self.release is None:
            raise NotPossible("only the deployer that began can create the new version")
        reason = ""
        try:
            self.means.cluster.create(self.release.manifest(step.replicas))
        except AlreadyThere as error:
            # Ours, if an answer got lost.
            seen = self._look()
            ours = seen.controller(self.record.new)
            if ours is None or ours.deployment != self.record.id:
                reason = f"somebody else made one of its name: {error}"
        except (NotAccepted, Refused) as error:
            reason = str(error)
        if reason:
            self._save(replace(self.record, reason=reason))
        return not reason

    def _whole(self, ref: Ref, seen: Seen) -> Ref:
        current = seen.controller(ref)
        return replace(ref, uid=current.uid) if current is not None else ref

    def _give_up(self, step: GiveUp, seen: Seen) -> None:
        reason = step.reason
        told = self._details(seen)
        if told and not seen.of(self.record.new.version):
            reason = f"{reason}: {told}"  # no pod can tell why there is none
        entry = Entry(step.step, step.stage, self._now(), self._now())
        self._save(self._closed(replace(self.record, reason=reason), entry))

    def _details(self, seen: Seen) -> str:
        """Why the new pods are not well, for who watches: events, and the ends of their logs.

        A log may hold secrets: it is shown, and written down nowhere. The last warning about the
        controller is returned.
        """
        warning = ""
        record, cluster = self.record, self.means.cluster
        lines: list[str] = list(self.complaints)
        bad = [pod for pod in seen.of(record.new.version) if not pod.ready or self.complaints]
        current = seen.controller(record.new)
        try:
            if current is not None:
                warnings = cluster.events(record.namespace, current.uid)
                lines += warnings
                warning = warnings[0] if warnings else ""
            for pod in bad[:3]:
                told = cluster.events(record.namespace, pod.uid)
                lines += [f"{pod.name}: {line}" for line in told]
                for tail in cluster.logs(record.namespace, pod, 10):
                    log_of = f"{pod.name}/{tail.container}"
                    lines += [f"{log_of} log: {line}" for line in tail.lines]
        except VulcanizedError as error:
            log.debug("no details", reason=str(error))
        self.means.progress.details(record, lines)
        return warning

    def _finish(self, step: Finish) -> None:
        entry = Entry(step.step, step.stage, self._now(), self._now())
        record = self._closed(self.record, entry)
        self._save(
            replace(
                record,
                status=step.status,
                reason=step.reason,
                person=step.person,
                dispose_at=step.dispose_at,
                disposed=step.disposed,
            )
        )

    # --- the journal ---

    def _now(self) -> float:
        return round(self.means.now(), 3)

    def _enter(self, step: Wait) -> None:
        entry = self.record.entry(step.step, step.stage)
        if entry is None or entry.ended is not None:
            begun = Entry(step.step, step.stage, self._now())
            self._save(self._closed(self.record, begun))

    def _note_begun(self, step: Create | Scale | Delete | Switch) -> None:
        entry = self.record.entry(step.step, step.stage)
        if entry is not None and entry.ended is None:
            return
        expect = step.expect if isinstance(step, Switch) else 0
        begun = Entry(step.step, step.stage, self._now(), None, expect)
        self._save(self._closed(self.record, begun))

    def _note_done(self, step: str, stage: int, revision: int, configured: bool) -> None:
        journal = [
            replace(
                entry,
                ended=self._now(),
                revision=revision or entry.revision,
                configured=configured,
            )
            if (entry.step, entry.stage, entry.ended) == (step, stage, None)
            else entry
            for entry in self.record.journal
        ]
        self._save(replace(self.record, journal=tuple(journal)))

    def _closed(self, record: Record, entry: Entry) -> Record:
        """The record with a new line; what was waited for before it has come to an end.

        A write of the activation that was noted and not made stays open: only a look tells.
        """
        journal = [
            replace(each, ended=entry.began)
            if each.ended is None and each.step not in _WRITES
            else each
            for each in record.journal
        ]
        return replace(record, journal=tuple([*journal, entry][-_MOST_ENTRIES:]))

    def _save(self, record: Record) -> None:
        record = replace(record, modified=self._now())
        self.means.store.save(record, self.held)
        self.record = record

    # --- what goes wrong ---

    def _trouble(self, error: VulcanizedError) -> None:
        now = self.means.now()
        if self.away_since is None:
            self.away_since = now
        self.means.progress.trouble(self.record, str(error))
        patience = self.record.times.ready
        if now - self.away_since > patience or self.means.stop.is_set():
            raise error
        self.means.stop.wait(min(1.0, patience / 10))

    def _lock_again(self) -> None:
        """etcd was away for longer than the lock lives: go on only if nobody else did."""
        means, record = self.means, self.record
        try:
            self.held.release()
            held = means.store.lock(record.app_id, record.by, means.lease)
        except Locked as error:
            if error.holder != record.by:
                raise
            # Our own, whose end etcd has not seen yet.
            self._trouble(error)
            return
        except SourceError as error:
            self._trouble(error)
            return
        self.held = held
        now = means.store.record(record.app_id, record.id)
        if now is None or now.by != record.by or now.resumed != record.resumed:
            raise Locked(f"another deployer took {record.app_id} over: see history")
        self.record = now
