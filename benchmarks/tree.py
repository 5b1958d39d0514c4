"""vulcand's tree in etcd, without a vulcand: all of it at once, and one pod of it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import figures, usage
from benchmarks.bare import Bare, Seen
from benchmarks.crowd import Crowd, crowd
from benchmarks.figures import Row, Sample
from benchmarks.pods import NoEffect
from benchmarks.stage import Say
from tests.daemons import Vulcanized
from tests.servers.etcd import Etcd
from tests.servers.wait import eventually
from vulcanized.daemon import tune
from vulcanized.etcd import EtcdClient, connect
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Backend,
    Change,
    DesiredApp,
    Outcome,
    PathKind,
    Route,
    Server,
    ServerState,
    Share,
)
from vulcanized.settings import EtcdSettings, VulcandSettings
from vulcanized.targets.vulcand import VulcandTarget

_ROOT = Path(__file__).parents[1]
_TREE = "vulcand"
_READY = 60.0
_EFFECT = 10.0
_WORK = 0.3  # seconds after its event in which all that it costs is done
_REST = 0.25  # of quiet before the next
_APPS_USED = 10


# --- all at once --------------------------------------------------------------------------------


def whole(apps: int, servers: int, times: int) -> tuple[list[Sample], list[Sample]]:
    """Write a tree of many apps to an empty prefix, by turns as a bare client and as the target.

    Ours is the time from the change being handed to the target until `apply` returns; the target
    leads by then, and has read that nothing is there. The floor writes the same keys; the second
    one while somebody watches them, as each vulcand does and the target has to.
    """
    desired = {one.app: one for one in (_app(number, servers) for number in range(apps))}
    alone: list[Sample] = []
    watched: list[Sample] = []
    with _tuned_as_a_daemon(), Etcd(flush=True) as etcd, Bare(etcd.port) as bare:
        for _ in range(times):
            keys = _keys(etcd, desired)
            without = _floor(etcd, bare, keys)
            with _watcher(etcd):
                floor = _floor(etcd, bare, keys)
            ours = _ours(etcd, desired, len(keys))
            etcd.delete_prefix(f"{_TREE}/")
            etcd.compact()
            alone.append(Sample(without, ours))
            watched.append(Sample(floor, ours))
    return alone, watched


@contextmanager
def _tuned_as_a_daemon() -> Iterator[None]:
    """Both sides under the daemon's settings of the interpreter."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    tune()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)


def _floor(etcd: Etcd, bare: Bare, keys: Mapping[str, bytes]) -> float:
    began = time.monotonic()
    bare.put_all(keys)
    took = time.monotonic() - began
    etcd.delete_prefix(f"{_TREE}/")
    return took


@contextmanager
def _watcher(etcd: Etcd) -> Iterator[None]:
    """A process that watches the tree and does nothing else."""
    command = [sys.executable, "-m", "benchmarks.bare", str(etcd.port), f"{_TREE}/"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, process_group=0
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if not child.stdout.readline():
            raise NoEffect("the bare watch has ended")
        yield
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait()


def _keys(etcd: Etcd, desired: Mapping[AppId, DesiredApp]) -> dict[str, bytes]:
    """What the target writes, in an order that vulcand takes."""
    target, client, _ = _target(etcd)
    with client:
        shown = target.rendered(desired)
    ranks = ("/backend", "/servers/", "/frontend")

    def rank(key: str) -> tuple[int, str]:
        place = 1 if ranks[1] in key else 0 if key.endswith(ranks[0]) else 2
        return place, key

    return {key: shown[key].removesuffix("\n").encode() for key in sorted(shown, key=rank)}


def _ours(etcd: Etcd, desired: Mapping[AppId, DesiredApp], keys: int) -> float:
    target, client, woken = _target(etcd)
    nothing = Change(1, {}, complete=True, since=time.monotonic())

    def leads() -> bool:
        woken.wait(0.1)
        woken.clear()
        applied = target.apply(nothing, time.monotonic())
        return bool(target.standing().leading) and applied.generation == 1

    with client:
        try:
            eventually(leads, _READY)
            began = time.monotonic()
            applied = target.apply(Change(2, desired, complete=True, since=began), began)
            took = time.monotonic() - began
            written = len(client.list_prefix(f"{_TREE}/").items)
            if (applied.outcome, applied.generation) != (Outcome.UPDATED, 2) or written != keys:
                raise NoEffect(f"{written} of {keys} keys were written: {applied}")
        finally:
            target.close(stop_proxy=False)
    return took


def _target(etcd: Etcd) -> tuple[VulcandTarget, EtcdClient, threading.Event]:
    """A target of its own leadership, its client, and what is set when it wants to be called."""
    client = connect(EtcdSettings(endpoints=etcd.endpoints))
    woken = threading.Event()
    target = VulcandTarget(
        VulcandSettings(prefix=_TREE),
        client,
        etcd_prefix="/vulcanized",
        instance="benchmark",
        wake=woken.set,
    )
    return target, client, woken


def _app(number: int, servers: int) -> DesiredApp:
    placed = tuple(
        Server(
            f"app-{number}-{each}-0123abcd",
            f"10.{number >> 8}.{number & 255}.{each}",
            8080,
            ServerState.READY,
            version="1",
        )
        for each in range(1, servers + 1)
    )
    return DesiredApp(
        AppId("default", f"app-{number}"),
        (Route(f"app-{number}.test", PathKind.PREFIX, "/"),),
        (Share(ANY_VERSION, 1),),
        (Backend(ANY_VERSION, placed),),
    )


# --- one pod ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Costs:
    """Of each event, in seconds: until its key in etcd, and of a processor of the daemon."""

    effect: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)


def one_pod(
    folder: Path, say: Say, small: tuple[int, int], large: tuple[int, int], events: int
) -> list[Row]:
    """A pod that comes, by turns with few apps and with many: a row for each of its costs.

    `small` and `large`: apps and pods, each behind an API server and a daemon of its own.
    """
    costs = (_Costs(), _Costs())
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        say(f"{large[0]:,} apps: a start")
        sides: list[tuple[Crowd, Vulcanized, Seen]] = []
        for number, (apps, pods) in enumerate((small, large)):
            here = stack.enter_context(crowd(folder, etcd, 8080, apps, pods))
            prefix = f"tree{number}"
            targets = f'[[targets]]\nkind = "vulcand"\nprefix = "{prefix}"\n'
            daemon = stack.enter_context(here.daemon(targets=targets))
            daemon.process.start()
            daemon.wait_ready(_READY)
            sides.append((here, daemon, stack.enter_context(Seen(etcd.port, prefix))))
        time.sleep(2 * _WORK)
        say(f"a pod more at {small[0]:,} apps and at {large[0]:,}, {events} times, by turns")
        for number in range(events):
            for (here, daemon, seen), cost in zip(sides, costs, strict=True):
                _event(here, daemon, seen, f"app-{number % min(_APPS_USED, here.apps)}", cost)
    what = f"{large[0]:,} apps with {large[1]:,} pods against {small[0]:,} with {small[1]:,}"

    def row(name: str, of: tuple[list[float], list[float]]) -> Row:
        samples = [Sample(*pair) for pair in zip(*of, strict=True)]
        return figures.compared(f"{name}, {what}", samples, 1.2)

    return [
        row("Ready sent → its key in etcd", (costs[0].effect, costs[1].effect)),
        row("processor time of it", (costs[0].work, costs[1].work)),
    ]


def _event(here: Crowd, daemon: Vulcanized, seen: Seen, app: str, cost: _Costs) -> None:
    """A pod comes; it goes again unmeasured."""
    pid = daemon.process.pid
    before, sent = usage.cpu(pid), time.monotonic()
    name, _ = here.fresh_pod(app)
    cost.effect.append(seen.put_of(f"/{name}-", _EFFECT) - sent)
    time.sleep(max(0.0, sent + _WORK - time.monotonic()))
    cost.work.append(usage.cpu(pid) - before)
    here.kubernetes.store.delete("pods", "default", name)
    time.sleep(_REST)
