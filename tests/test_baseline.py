"""What the sources said last, over a restart: written by the way, read by the next start."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.factory import TODO, config, controller, observed, pod
from tests.servers.wait import eventually
from vulcanized import baseline
from vulcanized.baseline import Recorder, StoredBaseline
from vulcanized.guard import ACTIVATIONS, CONFIGS, Stored
from vulcanized.model import AppId, Document, Observed

SHOP = AppId("other", "shop")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "LAZY", 0.02)
    monkeypatch.setattr(baseline, "PAUSE", 0.0)


class World:
    """What the sources say, and how often they were asked."""

    def __init__(self) -> None:
        self.apps: dict[AppId, Observed] = {}
        self.reads = 0

    def observe(self, app: AppId) -> Observed:
        self.reads += 1
        return self.apps.get(app, Observed(app))


@contextmanager
def recording(directory: Path, world: World) -> Iterator[Recorder]:
    recorder, stop = Recorder(directory, world.observe), threading.Event()
    thread = threading.Thread(target=recorder.run, args=(stop,))
    thread.start()
    try:
        yield recorder
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def filled() -> World:
    world = World()
    world.apps[TODO] = observed(
        pod("blue-1"),
        pod("blue-2", ready=False),
        pod("blue-3", terminating=True),
        controllers=(controller("todo-blue"),),
        config=config(7),
        activation="blue",
    )
    world.apps[SHOP] = Observed(SHOP, (pod("shop-1", app=SHOP),))
    return world


def test_what_was_said_last_is_there_for_the_next_start(tmp_path: Path) -> None:
    world = filled()
    with recording(tmp_path / "state", world) as recorder:
        recorder.note(world.apps)
    known = StoredBaseline(tmp_path / "state")
    # Only what takes traffic is worth holding.
    found = sorted(known.pods(""), key=lambda each: each.name)
    assert found == [pod("blue-1"), pod("shop-1", app=SHOP)]
    assert list(known.pods("default")) == [pod("blue-1")]
    assert list(known.controllers("")) == [controller("todo-blue")]
    activation = Document("blue", "etcd /vulcanized/active/default/todo")
    assert sorted(known.documents(), reverse=True) == [
        Stored(CONFIGS, TODO, config(7)),
        Stored(ACTIVATIONS, TODO, activation),
    ]


def test_what_is_gone_and_what_nobody_knows_any_more_leave_the_file(tmp_path: Path) -> None:
    world = filled()
    with recording(tmp_path, world) as recorder:
        recorder.note(world.apps)
    del world.apps[SHOP]
    with recording(tmp_path, world) as recorder:
        recorder.note([TODO])
        known = StoredBaseline(tmp_path)
        eventually(lambda: list(known.pods("")) == [pod("blue-1")], 10, "the old app to go")
        del world.apps[TODO]
        recorder.note([TODO])
        eventually(lambda: list(known.documents()) == [], 10, "the app to go")
    with sqlite3.connect(tmp_path / "observed.db") as file:
        assert file.execute("SELECT * FROM observed").fetchall() == []
    file.close()


def test_many_changes_of_one_app_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "LAZY", 60.0)
    world = filled()
    with recording(tmp_path, world) as recorder:
        for _ in range(1000):
            recorder.note([TODO])
    assert world.reads == 1


def test_what_is_left_at_the_end_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "LAZY", 60.0)
    world = World()
    apps = [AppId("default", f"app-{n}") for n in range(1000)]
    for app in apps:
        world.apps[app] = Observed(app, (pod(f"{app.name}-1", app=app),))
    with recording(tmp_path, world) as recorder:
        recorder.note(apps)
    assert len(list(StoredBaseline(tmp_path).pods(""))) == 1000


def test_a_start_without_a_past_knows_nothing(tmp_path: Path) -> None:
    known = StoredBaseline(tmp_path / "none")
    assert list(known.pods("")) == []
    assert list(known.documents()) == []
    assert not (tmp_path / "none").exists()


def test_a_broken_file_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "observed.db").write_bytes(b"not a database at all" * 100)
    assert list(StoredBaseline(tmp_path).pods("")) == []
    with recording(tmp_path, filled()) as recorder:
        recorder.note([TODO])
        eventually(lambda: "not a database" in recorder.error, 10, "the complaint")


def test_a_row_that_cannot_be_read_costs_its_app_only(tmp_path: Path) -> None:
    world = filled()
    with recording(tmp_path, world) as recorder:
        recorder.note(world.apps)
    with sqlite3.connect(tmp_path / "observed.db") as file:
        file.execute("UPDATE observed SET pods = '[{]' WHERE app = 'todo'")
        file.execute("UPDATE observed SET config = 5")
    file.close()
    known = StoredBaseline(tmp_path)
    assert list(known.pods("")) == [pod("shop-1", app=SHOP)]
    assert [each.folder for each in known.documents()] == [ACTIVATIONS]


def test_a_directory_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file stands here")
    world = filled()
    with recording(tmp_path / "state", world) as recorder:
        recorder.note([TODO])
        eventually(lambda: recorder.error, 10, "the complaint")
        (tmp_path / "state").unlink()
        known = StoredBaseline(tmp_path / "state")
        eventually(lambda: list(known.pods("")) == [pod("blue-1")], 10, "another try")


def test_thousands_of_apps_are_written_in_batches(tmp_path: Path) -> None:
    world = World()
    apps = [AppId("default", f"app-{n}") for n in range(1000)]
    for app in apps:
        world.apps[app] = Observed(app, (pod(f"{app.name}-1", app=app),))
    with recording(tmp_path, world) as recorder:
        recorder.note(apps)
        known = StoredBaseline(tmp_path)
        eventually(lambda: len(list(known.pods(""))) == 1000, 20, "all of them")


def test_a_text_that_is_none_costs_its_app_only(tmp_path: Path) -> None:
    world = filled()
    odd = Document("{}", "st\udcffre/apps/default/todo.json")
    world.apps[TODO] = Observed(TODO, (pod("blue-1"),), (), odd)
    with recording(tmp_path, world) as recorder:
        recorder.note(world.apps)
    assert recorder.error == ""
    assert list(StoredBaseline(tmp_path).pods("")) == [pod("shop-1", app=SHOP)]
