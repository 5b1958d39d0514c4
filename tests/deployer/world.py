"""A whole world in memory, in which a deployer may die before and after every effect of it.

Cluster, etcd and daemons are as small as they may be, and watch what is done to them: a version
that takes traffic somewhere is never scaled down, and none takes traffic that is not ready and
healthy at that moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from vulcanized.deployer import standing
from vulcanized.deployer.cluster import LogTail
from vulcanized.deployer.run import Deployer
from vulcanized.deployer.store import Papers, Written
from vulcanized.deployer.words import (
    Action,
    AnyStep,
    ControllerState,
    Health,
    PodState,
    Record,
    Ref,
    Report,
    Seen,
    Stage,
    Status,
    Switch,
    Times,
    encode,
)
from vulcanized.errors import Conflict
from vulcanized.etcd import Compare, Held
from vulcanized.model import AppId
from vulcanized.objects import Labels

APP = AppId("default", "todo")
HEALTH = Health("http", 8080)
TIMES = Times(ready=20, health=10, switch=8, drain=6, keep=0)


class Crash(BaseException):
    """The deployer is killed here."""


@dataclass
class Daemon:
    """What one daemon has in effect. `lag`: how late it takes over; `stuck`: from when never.

    `measures`: its proxies tell of sessions; here there are none.
    """

    name: str
    lag: float = 1.0
    stuck: float = 1e9
    away: tuple[float, float] = (1e9, 1e9)
    measures: bool = True
    activation: str = ""
    revision: int = 0
    since: float = 0.0
    history: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class World:
    """All that is there. `ready`, `healthy`: until when a version's pods are so, by version."""

    daemons: list[Daemon]
    now: float = 1000.0
    activation: str = ""
    revision: int = 0
    changed: float = 0.0
    last: int = 10
    config: str | None = "old config"
    config_revision: int = 5
    controllers: dict[str, ControllerState] = field(default_factory=dict)
    ready: dict[str, tuple[float, float]] = field(default_factory=dict)
    healthy: dict[str, tuple[float, float]] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    papers: dict[str, Papers] = field(default_factory=dict)
    effects: int = 0
    crashes: set[int] = field(default_factory=set)
    meddle: tuple[int, str] = (-1, "")
    problems: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    # --- time ---

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        for daemon in self.daemons:
            if self.is_away(daemon):
                continue
            if self.now >= daemon.stuck:
                continue
            if self.now - self.changed >= daemon.lag:
                self.take_over(daemon)

    def is_away(self, daemon: Daemon) -> bool:
        return daemon.away[0] <= self.now < daemon.away[1]

    def take_over(self, daemon: Daemon) -> None:
        named = standing.versions_of(self.activation)
        if not all(self.is_ready(version) for version in named):
            return  # held
        daemon.activation, daemon.revision = self.activation, self.revision

    def is_ready(self, version: str) -> bool:
        start, end = self.ready.get(version, (0, 1e9))
        return start <= self.now < end and any(
            c.version == version and c.desired > 0 for c in self.controllers.values()
        )

    def is_healthy(self, version: str) -> bool:
        start, end = self.healthy.get(version, (0, 1e9))
        return start <= self.now < end

    # --- effects ---

    def effect(self, what: str, change: Callable[[], None]) -> None:
        """Before and after each the deployer may die."""
        self.effects += 1
        if self.effects in self.crashes:
            raise Crash
        # Between a look and what Kubernetes is told there is a moment that nobody can close.
        if self.meddle[0] == self.effects and what.startswith(("save", "switch")):
            self.put(self.meddle[1])
        change()
        self.done.append(what)
        self.effects += 1
        if self.effects in self.crashes:
            raise Crash

    def put(self, text: str) -> None:
        self.last += 1
        self.activation, self.revision, self.changed = text, self.last if text else 0, self.now

    def in_traffic(self) -> set[str]:
        """Every version that a request may reach by now."""
        found: set[str] = set()
        for text in [self.activation, *(daemon.activation for daemon in self.daemons)]:
            found |= standing.versions_of(text)
        return found

    def problem(self, text: str) -> None:
        self.problems.append(f"at {self.now:g}: {text}; after {self.done[-8:]}")


class FakeStore:
    def __init__(self, world: World) -> None:
        self.world = world

    def activation(self, app: AppId) -> Written:
        return Written(self.world.activation, self.world.revision)

    def config(self, app: AppId) -> Written:
        return Written(self.world.config or "", self.world.config_revision)

    def reports(self) -> tuple[Report, ...]:
        world = self.world
        found = []
        for daemon in world.daemons:
            if world.is_away(daemon):
                continue
            caught_up = daemon.activation == world.activation
            revision = max(daemon.revision, world.last) if caught_up else daemon.revision
            held = () if caught_up or world.now - world.changed < daemon.lag else (str(APP),)
            found.append(
                Report(daemon.name, revision, world.last, held=held, measures=daemon.measures)
            )
        return tuple(found)

    def save(self, record: Record, held: Held) -> None:
        def change() -> None:
            self.world.records[record.id] = encode(record)

        self.world.effect("save", change)

    def is_ours(self, held: Held) -> bool:
        return True

    def switch(self, record: Record, step: Switch, papers: Papers, held: Held) -> tuple[int, bool]:
        world = self.world
        configured = step.config in ("new", "back", "remove") and record.configures

        def change() -> None:
            if world.revision != step.expect:
                raise Conflict("the activation is otherwise", ("active",))
            named = standing.versions_of(step.text or "")
            # What it shares the traffic with on the way had it all before.
            meant = {"switch": named & {record.new.version}, "put back": named}
            for version in meant.get(step.step, ()):
                if not (world.is_ready(version) and world.is_healthy(version)):
                    world.problem(f"{step.step} to {version}, which is not well")
            world.put(step.text or "")
            if configured:
                texts = {"new": papers.config, "back": papers.replaced, "remove": None}
                world.config = texts[step.config]
                world.config_revision = world.last

        world.effect(f"{step.step} {step.text}", change)
        return world.last, configured


class FakeCluster:
    def __init__(self, world: World, release: Ref) -> None:
        self.world = world
        self.api = None
        self.labels = Labels()

    def controllers(self, app: AppId) -> tuple[ControllerState, ...]:
        return tuple(sorted(self.world.controllers.values()))

    def pods(self, app: AppId) -> tuple[PodState, ...]:
        return tuple(
            PodState(f"{c.name}-{n}", f"{c.uid}-{n}", c.version, self.world.is_ready(c.version))
            for c in self.world.controllers.values()
            for n in range(c.desired)
        )

    def create(self, manifest: dict[str, Any], *, only_try: bool = False) -> None:
        made = cast("ControllerState", manifest["state"])

        def change() -> None:
            self.world.controllers[made.name] = made

        self.world.effect(f"create {made.name}", change)

    def scale(self, app: AppId, ref: Ref, replicas: int) -> None:
        world = self.world

        def change() -> None:
            now = world.controllers[ref.name]
            if replicas == 0 and now.version in world.in_traffic():
                world.problem(f"{ref.name} scaled to 0 while it takes traffic")
            world.controllers[ref.name] = msgspec.structs.replace(now, desired=replicas)

        world.effect(f"scale {ref.name} {replicas}", change)

    def delete(self, app: AppId, ref: Ref) -> None:
        world = self.world

        def change() -> None:
            if world.controllers[ref.name].version in world.in_traffic():
                world.problem(f"{ref.name} deleted while it takes traffic")
            del world.controllers[ref.name]

        world.effect(f"delete {ref.name}", change)

    def events(self, namespace: str, uid: str) -> tuple[str, ...]:
        return ()

    def logs(self, namespace: str, pod: PodState, lines: int = 20) -> tuple[LogTail, ...]:
        return ()


class FakeChecks:
    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self, name: tuple[str, int]) -> None:
        pass

    def look(
        self, namespace: str, pods: Iterable[tuple[PodState, Health]]
    ) -> tuple[frozenset[str], tuple[str, ...]]:
        well = [pod.uid for pod, _ in pods if self.world.is_healthy(pod.version)]
        return frozenset(well), ()

    def close(self) -> None:
        pass


class FakeRelease:
    def __init__(self, record: Record) -> None:
        self.record = record

    def manifest(self, replicas: int) -> dict[str, Any]:
        new = self.record.new
        state = ControllerState(
            new.kind, new.name, "uid-new", new.version, replicas, self.record.id, health=HEALTH
        )
        return {"state": state}


class FakeHeld:
    alive = True
    fence = Compare("lock", 1)

    def release(self) -> None:
        pass


class Clock(threading.Event):
    """A stop event whose waits let the world go on."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        self._world.pass_(timeout or 0)
        return self.is_set()


class Silent:
    def step(self, record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep) -> None:
        pass

    def trouble(self, record: Record, error: str) -> None:
        pass

    def details(self, record: Record, lines: Sequence[str]) -> None:
        pass

    def ended(self, record: Record) -> None:
        pass


@dataclass
class Life:
    """A deployment in a world, over as many deployers as it takes."""

    world: World
    record: Record
    papers: Papers = field(default_factory=lambda: Papers("", "new config", "old config"))

    def deployer(self) -> Deployer:
        stop = Clock(self.world)
        return Deployer(
            cast("Any", FakeStore(self.world)),
            cast("Any", FakeCluster(self.world, self.record.new)),
            Silent(),
            self.record.times,
            stop=stop,
            now=lambda: self.world.now,
            checks=lambda cluster: FakeChecks(self.world),
        )

    def run(self) -> Record:
        """To its end; each one that dies is followed by another that resumes."""
        self.world.records[self.record.id] = encode(self.record)
        release: Any = FakeRelease(self.record)
        held: Any = FakeHeld()
        while True:
            stored = msgspec.json.decode(self.world.records[self.record.id], type=Record)
            if not stored.under_way:
                return stored
            if release is None:
                stored = msgspec.structs.replace(stored, resumed=True)
            try:
                return self.deployer()._carry(stored, self.papers, held, release)
            except Crash:
                release = None
                self.world.pass_(1.0)

    def dispose(self) -> Record:
        """What `dispose` does when the time is up."""
        stored = msgspec.json.decode(self.world.records[self.record.id], type=Record)
        held: Any = FakeHeld()
        while not stored.disposed:
            self.world.pass_(max(1.0, (stored.dispose_at or 0) - self.world.now))
            try:
                stored = self.deployer()._carry(stored, Papers(), held)
            except Crash:
                stored = msgspec.json.decode(self.world.records[self.record.id], type=Record)
        return stored


def old_controller(version: str, replicas: int) -> ControllerState:
    name = f"todo-{version}"
    return ControllerState(
        "ReplicationController", name, f"uid-{version}", version, replicas, "d0", health=HEALTH
    )


def record_of(world: World, stages: tuple[Stage, ...], times: Times = TIMES) -> Record:
    """A deployment of version 2 that is about to begin."""
    olds = [Ref(c.kind, c.name, c.version, c.desired, c.uid) for c in world.controllers.values()]
    return Record(
        id="20260101T000000-00000000",
        namespace=APP.namespace,
        app=APP.name,
        action=Action.DEPLOY,
        version="2",
        status=Status.DEPLOYING,
        created=world.now,
        modified=world.now,
        new=Ref("ReplicationController", "todo-2", "2"),
        stages=stages,
        health=HEALTH,
        times=times,
        previous=world.activation,
        base=world.revision,
        config=world.config_revision,
        configures=True,
        old=tuple(sorted(olds)),
        instances=tuple(daemon.name for daemon in world.daemons),
        least_instances=min(1, len(world.daemons)),
    )
