"""Whole daemons as processes, with nginx: what an operator sees."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Vulcanized, ask, eventually_served_by, served_by
from tests.servers.fixtures import missing
from tests.servers.load import Load
from tests.servers.localpods import Files, LocalPods
from tests.servers.ports import free_port
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from vulcanized.targets.nginx import process
from vulcanized.targets.nginx.config import HTTP

HOST = "todo.example.com"


class World:
    """Two apps in files, todo with a pod of each of two versions."""

    def __init__(self, folder: Path, pods: LocalPods) -> None:
        self.folder = folder
        self.directory = folder / "nginx"
        self.files = Files(folder / "files")
        self.pods = pods
        self.port = free_port()
        for name, app, version in (
            ("blue-1", "todo", "blue"),
            ("green-1", "todo", "green"),
            ("other-1", "other", "blue"),
        ):
            pods.start(name, version)
            self.files.pod(pods.manifest(name, app))
        for app in ("todo", "other"):
            self.files.config(app)
        self.files.activate("blue")

    def daemon(self, more: str = "", name: str = "v") -> Vulcanized:
        target = f"""
[[targets]]
kind = "nginx"
directory = "{self.directory}"
listen = ["127.0.0.1:{self.port}"]
start = true
{more}
"""
        return Vulcanized(self.folder / name, self.files.sides, targets=target, port=self.port)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    try:
        find_program("nginx")
    except ServerMissing as reason:
        missing(reason)
    with LocalPods() as pods:
        made = World(tmp_path, pods)
        try:
            yield made
        finally:
            left = process.child_of(made.directory)
            if left is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left.pid, signal.SIGTERM)


def test_a_daemon_serves_switches_and_ends_its_nginx(world: World) -> None:
    with world.daemon() as daemon:
        daemon.start()
        assert served_by(daemon.url, HOST) == {"blue-1"}
        with Load(daemon.port, HOST) as load:
            for version in ("green", "blue", "green"):
                world.files.activate(version)
                eventually_served_by(daemon.url, HOST, [f"{version}-1"])
            load.go_on(30)
        assert load.report.failed == {}
        (target,) = daemon.status()["targets"]
        assert (target["kind"], target["reloads"]) == ("nginx", {"start": 1})
        assert ask(daemon.url, "nobody.org")[0] == 404
    assert process.child_of(world.directory) is None


def test_a_killed_daemon_leaves_its_nginx_and_the_next_adopts_it(world: World) -> None:
    with world.daemon() as daemon:
        daemon.start()
        master = process.child_of(world.directory)
        assert master is not None
        with Load(daemon.port, HOST) as load:
            for _ in range(3):
                daemon.process.kill()
                load.go_on(20)
                daemon.start()
            assert process.child_of(world.directory) == master
            world.files.activate("green")
            eventually_served_by(daemon.url, HOST, ["green-1"])
            load.go_on(20)
        assert load.report.failed == {}
        assert daemon.status()["targets"][0]["reloads"] == {}


def test_what_changed_while_the_daemon_was_dead_is_made_up_for(world: World) -> None:
    with world.daemon() as daemon:
        daemon.start()
        daemon.process.kill()
        world.pods.start("blue-2", "blue")
        world.files.pod(world.pods.manifest("blue-2", "todo"))
        daemon.start()
        eventually_served_by(daemon.url, HOST, ["blue-1", "blue-2"])
        assert daemon.status()["targets"][0]["reloads"] == {"servers": 1}


def test_the_commands_know_it(world: World) -> None:
    with world.daemon() as daemon:
        assert daemon.command("check").returncode == 0
        daemon.start()
        assert daemon.command("diff").returncode == 0
        world.files.config("todo", hosts=["new.example.com"])
        eventually(lambda: ask(daemon.url, "new.example.com")[0] == 200)
        out = world.folder / "out"
        assert daemon.command("render", "--output", str(out)).returncode == 0
        assert '"/new.example.com/"' in next(out.rglob(HTTP)).read_text()
        shown = json.loads(daemon.command("status", "--json").stdout or "{}")
        assert shown == {} or shown["targets"][0]["kind"] == "nginx"


def test_a_field_that_nginx_cannot_do_is_told(world: World) -> None:
    timeouts = {"queue": "1s", "server": "5s"}
    world.files.config("todo", compression=True, timeouts=timeouts, balance="first")
    world.files.config("other", balance="random")
    with world.daemon() as daemon:
        daemon.start()
        assert served_by(daemon.url, HOST) == {"blue-1"}
        told = [problem["message"] for problem in daemon.app("default/todo")["problems"]]
        assert any("compression" in text for text in told)
        assert any("timeouts.queue" in text for text in told)
        assert any("balance.first" in text for text in told)
        assert daemon.app("default/other")["problems"] == []
        assert not any("timeouts.server" in text for text in told)


def test_a_strict_nginx_refuses_what_it_cannot_do(world: World) -> None:
    with world.daemon("strict = true") as daemon:
        daemon.start()
        world.files.config("todo", compression=True, hosts=["new.example.com"])
        eventually(lambda: daemon.app("default/todo")["problems"])
        assert ask(daemon.url, HOST)[0] == 200
        assert ask(daemon.url, "new.example.com")[0] == 404


def test_a_killed_nginx_is_back_within_seconds(world: World) -> None:
    with world.daemon() as daemon:
        daemon.start()
        master = process.child_of(world.directory)
        assert master is not None
        for pid in {master.pid, *process.workers(master).active}:
            os.kill(pid, signal.SIGKILL)
        eventually_served_by(daemon.url, HOST, ["blue-1"], 20)
        assert daemon.status()["targets"][0]["reloads"] == {"start": 2}


def test_run_once_stages_what_a_daemon_would(world: World) -> None:
    with world.daemon() as daemon:
        done = daemon.command("run", "--once")
        assert done.returncode == 0, done.stderr
        assert '"/todo.example.com/"' in (world.directory / HTTP).read_text()
