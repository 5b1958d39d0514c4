"""A store that is empty at a start, under load: what is served goes on being served."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Vulcanized, ask, served_by
from tests.faults.stage import TODO_HOST
from tests.servers.load import Load
from tests.servers.localpods import Files, LocalPods
from tests.servers.wait import eventually

BOTH = {"blue-1", "blue-2"}


@pytest.fixture
def pods() -> Iterator[LocalPods]:
    with LocalPods() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path, pods: LocalPods) -> Files:
    files = Files(tmp_path)
    for name in ("blue-1", "blue-2"):
        pods.start(name, "blue")
        files.pod(pods.manifest(name))
    files.config()
    files.activate("blue")
    return files


@pytest.fixture
def daemon(tmp_path: Path, files: Files) -> Iterator[Vulcanized]:
    with Vulcanized(tmp_path / "v", files.sides) as made:
        yield made.start()


def held(daemon: Vulcanized) -> dict[str, int]:
    return {source["name"]: source["held"] for source in daemon.status()["sources"]}


def emptied(files: Files) -> None:
    """As a directory looks whose volume is not mounted."""
    for root in (files.store, files.manifests):
        shutil.rmtree(root)
        root.mkdir()


def test_directories_that_are_not_mounted_at_a_start_take_nothing_away(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    daemon.wait_remembered("todo")
    daemon.process.kill()
    emptied(files)
    with Load(daemon.port, TODO_HOST, keep_alive=2, one_shot=2, pause=0.01) as load:
        load.go_on(20)
        daemon.start()
        assert held(daemon) == {"manifests": 2, "store": 2}
        eventually(
            lambda: all("still answered" in s["holding"] for s in daemon.status()["sources"]),
            20,
            "a second look",
        )
        load.go_on(50)
    assert load.report.failed == {}
    os.kill(daemon.process.pid, signal.SIGUSR1)
    eventually(lambda: held(daemon) == {"manifests": 0, "store": 0}, 10)
    eventually(lambda: ask(daemon.url, TODO_HOST)[0] == 404, 10)


def test_what_is_really_gone_at_a_start_goes_by_itself(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    daemon.wait_remembered("todo")
    daemon.process.kill()
    emptied(files)
    for name in BOTH:
        pods.stop(name)
    daemon.start()
    eventually(lambda: held(daemon) == {"manifests": 0, "store": 0}, 30)
    eventually(lambda: daemon.status()["apps"] == [], 10)


def test_the_commands_say_what_is_held_and_do_not_apply_it(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    daemon.wait_remembered("todo")
    daemon.process.kill()
    emptied(files)
    check = daemon.command("check")
    assert check.returncode == 1
    assert "source store: held: 2 configs and activations" in check.stderr
    render = daemon.command("render")
    assert render.returncode == 1
    assert "default:todo:blue" in render.stdout
    once = daemon.command("run", "--once")
    assert once.returncode == 1
    assert "source manifests: held: 2 objects (default/blue-1, default/blue-2)" in once.stderr
    assert served_by(daemon.url, TODO_HOST) == BOTH
    daemon.environment["VULCANIZED_GUARD__MAX_REMOVED"] = "1"
    assert daemon.command("run", "--once").returncode == 0
    assert ask(daemon.url, TODO_HOST)[0] == 404


def test_one_pass_waits_until_what_is_really_gone_is_confirmed(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    daemon.wait_remembered("todo")
    daemon.process.kill()
    emptied(files)
    for name in BOTH:
        pods.stop(name)
    once = daemon.command("run", "--once")
    assert once.returncode == 0, once.stderr
    assert "still_held=0" in once.stderr or '"still_held": 0' in once.stderr
    assert ask(daemon.url, TODO_HOST)[0] == 404


def test_a_store_that_was_believed_once_is_not_held_at_the_next_start(
    daemon: Vulcanized, files: Files
) -> None:
    daemon.wait_remembered("todo")
    (files.store / "apps/default/todo.json").unlink()
    (files.store / "active/default/todo").unlink()
    eventually(lambda: ask(daemon.url, TODO_HOST)[0] == 404, 10)
    daemon.process.stop()
    daemon.start()
    assert held(daemon) == {"manifests": 0, "store": 0}
