"""The same changes on every proxy at several sizes, against what each proxy alone takes for them.

Ours is from the put, or from Ready being told, until clients see it: through the API server, the
daemon and the proxy. The floor is the proxy by itself (`benchmarks.twins`), by turns with ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures
from benchmarks.bare import Bare
from benchmarks.crowd import Crowd, crowd, host
from benchmarks.everyone import everyone
from benchmarks.figures import Row, Sample
from benchmarks.stage import Say
from benchmarks.twins import ALONE, EFFECT, PAIR, VERSIONS, Pods, Twin, ask, first, last, twin_of
from tests.behaviour.front import FRONTS, Front, Nginx
from tests.daemons import Vulcanized
from tests.servers.etcd import Etcd
from tests.servers.load import Load
from tests.servers.wait import eventually

_READY = 120.0
_CALM = 0.7
"""Seconds between two changes: each is the first after a calm."""
_PODS = 2
"""Of each app."""
_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured. `pods` come in a burst, and over `spread` seconds."""

    sizes: tuple[int, ...] = (10, 100, 1000)
    changes: int = 10
    pods: int = 100
    spread: float = 60.0
    switches: int = 100
    replacements: int = 40
    keep_alive: tuple[int, ...] = (0, 10, 60)
    reloads: int = 20


QUICK = Extent((4,), 2, 4, 1.0, 4, 2, (0,), 2)


def measure(folder: Path, say: Say, extent: Extent, rows: list[Row]) -> None:
    """Add a row for each figure, as soon as it is known."""
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        bare = stack.enter_context(Bare(etcd.port))
        port = stack.enter_context(everyone())
        for apps in extent.sizes:
            here = stack.enter_context(crowd(folder, etcd, port, apps, apps * _PODS))
            for kind in FRONTS:
                say(f"{kind.title}, {apps:,} apps")
                with _served(kind(_made(folder / f"{kind.kind}-{apps}"), etcd), here) as bench:
                    with twin_of(bench.front, bare, bench.pods) as twin:
                        rows += bench.changes(twin, extent.changes)
                    if apps == extent.sizes[0]:
                        say(f"{kind.title}: counted")
                        rows += bench.counts(extent)
        small = stack.enter_context(crowd(folder, etcd, port, 3, 6))
        for seconds in extent.keep_alive:
            say(f"nginx, keep_alive = {seconds}")
            front = Nginx(_made(folder / f"kept-{seconds}"), etcd)
            with _served(front, small, f"keep_alive = {seconds}\n") as bench:
                rows.append(bench.kept(seconds, extent.reloads))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def _served(front: Front, here: Crowd, more: str = "") -> Iterator[Bench]:
    front.start()
    try:
        with here.daemon(targets=front.settings + more) as daemon:
            daemon.process.start()
            daemon.wait_ready(_READY)
            yield Bench(here, front, daemon)
    finally:
        front.stop()


class Bench:
    """A daemon before one proxy, with an app of two versions, and what is done to it."""

    def __init__(self, here: Crowd, front: Front, daemon: Vulcanized) -> None:
        self.here = here
        self.front = front
        self.daemon = daemon
        self._made = 0
        pair = {version: here.fresh_pod(PAIR, version)[1] for version in VERSIONS}
        self.pods = Pods(here.port, pair, lambda: here.fresh()[1])
        self._put(PAIR)
        self._activate(PAIR, VERSIONS[0])
        self._answered_by(PAIR, pair[VERSIONS[0]])
        self._settled()

    # --- each change, by turns with the floor --------------------------------------------------

    def changes(self, twin: Twin, count: int) -> list[Row]:
        """An app that comes, a switch, a pod that comes: `count` times each."""
        apps, pods = (1.5 if reloads else None for reloads in (twin.reloads, twin.reloads_for_pods))
        kinds: tuple[tuple[str, Callable[[], float], Callable[[], float], float | None], ...] = (
            ("app put → last answer without it", self.new_app, twin.app, apps),
            ("switch put → last old answer", self.switch, twin.switch, None),
            ("Ready sent → first answer", self.new_pod, twin.pod, None),
            ("DELETE sent → last answer", self.gone_pod, twin.gone, pods),
        )
        rows = []
        for name, ours, floor, most in kinds:
            samples = []
            for _ in range(count):
                time.sleep(_CALM)
                taken = floor()
                time.sleep(_CALM)
                samples.append(Sample(taken, ours()))
            what = f"{self.front.title}: {name}, {self.here.apps:,} apps"
            rows.append(figures.compared(what, samples, most))
        return rows

    def new_app(self) -> float:
        """A config is put for an app whose pods are there."""
        app = self._name()
        self.here.fresh_pod(app)
        time.sleep(_CALM)
        sent = time.monotonic()
        self._put(app)
        return last(self.front.port, host(app), lambda said: said.status != 200) - sent

    def switch(self) -> float:
        """An app is switched to its other version."""
        blue, green = VERSIONS
        old, new = (
            (blue, green)
            if ask(self.front.port, host(PAIR)).pod == self.pods.pair[blue]
            else (green, blue)
        )
        before = self.pods.pair[old]
        sent = time.monotonic()
        self._activate(PAIR, new)
        return last(self.front.port, host(PAIR), lambda said: said.pod == before) - sent

    def new_pod(self) -> float:
        """An app gets a pod more."""
        sent = time.monotonic()
        _, address = self.here.fresh_pod(ALONE)
        return self._answered_by(ALONE, address) - sent

    def gone_pod(self) -> float:
        """That app loses a pod."""
        name, address = self.here.fresh_pod(ALONE)
        self._answered_by(ALONE, address)
        self._settled()
        sent = time.monotonic()
        self.here.kubernetes.store.delete("pods", "default", name)
        return last(self.front.port, host(ALONE), lambda said: said.pod == address) - sent

    # --- counted --------------------------------------------------------------------------------

    def counts(self, extent: Extent) -> list[Row]:
        """Reloads for pods in a burst and spread, failed requests under load."""
        title, pods = self.front.title, extent.pods
        burst = self._reloads_of(pods, 0.0)
        spread = self._reloads_of(pods, extent.spread)
        return [
            Row(f"{title}: reloads for {pods} pods in a burst", str(burst)),
            Row(f"{title}: reloads for {pods} pods over {extent.spread:g} s", str(spread)),
            self._switched(extent.switches),
            self._replaced(extent.replacements),
        ]

    def _reloads_of(self, pods: int, seconds: float) -> int:
        app = self._name()
        self.here.fresh_pod(app)
        self._put(app)
        eventually(lambda: ask(self.front.port, host(app)).status == 200, EFFECT)
        self._settled()
        before, began = self._reloads(), time.monotonic()
        for number in range(pods):
            time.sleep(max(0.0, began + seconds * number / pods - time.monotonic()))
            _, address = self.here.fresh_pod(app)
        self._answered_by(app, address)
        self._settled()
        return self._reloads() - before

    def _switched(self, count: int) -> Row:
        with Load(self.front.port, host(PAIR), pause=0.01) as load:
            load.go_on()
            for _ in range(count):
                self.switch()
                load.go_on(20)
            load.go_on()
        return figures.failed(f"{self.front.title}: {count} switches under load", load.report)

    def _replaced(self, count: int) -> Row:
        app = self._name()
        pods = [self.here.fresh_pod(app) for _ in range(3)]
        self._put(app)
        self._answered_by(app, pods[-1][1])
        # The first answer is the new config's, and workers of before may answer once more.
        self._settled()
        with Load(self.front.port, host(app), pause=0.01) as load:
            load.go_on()
            for _ in range(count):
                pods.append(self.here.fresh_pod(app))
                self._answered_by(app, pods[-1][1])
                self.here.kubernetes.store.delete("pods", "default", pods.pop(0)[0])
                load.go_on(20)
            load.go_on()
        return figures.failed(f"{self.front.title}: {count} pods replaced under load", load.report)

    def kept(self, seconds: int, reloads: int) -> Row:
        """Requests of busy keep-alive clients that fail over reloads."""
        with Load(self.front.port, host(ALONE), keep_alive=_CLIENTS, one_shot=0) as load:
            load.go_on()
            for _ in range(reloads):
                time.sleep(_CALM)
                self.new_pod()
            load.go_on()
        row = figures.failed(
            f"nginx: {reloads} reloads, {_CLIENTS} clients, keep_alive = {seconds}", load.report
        )
        return row if not seconds else Row(row.what, row.ours)

    # --- parts ----------------------------------------------------------------------------------

    def _name(self) -> str:
        self._made += 1
        return f"new-{self.front.kind}-{self.here.apps}-{self._made}"

    def _put(self, app: str) -> None:
        self.here.etcd.put(self.here.config_key(app), self.here.config(app))

    def _activate(self, app: str, version: str) -> None:
        self.here.etcd.put(f"{self.here.prefix}/active/default/{app}", version)

    def _answered_by(self, app: str, address: str) -> float:
        return first(self.front.port, host(app), lambda said: said.pod == address)

    def _settled(self) -> None:
        def settled() -> bool:
            status = self.daemon.status()
            return bool(status["targets"][0]["generation"] == status["generation"])

        time.sleep(_CALM)
        eventually(settled, EFFECT, "all is in effect")

    def _reloads(self) -> int:
        (target,) = self.daemon.status()["targets"]
        return sum(target["reloads"].values())
