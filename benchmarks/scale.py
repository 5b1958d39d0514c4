"""10,000 apps with 50,000 pods: what an event costs, a start, memory.

Events are measured by turns at 10 apps and at 10,000, in one run, so that whatever else the machine
does hits both. Processor time is what the kernel counted for the daemon's threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import churn, figures, lists, render, usage
from benchmarks.crowd import Crowd, crowd, host
from benchmarks.everyone import everyone
from benchmarks.figures import Row, Sample
from benchmarks.pods import EFFECT, NoEffect
from benchmarks.probe import Probe
from benchmarks.stage import Say
from benchmarks.startup import steps
from tests.daemons import Vulcanized
from tests.servers.etcd import Etcd
from tests.servers.wait import eventually

MEGABYTE = 1e6
_READY = 120.0
_WORK = 0.3  # seconds after its event in which all but the files is done
_GATHERED = 1.1  # the files, too
_APPS_USED = 10


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    small: tuple[int, int] = (10, 50)
    large: tuple[int, int] = (10_000, 50_000)
    events: int = 30
    lists: int = 7
    relists: int = 10
    settle: float = 12.0  # seconds: what a start writes down lazily is written by then
    fed: int = 100_000
    rendered: tuple[int, int, int] = (1000, 10, 60)
    days: churn.Extent = field(default_factory=churn.Extent)


QUICK = Extent((3, 6), (40, 200), 2, 1, 2, 1.0, 2000, (20, 3, 5), churn.QUICK)


def measure(folder: Path, say: Say, extent: Extent, rows: list[Row]) -> None:
    """Add a row for each figure, as soon as it is known."""
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        port = stack.enter_context(everyone())
        say(f"making {extent.large[0]:,} apps")
        large = stack.enter_context(crowd(folder, etcd, port, *extent.large))
        small = stack.enter_context(crowd(folder, etcd, port, *extent.small))
        say(f"{extent.lists} times {extent.large[1]:,} pods listed")
        rows += _lists(large, extent.lists)
        _daemons(small, large, say, extent, rows)
    say(f"{extent.fed:,} events of a watch")
    rows.append(_fed(extent.fed))
    say("files after one change")
    rows += [
        _rendered("HAProxy", render.haproxy(folder / "haproxy", *extent.rendered), extent, 20),
        # nginx itself needs some 300 ms to load them.
        _rendered("nginx", render.nginx(folder / "nginx", *extent.rendered), extent, 40),
    ]
    churn.measure(folder, say, extent.days, rows)


def _lists(large: Crowd, times: int) -> list[Row]:
    kubeconfig = large.kubernetes.write_kubeconfig(large.folder / "kubeconfig.yaml")
    took = [
        (lists.run("raw", str(large.kubernetes.port)), lists.run("ours", str(kubeconfig)))
        for _ in range(times)
    ]
    what = f"{large.pods:,} pods listed → all in the store"
    return [
        figures.compared(what, [Sample(raw.wall, ours.wall) for raw, ours in took], 2.0),
        figures.compared(
            f"{what}, processor time", [Sample(raw.cpu, ours.cpu) for raw, ours in took], 2.0
        ),
    ]


def _daemons(small: Crowd, large: Crowd, say: Say, extent: Extent, rows: list[Row]) -> None:
    with small.daemon() as quick, large.daemon() as busy:
        quick.start()
        say(f"a start with {large.apps:,} apps")
        rows.append(_start(large, busy))
        time.sleep(extent.settle)
        rows.append(_memory(f"memory there, {_size(large)}", large, busy))
        say(f"{extent.events} events at {small.apps} apps and at {large.apps:,}, by turns")
        rows += _events((small, quick), (large, busy), extent.events)
        say(f"{extent.relists} lists anew")
        for _ in range(extent.relists):
            _relist(large, busy)
        time.sleep(extent.settle)
        what = f"memory after {extent.relists} lists anew, {_size(large)}"
        rows.append(_memory(what, large, busy))


def _size(crowd: Crowd) -> str:
    return f"{crowd.apps:,} apps, {crowd.pods:,} pods"


def _start(large: Crowd, daemon: Vulcanized) -> Row:
    wall = time.time()
    daemon.process.start()
    daemon.wait_ready(_READY)
    # The page says so a moment before the log does.
    eventually(lambda: daemon.log_lines("ready"), _READY)
    at = dict(steps(daemon, wall))
    listed = max(when for step, when in at.items() if step.startswith("listed"))
    ours = (
        f"listed at {listed:.2f} s, decided at {at['synced']:.2f} s, "
        f"in effect at {at['ready']:.2f} s; {usage.cpu(daemon.process.pid):.2f} s of a processor"
    )
    return Row(f"start, {_size(large)}", ours)


def _memory(what: str, large: Crowd, daemon: Vulcanized) -> Row:
    allowed = 80 * MEGABYTE + 1.5 * 1024 * large.pods
    now = usage.memory(daemon.process.pid)
    most = usage.memory(daemon.process.pid, "VmHWM")
    return Row(
        what,
        f"{now / MEGABYTE:.0f} MB; at most {most / MEGABYTE:.0f} MB",
        goal=f"< {allowed / MEGABYTE:.0f} MB",
        ok=now < allowed,
    )


def _relist(large: Crowd, daemon: Vulcanized) -> None:
    """Make the watch of pods lose its place, and wait until they are listed again."""

    def listed() -> bool:
        return len(daemon.log_lines("listed")) > before

    before = len(daemon.log_lines("listed"))
    # What changed meanwhile is forgotten, so the watch cannot be resumed.
    large.kubernetes.stop()
    large.fresh_pod("app-0")
    large.kubernetes.store.compact()
    large.kubernetes.start()
    eventually(listed, _READY, "pods are listed again", interval=0.1)


# --- events -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Costs:
    """Of each event, in seconds: until its effect; of a processor without and with its files."""

    effect: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)


def _events(
    small: tuple[Crowd, Vulcanized], large: tuple[Crowd, Vulcanized], events: int
) -> list[Row]:
    costs = (_Costs(), _Costs())
    with Probe(small[1].port) as one, Probe(large[1].port) as other:
        for number in range(events):
            for (crowd_, daemon), probe, cost in zip(
                (small, large), (one, other), costs, strict=True
            ):
                app = f"app-{number % min(_APPS_USED, crowd_.apps)}"
                _event(crowd_, daemon, probe, app, cost)
    what = f"at {large[0].apps:,} apps against {small[0].apps}"

    def row(name: str, of: Sequence[list[float]], most: float | None = None) -> Row:
        samples = [Sample(*pair) for pair in zip(*of, strict=True)]
        return figures.compared(f"{name}, {what}", samples, most)

    return [
        row("Ready sent → first answer", [each.effect for each in costs], 1.2),
        row("processor time of one event", [each.work for each in costs], 1.2),
        row("the same, with its files", [each.files for each in costs]),
    ]


def _event(crowd_: Crowd, daemon: Vulcanized, probe: Probe, app: str, cost: _Costs) -> None:
    """A pod comes; it goes again unmeasured."""
    pid = daemon.process.pid
    before, sent = usage.cpu(pid), time.monotonic()
    name, address = crowd_.fresh_pod(app)
    for answer in probe.answers(host(app), sent + EFFECT):
        if answer.pod == address:
            break
    else:
        raise NoEffect(f"{name} of {app} was ready and has not answered")
    time.sleep(max(0.0, sent + _WORK - time.monotonic()))
    work = usage.cpu(pid) - before
    time.sleep(max(0.0, sent + _GATHERED - time.monotonic()))
    cost.effect.append(answer.at - sent)
    cost.work.append(work)
    cost.files.append(usage.cpu(pid) - before)
    crowd_.kubernetes.store.delete("pods", "default", name)
    time.sleep(_GATHERED)


# --- parts ------------------------------------------------------------------------------------


def _fed(events: int) -> Row:
    took = lists.run("feed", str(events))
    return Row(
        "bytes of a watch → store, one thread",
        f"{events / took.cpu:,.0f} events for a second of a processor; {events / took.wall:,.0f} "
        "in a second",
        goal="> 20,000",
        ok=events / took.cpu > 20_000,
    )


def _rendered(proxy: str, samples: Sequence[Sample], extent: Extent, most: float) -> Row:
    apps, servers, _ = extent.rendered
    row = figures.compared(
        f"{proxy}: one app changed → files ready and flushed, {apps:,} apps x {servers} servers",
        samples,
    )
    ok = statistics.median(sample.ours for sample in samples) < most / 1000
    return Row(row.what, row.ours, row.floor, row.ratio, f"< {most:g} ms", ok)
