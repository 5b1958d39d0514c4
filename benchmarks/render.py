"""Files after one app changed: how long until they are ready, written and flushed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
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
from vulcanized.targets.nginx import config as nginx_config
from vulcanized.targets.render import Templates
from vulcanized.targets.staged import Folder

Change = Callable[[DesiredApp], Mapping[str, str]]
"""Takes an app in, and gives all files."""


def haproxy(folder: Path, apps: int, servers: int, changes: int) -> list[Sample]:
    """Change one app after the other; the floor writes and flushes the same bytes, and no more."""
    config = Config(folder, [Endpoint("*", 80)], Templates("haproxy"))
    parts = {one.app: config.part(one, None) for one in (_app(n, servers) for n in range(apps))}
    tables = plan.tables_of(parts.values())

    def change(desired: DesiredApp) -> Mapping[str, str]:
        parts[desired.app] = config.part(desired, parts[desired.app])
        return config.files(parts, tables)

    return _measured(folder, change, ["haproxy.cfg"], apps, servers, changes)


def nginx(folder: Path, apps: int, servers: int, changes: int) -> list[Sample]:
    """The same with nginx's files."""
    config = nginx_config.Config(folder, [Endpoint("*", 80)], Templates("nginx"))
    parts = {one.app: config.part(one, None) for one in (_app(n, servers) for n in range(apps))}

    def change(desired: DesiredApp) -> Mapping[str, str]:
        parts[desired.app] = config.part(desired, parts[desired.app])
        return config.files(parts, {desired.app}).files

    written = [nginx_config.HTTP, nginx_config.MADE_OF]
    return _measured(folder, change, written, apps, servers, changes)


def _measured(
    folder: Path, change: Change, written: Iterable[str], apps: int, servers: int, changes: int
) -> list[Sample]:
    ours = Folder(folder / "ours")
    floor = folder / "floor"
    floor.mkdir(parents=True)
    ours.write(change(_app(0, servers)))
    samples = []
    for number in range(changes):
        desired = _app(number * 7 % apps, servers + 1 + number % 2)
        began = time.perf_counter()
        files = change(desired)
        ours.write(files)
        ready = time.perf_counter()
        _write(floor, {name: files[name].encode() for name in written})
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
