"""Many daemons with a HAProxy each, one app of two versions, and beside each a bare watcher.

Each daemon is `vulcanized run` as an operator starts it, on a real etcd and one fake API server,
under a name of its own: a deployer waits for the report of every one. The watchers are the floor:
each waits for a key and then sends one `set map` to the HAProxy of its daemon, on the entry of the
app and to what it says already. So whatever the crowd costs the machine, both sides bear it.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.bare import Bare
from benchmarks.children import Child
from benchmarks.crowd import Crowd, crowd
from benchmarks.figures import Switched
from benchmarks.floor import Floor, KeyWatch
from benchmarks.pods import NoEffect
from benchmarks.probe import Probe
from benchmarks.switcher import Switching
from tests.daemons import Vulcanized
from tests.deployer.stage import PROGRAM
from tests.fakes import manifests
from tests.servers.etcd import Etcd
from tests.servers.wait import eventually
from vulcanized.model import AppId
from vulcanized.targets.haproxy.parts import ACTIVE
from vulcanized.targets.haproxy.words import backend_id

APP: Final = "pair"
HOST: Final = f"{APP}.test"
VERSIONS: Final = ("blue", "green")

_CALM = 1.5
"""Seconds between two switches: reports are written and files are flushed by then."""
_SERVED = 0.7
"""Seconds after which all have done what they were told."""
_AT_ONCE = 4
_READY = 120.0
_LONGEST = 60.0
_DRAIN = 10


class Fleet:
    """Daemons, more and more of them; a context manager that ends all of them."""

    def __init__(self, here: Crowd, etcd: Etcd) -> None:
        self.here = here
        self.daemons: list[Vulcanized] = []
        self.pods = {version: here.fresh_pod(APP, version)[1] for version in VERSIONS}
        self._etcd = etcd
        self._stack = ExitStack()
        self._floors: list[Floor] = []
        self._floor_key = f"{here.prefix}-floor/active"
        self._active = f"{here.prefix}/active/default/{APP}"
        for version in VERSIONS:
            name = f"{APP}-{version}"
            controller = manifests.controller("ReplicationController", name, APP, version)
            here.kubernetes.store.create("replicationcontrollers", controller)
        etcd.put(here.config_key(APP), here.config(APP))
        etcd.put(self._active, VERSIONS[0])
        self.settings = here.folder / "deployer.toml"
        self.settings.write_text(here.sides + f"\n[deployer]\ndrain_timeout = {_DRAIN}\n")
        self._bare = self._stack.enter_context(Bare(etcd.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def grow(self, count: int) -> None:
        """Have so many daemons, all in step and reporting, and as many watchers."""
        while len(self.daemons) < count:
            first = len(self.daemons)
            names = [f"edge-{n}" for n in range(first, min(count, first + _AT_ONCE))]
            fresh = [self._stack.enter_context(self.here.daemon(instance=name)) for name in names]
            for daemon in fresh:
                daemon.process.start()
            for daemon in fresh:
                daemon.wait_ready(_READY)
            self.daemons += fresh
        for daemon in self.daemons[len(self._floors) :]:
            self._floors.append(self._stack.enter_context(Floor(self._watch_of(daemon))))
        prefix = f"{self.here.prefix}/instances/"
        eventually(
            lambda: len(self._etcd.list(prefix)) == len(self.daemons), _READY, "a report of each"
        )

    def _watch_of(self, daemon: Vulcanized) -> KeyWatch:
        map_, app = daemon.directory / ACTIVE, AppId("default", APP)
        command = f"@1 set map {map_} {app} {backend_id(app, VERSIONS[0])}"
        return KeyWatch(self._etcd.port, self._floor_key, str(daemon.master_socket), command)

    def switches(self, turns: int) -> list[Switched]:
        """There and back, `turns` times, each beside a put that the watchers wait for."""
        config = Switching(str(self.settings), f"default/{APP}")
        samples = []
        with Child("benchmarks.switcher", config) as switcher:
            for number in range(-1, turns):
                floors = [self._floor(), self._floor()]
                ours = [self._switch(switcher, version) for version in reversed(VERSIONS)]
                if number >= 0:  # before that, connections are made
                    samples += [
                        Switched(floor, **moments)
                        for floor, moments in zip(floors, ours, strict=True)
                    ]
        return samples

    def _floor(self) -> float:
        """Seconds from a bare put until the last watcher's HAProxy has set its map."""
        time.sleep(_CALM)
        sent = time.monotonic()
        revision = str(self._bare.put(self._floor_key, b"x"))
        # To ask the watchers any earlier would slow them down.
        time.sleep(_SERVED)
        done: list[float] = [
            floor.moments("put", [revision])[revision][1] for floor in self._floors
        ]
        return max(done) - sent

    def _switch(self, switcher: Child, version: str) -> dict[str, float]:
        time.sleep(_CALM)
        logs = self._logs()
        switcher.ask(version)
        told: dict[str, Any] = switcher.answer(_LONGEST)
        if told["reason"]:
            raise NoEffect(told["reason"])
        last, called = self._last(logs, version), told["called"]
        return {
            "before": told["handed"] - called,
            "after": last - told["handed"],
            "proven": told["over"] - called,
        }

    def commands(self) -> Iterator[float]:
        """There and back, from the start of `vulcanized-deployer switch` until the last serves."""
        for version in reversed(VERSIONS):
            yield self._command(version)

    def _command(self, version: str) -> float:
        time.sleep(_CALM)
        logs = self._logs()
        command = [*PROGRAM, "switch", f"default/{APP}", version, "--config", str(self.settings)]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, timeout=_LONGEST)
        return self._last(logs, version) - began

    def _logs(self) -> list[_Tail]:
        return [_Tail(daemon.process.log) for daemon in self.daemons]

    def _last(self, logs: Sequence[_Tail], version: str) -> float:
        """When the last daemon's HAProxy had confirmed the switch, by the daemons' word.

        To ask fifty proxies over and over would take the processors away from those that are to
        switch. So each is asked afterwards, once.
        """
        time.sleep(_SERVED)
        if not self._serves(version):
            raise NoEffect(f"not every proxy serves {version}, and all have switched")
        return max(log.first("applied") for log in logs)

    def _serves(self, version: str) -> bool:
        """Whether every proxy does."""
        pods = set()
        for daemon in self.daemons:
            with Probe(daemon.port) as probe:
                pods.add(probe.ask(HOST).pod)
        return pods == {self.pods[version]}


class _Tail:
    """What is added to a log from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = path.stat().st_size

    def first(self, message: str) -> float:
        """The monotonic moment of the first line with this message."""
        with self._path.open("rb") as file:
            file.seek(self._begin)
            for text in file:
                line = json.loads(text) if text.startswith(b"{") else {}
                if line.get("message") == message:
                    moment = dt.datetime.fromisoformat(line["@timestamp"]).timestamp()
                    return moment - time.time() + time.monotonic()
        raise NoEffect(f"{self._path} does not say {message!r}")


@contextmanager
def fleet(folder: Path, etcd: Etcd, port: int) -> Iterator[Fleet]:
    """A fleet of no daemons yet; `port`: where every address of 127/8 answers."""
    with crowd(folder, etcd, port, 1, 1) as here, Fleet(here, etcd) as made:
        yield made
