"""The words of the deployer as frozen values. Pure.

What stands in etcd as JSON (`Record`, `Report`) may gain fields and never changes the meaning of
one: two releases of the deployer may meet over a record. Times are seconds since the epoch, since a
deployment may be continued on another machine; durations are seconds.
"""

from __future__ import annotations

import enum
import json
from typing import Literal, NamedTuple

import msgspec

from vulcanized.model import AppId


class Action(enum.StrEnum):
    """What a deployment record is about."""

    DEPLOY = "deploy"
    SWITCH = "switch"
    ROLLBACK = "rollback"
    UNDEPLOY = "undeploy"
    SCALE = "scale"


class Status(enum.StrEnum):
    """How a deployment stands. FAILURE is written last: whatever had to be undone is undone."""

    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    UNDEPLOYING = "UNDEPLOYING"
    UNDEPLOYED = "UNDEPLOYED"
    FAILURE = "FAILURE"


UNDER_WAY = frozenset({Status.DEPLOYING, Status.UNDEPLOYING})


class Health(msgspec.Struct, frozen=True):
    """How a pod is asked whether it is healthy.

    `http`: a GET whose status lies in `low..high` and whose body holds `body`. `probe`: the answer
    is JSON with `"healthy": true`. `tcp`: the port accepts. It counts after `successes` in a row.
    """

    kind: Literal["http", "probe", "tcp"]
    port: int
    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    low: int = 200
    high: int = 299
    body: str = ""
    interval: float = 1.0
    timeout: float = 5.0
    successes: int = 2
    via: Literal["direct", "apiserver"] = "direct"


class Times(msgspec.Struct, frozen=True):
    """The longest waits, and how long the previous version stays (0: not at all)."""

    ready: float = 300.0
    health: float = 60.0
    switch: float = 30.0
    drain: float = 60.0
    keep: float = 600.0


class Stage(msgspec.Struct, frozen=True):
    """One step of the way from the old version to the new.

    The new one has `replicas` pods, `weight` percent of the traffic, and is watched for `pause`
    seconds; then the old one is scaled to `old` pods (None: left as it is).
    """

    replicas: int
    weight: int = 100
    pause: float = 0.0
    old: int | None = None


class Ref(msgspec.Struct, frozen=True, order=True):
    """A controller as it was when the deployment began, or is to be made."""

    kind: str
    name: str
    version: str
    replicas: int = 0
    uid: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One line of the journal: a step is noted before it is made, and after.

    `revision`: for a step that changes the activation, before it is made the revision at which it
    found the key, afterwards the one that it made. `configured`: it wrote the app config with it.
    """

    step: str
    stage: int
    began: float
    ended: float | None = None
    revision: int = 0
    configured: bool = False


class Record(msgspec.Struct, frozen=True):
    """A deployment: what it wants, what it found, and its journal. Holds no secret.

    `previous` is the activation that it began with ("" for none), last changed at `base`; `config`
    is the revision of the app config then (0 for none), and `configures` says whether the
    deployment writes it. `old` are the controllers that were there, `instances` the daemons that
    were alive. `reason`: why it is being undone. `person`: what is left needs one. `resumed`: its
    deployer died, and what only that knew is lost. `dispose_at`: when the previous version may go.
    """

    id: str
    namespace: str
    app: str
    action: Action
    version: str
    status: Status
    created: float
    modified: float
    new: Ref
    stages: tuple[Stage, ...] = ()
    health: Health | None = None
    times: Times = Times()
    previous: str = ""
    base: int = 0
    config: int = 0
    configures: bool = False
    old: tuple[Ref, ...] = ()
    instances: tuple[str, ...] = ()
    least_instances: int = 1
    journal: tuple[Entry, ...] = ()
    reason: str = ""
    person: bool = False
    resumed: bool = False
    dispose_at: float | None = None
    disposed: bool = False
    by: str = ""
    key: str = ""

    @property
    def app_id(self) -> AppId:
        """The app."""
        return AppId(self.namespace, self.app)

    @property
    def under_way(self) -> bool:
        """It has not ended."""
        return self.status in UNDER_WAY

    @property
    def creates(self) -> bool:
        """It makes a controller, which goes again if it fails."""
        return self.action is Action.DEPLOY

    @property
    def moves(self) -> bool:
        """It lets another version take the traffic."""
        return self.action in (Action.DEPLOY, Action.SWITCH, Action.ROLLBACK)

    @property
    def keeps(self) -> bool:
        """A previous version is there because of it, and goes by it."""
        return self.dispose_at is not None and not self.disposed

    def entry(self, step: str, stage: int = 0) -> Entry | None:
        """The newest line about a step."""
        found = (e for e in reversed(self.journal) if e.step == step and e.stage == stage)
        return next(found, None)

    def ended(self, step: str, stage: int = 0) -> bool:
        """Whether a step is noted as made."""
        entry = self.entry(step, stage)
        return entry is not None and entry.ended is not None


class Unread(NamedTuple):
    """A key among the records that holds none; `app` and `id` are what the key says.

    Nobody knows whether a deployment is under way there.
    """

    key: str
    app: AppId | None
    id: str
    why: str

    @property
    def told(self) -> str:
        """What it means, and what to do."""
        return (
            f"{self.key} cannot be read ({self.why}): a deployment of {self.app or 'an app'} may "
            "be under way there, and nothing of that app is changed. Try the newest "
            "vulcanized-deployer; else see with `status` what is there, then take the key away: "
            f"etcdctl del {self.key} (pods and activation stay, and no number comes twice)"
        )


class History(NamedTuple):
    """The deployments, the oldest first, and what is among them that cannot be read."""

    records: tuple[Record, ...]
    unread: tuple[Unread, ...]

    @property
    def apps(self) -> set[AppId]:
        """The apps that it is about."""
        return {record.app_id for record in self.records} | self.unknown

    @property
    def unknown(self) -> set[AppId]:
        """The apps of which nobody knows whether a deployment is under way."""
        return {each.app for each in self.unread if each.app is not None}

    def of(self, app: AppId) -> History:
        """Those of one app."""
        records = (each for each in self.records if each.app_id == app)
        return History(tuple(records), tuple(e for e in self.unread if e.app == app))


class PodState(msgspec.Struct, frozen=True, order=True):
    """A pod. `why`: what keeps it from being ready, for people. `containers`: all of them."""

    name: str
    uid: str
    version: str
    ready: bool = False
    terminating: bool = False
    ip: str = ""
    why: str = ""
    containers: tuple[str, ...] = ()


class ControllerState(msgspec.Struct, frozen=True, order=True):
    """A controller of the app. `deployment`: the id of the deployment that made it, "" for others.

    `owner`: what manages it in turn, such as `Deployment todo`.
    """

    kind: str
    name: str
    uid: str
    version: str
    desired: int
    deployment: str = ""
    owner: str = ""
    health: Health | None = None


class Seen(msgspec.Struct, frozen=True):
    """All that can be seen of one app now, but for the reports.

    `activation` is "" where there is none, `revision` when the key was last changed (0: never).
    `healthy`: the pods (uids) whose health was proven under `checked`, a step and its stage, since
    that began.
    """

    controllers: tuple[ControllerState, ...] = ()
    pods: tuple[PodState, ...] = ()
    activation: str = ""
    revision: int = 0
    checked: tuple[str, int] = ("", 0)
    healthy: frozenset[str] = frozenset()
    complaints: tuple[str, ...] = ()

    def controller(self, ref: Ref) -> ControllerState | None:
        """A controller as it is now, None if it is gone: another one of its name is not it."""
        for each in self.controllers:
            if (each.kind, each.name) == (ref.kind, ref.name) and ref.uid in ("", each.uid):
                return each
        return None

    def of(self, version: str) -> tuple[PodState, ...]:
        """The pods of a version, those that are being deleted included."""
        return tuple(pod for pod in self.pods if pod.version == version)

    def ready(self, version: str) -> tuple[PodState, ...]:
        """The pods of a version that can serve."""
        return tuple(pod for pod in self.of(version) if pod.ready and not pod.terminating)


class Report(msgspec.Struct, frozen=True):
    """What one daemon says of itself: `<prefix>/instances/<instance>`.

    All activations written up to `revision`, and all app configs up to `configs`, are in effect on
    every target of it, but for apps that are `held` or `quarantined`. `measures`: all of its
    targets can tell sessions; `draining` are those that are still on versions without traffic, by
    app and version; what is not there has none. `namespaces` that it follows; none: all.
    `left_out`: more apps than are listed.
    """

    instance: str
    revision: int = 0
    configs: int = 0
    generation: int = 0
    time: float = 0.0
    version: str = ""
    namespaces: tuple[str, ...] = ()
    targets: dict[str, TargetReport] = {}
    held: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    draining: dict[str, dict[str, int]] = {}
    measures: bool = False
    left_out: bool = False

    def follows(self, namespace: str) -> bool:
        """Whether apps of a namespace are its business."""
        return not self.namespaces or namespace in self.namespaces


class TargetReport(msgspec.Struct, frozen=True):
    """One target: the generation in effect, and why the newest is not."""

    kind: str
    generation: int
    error: str = ""


# --- steps -------------------------------------------------------------------------------------


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next. `step` and `stage` name it in the journal."""

    step: str
    stage: int = 0


class Wait(Step, frozen=True, kw_only=True):
    """Look again, at `until` at the latest. `check`: versions whose pods are asked for health."""

    until: float
    why: str = ""
    check: tuple[str, ...] = ()


class Create(Step, frozen=True, kw_only=True):
    """Make the controller of the new version, with so many pods."""

    replicas: int


class Scale(Step, frozen=True, kw_only=True):
    """Have a controller want so many pods."""

    controller: Ref
    replicas: int


class Delete(Step, frozen=True, kw_only=True):
    """Delete a controller with its pods."""

    controller: Ref


class Switch(Step, frozen=True, kw_only=True):
    """Put the activation (None: delete it), if it was last changed at `expect`.

    `config`: what becomes of the app config in the same transaction.
    """

    text: str | None
    expect: int
    config: Literal["keep", "new", "back", "remove"] = "keep"


class Adopt(Step, frozen=True, kw_only=True):
    """A switch that was noted before and not after was made: at this revision."""

    revision: int


class GiveUp(Step, frozen=True, kw_only=True):
    """From here on it is undone; why."""

    reason: str


class Finish(Step, frozen=True, kw_only=True):
    """It is over."""

    status: Status
    reason: str = ""
    person: bool = False
    dispose_at: float | None = None
    disposed: bool = False


AnyStep = Wait | Create | Scale | Delete | Switch | Adopt | GiveUp | Finish


def encode(thing: Record | Report) -> bytes:
    """As it stands in etcd: one line of JSON."""
    return msgspec.json.encode(thing)


def as_json(health: Health) -> str:
    """A health check as it stands in an annotation."""
    return json.dumps(msgspec.to_builtins(health), separators=(",", ":"))
