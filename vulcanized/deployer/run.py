"""Carries out what the plan decides, and notes each step in etcd before it is made and after.

What fails because a server is away is tried again until the deployment's patience ends: nothing is
lost by waiting, for what served before goes on serving.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import structlog

from vulcanized.deployer import plan
from vulcanized.deployer.cluster import Cluster
from vulcanized.deployer.descriptor import (
    KINDS,
    NEXT_VERSION,
    Draft,
    Lookup,
    Release,
    controller_name,
    redacted,
)
from vulcanized.deployer.health import Checker
from vulcanized.deployer.store import Papers, Store, Written, new_id
from vulcanized.deployer.words import (
    Action,
    Adopt,
    AnyStep,
    ControllerState,
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
    Stage,
    Status,
    Switch,
    Times,
    Wait,
)
from vulcanized.errors import (
    AlreadyThere,
    Conflict,
    DescriptorInvalid,
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
from vulcanized.model import AppId
from vulcanized.objects import DEPLOYMENT

log = structlog.get_logger(__name__)

replace = msgspec.structs.replace

TICK: Final = 0.25
"""Seconds between two looks while something is waited for."""

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
class Deployer:
    """All that deployments need. `cancel`: undo what is under way; `stop`: end now, as it is.

    `patience`: seconds that the lock of an app is waited for; who was killed leaves it behind.
    `begun` is told of the record as soon as it stands in etcd.
    """

    store: Store
    cluster: Cluster
    progress: Progress
    times: Times
    lease: int = 15
    least_instances: int = 1
    patience: float = 0.0
    cancel: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    now: Callable[[], float] = time.time
    checks: Callable[[Cluster], Checks] = lambda cluster: Checker(cluster.api)
    begun: Callable[[Record], None] = lambda record: None

    # --- what can be asked for ---

    def deploy(self, draft: Draft, values: Lookup, key: str = "") -> Record:
        """Release a descriptor, and come back when that is over.

        With a `key` that a deployment was asked for with before, that one is the answer. Raises
        `DescriptorInvalid`, `NotPossible`, `Locked`: then nothing was touched.
        """
        app, version = draft.identity(values)
        with self._locked(app) as held:
            self._tidy(app, held)
            known = [r for r in self.store.records(app) if key and r.key == key]
            if known:
                self.begun(known[-1])
                return known[-1]
            controllers, pods = self._managed(app)
            activation, config = self.store.activation(app), self.store.config(app)
            _readable(app, activation)
            id_, number = new_id(self.now()), None
            if version == NEXT_VERSION:
                taken = {each.version for each in controllers} | {pod.version for pod in pods}
                version, number = self.store.next_version(app, taken)
            else:
                _free(app, version, activation, controllers, pods)
            injected = self.store.environment(app)
            labels = self.cluster.labels
            release = draft.release(version, id_, values, injected, labels, self.times)
            self._try(release)
            record = self._record(
                app,
                Action.DEPLOY,
                Ref(release.kind, release.name, version),
                activation,
                _serving(activation, controllers),
                id_=id_,
                stages=release.stages,
                health=release.health,
                times=release.times,
                config=config.revision,
                configures=bool(release.config),
            )
            record = replace(record, key=key)
            replaced = config.text if config.revision else None
            papers = Papers(draft.redacted(), release.config, replaced)
            self.store.begin(record, papers, held, number)
            self.begun(record)
            return self._carry(record, papers, held, release)

    def preview(self, draft: Draft, values: Lookup) -> dict[str, object]:
        """Every object and key that `deploy` would touch now; nothing is touched or checked."""
        app, version = draft.identity(values)
        controllers, pods = self._managed(app)
        activation = self.store.activation(app)
        if version == NEXT_VERSION:
            taken = {each.version for each in controllers}
            version, _ = self.store.next_version(app, taken)
        else:
            _free(app, version, activation, controllers, pods)
        injected = self.store.environment(app)
        release = draft.release(
            version, "(its id)", values, injected, self.cluster.labels, self.times
        )
        new = Ref(release.kind, release.name, version)
        olds = _serving(activation, controllers)
        record = self._record(app, Action.DEPLOY, new, activation, olds, stages=release.stages)
        key = self.store.key
        configures = {key("apps", app): redacted(json.loads(release.config))}
        return {
            "app": str(app),
            "version": version,
            "create": redacted(release.manifest(plan.stages_of(record)[0].replicas)),
            "activations": [plan.text_of(record, stage) for stage in plan.stages_of(record)],
            "keys": {
                key("active", app): f"{record.previous or '(none)'} -> {version}",
                **(configures if release.config else {}),
                key("versions", app): version,
                f"{key('deployments', app)}/": "the record",
                f"{key('descriptors', app)}/": "the descriptor, without secrets",
                key("locks", app): "while it lasts",
            },
            "delete": [
                f"{old.kind} {old.name} (version {old.version}), after {release.times.keep:g} s"
                for old in olds
            ],
            "instances": list(record.instances),
        }

    def switch(self, app: AppId, version: str, action: Action = Action.SWITCH) -> Record:
        """Let a version that is there already take the traffic: after it is proven healthy."""
        with self._locked(app) as held:
            self._tidy(app, held)
            return self._switch(app, version, action, held)

    def rollback(self, app: AppId) -> Record:
        """Back to the version before the one that serves now."""
        with self._locked(app) as held:
            self._tidy(app, held)
            named = plan.versions_of(self.store.activation(app).text)
            for record in reversed([r for r in self.store.records(app) if r.moves]):
                if record.status is Status.DEPLOYED and {record.new.version} == named:
                    before = plan.versions_of(plan.before(record))
                    if len(before) != 1:
                        break
                    return self._switch(app, min(before), Action.ROLLBACK, held, record.times)
            raise NotPossible(
                f"{app}: no deployment tells what served before {', '.join(sorted(named)) or 'now'}"
                ": name a version with `switch`"
            )

    def _switch(
        self, app: AppId, version: str, action: Action, held: Held, times: Times | None = None
    ) -> Record:
        controllers, _ = self._managed(app)
        activation = self.store.activation(app)
        there = [each for each in controllers if each.version == version]
        if not there:
            known = ", ".join(sorted({each.version for each in controllers})) or "none"
            raise NotPossible(f"{app} has no version {version} any more; there is: {known}")
        if (target := there[0]).desired < 1:
            raise NotPossible(f"version {version} of {app} is scaled to 0: deploy it anew")
        if plan.versions_of(activation.text) == {version}:
            raise NotPossible(f"version {version} of {app} takes all traffic already")
        record = self._record(
            app,
            action,
            _ref(target),
            activation,
            [each for each in _serving(activation, controllers) if each.version != version],
            stages=(Stage(target.desired),),
            health=target.health,
            times=times,
        )
        return self._begin(record, held)

    def undeploy(self, app: AppId) -> Record:
        """Take an app away: its routes first, then all its pods."""
        with self._locked(app) as held:
            self._tidy(app, held)
            controllers, _ = self._managed(app)
            activation, config = self.store.activation(app), self.store.config(app)
            if not (controllers or activation.revision or config.revision):
                raise NotPossible(f"{app} is not there: no controller, no activation, no config")
            olds = [_ref(each) for each in controllers]
            any_one = olds[0] if olds else Ref("", "", "none")
            record = self._record(app, Action.UNDEPLOY, any_one, activation, olds)
            return self._begin(replace(record, status=Status.UNDEPLOYING), held)

    def scale(self, app: AppId, replicas: int) -> Record:
        """Have the version that takes the traffic run so many pods."""
        with self._locked(app) as held:
            self._tidy(app, held)
            controllers, _ = self._managed(app)
            activation = self.store.activation(app)
            named = plan.versions_of(activation.text)
            active = [each for each in controllers if not named or each.version in named]
            if len(active) != 1:
                raise NotPossible(
                    f"{app} has {len(active)} controllers that take traffic, and scale is for one"
                )
            new = replace(_ref(active[0]), replicas=replicas)
            record = self._record(app, Action.SCALE, new, activation, [_ref(active[0])])
            return self._begin(record, held)

    def recover(self, app: AppId) -> list[Record]:
        """Finish or undo what a deployer that died left under way. Raises `Locked`."""
        with self._locked(app) as held:
            return self._recover(app, held)

    def dispose(self, app: AppId) -> list[Record]:
        """Take away previous versions whose time is up. Raises `Locked`."""
        with self._locked(app) as held:
            return self._dispose(app, held)

    def forget(self, record: Record) -> None:
        """Delete the record of a deployment that is over. Raises `Locked`."""
        with self._locked(record.app_id) as held:
            self.store.delete_record(record, held)

    # --- before it begins ---

    def _locked(self, app: AppId) -> Held:
        end = self.now() + self.patience
        while True:
            try:
                return self.store.lock(app, _us(), self.lease)
            except Locked:
                if self.now() >= end or self.cancel.is_set() or self.stop.wait(2 * TICK):
                    raise

    def _tidy(self, app: AppId, held: Held) -> None:
        self._recover(app, held)
        self._dispose(app, held)

    def _recover(self, app: AppId, held: Held) -> list[Record]:
        ended = []
        for left in [record for record in self.store.records(app) if record.under_way]:
            record = replace(left, resumed=True, by=_us())
            self.store.save(record, held)
            ended.append(self._carry(record, self.store.papers(record), held))
        return ended

    def _dispose(self, app: AppId, held: Held) -> list[Record]:
        now = self.now()
        due = [
            record
            for record in self.store.records(app)
            if record.keeps and (record.dispose_at or 0) <= now
        ]
        return [self._carry(record, Papers(), held) for record in due]

    def _managed(self, app: AppId) -> tuple[tuple[ControllerState, ...], tuple[PodState, ...]]:
        """The app's controllers and pods. Raises `NotPossible` where a Deployment runs them."""
        controllers, pods = self.cluster.controllers(app), self.cluster.pods(app)
        owned = [f"{each.kind} {each.name}" for each in controllers if each.kind == DEPLOYMENT]
        owned += [f"{each.owner}" for each in controllers if each.owner]
        if owned:
            raise NotPossible(
                f"{app} is run by {owned[0]}, which would undo what is done here: take it away, "
                "leaving its pods (kubectl delete --cascade=orphan), or use it alone"
            )
        return tuple(each for each in controllers if each.kind in KINDS), pods

    def _try(self, release: Release) -> None:
        """Have the API server check the controller. Raises `DescriptorInvalid`, `NotPossible`."""
        try:
            self.cluster.create(release.manifest(release.stages[0].replicas), only_try=True)
        except NotAccepted as error:
            raise DescriptorInvalid("podspec", str(error)) from error
        except Refused as error:  # a quota too
            raise NotPossible(str(error)) from error
        except AlreadyThere as error:
            raise NotPossible(
                f"there is a {release.kind} {release.name} of something else: {error}"
            ) from error

    def _record(
        self,
        app: AppId,
        action: Action,
        new: Ref,
        activation: Written,
        old: Iterable[Ref],
        *,
        id_: str = "",
        stages: tuple[Stage, ...] = (),
        health: Health | None = None,
        times: Times | None = None,
        config: int = 0,
        configures: bool = False,
    ) -> Record:
        now = self.now()
        alive = [r.instance for r in self.store.reports() if r.follows(app.namespace)]
        return Record(
            id=id_ or new_id(now),
            namespace=app.namespace,
            app=app.name,
            action=action,
            version=new.version,
            status=Status.DEPLOYING,
            created=now,
            modified=now,
            new=new,
            stages=stages,
            health=health,
            times=times or self.times,
            previous=activation.text.strip(),
            base=activation.revision,
            config=config,
            configures=configures,
            old=tuple(sorted(old)),
            instances=tuple(sorted(alive)),
            least_instances=self.least_instances,
            by=_us(),
        )

    def _begin(self, record: Record, held: Held) -> Record:
        papers = Papers()
        self.store.begin(record, papers, held, None)
        self.begun(record)
        return self._carry(record, papers, held)

    # --- on its way ---

    def _carry(
        self, record: Record, papers: Papers, held: Held, release: Release | None = None
    ) -> Record:
        """Step by step to the end. Raises `SourceError` when a server is away for too long."""
        way = _Way(self, record, papers, held, release)
        try:
            return way.go()
        finally:
            way.checker.close()
            if way.held is not held:
                way.held.release()


@dataclass(slots=True)
class _Way:
    """One deployment under way."""

    deployer: Deployer
    record: Record
    papers: Papers
    held: Held
    release: Release | None
    checker: Checks = field(init=False)
    away_since: float | None = None
    complaints: tuple[str, ...] = ()
    checked: tuple[tuple[str, int], frozenset[str]] = ("", 0), frozenset()

    def __post_init__(self) -> None:
        self.checker = self.deployer.checks(self.deployer.cluster)

    def go(self) -> Record:
        """To the end of it."""
        disposal = not self.record.under_way
        while True:
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
                    self.deployer.progress.ended(self.record)
                    return self.record
                if not isinstance(step, Wait):
                    continue
                if disposal and step.step == "keep":
                    return self.record
            if self.deployer.stop.wait(self._tick()):
                raise NotPossible(
                    f"{self.record.app_id}: told to end in the midst of deployment "
                    f"{self.record.id}: `recover` finishes or undoes it"
                )

    def _tick(self) -> float:
        """Where something takes long, a look less often is as good."""
        open_ = [entry.began for entry in self.record.journal if entry.ended is None]
        long = bool(open_) and self.deployer.now() - open_[-1] > LONG
        return SLOW_TICK if long else TICK

    def _step(self) -> AnyStep:
        record, deployer = self.record, self.deployer
        seen, reports = self._look(), deployer.store.reports()
        step = plan.next_step(record, seen, reports, deployer.now())
        if self._is_cancelled(step):
            step = GiveUp(step="fail", reason="it was cancelled")
        if isinstance(step, Wait) and step.check:
            seen = self._check(step, seen)
            step = plan.next_step(record, seen, reports, deployer.now())
        deployer.progress.step(record, seen, reports, step)
        self._carry_out(step, seen)
        return step

    def _is_cancelled(self, step: AnyStep) -> bool:
        record = self.record
        open_ = record.under_way and not record.reason and not isinstance(step, Finish)
        return self.deployer.cancel.is_set() and open_ and not plan.is_committed(record)

    def _look(self) -> Seen:
        app, cluster = self.record.app_id, self.deployer.cluster
        activation = self.deployer.store.activation(app)
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
                config = self.deployer.store.config(self.record.app_id)
                configured = config.revision == step.revision
                self._note_done(step.step, step.stage, step.revision, configured)
            case _:
                self._make(step, seen)

    def _make(self, step: Create | Scale | Delete | Switch, seen: Seen) -> None:
        self._note_begun(step)
        log.debug("step", deployment=self.record.id, step=step.step, stage=step.stage)
        revision, configured = 0, False
        app, cluster = self.record.app_id, self.deployer.cluster
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
                    revision, configured = self.deployer.store.switch(
                        self.record, step, self.papers, self.held
                    )
        except NotFound:
            pass  # somebody else took it away: the next look sees it so
        self._note_done(step.step, step.stage, revision, configured)

    def _fenced(self, seen: Seen) -> None:
        """Kubernetes knows neither our lock nor the activation: look at both as late as can be."""
        store = self.deployer.store
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
            self.deployer.cluster.create(self.release.manifest(step.replicas))
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
        record, cluster = self.record, self.deployer.cluster
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
                ended = cluster.log(record.namespace, pod.name).splitlines()[-10:]
                lines += [f"{pod.name} log: {line}" for line in ended]
        except VulcanizedError as error:
            log.debug("no details", reason=str(error))
        self.deployer.progress.details(record, lines)
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
        return round(self.deployer.now(), 3)

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
        self.deployer.store.save(record, self.held)
        self.record = record

    # --- what goes wrong ---

    def _trouble(self, error: VulcanizedError) -> None:
        now = self.deployer.now()
        if self.away_since is None:
            self.away_since = now
        self.deployer.progress.trouble(self.record, str(error))
        patience = self.record.times.ready
        if now - self.away_since > patience or self.deployer.stop.is_set():
            raise error
        self.deployer.stop.wait(min(1.0, patience / 10))

    def _lock_again(self) -> None:
        """etcd was away for longer than the lock lives: go on only if nobody else did."""
        deployer, record = self.deployer, self.record
        try:
            self.held.release()
            held = deployer.store.lock(record.app_id, record.by, deployer.lease)
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
        now = deployer.store.record(record.app_id, record.id)
        if now is None or now.by != record.by or now.resumed != record.resumed:
            raise Locked(f"another deployer took {record.app_id} over: see history")
        self.record = now


def _us() -> str:
    return f"deployer {socket.gethostname()} pid {os.getpid()}"


def _ref(each: ControllerState) -> Ref:
    return Ref(each.kind, each.name, each.version, each.desired, each.uid)


def _serving(activation: Written, controllers: Iterable[ControllerState]) -> list[Ref]:
    """The controllers that a new version takes the place of: what serves, and what we left."""
    named = plan.versions_of(activation.text)
    return [
        _ref(each) for each in controllers if each.version in named or each.deployment or not named
    ]


def _readable(app: AppId, activation: Written) -> None:
    if activation.text.strip() and not plan.versions_of(activation.text):
        raise NotPossible(f"the activation of {app} cannot be read: mend or delete it first")


def _free(
    app: AppId,
    version: str,
    activation: Written,
    controllers: Sequence[ControllerState],
    pods: Sequence[PodState],
) -> None:
    """Refuse a version that is there already."""
    there = version in plan.versions_of(activation.text)
    there = there or any(each.version == version for each in controllers)
    if there or any(pod.version == version for pod in pods):
        name = controller_name(app.name, version)
        raise NotPossible(
            f"version {version} of {app} is there already ({name}), and stays as it is: "
            "name another version, or # for the next number"
        )
