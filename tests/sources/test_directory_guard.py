"""Directories that are suddenly empty: not mounted at a start, replaced, or really cleared."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.network import Network
from tests.servers.wait import eventually
from tests.sources.test_directory import pod as manifest
from vulcanized.filetree import Patience as FilePatience
from vulcanized.guard import ACTIVATIONS, CONFIGS, Patience, Stored
from vulcanized.holds import Guarding, NoBaseline
from vulcanized.model import AppId, Document, Endpoint, Pod, Server
from vulcanized.slot import DirtyApps
from vulcanized.sources.directory import DirectoryStore, ManifestSource

APPS = [AppId("default", f"app-{number}") for number in range(4)]
SERVERS = {app: Endpoint(f"10.0.0.{number}", 80) for number, app in enumerate(APPS, 1)}
TODO = AppId("default", "todo")

# Missing files are doubted for as short as the guard's own look takes.
FILES = FilePatience(quiet=0.05, doubt=0.2)


class Remembered(NoBaseline):
    def __init__(self, stored: Sequence[Stored], pods: Sequence[Pod] = ()) -> None:
        self.stored = stored
        self.found = pods

    def documents(self) -> Sequence[Stored]:
        return self.stored

    def pods(self, namespace: str) -> Sequence[Pod]:
        return self.found


class Guarded:
    """What a source is guarded by. All servers answer unless `network` says otherwise."""

    def __init__(self, stored: Sequence[Stored] = (), pods: Sequence[Pod] = ()) -> None:
        self.network = Network(endpoint.address for endpoint in SERVERS.values())
        self.dirty = DirtyApps()
        self.guarding = Guarding(
            0.5,
            Remembered(stored, pods),
            self.network,
            Patience(confirm=(0.3, 0.4), longest=0.6),
            lambda app: [Server("s", *SERVERS[app])] if app in SERVERS else [],
        )


@contextmanager
def following(source: Any) -> Iterator[Any]:
    """Run the source's stream in a thread; the stream."""
    (stream,) = source.streams
    stop = threading.Event()
    thread = threading.Thread(target=stream.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: stream.spoken, 10, "the first word")
        yield stream
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def fill(root: Path, apps: Sequence[AppId] = APPS) -> None:
    for app in apps:
        for file, text in ((f"apps/{app}.json", "{}"), (f"active/{app}", "blue")):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)


def remembered() -> list[Stored]:
    return [
        Stored(folder, app, Document(text, f"store/{folder}/{app}"))
        for folder, text in ((CONFIGS, "{}"), (ACTIVATIONS, "blue"))
        for app in APPS
    ]


def store(root: Path, it: Guarded) -> DirectoryStore:
    return DirectoryStore(root, it.dirty, patience=FILES, guarding=it.guarding, rescan=0.2)


def known(source: DirectoryStore) -> tuple[set[AppId], set[AppId]]:
    return (
        {app for app in APPS if source.config(app)},
        {app for app in APPS if source.activation(app)},
    )


ALL = (set(APPS), set(APPS))
NONE: tuple[set[AppId], set[AppId]] = (set(), set())


def test_a_store_that_is_not_mounted_at_a_start_takes_nothing_away(tmp_path: Path) -> None:
    root, it = tmp_path / "store", Guarded(remembered())
    root.mkdir()
    source = store(root, it)
    with following(source) as stream:
        assert known(source) == ALL
        assert stream.state().held == 8
        eventually(lambda: "still answered" in stream.state().holding, 10, "a second look")
        assert known(source) == ALL
        # It is mounted after all.
        fill(root)
        eventually(lambda: stream.state().held == 0, 10)
        assert known(source) == ALL
        # From now on a file that goes is a file that was deleted.
        (root / f"apps/{APPS[0]}.json").unlink()
        eventually(lambda: source.config(APPS[0]) is None, 10)


def test_what_no_server_answers_for_goes_after_a_second_look(tmp_path: Path) -> None:
    root, it = tmp_path / "store", Guarded(remembered())
    root.mkdir()
    it.network.accepting = {SERVERS[APPS[1]].address}
    source = store(root, it)
    with following(source) as stream:
        eventually(lambda: known(source) == ({APPS[1]}, {APPS[1]}), 10)
        assert stream.state().held == 2


def test_an_operator_has_an_empty_store_taken_over(tmp_path: Path) -> None:
    root, it = tmp_path / "store", Guarded(remembered())
    root.mkdir()
    source = store(root, it)
    with following(source) as stream:
        it.dirty.drain(0)
        assert stream.accept() == 8
        assert known(source) == NONE
        drained = it.dirty.drain(0)
        assert drained is not None
        assert drained[0].keys() == set(APPS)


def test_a_store_that_lost_its_mount_takes_nothing_away(tmp_path: Path) -> None:
    root, it = tmp_path / "store", Guarded()
    fill(root)
    source = store(root, it)
    with following(source) as stream:
        # What is below a mount point: another directory, and empty.
        empty = tmp_path / "empty"
        empty.mkdir()
        root.rename(tmp_path / "away")
        empty.rename(root)
        eventually(lambda: stream.state().held == 8, 10, lambda: f"{stream.state()}")
        assert known(source) == ALL
        root.rename(tmp_path / "empty")
        (tmp_path / "away").rename(root)
        eventually(lambda: stream.state().held == 0, 10, lambda: f"{stream.state()}")
        assert known(source) == ALL


def test_a_directory_made_anew_with_less_in_it_is_held_too(tmp_path: Path) -> None:
    root, it = tmp_path / "store", Guarded()
    fill(root)
    source = store(root, it)
    with following(source) as stream:
        # At once: files that go one by one, while their directory stays, are deleted ones.
        root.rename(tmp_path / "away")
        eventually(lambda: stream.state().error, 10)
        fill(root, APPS[:1])
        eventually(lambda: stream.state().held == 6, 10, lambda: f"{stream.state()}")
        assert known(source) == ALL


def test_files_deleted_below_a_directory_that_stays_need_only_a_second_look(
    tmp_path: Path,
) -> None:
    root, it = tmp_path / "store", Guarded()
    fill(root)
    source = store(root, it)
    with following(source) as stream:
        for file in (*root.glob("apps/*/*"), *root.glob("active/*/*")):
            file.unlink()
        eventually(lambda: known(source) == NONE, 10)
        assert stream.state().held == 0


def test_manifests_that_are_not_mounted_at_a_start_take_no_pod_away(tmp_path: Path) -> None:
    root = tmp_path / "manifests"
    root.mkdir()
    for number in (1, 2):
        (root / f"{number}.yaml").write_text(manifest(f"todo-{number}", ip=f"10.9.0.{number}"))
    with following(ManifestSource(root, DirtyApps(), patience=FILES)) as stream:
        before = stream._pods.of(TODO)
        assert len(before) == 2
    shutil.rmtree(root)
    root.mkdir()
    it = Guarded(pods=before)
    it.network.accepting = {"10.9.0.1"}
    source = ManifestSource(root, it.dirty, patience=FILES, guarding=it.guarding, rescan=0.2)
    with following(source) as stream:
        assert source.pods(TODO) == before
        eventually(lambda: [pod.name for pod in source.pods(TODO)] == ["todo-1"], 10)
        assert stream.state().held == 1
        (root / "1.yaml").write_text(manifest("todo-1", ip="10.9.0.1"))
        eventually(lambda: stream.state().held == 0, 10)
        assert stream.accept() == 0
        assert source.pods(TODO) == before[:1]
