"""The reconciler: dirty apps -> configure, claim, build -> every target's Slot.

One thread. It acts on nothing until every stream has spoken once; then whatever is marked dirty is
built from the whole stores and, if the result differs from before, offered to the targets. It never
waits for a target and never sleeps on a burst.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from msgspec.structs import replace

from vulcanized.model import (
    AppId,
    Built,
    Change,
    Controller,
    Document,
    Observed,
    Pod,
    Problem,
    Reached,
    Remembered,
    Server,
    SourceState,
)
from vulcanized.slot import DirtyApps, Slot
from vulcanized.views import View, is_forgotten

log = structlog.get_logger(__name__)

_NOTHING = Remembered()

MAX_LINES_PER_PASS = 50

RESYNC_SLICE = 100
"""Apps of a full pass that are built between two looks at the dirty set: an event waits for at
most this many."""

REMEMBER_AFTER = 0.1
"""Seconds until an accepted switch is written down. A write is in the way of other daemons on the
machine that have yet to switch, and what a crash may lose of a switch is only which of two good
versions stays if the next activation is refused."""


class Stream(Protocol):
    """One followed thing, one thread. `spoken`: it has delivered a whole first state.

    `accept`: take what its server says as it is, also where a guard holds it; how much that was.
    """

    @property
    def name(self) -> str: ...
    @property
    def spoken(self) -> bool: ...
    def run(self, stop: threading.Event) -> None: ...
    def state(self) -> SourceState: ...
    def accept(self) -> int: ...


class Cluster(Protocol):
    """Where pods and controllers come from. Reads are thread-safe, O(one app)."""

    @property
    def streams(self) -> Sequence[Stream]: ...
    def pods(self, app: AppId) -> tuple[Pod, ...]: ...
    def controllers(self, app: AppId) -> tuple[Controller, ...]: ...
    def apps(self) -> set[AppId]: ...


class Store(Protocol):
    """Where app configs and activations come from. Reads are thread-safe, O(one app)."""

    @property
    def streams(self) -> Sequence[Stream]: ...
    def config(self, app: AppId) -> Document | None: ...
    def activation(self, app: AppId) -> Document | None: ...
    def apps(self) -> set[AppId]: ...


def observe(cluster: Cluster, store: Store, app: AppId) -> Observed:
    """All that the sources say of one app now."""
    return Observed(
        app,
        cluster.pods(app),
        cluster.controllers(app),
        store.config(app),
        store.activation(app),
    )


class Memory(Protocol):
    """What outlives the process: the last accepted config and activation of each app."""

    def load(self) -> dict[AppId, Remembered]: ...
    def save(self, changed: Mapping[AppId, Remembered]) -> None: ...


@dataclass(frozen=True, slots=True)
class Outlet:
    """A target as the reconciler sees it: what it can do, and the Slot it takes from."""

    name: str
    capabilities: frozenset[str]
    strict: bool = False
    slot: Slot = field(default_factory=Slot)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the reconciler knows at one moment, for status and metrics."""

    generation: int
    synced: bool
    apps: Mapping[AppId, Built]


class Reconciler:
    """Turns what the sources hold into changes for the targets.

    Only `run` (or, without a thread, `reconcile`) changes it; `snapshot` may be called from any
    thread.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        outlets: Sequence[Outlet],
        dirty: DirtyApps,
        memory: Memory,
        *,
        resync: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        noted: Callable[[Iterable[AppId]], None] = lambda apps: None,
        took: Callable[[Built | None, Built], None] = lambda old, new: None,
        settled: Callable[[Reached, int], None] = lambda reached, generation: None,
    ) -> None:
        """`noted`: is told which apps' sources said something, after the targets have it.

        `took` hears of each app that came out otherwise, `settled` then of how far a generation has
        got with what was written.
        """
        self._noted = noted
        self._took = took
        self._settled = settled
        self._cluster = cluster
        self._store = store
        self._outlets = tuple(outlets)
        self._dirty = dirty
        self._memory = memory
        self._resync = resync
        self._clock = clock
        self._streams = (*cluster.streams, *store.streams)
        self._views, self._view_of = _views(self._outlets)
        self._remembered: dict[AppId, Remembered] = {}
        self._unsaved: dict[AppId, Remembered] = {}
        self._save_at = 0.0
        self._built: dict[AppId, Built] = {}
        self._generation = 0
        self._synced = False
        self._backlog: list[AppId] = []
        self._next_resync = 0.0
        self._beat = clock()
        self._lock = threading.Lock()

    @property
    def synced(self) -> bool:
        """True once the first complete state was offered to the targets."""
        return self._synced

    @property
    def beat(self) -> float:
        """When the loop turned last, on the clock."""
        return self._beat

    def snapshot(self) -> Snapshot:
        """What is known now; a copy, so it stays as it is."""
        with self._lock:
            return Snapshot(self._generation, self._synced, dict(self._built))

    def servers(self, app: AppId) -> Sequence[Server] | None:
        """The servers that the targets were given for an app; None before all sources spoke."""
        if not self._synced:
            return None
        built = self._built.get(app)
        desired = built.desired if built is not None else None
        return [
            server
            for backend in (desired.backends if desired else ())
            for server in backend.servers
        ]

    def run(self, stop: threading.Event) -> None:
        """Reconcile until `stop` is set or the dirty set is closed."""
        self._remembered = self._memory.load()
        try:
            while not stop.is_set():
                self._beat = self._clock()
                taken = self._dirty.drain(self._patience())
                if taken is None:
                    return
                if not self._synced:
                    self._start()
                else:
                    self._pass(*taken)
                if self._synced:
                    self._settled(self._dirty.drained, self._generation)
                if self._clock() >= self._save_at:
                    self._save()
        finally:
            self._save()

    def _patience(self) -> float:
        """Seconds that the loop may wait for something to do."""
        if self._backlog:
            return 0.0
        return max(0.0, self._save_at - self._clock()) if self._unsaved else 1.0

    def _save(self) -> None:
        """Write down what was accepted."""
        if self._unsaved:
            self._memory.save(self._unsaved)
            self._unsaved = {}

    def _start(self) -> None:
        """The first pass: everything at once, and only when every stream has spoken."""
        if not all(stream.spoken for stream in self._streams):
            return
        since = self._clock()
        known = self._known()
        self._rebuild(known, since, complete=True)
        self._noted(known)
        self._next_resync = self._clock() + self._resync
        log.info("synced", apps=len(self._built), generation=self._generation)

    def _pass(self, marked: Mapping[AppId, float], full: float | None) -> None:
        now = self._clock()
        if full is not None or now >= self._next_resync:
            self._backlog = sorted(self._known())
            self._next_resync = now + self._resync
        if marked:
            self._rebuild(marked, min(marked.values()))
            self._noted(marked)
        if self._backlog:
            slice_, self._backlog = self._backlog[:RESYNC_SLICE], self._backlog[RESYNC_SLICE:]
            self._rebuild(slice_, now)

    def _known(self) -> set[AppId]:
        remembered = self._built.keys() | self._remembered.keys()
        return self._cluster.apps() | self._store.apps() | remembered

    def _rebuild(self, apps: Iterable[AppId], since: float, *, complete: bool = False) -> None:
        """Build these apps and those whose routes they touch; offer what changed."""
        observed = {app: self._observe(app) for app in apps}
        for view in self._views:
            for app in list(observed):
                for touched in view.configure(observed[app], self._recall(app)):
                    if touched not in observed:
                        observed[touched] = self._observe(touched)
        by_view = {
            view: [view.build(parts, self._recall(app)) for app, parts in observed.items()]
            for view in self._views
        }
        changes = {view: view.take(built) for view, built in by_view.items()}
        told: list[tuple[Built | None, Built]] = []
        memorable: dict[AppId, Remembered] = {}
        delay = REMEMBER_AFTER
        with self._lock:
            for each in zip(*by_view.values(), strict=True):
                new = self._seen_as_one(each)
                old = self._built.get(new.app)
                if new == old:
                    continue
                told.append((old, new))
                self._took(old, new)
                was = self._recall(new.app)
                if new.remember != was:
                    memorable[new.app] = new.remember
                    if not _is_switch(was, new.remember):
                        delay = 0.0
                self._keep(new)
            if complete or any(changes.values()):
                self._generation += 1
            generation = self._generation
            self._synced = self._synced or complete
        if complete or any(changes.values()):
            for outlet in self._outlets:
                apps_ = changes[self._view_of[outlet.name]]
                outlet.slot.offer(Change(generation, apps_, complete, since))
        # Whatever is not needed to serve comes after the targets have their change.
        _tell(told)
        if memorable:
            due = self._clock() + delay
            self._save_at = min(self._save_at, due) if self._unsaved else due
        self._unsaved |= memorable

    def _recall(self, app: AppId) -> Remembered:
        return self._remembered.get(app, _NOTHING)

    def _seen_as_one(self, views: Sequence[Built]) -> Built:
        """The app as it is told: as the first view has it, with what the others say beside it."""
        first, *others = views
        beside = [p for other in others for p in other.problems if p not in first.problems]
        kept = first.remember.config
        elsewhere = tuple(
            (view.target, other.remember.config)
            for view, other in zip(self._views[1:], others, strict=True)
            if other.remember.config is not None and other.remember.config != kept
        )
        return replace(
            first,
            problems=(*first.problems, *beside, *self._incapable(first)),
            remember=replace(first.remember, elsewhere=elsewhere),
        )

    def _observe(self, app: AppId) -> Observed:
        return observe(self._cluster, self._store, app)

    def _incapable(self, built: Built) -> tuple[Problem, ...]:
        """What a target cannot put into effect is said, per target, never ignored in silence."""
        if built.desired is None:
            return ()
        missing = {
            outlet.name: sorted(built.desired.features - outlet.capabilities)
            for outlet in self._outlets
            if not outlet.strict
        }
        return tuple(
            Problem(
                built.app,
                "not_in_effect",
                f"{', '.join(fields)}: not in effect on target {target}; it is routed without",
                target=target,
            )
            for target, fields in missing.items()
            if fields
        )

    def _keep(self, new: Built) -> None:
        if is_forgotten(new):
            self._built.pop(new.app, None)
        else:
            self._built[new.app] = new
        if new.remember == _NOTHING:
            self._remembered.pop(new.app, None)
        else:
            self._remembered[new.app] = new.remember


def _is_switch(old: Remembered, new: Remembered) -> bool:
    """Nothing but the activation of an app that was served before is another."""
    return old.config is not None and replace(old, activation=new.activation) == new


def _views(outlets: Sequence[Outlet]) -> tuple[tuple[View, ...], Mapping[str, View]]:
    """The views that these outlets need, and the one of each by its name."""
    strict = {each.name: View(each.name, each.capabilities) for each in outlets if each.strict}
    if outlets and len(strict) == len(outlets):
        return tuple(strict.values()), strict
    common = View()
    return (common, *strict.values()), {
        each.name: strict.get(each.name, common) for each in outlets
    }


def _tell(changes: Sequence[tuple[Built | None, Built]]) -> None:
    """One line for each decision that a person may wonder about, bounded for a full pass."""
    lines = 0
    for old, new in changes:
        before = set(old.problems) if old else set()
        fresh = [problem for problem in new.problems if problem not in before]
        mended = {problem.code for problem in before} - {problem.code for problem in new.problems}
        split = new.desired.split if new.desired else ()
        switched = old is not None and (old.desired.split if old.desired else ()) != split
        lines += len(fresh) + len(mended) + switched
        if lines > MAX_LINES_PER_PASS:
            log.warning("more changes than are worth a line each: see status", apps=len(changes))
            return
        if switched:
            shares = ", ".join(f"{share.version}={share.weight}" for share in split)
            log.info("switched", app=str(new.app), split=shares or "none")
        for problem in fresh:
            log.warning(
                "problem",
                app=str(new.app),
                code=problem.code,
                where=problem.where,
                reason=problem.message,
            )
        for code in sorted(mended):
            log.info("mended", app=str(new.app), code=code)
