"""Files after one app changed: how long until they are ready, written and flushed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.figures import Sample
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Backend,
    DesiredApp,
    Endpoint,
    PathKind,
    Route,
    Server,
    ServerState,
    Share,
)
from vulcanized.targets.haproxy import plan
from vulcanized.targets.haproxy.config import Config
from vulcanized.targets.render import Templates
from vulcanized.targets.staged import Folder


def render(folder: Path, apps: int, servers: int, changes: int) -> list[Sample]:
    """Change one app after the other; the floor writes and flushes the same bytes, and no more."""
    config = Config(folder, [Endpoint("*", 80)], Templates("haproxy"))
    parts = {one.app: config.part(one, None) for one in (_app(n, servers) for n in range(apps))}
    tables = plan.tables_of(parts.values())
    ours = Folder(folder / "ours")
    floor = folder / "floor"
    floor.mkdir(parents=True)
    ours.write(config.files(parts, tables))
    samples = []
    for number in range(changes):
        desired = _app(number * 7 % apps, servers + 1 + number % 2)
        began = time.perf_counter()
        parts[desired.app] = config.part(desired, parts[desired.app])
        files = config.files(parts, tables)
        ours.write(files)
        ready = time.perf_counter()
        _write(floor, {"haproxy.cfg": files["haproxy.cfg"].encode()})
        samples.append(Sample(time.perf_counter() - ready, ready - began))
    return samples


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


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
