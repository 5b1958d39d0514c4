"""Wires it all: threads, signals, the service manager. The only module that knows concretes.

A `Runtime` is everything that runs under one reading of the settings; SIGHUP replaces it by
another. A thread that fails unexpectedly ends the process with code 1: the supervisor starts it
again, and the proxies go on meanwhile with what they have.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog

from vulcanized import __version__
from vulcanized.admin import (
    AdminServer,
    Answer,
    Page,
    html_answer,
    json_answer,
    metrics_answer,
    text,
)
from vulcanized.baseline import Recorder, StoredBaseline
from vulcanized.deployer.words import Report
from vulcanized.errors import SettingsError, VulcanizedError
from vulcanized.holds import Guarding
from vulcanized.memory import SqliteMemory
from vulcanized.metrics import Metrics
from vulcanized.model import SourcePhase, SourceState
from vulcanized.reconciler import (
    Cluster,
    Outlet,
    Reconciler,
    Snapshot,
    Store,
    Stream,
    observe,
)
from vulcanized.report import Reporter, Ringing
from vulcanized.settings import AnyTarget, NginxSettings, Settings, VulcandSettings
from vulcanized.slot import DirtyApps, Slot
from vulcanized.status import is_ready, status_document
from vulcanized.statuspage import status_page
from vulcanized.systemd import Notifier
from vulcanized.targets.runner import Observer, Runner, RunnerState, Target

if TYPE_CHECKING:
    from vulcanized.etcd import EtcdClient

log = structlog.get_logger(__name__)

END_SECONDS = 4.0
"""SIGTERM must end the daemon within 5 s; this much is for the threads and proxies."""

STUCK_SECONDS = 20.0
"""A reconciler that has not turned its loop for so long is not alive."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the settings ask for, made but not started."""

    dirty: DirtyApps
    cluster: Cluster
    store: Store
    targets: tuple[Target, ...]
    outlets: tuple[Outlet, ...]
    guarding: Guarding
    etcd: EtcdClient | None = None
    closers: tuple[Callable[[], None], ...] = ()

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All that is followed."""
        return (*self.cluster.streams, *self.store.streams)


def assemble(settings: Settings, stop: threading.Event) -> Parts:
    """Make sources and targets. Raises VulcanizedError where the settings cannot work."""
    dirty = DirtyApps()
    etcd, close_etcd = _etcd(settings)
    slots = tuple(Slot() for _ in settings.targets)
    targets = tuple(
        _target(each, settings, etcd, slot, stop)
        for each, slot in zip(settings.targets, slots, strict=True)
    )
    outlets = tuple(
        Outlet(target.name, target.capabilities, each.strict, slot)
        for target, each, slot in zip(targets, settings.targets, slots, strict=True)
    )
    guarding = Guarding(settings.guard.max_removed, StoredBaseline(settings.state))
    store = _store(settings, etcd, dirty, guarding)
    cluster = _cluster(settings, dirty, guarding)
    return Parts(dirty, cluster, store, targets, outlets, guarding, etcd, (close_etcd,))


def _etcd(settings: Settings) -> tuple[EtcdClient | None, Callable[[], None]]:
    """The client for source and targets, and what to call when they have ended."""
    # Each live client costs memory and start-up time that the embedded default does not need.
    if settings.etcd is None:
        return None, lambda: None
    from vulcanized.etcd import connect

    client = connect(settings.etcd)
    return client, client.close


def _cluster(settings: Settings, dirty: DirtyApps, guarding: Guarding) -> Cluster:
    if settings.kubernetes is not None:
        from vulcanized.sources.kubernetes import KubernetesSource

        return KubernetesSource(settings.kubernetes, dirty, guarding=guarding)
    from vulcanized.filetree import Patience
    from vulcanized.sources.directory import ManifestSource

    assert settings.directory is not None  # noqa: S101 - Settings guarantees a side
    assert settings.directory.manifests is not None  # noqa: S101
    patience = Patience(most_gone=guarding.most)
    return ManifestSource(settings.directory.manifests, dirty, patience=patience, guarding=guarding)


def _store(
    settings: Settings, etcd: EtcdClient | None, dirty: DirtyApps, guarding: Guarding
) -> Store:
    if settings.etcd is not None and etcd is not None:
        from vulcanized.sources.etcd import EtcdSource

        return EtcdSource(etcd, settings.etcd.prefix, dirty, guarding=guarding)
    from vulcanized.filetree import Patience
    from vulcanized.sources.directory import DirectoryStore

    assert settings.directory is not None  # noqa: S101 - Settings guarantees a side
    assert settings.directory.store is not None  # noqa: S101
    patience = Patience(most_gone=guarding.most)
    return DirectoryStore(settings.directory.store, dirty, patience=patience, guarding=guarding)


def _target(
    each: AnyTarget,
    settings: Settings,
    etcd: EtcdClient | None,
    slot: Slot,
    stop: threading.Event,
) -> Target:
    if isinstance(each, VulcandSettings):
        from vulcanized.targets.vulcand import VulcandTarget

        assert settings.etcd is not None and etcd is not None  # noqa: S101, PT018 - as Settings says
        return VulcandTarget(
            each,
            etcd,
            etcd_prefix=settings.etcd.prefix,
            instance=settings.instance,
            wake=slot.ring,
        )
    hold_off, ceiling = settings.sync.hold_off, settings.sync.ceiling
    if isinstance(each, NginxSettings):
        from vulcanized.targets.nginx import NginxTarget

        return NginxTarget(each, hold_off=hold_off, ceiling=ceiling, stop=stop)
    from vulcanized.targets.haproxy import HaproxyTarget

    return HaproxyTarget(each, hold_off=hold_off, ceiling=ceiling, stop=stop)


class Runtime:
    """Sources, reconciler and targets under one reading of the settings, each in its thread."""

    def __init__(self, settings: Settings, observer: Observer, failed: Callable[[], None]) -> None:
        self.settings = settings
        self._stop = threading.Event()
        self._failed = failed
        self.parts = assemble(settings, self._stop)
        self.memory = SqliteMemory(settings.state)
        self.recorder = Recorder(
            settings.state, partial(observe, self.parts.cluster, self.parts.store)
        )
        self.reporter = _reporter(settings, self.parts, self.targets)
        reported: dict[str, Any] = {}
        if self.reporter is not None:
            observer = Ringing(observer, self.reporter)
            ledger = self.reporter.ledger
            reported = {"took": ledger.took, "settled": ledger.settled}
        self.reconciler = Reconciler(
            self.parts.cluster,
            self.parts.store,
            self.parts.outlets,
            self.parts.dirty,
            self.memory,
            resync=settings.sync.resync,
            noted=self.recorder.note,
            **reported,
        )
        self.parts.guarding.servers = self.reconciler.servers
        self.runners = tuple(
            Runner(target, outlet.slot, observer)
            for target, outlet in zip(self.parts.targets, self.parts.outlets, strict=True)
        )
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start every thread; returns at once."""
        for runner, target in zip(self.runners, self.parts.targets, strict=True):
            self._spawn(f"target {target.name}", runner.run)
        self._spawn("reconciler", lambda: self.reconciler.run(self._stop))
        self._spawn("recorder", lambda: self.recorder.run(self._stop))
        if (reporter := self.reporter) is not None:
            self._spawn("reporter", lambda: reporter.run(self._stop))
        for stream in self.parts.streams:
            self._spawn(f"source {stream.name}", lambda stream=stream: stream.run(self._stop))  # type: ignore[misc]

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                log.exception("thread failed; the daemon ends, the proxies go on", thread=name)
                self._failed()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self, *, stop_proxies: bool) -> None:
        """End every thread, within END_SECONDS. `stop_proxies`: also the proxies started by us."""
        deadline = time.monotonic() + END_SECONDS
        self._stop.set()
        self.parts.dirty.close()
        for outlet in self.parts.outlets:
            outlet.slot.close()
        closers = [
            threading.Thread(target=_close, args=(target, stop_proxies), daemon=True)
            for target in self.parts.targets
        ]
        for thread in self._threads:
            if thread.name.startswith("target "):
                thread.join(max(0.0, deadline - time.monotonic()) / 2)
        for closer in closers:
            closer.start()
        for thread in (*closers, *self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        for close in self.parts.closers:
            close()
        self.memory.close()

    def accept(self) -> None:
        """Take what the sources say as it is, once: let go whatever the guards hold."""
        let_go = sum(stream.accept() for stream in self.parts.streams)
        log.warning("told to take what the sources say as it is", let_go=let_go)

    def snapshot(self) -> Snapshot:
        """What the reconciler knows."""
        return self.reconciler.snapshot()

    def sources(self) -> list[SourceState]:
        """The state of every stream."""
        return [stream.state() for stream in self.parts.streams]

    def targets(self) -> list[RunnerState]:
        """The state of every target."""
        return [runner.state() for runner in self.runners]

    def alive(self) -> bool:
        """Every thread runs and the reconciler turns."""
        fresh = time.monotonic() - self.reconciler.beat < STUCK_SECONDS
        return fresh and all(thread.is_alive() for thread in self._threads)

    def ready(self) -> bool:
        """All sources have spoken and all targets have applied once."""
        return is_ready(self.reconciler.synced, self.targets())

    def document(self) -> dict[str, Any]:
        """What `/status` answers."""
        snapshot = self.reconciler.snapshot()
        controllers = {app: self.parts.cluster.controllers(app) for app in snapshot.apps}
        return status_document(
            self.settings.instance,
            __version__,
            snapshot,
            self.sources(),
            self.targets(),
            controllers,
        )


def _reporter(
    settings: Settings, parts: Parts, states: Callable[[], Sequence[RunnerState]]
) -> Reporter | None:
    """Who tells deployers what is in effect; nobody without an etcd."""
    if settings.etcd is None or parts.etcd is None:
        return None
    namespaces = settings.kubernetes.namespaces if settings.kubernetes is not None else ()
    blank = Report(settings.instance, version=__version__, namespaces=tuple(namespaces))
    return Reporter(parts.etcd, settings.etcd.prefix, blank, parts.targets, states)


def _managed(target: AnyTarget) -> object:
    """What a target manages, and leaves as it is when it is no longer in the settings."""
    if isinstance(target, VulcandSettings):
        return target.prefix, target.leader
    return target.directory


def _close(target: Target, stop_proxies: bool) -> None:
    try:
        target.close(stop_proxy=stop_proxies)
    except VulcanizedError as error:
        log.warning("closing failed", target=target.name, reason=str(error))


class Daemon:
    """`vulcanized run`: a Runtime, the admin server, signals and the watchdog."""

    def __init__(self, load: Callable[[], Settings], notifier: Notifier) -> None:
        self._load = load
        self._notifier = notifier
        # A socket, not an Event: a signal handler runs between any two steps of the main thread,
        # also while that holds the Event's lock, and to set it would then wait for ever.
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._end = False
        self._reread = False
        self._accept = False
        self._broken = False
        self._runtime: Runtime | None = None
        self._admin: AdminServer | None = None
        self._metrics = Metrics(self._current)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code."""
        spare_memory()
        settings = self._load()
        previous = {
            number: signal.signal(number, self._signalled)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        }
        woken_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            self._begin(settings)
            tune()
            self._watch()
            return 1 if self._broken else 0
        finally:
            self._notifier.stopping()
            # Only when told to end: a fault of ours is no reason for the proxies to stop.
            self._finish(stop_proxies=self._end and not self._broken)
            signal.set_wakeup_fd(woken_before)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        # The interpreter has written to the wake-up socket already.
        del frame
        if number == signal.SIGHUP:
            self._reread = True
        elif number == signal.SIGUSR1:
            self._accept = True
        else:
            self._end = True

    def _fail(self) -> None:
        self._broken = True
        # Full: then there is enough in it to wake us.
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"\0")

    def _sleep(self, seconds: float) -> None:
        """Wait for a signal or a failed thread, no longer than this."""
        # Not select(): it knows no descriptor from 1024 on.
        waiting = select.poll()
        waiting.register(self._woken, select.POLLIN)
        waiting.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _current(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("not running")
        return self._runtime

    def _begin(self, settings: Settings) -> None:
        """Make what the settings ask for, then let it take over from what runs, if anything does.

        Raises VulcanizedError where they cannot work; then what runs goes on as it is.
        """
        admin = self._admin
        if admin is None or self._current().settings.admin.listen != settings.admin.listen:
            admin = AdminServer(settings.admin.listen, self._pages())
        try:
            runtime = Runtime(settings, self._metrics, self._fail)
        except BaseException:
            if admin is not self._admin:
                admin.close()
            raise
        if self._runtime is not None:
            self._runtime.stop(stop_proxies=False)
        if self._admin is not None and self._admin is not admin:
            self._admin.close()
        self._admin, self._runtime = admin, runtime
        self._runtime.start()
        log.info(
            "started",
            version=__version__,
            instance=settings.instance,
            sources=[stream.name for stream in self._runtime.parts.streams],
            targets=[target.name for target in self._runtime.parts.targets],
            admin=f"{settings.admin.listen.address}:{admin.port}",
        )

    def _watch(self) -> None:
        """The main thread: signals, readiness, the watchdog."""
        period = min(1.0, self._notifier.watchdog / 3) if self._notifier.watchdog else 1.0
        told = False
        while not (self._end or self._broken):
            if self._reread:
                self._reread, told = False, False
                self._reload()
            runtime = self._current()
            if self._accept:
                self._accept = False
                runtime.accept()
            if not told and runtime.ready():
                told = True
                apps = len(runtime.reconciler.snapshot().apps)
                log.info("ready", apps=apps)
                self._notifier.ready(f"in step; {apps} apps")
                settle()
            elif not told:
                self._notifier.status(_waiting(runtime))
            if runtime.alive():
                self._notifier.alive()
            self._sleep(0.02 if not told else period)

    def _reload(self) -> None:
        """SIGHUP: the new settings if they are good, else the old ones go on."""
        self._notifier.reloading()
        old = self._current()
        try:
            settings = self._load()
        except SettingsError as error:
            for problem in error.problems:
                log.error("settings refused; the old ones stay", problem=problem)
            return
        # Also when nothing in the file changed: certificates and passwords that it names may have.
        kept = {_managed(each) for each in settings.targets}
        removed = [each.name for each in old.settings.targets if _managed(each) not in kept]
        try:
            self._begin(settings)
        except VulcanizedError as error:
            log.error("settings cannot work; the old ones stay", reason=str(error))
            return
        log.info("settings reread", targets_left_as_they_are=removed)

    def _finish(self, *, stop_proxies: bool) -> None:
        if self._admin is not None:
            self._admin.close()
        if self._runtime is not None:
            self._runtime.stop(stop_proxies=stop_proxies)
        log.info("ended")

    def _pages(self) -> Mapping[str, Page]:
        pages = self._pages_of_a_runtime()
        return {path: lambda page=page: self._once_running(page) for path, page in pages.items()}  # type: ignore[misc]

    def _once_running(self, page: Page) -> Answer:
        # The address is taken before anything else is made: somebody may ask before there is.
        return page() if self._runtime is not None else _yes_or_no(False, "starting")

    def _pages_of_a_runtime(self) -> Mapping[str, Page]:
        return {
            "/metrics": lambda: metrics_answer(self._metrics.exposition()),
            "/healthz": lambda: _yes_or_no(self._current().alive(), "a thread is stuck or gone"),
            "/readyz": self._readyz,
            "/status": lambda: json_answer(self._current().document()),
            "/": lambda: html_answer(status_page(self._current().document())),
        }

    def _readyz(self) -> Answer:
        runtime = self._current()
        return _yes_or_no(runtime.ready(), _waiting(runtime))


def _yes_or_no(good: bool, reason: str) -> Answer:
    if good:
        return text(HTTPStatus.OK, "ok")
    return text(HTTPStatus.SERVICE_UNAVAILABLE, reason)


def _waiting(runtime: Runtime) -> str:
    """What is not ready yet, for people."""
    silent = [state for state in runtime.sources() if state.phase is SourcePhase.STARTING]
    if silent:
        return "waiting for " + "; ".join(
            f"{state.name} ({state.error})" if state.error else state.name for state in silent
        )
    idle = [state for state in runtime.targets() if not state.applied_once]
    if idle:
        return "waiting for " + "; ".join(
            f"{state.name} ({state.error})" if state.error else state.name for state in idle
        )
    return "waiting for the first pass"


_M_ARENA_MAX, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -8, -1, -3
_LARGE = 128 << 10


def spare_memory() -> None:
    """Have the C library give memory back. To be called before there are other threads.

    What a start reads comes in megabytes, and goes. glibc would keep it: in an arena for each
    thread, and after the first large block that is freed it stops giving such blocks back.
    """
    library = ctypes.CDLL(None)
    for option, value in (
        (_M_ARENA_MAX, 1),
        (_M_TRIM_THRESHOLD, _LARGE),
        (_M_MMAP_THRESHOLD, _LARGE),
    ):
        with contextlib.suppress(AttributeError):  # another C library
            library.mallopt(option, value)


def tune() -> None:
    """Interpreter settings for a daemon whose threads hand over events.

    A thread that parses a burst holds the interpreter for the switch interval; its default of 5 ms
    is as long as the whole way from event to effect. What has been loaded by now lives as long as
    we do: the collector need not look at it, and need not have run before.
    """
    sys.setswitchinterval(0.0005)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def settle() -> None:
    """What the first lists brought lives long too."""
    gc.collect()
    gc.freeze()
