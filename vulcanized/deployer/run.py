"""What can be asked for: deploy, switch, rollback, undeploy, scale, recover, dispose.

Everything is checked and locked before a deployment begins; `Way` carries it out.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from vulcanized.deployer import standing
from vulcanized.deployer.descriptor import (
    KINDS,
    NEXT_VERSION,
    Draft,
    Lookup,
    Release,
    controller_name,
    redacted,
)
from vulcanized.deployer.store import Papers, Written, new_id
from vulcanized.deployer.way import TICK, Look, Means, Way
from vulcanized.deployer.words import (
    Action,
    ControllerState,
    Health,
    PodState,
    Record,
    Ref,
    Report,
    Seen,
    Stage,
    Status,
    Times,
)
from vulcanized.errors import (
    AlreadyThere,
    DescriptorInvalid,
    Locked,
    NotAccepted,
    NotPossible,
    Refused,
)
from vulcanized.etcd import Held
from vulcanized.model import AppId
from vulcanized.objects import DEPLOYMENT

replace = msgspec.structs.replace


@dataclass(slots=True)
class Deployer(Means):
    """Whoever asks for deployments.

    `patience`: seconds that the lock of an app is waited for; who was killed leaves it behind.
    `begun` is told of the record as soon as it stands in etcd.
    """

    least_instances: int = 1
    patience: float = 0.0
    begun: Callable[[Record], None] = lambda record: None

    # --- what can be asked for ---

    def deploy(self, draft: Draft, values: Lookup, key: str = "") -> Record:
        """Release a descriptor, and come back when that is over.

        With a `key` that a deployment was asked for with before, that one is the answer. Raises
        `DescriptorInvalid`, `NotPossible`, `Locked`, `Unreadable`: then nothing was touched.
        """
        app, version = draft.identity(values)
        with self._locked(app) as held:
            known = self._tidy(app, held)
            if same := [record for record in known if key and record.key == key]:
                self.begun(same[-1])
                return same[-1]
            controllers, pods = self._managed(app)
            activation, config = self.store.activation(app), self.store.config(app)
            _readable(app, activation)
            id_, number = new_id(self.now()), None
            if version == NEXT_VERSION:
                taken = _taken(known, controllers, pods)
                version, number = self.store.next_version(app, taken)
            else:
                _free(app, version, activation, controllers, pods)
                number = self.store.counted(app, version)
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
                self.store.reports(),
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
            self.store.begin(record, papers, held, number, known)
            self.begun(record)
            return self._carry(record, papers, held, release)

    def preview(self, draft: Draft, values: Lookup) -> dict[str, object]:
        """Every object and key that `deploy` would touch now; nothing is touched or checked."""
        app, version = draft.identity(values)
        known = self.store.records(app)  # what cannot be read would stop `deploy` too
        controllers, pods = self._managed(app)
        activation = self.store.activation(app)
        if version == NEXT_VERSION:
            version, _ = self.store.next_version(app, _taken(known, controllers, pods))
        else:
            _free(app, version, activation, controllers, pods)
        injected = self.store.environment(app)
        release = draft.release(
            version, "(its id)", values, injected, self.cluster.labels, self.times
        )
        new = Ref(release.kind, release.name, version)
        olds = _serving(activation, controllers)
        reports = self.store.reports()
        record = self._record(
            app, Action.DEPLOY, new, activation, olds, reports, stages=release.stages
        )
        key = self.store.key
        configures = {key("apps", app): redacted(json.loads(release.config))}
        return {
            "app": str(app),
            "version": version,
            "create": redacted(release.manifest(standing.stages_of(record)[0].replicas)),
            "activations": [
                standing.text_of(record, stage) for stage in standing.stages_of(record)
            ],
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
            known = self._tidy(app, held)
            return self._switch(app, version, action, held, known)

    def rollback(self, app: AppId) -> Record:
        """Back to the version before the one that serves now."""
        with self._locked(app) as held:
            known = self._tidy(app, held)
            named = standing.versions_of(self.store.activation(app).text)
            for record in reversed([each for each in known if each.moves]):
                if record.status is Status.DEPLOYED and {record.new.version} == named:
                    before = standing.versions_of(standing.before(record))
                    if len(before) != 1:
                        break
                    back = Action.ROLLBACK
                    return self._switch(app, min(before), back, held, known, record.times)
            raise NotPossible(
                f"{app}: no deployment tells what served before {', '.join(sorted(named)) or 'now'}"
                ": name a version with `switch`"
            )

    def _switch(
        self,
        app: AppId,
        version: str,
        action: Action,
        held: Held,
        known: Sequence[Record],
        times: Times | None = None,
    ) -> Record:
        controllers, pods = self._managed(app)
        activation, reports = self.store.activation(app), self.store.reports()
        there = [each for each in controllers if each.version == version]
        if not there:
            others = ", ".join(sorted({each.version for each in controllers})) or "none"
            raise NotPossible(f"{app} has no version {version} any more; there is: {others}")
        if (target := there[0]).desired < 1:
            raise NotPossible(f"version {version} of {app} is scaled to 0: deploy it anew")
        if standing.versions_of(activation.text) == {version}:
            raise NotPossible(f"version {version} of {app} takes all traffic already")
        record = self._record(
            app,
            action,
            _ref(target),
            activation,
            [each for each in _serving(activation, controllers) if each.version != version],
            reports,
            stages=(Stage(target.desired),),
            health=target.health,
            times=times,
        )
        seen = Seen(controllers, pods, activation.text.strip(), activation.revision)
        return self._begin(record, held, known, Look(seen, reports))

    def undeploy(self, app: AppId) -> Record:
        """Take an app away: its routes first, then all its pods."""
        with self._locked(app) as held:
            known = self._tidy(app, held)
            controllers, _ = self._managed(app)
            activation, config = self.store.activation(app), self.store.config(app)
            if not (controllers or activation.revision or config.revision):
                raise NotPossible(f"{app} is not there: no controller, no activation, no config")
            olds = [_ref(each) for each in controllers]
            named = standing.versions_of(activation.text)
            serves = [each for each in olds if each.version in named]
            one = next(iter([*serves, *olds]), Ref("", "", "none"))
            reports = self.store.reports()
            record = self._record(app, Action.UNDEPLOY, one, activation, olds, reports)
            return self._begin(replace(record, status=Status.UNDEPLOYING), held, known)

    def scale(self, app: AppId, replicas: int) -> Record:
        """Have the version that takes the traffic run so many pods."""
        with self._locked(app) as held:
            known = self._tidy(app, held)
            controllers, _ = self._managed(app)
            activation = self.store.activation(app)
            named = standing.versions_of(activation.text)
            active = [each for each in controllers if not named or each.version in named]
            if len(active) != 1:
                raise NotPossible(
                    f"{app} has {len(active)} controllers that take traffic, and scale is for one"
                )
            new = replace(_ref(active[0]), replicas=replicas)
            reports = self.store.reports()
            record = self._record(app, Action.SCALE, new, activation, [_ref(active[0])], reports)
            return self._begin(record, held, known)

    def recover(self, app: AppId) -> list[Record]:
        """Finish or undo what a deployer that died left under way. Raises `Locked`."""
        with self._locked(app) as held:
            return self._recover(self.store.records(app), held)

    def dispose(self, app: AppId) -> list[Record]:
        """Take away previous versions whose time is up. Raises `Locked`."""
        with self._locked(app) as held:
            return self._dispose(self.store.records(app), held)

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

    def _tidy(self, app: AppId, held: Held) -> tuple[Record, ...]:
        """Finish what was left; the app's records after that."""
        records = self.store.records(app)
        if self._recover(records, held):
            records = self.store.records(app)
        if self._dispose(records, held):
            records = self.store.records(app)
        return records

    def _recover(self, records: Iterable[Record], held: Held) -> list[Record]:
        ended = []
        for left in [record for record in records if record.under_way]:
            record = replace(left, resumed=True, by=_us())
            self.store.save(record, held)
            ended.append(self._carry(record, self.store.papers(record), held))
        return ended

    def _dispose(self, records: Iterable[Record], held: Held) -> list[Record]:
        now = self.now()
        due = [each for each in records if each.keeps and (each.dispose_at or 0) <= now]
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
        reports: Iterable[Report],
        *,
        id_: str = "",
        stages: tuple[Stage, ...] = (),
        health: Health | None = None,
        times: Times | None = None,
        config: int = 0,
        configures: bool = False,
    ) -> Record:
        now = self.now()
        alive = [report.instance for report in reports if report.follows(app.namespace)]
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

    def _begin(
        self, record: Record, held: Held, known: Sequence[Record], look: Look | None = None
    ) -> Record:
        papers = Papers()
        self.store.begin(record, papers, held, None, known)
        self.begun(record)
        return self._carry(record, papers, held, look=look)

    # --- on its way ---

    def _carry(
        self,
        record: Record,
        papers: Papers,
        held: Held,
        release: Release | None = None,
        look: Look | None = None,
    ) -> Record:
        """Step by step to the end. Raises `SourceError` when a server is away for too long.

        `look`: what was seen a moment ago, so that it need not be looked at once more.
        """
        way = Way(self, record, papers, held, release, look)
        try:
            return way.go()
        finally:
            way.checker.close()
            if way.held is not held:
                way.held.release()


def _us() -> str:
    return f"deployer {socket.gethostname()} pid {os.getpid()}"


def _ref(each: ControllerState) -> Ref:
    return Ref(each.kind, each.name, each.version, each.desired, each.uid)


def _serving(activation: Written, controllers: Iterable[ControllerState]) -> list[Ref]:
    """The controllers that a new version takes the place of: what serves, and what we left."""
    named = standing.versions_of(activation.text)
    return [
        _ref(each) for each in controllers if each.version in named or each.deployment or not named
    ]


def _taken(
    known: Iterable[Record], controllers: Iterable[ControllerState], pods: Iterable[PodState]
) -> set[str]:
    """The versions of an app that there are or were."""
    return {each.version for some in (known, controllers, pods) for each in some}


def _readable(app: AppId, activation: Written) -> None:
    if activation.text.strip() and not standing.versions_of(activation.text):
        raise NotPossible(f"the activation of {app} cannot be read: mend or delete it first")


def _free(
    app: AppId,
    version: str,
    activation: Written,
    controllers: Sequence[ControllerState],
    pods: Sequence[PodState],
) -> None:
    """Refuse a version that is there already."""
    there = version in standing.versions_of(activation.text)
    there = there or any(each.version == version for each in controllers)
    if there or any(pod.version == version for pod in pods):
        name = controller_name(app.name, version)
        raise NotPossible(
            f"version {version} of {app} is there already ({name}), and stays as it is: "
            "name another version, or # for the next number"
        )
