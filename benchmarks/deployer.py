"""How quick the deployer is: a switch of many balancers, and releases under load on each proxy.

The floor of a switch is a bare put, the watch event at as many bare watchers as there are daemons,
and one `set map` by each to the HAProxy of its daemon: on the same crowd, by turns with ours. The
function is called in a process that is warm; what starting Python costs is in a row of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures
from benchmarks.everyone import everyone
from benchmarks.figures import Row, Sample, Switched
from benchmarks.fleet import Fleet, fleet
from benchmarks.releases import Release, releases
from benchmarks.stage import Say
from tests.behaviour.front import FRONTS, Front
from tests.deployer.stage import staged
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.load import Report
from tests.servers.nodeagent import NodeAgent

MOST_RATIO = 3.0
MOST_OWN = 2.0
"""Seconds."""

_IMPORTS = """
import vulcanized.deployer.cli, vulcanized.deployer.cluster, vulcanized.deployer.run
import vulcanized.deployer.progress, vulcanized.etcd, vulcanized.log, vulcanized.settings
"""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured. `turns`, `commands`: two switches each, there and back."""

    fleets: tuple[int, ...] = (1, 10, 50)
    turns: int = 10
    commands: int = 3
    releases: int = 3
    pods: int = 20


QUICK = Extent((2,), 1, 1, 1, 4)


def measure(folder: Path, say: Say, extent: Extent, rows: list[Row]) -> None:
    """Add a row for each figure, as soon as it is known."""
    with Etcd() as etcd:
        switches(folder, etcd, say, extent, rows)
        say("starting a Kubernetes control plane and its nodes")
        with ControlPlane(progress=say) as cluster, NodeAgent(cluster) as nodes:
            released(cluster, nodes, etcd, say, extent, rows)


def switches(folder: Path, etcd: Etcd, say: Say, extent: Extent, rows: list[Row]) -> None:
    """An app switched on fleets of daemons, by the function and by the command."""
    with everyone() as port, fleet(folder, etcd, port) as daemons:
        for size in extent.fleets:
            say(f"{size} daemons are to be there")
            daemons.grow(size)
            say(f"{2 * extent.turns} switches of {size}")
            rows += rows_of_switches(size, daemons.switches(extent.turns))
            if size == extent.fleets[0]:
                say(f"{2 * extent.commands} switches by command")
                rows.append(_command(daemons, extent.commands))


def released(
    cluster: ControlPlane,
    nodes: NodeAgent,
    etcd: Etcd,
    say: Say,
    extent: Extent,
    rows: list[Row],
) -> None:
    """Releases on a daemon with each proxy."""
    for kind in FRONTS:
        say(f"{kind.title}: {extent.releases} releases of {extent.pods} pods")
        with (
            _proxy(kind, etcd) as front,
            cluster.namespace() as namespace,
            staged(front.folder, cluster, nodes, etcd, namespace, front) as stage,
        ):
            done, report = releases(stage, extent.releases, extent.pods)
        what = f"{kind.title}: {extent.releases} releases of {extent.pods} pods"
        rows += rows_of_releases(what, done, report)


@contextmanager
def _proxy(kind: type[Front], etcd: Etcd) -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="releases-") as folder, ExitStack() as stack:
        front = kind(Path(folder), etcd)
        stack.callback(front.stop)
        front.start()
        yield front


def rows_of_switches(size: int, samples: Sequence[Switched]) -> list[Row]:
    """The rows of a fleet of this size.

    The goal is about the switch, which is one put as the floor is; what comes before it is shown.
    """
    what = f"last of {size} serves"
    handed = [Sample(each.floor, each.after) for each in samples]
    called = [Sample(each.floor, each.before + each.after) for each in samples]
    proven = figures.spread([each.proven for each in samples])
    return [
        figures.compared(f"switch handed to etcd → {what}", handed, MOST_RATIO),
        figures.compared(f"`Deployer.switch` called → {what}", called),
        Row(f"`Deployer.switch` called → all {size} have proven it ({len(samples)}x)", proven),
    ]


def rows_of_releases(what: str, done: Sequence[Release], report: Report) -> list[Row]:
    """The rows of one proxy's releases."""
    own = statistics.median(each.own for each in done)
    begun = statistics.median(each.begun for each in done)
    whole = statistics.median(each.whole for each in done)
    waits = {
        name: statistics.median(each.waits[name] for each in done if name in each.waits)
        for name in dict.fromkeys(name for each in done for name in each.waits)
    }
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in waits.items())
    return [
        figures.failed(f"{what}, under load", report),
        Row(
            f"{what}, without waiting for pods and drains",
            f"{own:.2f} s, of which {begun:.2f} until its record is there; all {whole:.2f}: {told}",
            goal=f"< {MOST_OWN:g} s",
            ok=own < MOST_OWN,
        ),
    ]


def _command(daemons: Fleet, count: int) -> Row:
    samples = []
    for _ in range(count):
        for took in daemons.commands():
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
            samples.append(Sample(time.monotonic() - began, took))
    what = f"`vulcanized-deployer switch` started → last of {len(daemons.daemons)} serves"
    row = figures.compared(what, samples)
    return Row(row.what, row.ours, f"Python's start and imports {row.floor}", row.ratio)
