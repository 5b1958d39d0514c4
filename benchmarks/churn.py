"""A day in the life of a daemon, in minutes: nothing that it uses may grow by it.

Every hour pods are replaced by a new version, which traffic switches to, back and forth; configs
are edited, some of them badly; apps go, and others come; watches end, pods are listed anew, etcd is
compacted. No name, address, version or host ever comes again: what is kept by any of them shows.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import usage
from benchmarks.crowd import Crowd, crowd
from benchmarks.everyone import everyone
from benchmarks.figures import Row
from benchmarks.stage import Say
from tests.daemons import Vulcanized
from tests.fakes import manifests
from tests.servers.etcd import Etcd
from tests.servers.wait import eventually

MEGABYTE = 1e6
_IN_STEP = 60.0
_WATCH = 1.2  # seconds that a watch lasts, longer than what counts as refused
_FORGETS = 1.0  # a change, and a look at what was told to go


@dataclass(frozen=True, slots=True)
class Extent:
    """A day: hours, and what happens in each of them."""

    hours: int = 24
    apps: int = 40
    pods: int = 3
    released: int = 14  # x 3 pods x 24 hours: 1,008 pods a day
    switches: int = 84
    edits: int = 20
    renewed: int = 6
    watches: int = 9  # 216 a day, one every 7 minutes
    lists: int = 6  # hours between two lists: after a failure the next one is waited for


QUICK = Extent(3, apps=4, released=1, switches=2, edits=1, renewed=1, watches=1, lists=2)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the daemon uses in a calm moment. `inside`: see `inside`."""

    memory: int
    descriptors: int
    threads: int
    disk: int
    rows: int
    inside: dict[str, int]


def measure(folder: Path, say: Say, extent: Extent, rows: list[Row]) -> None:
    """Live a day; a row for each thing that must not grow from its first third to its end."""
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        port = stack.enter_context(everyone())
        at = stack.enter_context(crowd(folder, etcd, port, extent.apps, 0))
        at.kubernetes.longest_watch = _WATCH
        target = at.folder / "sizes.json"
        program = (sys.executable, "-m", "benchmarks.inside", str(target))
        daemon = stack.enter_context(at.daemon(program=program))
        day = Day(at, daemon, extent, target)
        daemon.start()
        seen = []
        for hour in range(extent.hours):
            day.hour()
            seen.append(day.seen())
            now = seen[-1]
            say(
                f"hour {hour + 1}: {now.memory / MEGABYTE:.1f} MB, {now.descriptors} descriptors, "
                f"{now.threads} threads, {sum(now.inside.values()):,} things"
            )
        what = f"a day: {day.released} pods, {day.switched} switches, {day.watches} watches"
        rows += compare(what, seen)


def compare(what: str, seen: Sequence[Seen]) -> list[Row]:
    """The hours up to a third against the last ones."""
    third = max(1, len(seen) // 3)
    before, after = seen[third - 1 : 2 * third - 1] or seen[:1], seen[-third:]

    def middle(values: Sequence[int]) -> float:
        return statistics.median(values)

    def row(name: str, field: str, most: float, scale: float = 1, unit: str = "") -> Row:
        old, new = (middle([getattr(each, field) for each in part]) for part in (before, after))
        return Row(
            f"{name} after {what}",
            f"{new / scale:.4g}{unit}",
            f"{old / scale:.4g}{unit} after a third",
            goal=f"at most {most / scale:.3g}{unit} more" if most else "no more",
            ok=new - old <= most,
        )

    grown = {
        way: [middle([each.inside.get(way, 0) for each in part]) for part in (before, after)]
        for way in {way for each in seen for way in each.inside}
    }
    worse = sorted(
        f"{way} ({old:.0f} → {new:.0f})"
        for way, (old, new) in grown.items()
        if new > 1.25 * old + 10
    )
    return [
        row("memory", "memory", 2 * MEGABYTE, MEGABYTE, " MB"),
        row("descriptors", "descriptors", 2),
        row("threads", "threads", 1),
        row("state on disk", "disk", 128 << 10, 1024, " KiB"),
        row("rows in the state", "rows", 10),
        Row(
            f"containers after {what}",
            "; ".join(worse) or "none has grown",
            f"{len(seen[-1].inside)} looked at",
            goal="none grown",
            ok=not worse,
        ),
    ]


class Day:
    """What happens, by the hour. Apps are numbered, and so is everything else."""

    def __init__(self, at: Crowd, daemon: Vulcanized, extent: Extent, sizes: Path) -> None:
        self.released = self.switched = self.watches = self._hours = 0
        self._at = at
        self._daemon = daemon
        self._extent = extent
        self._sizes = sizes
        self._versions: dict[str, list[str]] = {}
        self._pods: dict[str, list[str]] = {}
        self._made = 0
        for app in at.names:
            self._release(app)

    def hour(self) -> None:
        """Everything of an hour, and the daemon in step after it."""
        extent = self._extent
        began = self._watched()
        for _ in range(extent.renewed):
            self._end(next(iter(self._versions)))
            self._release(self._new("app"))
        apps = [*self._versions]
        for app in apps[-extent.released :]:
            self._release(app)
        for number in range(extent.switches):
            app = apps[number % len(apps)]
            self._switch(app, self._versions[app][-1 - number // len(apps) % 2 :][0])
        for number in range(extent.edits):
            bad = number % 4 == 0
            self._configure(apps[number % len(apps)], bad=bad)
        for app in apps:
            self._configure(app)
            self._switch(app, self._versions[app][-1])
            self._retire(app)
        self._at.etcd.compact()
        eventually(lambda: self._watched() >= began + 4 * extent.watches, _IN_STEP, "watches end")
        self.watches += extent.watches
        self._hours += 1
        if self._hours % extent.lists == 0:
            # Its place is lost while it is away: a list anew.
            self._at.kubernetes.stop()
            self._release(apps[0])
            self._switch(apps[0], self._versions[apps[0]][-1])
            self._at.kubernetes.store.compact()
            self._at.kubernetes.start()
        eventually(self._in_step, _IN_STEP, self._behind, interval=0.2)

    def seen(self) -> Seen:
        """What is used now."""
        time.sleep(_FORGETS)
        pid = self._daemon.process.pid
        self._sizes.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        eventually(self._sizes.exists, _IN_STEP, self._daemon.process.log_tail)
        state = self._daemon.directory / "state"
        return Seen(
            usage.memory(pid),
            usage.descriptors(pid),
            usage.threads(pid),
            sum(file.stat().st_size for file in state.iterdir() if file.suffix == ".db"),
            sum(_rows(file) for file in state.glob("*.db")),
            json.loads(self._sizes.read_text()),
        )

    # --- what happens -------------------------------------------------------------------------

    def _new(self, what: str) -> str:
        self._made += 1
        return f"{what}-{self._made}"

    def _release(self, app: str) -> None:
        """A new version, with its pods and its controller."""
        version = self._new("v")
        if app not in self._versions:
            self._configure(app)
        store = self._at.kubernetes.store
        store.create(
            "replicasets", manifests.controller("ReplicaSet", f"{app}-{version}", app, version)
        )
        for _ in range(self._extent.pods):
            pod = self._new("pod")
            ip = f"127.{self._made >> 16 & 63 | 64}.{self._made >> 8 & 255}.{self._made & 255}"
            store.create("pods", manifests.pod(f"{app}-{pod}", app, version, ip=ip))
            self._pods.setdefault(f"{app} {version}", []).append(f"{app}-{pod}")
            self.released += 1
        self._versions.setdefault(app, []).append(version)

    def _retire(self, app: str) -> None:
        """All versions but the newest go."""
        *old, newest = self._versions[app]
        for version in old:
            self._remove(app, version)
        self._versions[app] = [newest]

    def _remove(self, app: str, version: str) -> None:
        store = self._at.kubernetes.store
        for pod in self._pods.pop(f"{app} {version}"):
            store.delete("pods", "default", pod)
        store.delete("replicasets", "default", f"{app}-{version}")

    def _end(self, app: str) -> None:
        """The app goes, and all that mentions it."""
        for version in self._versions.pop(app):
            self._remove(app, version)
        for kind in ("apps", "active"):
            self._at.etcd.delete(f"{self._at.prefix}/{kind}/default/{app}")

    def _configure(self, app: str, *, bad: bool = False) -> None:
        host = f"{self._new('host')}.test"
        config = {"hosts": [host], "port": self._at.port, "paths": ["/", f"/{self._new('path')}"]}
        text = json.dumps({**config, "hosts": ["no host"]} if bad else config)
        self._at.etcd.put(self._at.config_key(app), text)

    def _switch(self, app: str, version: str) -> None:
        self._at.etcd.put(f"{self._at.prefix}/active/default/{app}", version)
        self.switched += 1

    # --- what is awaited ----------------------------------------------------------------------

    def _watched(self) -> int:
        return self._at.kubernetes.count("watch")

    def _in_step(self) -> bool:
        return not self._behind()

    def _behind(self) -> str:
        """What of the apps is not as it was made, "" when all is."""
        document = self._daemon.status()
        there = {each["name"]: each for each in document["apps"]}
        if there.keys() != self._versions.keys():
            return f"apps: {sorted(there.keys() ^ self._versions.keys())[:5]}"
        for app, versions in self._versions.items():
            now = there[app]
            servers = sum(len(each["servers"]) for each in now["versions"])
            if now["activation"]["in_effect"] != versions[-1] or now["problems"]:
                return f"{app}: {now['activation']} {now['problems']}"
            if servers != self._extent.pods * len(versions):
                return f"{app}: {servers} servers"
        for target in document["targets"]:
            if target["generation"] != document["generation"]:
                return f"{target['name']} at {target['generation']} of {document['generation']}"
        return ""


def _rows(file: Path) -> int:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = [name for (name,) in tables]
        return sum(
            connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names
        )
    finally:
        connection.close()
