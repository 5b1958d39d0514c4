"""The embedded default, on real files: manifests and the store, followed as they change."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from tests.servers.wait import eventually
from vulcanized import doorbell
from vulcanized.filetree import Patience
from vulcanized.model import AppId, SourcePhase
from vulcanized.slot import DirtyApps
from vulcanized.sources.directory import DirectoryStore, ManifestSource

TODO = AppId("default", "todo")
SHOP = AppId("default", "shop")

Follow = Callable[[Any], AbstractContextManager[None]]


@contextmanager
def following(source: ManifestSource | DirectoryStore) -> Iterator[None]:
    """Run the source's stream in a thread, from its first word to its end."""
    (stream,) = source.streams
    stop = threading.Event()
    thread = threading.Thread(target=stream.run, args=(stop,), name=stream.name)
    thread.start()
    try:
        eventually(lambda: stream.spoken, 5, "the first word")
        yield
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def pod(name: str, *, app: str = "todo", version: str = "blue", ip: str = "127.0.1.1") -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: {app}, version: {version}}}
spec:
  containers:
  - name: web
    ports:
    - {{name: http, containerPort: 8000}}
status:
  phase: Running
  podIP: {ip}
  conditions:
  - {{type: Ready, status: "True"}}
"""


class Store:
    """A directory store under test, with what it is made of."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root = root
        self.dirty = DirtyApps()
        self.source = DirectoryStore(root, self.dirty, **more)

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def activation(self, app: AppId = TODO) -> str | None:
        document = self.source.activation(app)
        return None if document is None else document.text

    def config(self, app: AppId = TODO) -> str | None:
        document = self.source.config(app)
        return None if document is None else document.text

    def fault(self, folder: str, app: AppId = TODO) -> str:
        read = self.source.config if folder == "apps" else self.source.activation
        document = read(app)
        return "" if document is None else document.fault

    def skipped(self) -> int:
        return self.source.streams[0].state().skipped


class Cluster:
    """A directory of manifests under test."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.dirty = DirtyApps()
        self.source = ManifestSource(root, self.dirty, **more)

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pods(self, app: AppId = TODO) -> list[str]:
        return sorted(pod.name for pod in self.source.pods(app))

    def skipped(self) -> int:
        return self.source.streams[0].state().skipped


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.write("apps/default/todo.json", '{"hosts": ["todo.localhost"]}')
    store.write("active/default/todo", "blue\n")
    return store


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path / "manifests")
    cluster.write("todo.yaml", pod("todo-1") + "---" + pod("todo-2", ip="127.0.1.2"))
    return cluster


# --- the store --------------------------------------------------------------------------------


def test_the_files_of_the_store_are_the_documents_as_they_are_written(store: Store) -> None:
    with following(store.source):
        assert store.source.apps() == {TODO}
        activation = store.source.activation(TODO)
        assert activation is not None
        assert (activation.text, activation.origin) == ("blue\n", "store/active/default/todo")
        assert store.config() == '{"hosts": ["todo.localhost"]}'
        assert store.activation(SHOP) is None
        state = store.source.streams[0].state()
        assert (state.phase, state.records, state.skipped) == (SourcePhase.SYNCED, 2, 0)


def test_the_first_word_asks_for_a_full_pass_and_later_ones_name_the_app(store: Store) -> None:
    with following(store.source):
        drained = store.dirty.drain(5)
        assert drained is not None
        assert drained[1] is not None
        before = time.monotonic()
        store.write("active/default/todo", "green\n")
        drained = store.dirty.drain(5)
        assert drained is not None
        assert (list(drained[0]), drained[1]) == ([TODO], None)
        assert before <= drained[0][TODO] <= time.monotonic()


def test_a_switch_by_echo_is_told_by_the_bell_and_not_found_by_the_clock(store: Store) -> None:
    with following(store.source):
        store.dirty.drain(5)
        for number in range(20):
            store.write("active/default/todo", str(number))
            eventually(lambda n=number: store.activation() == str(n), 5)  # type: ignore[misc]
        assert store.source.streams[0].state().relists == {}


def test_a_write_that_changes_nothing_marks_nothing(store: Store) -> None:
    with following(store.source):
        store.dirty.drain(5)
        store.write("active/default/todo", "blue\n")
        store.write("active/default/shop", "1")
        eventually(lambda: store.activation(SHOP) == "1", 5)
        drained = store.dirty.drain(5)
        assert drained is not None
        assert list(drained[0]) == [SHOP]


def test_an_empty_activation_is_not_believed_at_once(store: Store) -> None:
    with following(store.source):
        store.dirty.drain(5)
        path = store.root / "active/default/todo"
        for _ in range(20):
            path.write_text("")  # what `>` does before the program behind it has written
            path.write_text("green")
            path.write_text("")
            path.write_text("blue")
        assert store.dirty.drain(0.5) is not None
        eventually(lambda: store.activation() == "blue", 5)
        path.write_text("")
        assert store.activation() != ""
        eventually(lambda: store.activation() == "", 5, "an empty file that stays is believed")


def test_a_file_that_is_still_being_written_is_believed_when_it_is_closed(store: Store) -> None:
    long = '{"hosts": ["' + "a" * 100_000 + '"]}'
    seen: set[str | None] = set()
    with following(store.source):
        with (store.root / "apps/default/todo.json").open("w") as file:
            for start in range(0, len(long), 5000):
                file.write(long[start : start + 5000])
                file.flush()
                seen.add(store.config())
        eventually(lambda: store.config() == long, 5)
        seen.add(store.config())
    assert seen == {'{"hosts": ["todo.localhost"]}', long}


def test_a_writer_that_never_closes_is_believed_when_it_has_been_quiet(store: Store) -> None:
    with following(store.source), (store.root / "active/default/todo").open("w") as file:
        file.write("green")
        file.flush()
        eventually(lambda: store.activation() == "green", 5)


def test_a_rename_over_the_file_is_a_change(store: Store, tmp_path: Path) -> None:
    with following(store.source):
        for number in range(5):
            new = store.root / "active/default/.todo.new"
            new.write_text(str(number))
            new.rename(store.root / "active/default/todo")
            eventually(lambda n=number: store.activation() == str(n), 5)  # type: ignore[misc]
        outside = tmp_path / "outside"
        outside.write_text("green")
        outside.rename(store.root / "active/default/todo")
        eventually(lambda: store.activation() == "green", 5)


def test_an_editor_that_renames_away_first_takes_nothing_away(store: Store) -> None:
    path = store.root / "active/default/todo"
    with following(store.source):
        store.dirty.drain(5)
        for number in range(10):
            path.rename(path.with_name("todo~"))
            path.write_text(str(number))
            path.with_name("todo~").unlink()
            assert store.activation() is not None
        eventually(lambda: store.activation() == "9", 5)


def test_a_removed_file_is_gone_after_a_moment(store: Store) -> None:
    store.write("active/default/shop", "1")
    with following(store.source):
        (store.root / "active/default/shop").unlink()
        eventually(lambda: store.activation(SHOP) is None, 5)
        assert store.activation() == "blue\n"


def test_what_an_editor_leaves_beside_is_not_looked_at(store: Store) -> None:
    names = (".todo.swp", "todo~", "#todo#", "todo.tmp", "todo.bak")
    with following(store.source):
        for name in names:
            store.write(f"active/default/{name}", "red")
        store.write("active/default/shop", "1")
        eventually(lambda: store.activation(SHOP) == "1", 5)
        assert store.source.apps() == {TODO, SHOP}
        assert store.skipped() == 0


@pytest.mark.parametrize(
    "file",
    [
        "active/default/todo.json",
        "apps/default/todo",
        "apps/todo.json",
        "other/default/todo",
        "active/Default/todo",
        "active/default/..todo..",
        "active/default/to do",
        "active/default/todo\nacl x",
        "active/default/deeper/todo",
        "active/default/" + "x" * 64,
        "active/default/\udcff\udcfe",
    ],
)
def test_a_file_that_is_misnamed_is_skipped_and_counted(store: Store, file: str) -> None:
    with following(store.source):
        store.write(file, "red")
        store.write("active/default/shop", "1")
        eventually(lambda: store.activation(SHOP) == "1", 5)
        assert store.source.apps() == {TODO, SHOP} | {
            AppId("default", part) for part in file.split("/") if part == "deeper"
        }
        if "/.." not in file:
            eventually(lambda: store.skipped() == 1, 8)
            (store.root / file).unlink()
            eventually(lambda: store.skipped() == 0, 8)


def test_what_is_skipped_is_told_with_its_place_and_why(store: Store) -> None:
    store.write("active/default/to do", "red")
    with following(store.source):
        (stream,) = store.source.streams
        (told,) = stream.state().left_out
        assert told.startswith("store/active/default/to do: is named by what Kubernetes allows no")


def test_a_symlink_out_of_the_store_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/other").write_text("red")
    (store.root / "active/default/shop").symlink_to(tmp_path / "secret")
    (store.root / "active/else").symlink_to(tmp_path / "elsewhere")
    with following(store.source):
        activation = store.source.activation(SHOP)
        assert activation is not None
        assert activation.text == ""
        assert "points out of" in activation.fault
        assert store.source.apps() == {TODO, SHOP}
        assert store.skipped() == 1


def test_a_pipe_or_a_directory_in_place_of_a_file_holds_nobody_up(store: Store) -> None:
    os.mkfifo(store.root / "active/default/pipe")
    (store.root / "active/default/folder").mkdir()
    with following(store.source):
        assert store.activation() == "blue\n"
        for app in ("pipe", "folder"):
            activation = store.source.activation(AppId("default", app))
            assert activation is not None
            assert activation.fault == "is not a regular file; put one in its place"


def test_a_file_that_becomes_a_directory_holds_nobody_up(store: Store) -> None:
    with following(store.source):
        (store.root / "active/default/todo").unlink()
        (store.root / "active/default/todo").mkdir()
        eventually(lambda: "not a regular file" in store.fault("active"), 8)
        (store.root / "active/default/todo").rmdir()
        store.write("active/default/todo", "green")
        eventually(lambda: store.activation() == "green", 8)


def test_a_link_to_nowhere_is_not_taken_for_an_absent_file(store: Store) -> None:
    (store.root / "active/default/todo").unlink()
    (store.root / "active/default/todo").symlink_to("todo-that-was-moved")
    with following(store.source):
        eventually(lambda: "is a link to nowhere" in store.fault("active"), 8)


def test_a_file_that_is_too_large_says_so_for_its_app(store: Store) -> None:
    with following(store.source):
        store.write("apps/default/todo.json", "x" * (1 << 20) + "x")
        eventually(lambda: "larger than 1024 KiB" in store.fault("apps"), 5)
        store.write("apps/default/todo.json", "{}")
        eventually(lambda: (store.config(), store.fault("apps")) == ("{}", ""), 5)


def test_a_file_that_was_never_readable_is_not_taken_for_absent(store: Store) -> None:
    store.write("active/default/shop", "x" * (2 << 20))
    with following(store.source):
        activation = store.source.activation(SHOP)
        assert activation is not None
        assert activation.text == ""
        assert "larger than 1024 KiB" in activation.fault
        (store.root / "active/default/shop").unlink()
        eventually(lambda: store.activation(SHOP) is None, 8)


def test_bytes_that_are_no_text_cannot_be_mistaken_for_a_version(store: Store) -> None:
    with following(store.source):
        (store.root / "active/default/todo").write_bytes(b"gr\xe9en")
        eventually(lambda: store.fault("active").startswith("is not UTF-8 text (byte 2)"), 5)
        assert store.activation() == ""


def test_a_missing_directory_is_waited_for_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "later" / "store")
    (stream,) = store.source.streams
    stop = threading.Event()
    thread = threading.Thread(target=stream.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: stream.state().error, 5)
        assert stream.state().error == f"there is no directory {store.root}; create it"
        assert stream.state().phase is SourcePhase.STARTING
        store.write("active/default/todo", "blue")
        eventually(lambda: stream.spoken, 8)
        assert store.activation() == "blue"
        assert stream.state().error == ""
        store.write("active/default/todo", "green")
        eventually(lambda: store.activation() == "green", 2)
    finally:
        stop.set()
        thread.join(5)


def test_a_directory_that_goes_away_takes_nothing_with_it_and_is_followed_again(
    store: Store, tmp_path: Path
) -> None:
    with following(store.source):
        store.root.rename(tmp_path / "away")
        eventually(lambda: store.source.streams[0].state().phase is SourcePhase.STALE, 8)
        assert store.activation() == "blue\n"
        store.write("active/default/todo", "green")
        store.write("apps/default/todo.json", "{}")
        eventually(lambda: store.activation() == "green", 8)
        for number in range(3):
            store.write("active/default/todo", str(number))
            eventually(lambda n=number: store.activation() == str(n), 2)  # type: ignore[misc]


def test_a_volume_that_lost_its_mount_is_doubted_for_longer(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", patience=Patience(doubt=1.0))
    for name in ("a", "b", "c", "d"):
        store.write(f"active/default/{name}", "1")
    with following(store.source):
        away = tmp_path / "away"
        (store.root / "active").rename(away)
        removed = time.monotonic()
        assert store.activation(AppId("default", "a")) == "1"
        away.rename(store.root / "active")
        store.write("active/default/e", "1")
        eventually(lambda: store.activation(AppId("default", "e")) == "1", 5)
        assert len(store.source.apps()) == 5
        shutil.rmtree(store.root / "active")
        removed = time.monotonic()
        eventually(lambda: not store.source.apps(), 8)
        assert time.monotonic() - removed >= 1.0


def test_a_symlink_that_is_swapped_as_a_mounted_config_map_does_it(tmp_path: Path) -> None:
    """kubelet: `..data` points to a directory of that moment; each file is a link through it."""
    store = Store(tmp_path / "store")
    folder = store.root / "active/default"
    folder.mkdir(parents=True)

    def publish(moment: str, text: str) -> None:
        (folder / f"..{moment}").mkdir()
        (folder / f"..{moment}" / "todo").write_text(text)
        (folder / "..data_tmp").symlink_to(f"..{moment}")
        (folder / "..data_tmp").rename(folder / "..data")

    publish("first", "blue")
    (folder / "todo").symlink_to("..data/todo")
    with following(store.source):
        assert store.activation() == "blue"
        publish("second", "green")
        eventually(lambda: store.activation() == "green", 2)


def test_a_root_that_is_a_symlink_can_be_swapped(tmp_path: Path) -> None:
    for release, version in (("r1", "blue"), ("r2", "green")):
        (tmp_path / release / "active/default").mkdir(parents=True)
        (tmp_path / release / "active/default/todo").write_text(version)
    (tmp_path / "store").symlink_to("r1")
    store = Store(tmp_path / "store")
    with following(store.source):
        assert store.activation() == "blue"
        (tmp_path / "new").symlink_to("r2")
        (tmp_path / "new").rename(tmp_path / "store")
        eventually(lambda: store.activation() == "green", 2)
        (tmp_path / "r2/active/default/todo").write_text("red")
        eventually(lambda: store.activation() == "red", 2)


def test_without_inotify_files_are_looked_at_over_and_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more() -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(doorbell, "Observer", no_more)
    with following(store.source):
        store.write("active/default/todo", "green")
        eventually(lambda: store.activation() == "green", 3)


def test_a_watcher_that_died_is_noticed_and_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", rescan=1.0)
    store.write("active/default/todo", "blue")
    with following(store.source):
        for thread in threading.enumerate():
            if isinstance(thread, InotifyFD):
                thread.stop()
                thread.join(5)
        store.write("active/default/todo", "green")
        eventually(lambda: store.activation() == "green", 5)
        assert store.source.streams[0].state().relists == {"missed": 1}

        def told_by_the_bell() -> bool:
            before = store.source.streams[0].state().relists
            wanted = "red" if store.activation() == "blue" else "blue"
            store.write("active/default/todo", wanted)
            eventually(lambda: store.activation() == wanted, 5)
            return store.source.streams[0].state().relists == before

        eventually(told_by_the_bell, 20)


def test_new_folders_are_followed(store: Store) -> None:
    with following(store.source):
        for namespace in ("one", "two", "three"):
            store.write(f"active/{namespace}/todo", "1")
            app = AppId(namespace, "todo")
            eventually(lambda app=app: store.activation(app) == "1", 2)  # type: ignore[misc]
            store.write(f"active/{namespace}/todo", "2")
            eventually(lambda app=app: store.activation(app) == "2", 2)  # type: ignore[misc]


# --- manifests --------------------------------------------------------------------------------


def test_pods_and_controllers_are_read_from_manifests(cluster: Cluster) -> None:
    cluster.write(
        "controller.json",
        '{"kind": "List", "items": [{"kind": "ReplicationController", "metadata": {"name": "todo"},'
        ' "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "todo",'
        ' "version": "blue"}}}}}, {"kind": "Service", "metadata": {"name": "x"}}]}',
    )
    with following(cluster.source):
        assert cluster.source.apps() == {TODO}
        first = cluster.source.pods(TODO)[0]
        assert (first.name, first.ip, first.version, first.ready) == (
            "todo-1", "127.0.1.1", "blue", True,
        )  # fmt: skip
        (controller,) = cluster.source.controllers(TODO)
        assert (controller.kind, controller.desired) == ("ReplicationController", 2)
        assert cluster.skipped() == 0


def test_what_an_api_server_lists_is_read_too(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "manifests")
    cluster.write(
        "pods.yaml",
        "kind: PodList\nitems:\n- metadata: {name: a, labels: {app: todo}}\n"
        "- metadata: {name: b, labels: {app: todo}}\n",
    )
    with following(cluster.source):
        assert cluster.pods() == ["a", "b"]


def test_a_pod_written_by_hand_without_a_status_is_not_ready(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "manifests")
    cluster.write("a.yaml", "kind: Pod\nmetadata: {name: a, labels: {app: todo}}\n")
    with following(cluster.source):
        (one,) = cluster.source.pods(TODO)
        assert (one.ready, one.ip) == (False, "")


def test_a_pod_keeps_its_identity_when_its_file_is_renamed(cluster: Cluster) -> None:
    with following(cluster.source):
        before = cluster.source.pods(TODO)
        (cluster.root / "todo.yaml").rename(cluster.root / "renamed.yaml")
        eventually(lambda: cluster.skipped() == 0 and cluster.source.pods(TODO) == before, 5)
        cluster.write("more.yaml", pod("todo-3", ip="127.0.1.3"))
        eventually(lambda: cluster.pods() == ["todo-1", "todo-2", "todo-3"], 5)


def test_a_copied_manifest_adds_a_pod_and_its_removal_takes_it_away(cluster: Cluster) -> None:
    with following(cluster.source):
        cluster.write("third.yaml", pod("todo-3", ip="127.0.1.3"))
        eventually(lambda: cluster.pods() == ["todo-1", "todo-2", "todo-3"], 5)
        (cluster.root / "third.yaml").unlink()
        eventually(lambda: cluster.pods() == ["todo-1", "todo-2"], 5)


def test_a_half_written_manifest_keeps_its_last_good_objects(cluster: Cluster) -> None:
    with following(cluster.source):
        cluster.write("todo.yaml", pod("todo-1") + "---\nkind: Pod\nmetadata: {name: 'to")
        eventually(lambda: cluster.skipped() == 1, 5)
        assert cluster.pods() == ["todo-1", "todo-2"]
        cluster.write("todo.yaml", pod("todo-1") + "---" + pod("todo-9", ip="127.0.1.9"))
        eventually(lambda: cluster.pods() == ["todo-1", "todo-9"], 5)
        assert cluster.skipped() == 0


def test_an_empty_manifest_file_takes_nothing_away(cluster: Cluster) -> None:
    """`kubectl get pods -o yaml > todo.yaml` leaves one when it fails."""
    with following(cluster.source):
        cluster.write("todo.yaml", "")
        eventually(lambda: cluster.skipped() == 1, 5)
        assert cluster.pods() == ["todo-1", "todo-2"]
        cluster.write("todo.yaml", "kind: List\nitems: []\n")
        eventually(lambda: cluster.pods() == [], 5, "an empty list says so itself")


def test_one_bad_object_costs_itself_alone_and_stays_as_it_was(cluster: Cluster) -> None:
    with following(cluster.source):
        bad = pod("todo-2").replace("containerPort: 8000", "containerPort: many")
        cluster.write("todo.yaml", pod("todo-1", ip="127.0.1.7") + "---" + bad)
        eventually(lambda: cluster.source.pods(TODO)[0].ip == "127.0.1.7", 5)
        assert cluster.pods() == ["todo-1", "todo-2"]
        assert cluster.source.pods(TODO)[1].ip == "127.0.1.2"
        assert cluster.skipped() == 1
        cluster.write("todo.yaml", pod("todo-1") + "---\n- not an object\n")
        eventually(lambda: cluster.source.pods(TODO)[0].ip == "127.0.1.1", 5)
        assert cluster.pods() == ["todo-1", "todo-2"], "it may be any of them"


def test_the_first_of_two_files_with_one_object_counts_whatever_came_first(
    cluster: Cluster,
) -> None:
    with following(cluster.source):
        cluster.write("zz.yaml", pod("todo-1", ip="127.0.1.99"))
        eventually(lambda: cluster.skipped() == 1, 5)
        assert cluster.source.pods(TODO)[0].ip == "127.0.1.1"
        cluster.write("aa.yaml", pod("todo-1", ip="127.0.1.50"))
        eventually(lambda: cluster.source.pods(TODO)[0].ip == "127.0.1.50", 5)
        (cluster.root / "aa.yaml").unlink()
        eventually(lambda: cluster.source.pods(TODO)[0].ip == "127.0.1.1", 5)
        (cluster.root / "todo.yaml").unlink()
        eventually(lambda: cluster.pods() == ["todo-1"], 5)
        assert cluster.source.pods(TODO)[0].ip == "127.0.1.99"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"{" * 100_000,
        b"a: &a [1, 2]\nb: [*a, *a]\n",
        b"x: !!int " + b"9" * 100_000,
        b"x: !!python/object/apply:os.system ['true']\n",
        b"\xff\xfe\x00",
        b"kind: Pod\nmetadata: [1]\n---\n\x07",
    ],
    ids=["deep list", "deep map", "aliases", "long number", "python tag", "no text", "control"],
)
def test_a_hostile_manifest_costs_itself_alone(cluster: Cluster, content: bytes) -> None:
    with following(cluster.source):
        (cluster.root / "hostile.yaml").write_bytes(content)
        eventually(lambda: cluster.skipped() == 1, 5)
        cluster.write("third.yaml", pod("todo-3", ip="127.0.1.3"))
        eventually(lambda: cluster.pods() == ["todo-1", "todo-2", "todo-3"], 5)


def test_a_change_of_one_manifest_marks_its_app_and_no_other(cluster: Cluster) -> None:
    cluster.write("shop.yaml", pod("shop-1", app="shop"))
    with following(cluster.source):
        cluster.dirty.drain(5)
        cluster.write("shop.yaml", pod("shop-1", app="shop", version="green"))
        drained = cluster.dirty.drain(5)
        assert drained is not None
        assert list(drained[0]) == [SHOP]


def test_a_pod_that_moves_to_another_app_marks_both(cluster: Cluster) -> None:
    with following(cluster.source):
        cluster.dirty.drain(5)
        cluster.write("todo.yaml", pod("todo-1", app="shop") + "---" + pod("todo-2"))
        drained = cluster.dirty.drain(5)
        assert drained is not None
        assert set(drained[0]) == {TODO, SHOP}


def test_manifests_in_folders_are_read_and_links_in_circles_end(cluster: Cluster) -> None:
    cluster.write("shop/a.yaml", pod("shop-1", app="shop"))
    (cluster.root / "shop/up").symlink_to("..")
    with following(cluster.source):
        assert cluster.pods(SHOP) == ["shop-1"]
        assert cluster.pods() == ["todo-1", "todo-2"]
        assert cluster.skipped() == 0


def test_one_file_among_a_thousand_is_told_by_the_bell(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "manifests")
    for number in range(1000):
        cluster.write(f"app{number}.yaml", pod(f"p{number}", app=f"app{number}"))
    with following(cluster.source):
        cluster.dirty.drain(5)
        for number in range(10):
            app = AppId("default", f"app{number}")
            cluster.write(f"app{number}.yaml", pod(f"new{number}", app=app.name))
            eventually(lambda a=app, n=number: cluster.pods(a) == [f"new{n}"], 5)  # type: ignore[misc]
        assert cluster.source.streams[0].state().relists == {}
