"""Whole daemons as processes: what an operator sees of quarantine, and of a second daemon."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.servers.fixtures import missing
from tests.servers.localpods import Files, LocalPods
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from vulcanized.resources import templates_directory


class World:
    """Two apps in files, one pod each; a template that refuses whoever sets 7 or 8 retries."""

    def __init__(self, folder: Path, pods: LocalPods) -> None:
        self.folder = folder
        self.files = Files(folder / "files")
        self.pods = pods
        templates = folder / "templates"
        templates.mkdir()
        bad = "{% if backend.retries in (7, 8) %}\n    gibberish\n{% endif %}\n"
        shipped = (templates_directory() / "haproxy/backend.j2").read_text()
        (templates / "backend.j2").write_text(shipped + bad)
        self.target = f'start = true\ntemplates = "{templates}"'
        for name in ("todo", "other"):
            pods.start(f"{name}-1", "blue")
            self.files.pod(pods.manifest(f"{name}-1", name))
            self.files.config(name)

    def daemon(self, name: str = "v", port: int | None = None) -> Vulcanized:
        return Vulcanized(self.folder / name, self.files.sides, target=self.target, port=port)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    with LocalPods() as pods:
        yield World(tmp_path, pods)


def test_a_refused_app_shows_everywhere_and_holds_up_nobody(world: World) -> None:
    world.files.config("todo", retries=7)
    with world.daemon() as daemon:
        daemon.start()
        eventually_served_by(daemon.url, "other.example.com", ["other-1"])
        assert served_by(daemon.url, "todo.example.com", tries=2) == {"404"}
        (target,) = daemon.status()["targets"]
        assert target["generation"] == target["wanted"]
        assert target["error"] == ""
        (kept_back,) = target["quarantined"]
        assert kept_back["app"] == "default/todo"
        assert "unknown keyword 'gibberish'" in kept_back["reason"]
        (problem,) = daemon.app("default/todo")["problems"]
        assert (problem["code"], problem["target"]) == ("quarantined", "edge")
        assert daemon.metric("vulcanized_target_quarantined_apps", target="edge") == 1
        assert daemon.metric("vulcanized_problems", code="quarantined") == 1
        assert daemon.command("status").returncode == 1
        (line,) = daemon.log_lines("quarantined")
        assert (line["app"], line["target"]) == ("default/todo", "edge")

        world.files.config("todo", retries=2)
        eventually_served_by(daemon.url, "todo.example.com", ["todo-1"])
        eventually(lambda: not daemon.status()["targets"][0]["quarantined"], 10)
        assert daemon.metric("vulcanized_target_quarantined_apps", target="edge") == 0
        assert len(daemon.log_lines("released")) == 1
        assert daemon.command("status").returncode == 0


def test_run_once_and_check_end_with_the_problem_and_all_the_rest_is_done(world: World) -> None:
    world.files.config("todo", retries=7)
    with world.daemon() as daemon:
        once = daemon.command("run", "--once")
        assert once.returncode == 1
        assert "default/todo: quarantined: HAProxy refuses it: unknown keyword" in once.stderr
        eventually_served_by(daemon.url, "other.example.com", ["other-1"])
        world.files.config("other", retries=8)
        check = daemon.command("check")
        assert check.returncode == 1
        assert "default/other: unknown keyword" in check.stderr
        assert "default/todo: unknown keyword" in check.stderr


def test_the_second_daemon_on_a_directory_waits_until_the_first_has_ended(world: World) -> None:
    first = world.daemon("first")
    second = world.daemon("second", port=first.port)
    shutil.rmtree(second.directory)
    second.directory.symlink_to(first.directory)
    with first, second:
        first.start()
        second.start(ready=False)
        error = eventually(
            lambda: second.status()["targets"][0]["error"], 30, ignore=(OSError, ValueError)
        )
        assert "is managed by another vulcanized: stop it" in error
        assert second.page("/readyz")[0] == 503
        # Nothing in the directory can be deleted to take it.
        for path in first.directory.glob("*"):
            if path.is_file():
                path.unlink()
        once = second.command("run", "--once")
        assert once.returncode == 2
        assert "is managed by another vulcanized" in once.stderr
        assert second.page("/readyz")[0] == 503
        eventually((first.directory / "haproxy.cfg").exists, 20)
        eventually_served_by(first.url, "todo.example.com", ["todo-1"])
        failures = second.status()["targets"][0]["failures"]
        assert failures < 60

        first.process.stop()
        second.wait_ready()
        eventually_served_by(second.url, "todo.example.com", ["todo-1"])
        assert len(second.log_lines("apply failed")) == 1
        first.start(ready=False)
        eventually(lambda: first.status()["targets"][0]["error"], 30, ignore=(OSError, ValueError))
