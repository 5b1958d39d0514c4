"""How quick vulcand follows: pods and switches through it, and its tree in etcd without it.

The floor of what goes through vulcand is the raw watch line, and a raw put to etcd of the one key
that it takes until vulcand answers so: in the same run, by turns, on the same etcd and vulcand.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, switches, tree
from benchmarks.bare import Bare
from benchmarks.everyone import everyone
from benchmarks.figures import Row, Sample
from benchmarks.pods import EFFECT, NoEffect, Pods
from benchmarks.probe import Probe
from benchmarks.stage import REPLICAS, Say, Stage, set_up
from tests.servers.build import VULCAND
from tests.servers.vulcand import Vulcand
from tests.servers.wait import eventually

_CALM = 0.15
_HOST = "floor.test"
_PODS = ("127.250.0.1", "127.250.0.2")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured. `turns`: how often ours and the floor are measured by turns."""

    apps: int = 10
    turns: int = 4
    pods: int = 6
    churn: float = 10.0
    switches: int = 8
    switches_under_load: int = 100
    replacements: int = 40
    written: tuple[int, int, int] = (1000, 10, 7)
    small: tuple[int, int] = (10, 100)
    large: tuple[int, int] = (1000, 10_000)
    events: int = 30


QUICK = Extent(4, 1, 2, 0.3, 2, 4, 2, (20, 3, 1), (3, 6), (20, 60), 2)


def version() -> str:
    """Which vulcand it is, as its lock says."""
    lock = (VULCAND.folder / "go.mod").read_text()
    found = re.search(rf"{re.escape(VULCAND.package)} v(\S+)", lock)
    return f"vulcand {found[1] if found else '?'}"


def measure(folder: Path, say: Say, extent: Extent, rows: list[Row]) -> None:
    """Add a row for each figure, as soon as it is known."""
    with ExitStack() as stack:
        stage = stack.enter_context(set_up(say))
        port = stack.enter_context(everyone())
        served(stage, port, extent, rows)
    apps, servers, times = extent.written
    what = f"{apps:,} apps x {servers} servers written to an empty tree"
    say(f"{what}, {times} times")
    alone, watched = tree.whole(apps, servers, times)
    rows.append(figures.compared(what, alone, 1.5))
    rows.append(figures.compared("the same, a floor that is watched, as by a vulcand", watched))
    rows += tree.one_pod(folder, say, extent.small, extent.large, extent.events)


def served(stage: Stage, port: int, extent: Extent, rows: list[Row]) -> None:
    """What goes through vulcand. `port`: where every address of 127/8 answers, see `everyone`."""
    stage.grow(extent.apps)
    what = f"{extent.apps} apps"
    with (
        Vulcand(stage.etcd.endpoint, progress=stage.say) as vulcand,
        Bare(stage.etcd.port) as bare,
        stage.daemon(vulcand) as daemon,
        Probe(vulcand.port) as probe,
    ):
        floor = _Floor(bare, probe, vulcand.prefix, port)
        daemon.start()
        with Pods(stage, daemon) as pods:
            stage.say(f"{what}: {extent.turns * extent.pods} pods replaced, well apart")
            ready: list[Sample] = []
            deleted: list[Sample] = []
            puts: list[float] = []
            for _ in range(extent.turns):
                came, went = pods.calm(extent.pods)
                fresh = floor.servers(extent.pods)
                ready += _with(came, fresh)
                deleted += went
                puts += fresh
            rows.append(figures.compared(f"Ready sent → first answer, calm, {what}", ready, 3.0))
            stage.say(f"{what}: a pod ready every 0.1 s, for {extent.churn:g} s")
            churned = _with(pods.churn(extent.churn), puts)
            rows.append(figures.compared(f"Ready sent → first answer, churn, {what}", churned))
            rows.append(figures.compared(f"DELETE sent → last answer, {what}", deleted))
        stage.say(f"{what}: {extent.turns * extent.switches} switches, well apart")
        switched: list[Sample] = []

        def active(version: str) -> None:
            bare.put(stage.active, version.encode())

        for _ in range(extent.turns):
            bares = floor.switches(extent.switches)
            ours = switches.effects(daemon, active, extent.switches)
            switched += [
                Sample(floor_, first - sent)
                for floor_, (sent, first) in zip(bares, ours, strict=True)
            ]
        rows.append(figures.compared(f"switch put → first answer, {what}", switched, 3.0))
        stage.say(f"{what}: {extent.switches_under_load} switches under load")
        report = switches.switches_under_load(stage, daemon, extent.switches_under_load)
        rows.append(
            figures.failed(f"{extent.switches_under_load} switches under load, {what}", report)
        )
        stage.say(f"{what}: {extent.replacements} pods replaced under load")
        report = switches.replacements_under_load(stage, daemon, extent.replacements)
        rows.append(
            figures.failed(f"{extent.replacements} pods replaced under load, {what}", report)
        )


def _with(watched: Sequence[Sample], puts: Sequence[float]) -> list[Sample]:
    """The same with a put added to what the bare watch took."""
    return [
        Sample(sample.floor + puts[number % len(puts)], sample.ours)
        for number, sample in enumerate(watched)
    ]


class _Floor:
    """An app of nobody's, whose keys are put by hand: one frontend, two backends with a server."""

    def __init__(self, bare: Bare, probe: Probe, prefix: str, port: int) -> None:
        self._bare = bare
        self._probe = probe
        self._prefix = prefix
        self._port = port
        for backend, pod in zip(_BACKENDS, _PODS, strict=True):
            self._put(f"backends/{backend}/backend", {"Type": "http"})
            self._put(f"backends/{backend}/servers/first", self._server(pod))
        self._lead(_BACKENDS[0])
        eventually(lambda: self._first(_PODS[0]), EFFECT, ignore=(OSError, NoEffect))

    def servers(self, count: int) -> list[float]:
        """Seconds from the put of a server to its first answer, beside one that is there."""
        assert len(_PODS) == REPLICAS  # as a pod of ours is
        took = []
        key = f"backends/{_BACKENDS[0]}/servers/second"
        for _ in range(count):
            time.sleep(_CALM)
            sent = time.monotonic()
            self._put(key, self._server(_PODS[1]))
            took.append(self._first(_PODS[1]) - sent)
            self._bare.delete(f"{self._prefix}/{key}")
        return took

    def switches(self, count: int) -> list[float]:
        """Seconds from the put of the frontend to the first answer of the other backend."""
        took = []
        for number in range(1, count + 1):
            time.sleep(_CALM)
            sent = time.monotonic()
            self._lead(_BACKENDS[number % 2])
            took.append(self._first(_PODS[number % 2]) - sent)
        self._lead(_BACKENDS[0])
        return took

    def _lead(self, backend: str) -> None:
        frontend = {"Type": "http", "BackendId": backend, "Route": f'Host("{_HOST}")'}
        self._put("frontends/floor/frontend", frontend)

    def _server(self, pod: str) -> dict[str, str]:
        return {"URL": f"http://{pod}:{self._port}"}

    def _put(self, key: str, value: dict[str, str]) -> None:
        self._bare.put(f"{self._prefix}/{key}", json.dumps(value).encode())

    def _first(self, pod: str) -> float:
        for answer in self._probe.answers(_HOST, time.monotonic() + EFFECT):
            if answer.pod == pod:
                return answer.at
        raise NoEffect(f"{pod} has not answered within {EFFECT:g} s of its put")


_BACKENDS = ("floor-blue", "floor-green")
