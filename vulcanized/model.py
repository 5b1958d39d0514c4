"""The words of the project as frozen values.

Everything that crosses a thread or a module boundary is one of these. They are compared by value,
so "did this matter?" is always one `==`. Collections are tuples, sorted where order carries no
meaning. This module imports nothing of ours.

Units: addresses are IP literals without brackets, ports 1..65535, durations float seconds,
times `time.monotonic()` seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

ANY_VERSION = "*"
"""The version of the one backend that an app without an activation has: pods of every version.
Never the value of a label: `*` is not allowed in a Kubernetes label value."""


class AppId(NamedTuple):
    """Namespace and name: the unit of configuration, of release, of failure."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


# --- observed: what the sources report -------------------------------------------------------


class Port(NamedTuple):
    """One container port of a pod. `name` is empty where the manifest gives none."""

    name: str
    number: int


class Pod(msgspec.Struct, frozen=True, gc=False):
    """One pod, reduced to what decides about traffic.

    `version` is resolved already: version label, else `pod-template-hash`, else the controller's
    name, else "unversioned". `ip` is empty while the pod has none. `ready` is phase Running with
    condition Ready True. `terminating`: a deletion timestamp is set. `finished`: phase Succeeded
    or Failed, so its address may be reused.
    """

    uid: str
    namespace: str
    name: str
    app: str
    version: str
    ip: str
    ports: tuple[Port, ...]
    ready: bool
    terminating: bool
    finished: bool


class Controller(msgspec.Struct, frozen=True, gc=False):
    """A ReplicationController, ReplicaSet or Deployment, reduced to what we need of it.

    `version` is resolved as for pods, from the pod template; empty for a Deployment whose template
    carries no version label (its ReplicaSets carry one). `desired` is spec.replicas (1 when
    unset). `config` is the text of the annotation `vulcanized.io/config`, None without it.
    `created` is metadata.creationTimestamp, RFC 3339, so string order is time order.
    """

    uid: str
    kind: str
    namespace: str
    name: str
    app: str
    version: str
    desired: int
    created: str
    config: str | None


class Document(msgspec.Struct, frozen=True, gc=False):
    """A text that somebody wrote for one app, and where: hostile until parsed.

    `origin` is shown to people ("etcd /vulcanized/apps/default/todo", "store/apps/default/a.json").
    `created` orders claims on the same route: etcd's create revision, 0 where a store has none.
    `fault` says why its text could not be read at all, with what to do; then there is no text.
    """

    text: str
    origin: str
    created: int = 0
    fault: str = ""


class Reached(NamedTuple):
    """The etcd revisions up to which all activations, and all app configs, are known."""

    activations: int = 0
    configs: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the sources report of one app at one moment. Pods and controllers sorted by uid."""

    app: AppId
    pods: tuple[Pod, ...] = ()
    controllers: tuple[Controller, ...] = ()
    config: Document | None = None
    activation: Document | None = None


MOST_LEFT_OUT = 50


class SourcePhase(enum.StrEnum):
    """`starting`: has not spoken yet. `synced`: following. `stale`: cut off, last state kept."""

    STARTING = "starting"
    SYNCED = "synced"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class SourceState:
    """One stream as `/status` and the metrics show it.

    `age`: seconds since the server last said anything (event, bookmark, progress, list).
    `error`: why it is stale, with what to do; empty when all is well. `held`: things that a list
    would have removed and that stay for now; `holding` says which, why, and what to do. `left_out`:
    the first MOST_LEFT_OUT of what is skipped, each with its place, why, and what to do.
    """

    name: str
    phase: SourcePhase
    age: float
    records: int
    relists: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    error: str = ""
    held: int = 0
    holding: str = ""
    left_out: tuple[str, ...] = ()


# --- desired: what the targets must show ------------------------------------------------------


class ServerState(enum.StrEnum):
    """`ready` takes sessions, `drain` only finishes old ones, `maint` has none."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """Address and port of one pod as Kubernetes reports it. IPv6 without brackets."""

    address: str
    port: int

    def __iter__(self) -> Iterator[Any]:
        """Both, in the order in which sockets take them."""
        return iter((self.address, self.port))

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


class Server(msgspec.Struct, frozen=True, order=True, gc=False):
    """An endpoint placed in a backend.

    `name` is unique in its backend and changes with the pod's uid, address or port: a server is
    never changed in place to mean another pod. Only `[A-Za-z0-9_.-]`, at most 100 characters.
    `version` is its pod's, also in a backend of every version.
    """

    name: str
    address: str
    port: int
    state: ServerState = ServerState.READY
    weight: int = 100
    version: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """Made when it is asked for: tens of thousands of servers are kept."""
        return Endpoint(self.address, self.port)


class Backend(msgspec.Struct, frozen=True, gc=False):
    """The servers of one version of one app, sorted by name; `ANY_VERSION`: of all its versions."""

    version: str
    servers: tuple[Server, ...] = ()


class PathKind(enum.StrEnum):
    """`exact` beats `regex`, the longest regex first; `regex` beats `prefix`, the longest first."""

    EXACT = "exact"
    REGEX = "regex"
    PREFIX = "prefix"


class Route(NamedTuple):
    """One host and path that an app answers.

    `host` is lower-case, an exact name, `*.example.com` (exactly one more label) or `*` (any host
    that no other route names). A `prefix` matches whole path elements: `/a` matches `/a` and
    `/a/b`, not `/ab`; it is stored without its trailing slash, the root as `/`. A `regex` is
    matched from the start of the path; it ends where it ends.
    """

    host: str
    kind: PathKind
    path: str


class Share(NamedTuple):
    """A version and its weight in the traffic of its app. Weights are positive."""

    version: str
    weight: int


class Balance(enum.StrEnum):
    """How a backend chooses a server for a request."""

    ROUND_ROBIN = "roundrobin"
    LEAST_CONNECTIONS = "leastconn"
    RANDOM = "random"
    FIRST = "first"
    SOURCE = "source"
    URI = "uri"


class Protocol(enum.StrEnum):
    """What the pods speak."""

    HTTP = "http"
    HTTPS = "https"
    TCP = "tcp"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None: the target's default."""

    connect: float | None = None
    server: float | None = None
    queue: float | None = None
    tunnel: float | None = None


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """An active check of every server by the proxy. `port` None: the traffic port.

    `expect_low..expect_high` is the range of statuses that count as healthy.
    """

    path: str
    port: int | None
    interval: float
    timeout: float
    rise: int
    fall: int
    expect_low: int
    expect_high: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Idle connections to pods that the proxy keeps open.

    `connections`: how many for each server; `period`: seconds between TCP keep-alive probes. None:
    the target's default.
    """

    connections: int | None = None
    period: float | None = None


class PinKind(enum.StrEnum):
    """Where a client says which version it wants."""

    HEADER = "header"
    COOKIE = "cookie"


class Pin(NamedTuple):
    """A header or cookie of this name, whose value is a version, pins a client to that version."""

    kind: PinKind
    name: str


class Sticky(NamedTuple):
    """A client stays on its pod by a cookie of this name. `max_age` in seconds, None: a session."""

    cookie: str
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """Objects of vulcand that somebody else made, and that an app takes the place of. Ids."""

    frontends: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policies:
    """How requests to an app are treated, the same for all its versions.

    `max_body_size` in bytes.
    """

    protocol: Protocol = Protocol.HTTP
    balance: Balance = Balance.ROUND_ROBIN
    timeouts: Timeouts = Timeouts()
    retries: int | None = None
    health_check: HealthCheck | None = None
    max_connections_server: int | None = None
    max_connections_app: int | None = None
    max_body_size: int | None = None
    keep_alive: KeepAlive = KeepAlive()
    pin: Pin | None = None
    sticky: Sticky | None = None
    adopt: Adoption = Adoption()
    template: str | None = None


class DesiredApp(msgspec.Struct, frozen=True, gc=False):
    """All that a target must show of one app.

    `routes` is sorted and holds only routes that this app owns; it is empty while others own all
    that it names, and then it is kept ready to take them over. `split` names the versions that
    take traffic, sorted by version; every version in it has a backend; it is empty while no
    version may take traffic, which answers 503. `maintenance` answers 503 for every route.
    `backends` is sorted by version and also holds versions that take no traffic yet.
    `features` names the app config fields that are in use, for the capability check of a target.
    """

    app: AppId
    routes: tuple[Route, ...]
    split: tuple[Share, ...]
    backends: tuple[Backend, ...]
    policies: Policies = Policies()
    maintenance: bool = False
    features: frozenset[str] = frozenset()

    def backend(self, version: str) -> Backend | None:
        """The backend of one version, None when there is none."""
        return next((b for b in self.backends if b.version == version), None)


@dataclass(frozen=True, slots=True)
class Change:
    """What a target has not seen yet, newest value per app; None: the app is gone.

    `generation` counts changes of desired. `complete`: `apps` is all there is, and whatever is not
    in it must go. `since` is the time of the earliest event in it.
    """

    generation: int
    apps: Mapping[AppId, DesiredApp | None]
    complete: bool
    since: float

    def then(self, newer: Change) -> Change:
        """Both as one: the newer wins app by app, the older gives the time."""
        since = min(self.since, newer.since)
        if newer.complete:
            return Change(newer.generation, newer.apps, complete=True, since=since)
        apps = {**self.apps, **newer.apps}
        if self.complete:
            apps = {app: desired for app, desired in apps.items() if desired is not None}
        return Change(newer.generation, apps, complete=self.complete, since=since)


class Outcome(enum.StrEnum):
    """What an apply did: nothing was needed, run time was enough, or the proxy was reloaded."""

    UNCHANGED = "unchanged"
    UPDATED = "updated"
    RELOADED = "reloaded"


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer of a target to an apply.

    `generation` is the newest one wholly in effect, as the proxy itself confirmed it; lower than
    the one handed in while a gathered reload is still to come. `due`: monotonic time at which the
    target wants to be called again although nothing changed (a held reload, files to be written, a
    drift check); None: only on change. `cause`: why a reload was needed, one of a bounded set.
    `standby`: another process writes what is shared; this one is ready to.
    """

    outcome: Outcome
    generation: int
    due: float | None = None
    cause: str = ""
    standby: bool = False


@dataclass(frozen=True, slots=True)
class OldWorkers:
    """Workers of a proxy that take no new connections, and stay for the clients that they have.

    `age`: seconds since the oldest was told to end, as far as is known; `pid` is that one's,
    None when there is none. `notice`: why a person should look at it, "" when nobody need.
    """

    count: int = 0
    pid: int | None = None
    age: float = 0.0
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a target stands, beside what was applied; None or empty where that cannot be.

    Of a target that several daemons share, `leading`: whether this process is the one that writes;
    `leader`: the instance that is. `proven`: the newest generation of which the proxy itself has
    shown that it is applied, None where it cannot be asked; `unproven`: why the newest one is not,
    "" when it is. `old_workers`: None where the processes cannot be seen.
    """

    leading: bool | None = None
    leader: str = ""
    proven: int | None = None
    unproven: str = ""
    old_workers: OldWorkers | None = None


# --- what is said about it --------------------------------------------------------------------


QUARANTINED = "quarantined"
"""The code of the problem that an app is kept back on a target, since that refuses its config."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that a person should mend, about one app.

    `code` is from a bounded set (it is a metric's label); `message` says what and what to do;
    `where` names the place: key, file, annotation, field. `target` is empty when it holds for all.
    """

    app: AppId
    code: str
    message: str
    where: str = ""
    target: str = ""


class Remembered(msgspec.Struct, frozen=True, gc=False):
    """What an app last had in effect: survives a refused config, a held activation and a restart.

    `config`: the text of the last app config that was accepted. `activation`: the text of the last
    one that could take effect, "" for the accepted absence of one. `elsewhere`: strict targets that
    accepted another config last, with that.
    """

    config: Document | None = None
    activation: str = ""
    elsewhere: tuple[tuple[str, Document], ...] = ()


class Built(msgspec.Struct, frozen=True, gc=False):
    """One app after `build`: what it should be, what stands in the way, what to remember.

    `wanted` is the activation as written ("" for none), `in_effect` the split that holds now.
    `held`: the wanted activation is not in effect. `quarantined`: the config in effect is not the
    written one, since that one was refused.
    """

    app: AppId
    desired: DesiredApp | None
    problems: tuple[Problem, ...] = ()
    wanted: str = ""
    held: bool = False
    quarantined: bool = False
    remember: Remembered = Remembered()
    versions: tuple[str, ...] = ()
