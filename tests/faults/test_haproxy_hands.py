"""What people do to HAProxy and its files by hand while the daemon runs: all of it is put back."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.haproxyfaults import command, gap, mended, processes, with_green
from tests.faults.stage import Stage
from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable
from vulcanized.targets.haproxy.master import Master


def file(stage: Stage, name: str) -> Path:
    return stage.daemon.directory / name


def by_signal(stage: Stage) -> None:
    os.kill(processes(stage).master, signal.SIGUSR2)


def by_command(stage: Stage) -> None:
    Master(stage.daemon.master_socket, stage.daemon.directory).ask("reload\n")


def is_reloaded(stage: Stage, before: int) -> None:
    eventually(
        lambda: processes(stage).worker != before, 20, "another worker", ignore=ProxyUnreachable
    )


@pytest.mark.parametrize("reload", [by_signal, by_command])
def test_a_reload_by_someone_else_loses_nothing_that_was_shown_at_run_time(
    stage: Stage, reload: Callable[[Stage], None]
) -> None:
    before = with_green(stage)
    reloads = stage.daemon.metric("vulcanized_reloads_total")
    with mended(stage), stage.load():
        # The files are behind these when it reads them.
        stage.activate("green")
        stage.add_pod("todo-green-2", version="green")
        reload(stage)
        is_reloaded(stage, before.worker)
        stage.served_by("todo-green-1", "todo-green-2")
    assert stage.daemon.metric("vulcanized_reloads_total") == reloads


def test_a_config_of_someone_else_is_replaced_by_ours(stage: Stage) -> None:
    """With a reload in the same breath: what they wrote runs, for as long as it takes to notice."""
    before = with_green(stage)
    config = file(stage, "haproxy.cfg")
    foreign = f"""
global
    log stdout format raw daemon
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend theirs
    bind 127.0.0.1:{stage.daemon.port}
    http-request return status 418
"""
    with mended(stage):
        partial = config.with_suffix(".theirs")
        partial.write_text(foreign)
        partial.replace(config)
        by_signal(stage)
        is_reloaded(stage, before.worker)
        stage.activate("green")
        gap(stage)
        with stage.load():
            stage.served_by("todo-green-1")
        partial.unlink(missing_ok=True)
    assert stage.daemon.metric("vulcanized_reloads_total", cause="other_config") == 1


def overwritten(path: Path) -> None:
    path.write_text("gibberish\n")


def truncated(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("how", [overwritten, truncated, Path.unlink])
def test_files_changed_by_hand_are_written_again(stage: Stage, how: Callable[[Path], None]) -> None:
    names = ("haproxy.cfg", "active.map", "hosts.map", "structure.map")
    good = {name: file(stage, name).read_text() for name in names}
    before = processes(stage)
    with mended(stage), stage.load():
        for name in names:
            how(file(stage, name))
        eventually(
            lambda: {name: file(stage, name).read_text() for name in names} == good,
            20,
            "the files",
            ignore=FileNotFoundError,
        )
        assert processes(stage) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_entered_is_told_and_stops_no_switch(stage: Stage) -> None:
    with_green(stage)
    with mended(stage), stage.load():
        stage.daemon.directory.chmod(0)
        try:
            stage.activate("green")
            stage.served_by("todo-green-1")
            eventually(
                lambda: "give vulcanized the right" in str(stage.daemon.status()["targets"]), 20
            )
        finally:
            stage.daemon.directory.chmod(0o755)


def test_what_is_set_by_hand_at_run_time_is_set_back(stage: Stage) -> None:
    with_green(stage)
    with mended(stage), stage.load():
        active = file(stage, "active.map")
        with unseen(stage):
            command(stage, f"set map {active} default/todo default:todo:green")
            stage.served_by("todo-green-1")
        stage.served_by("todo-blue-1", "todo-blue-2")
        server = next(name for name in servers(stage, "todo:blue") if "todo-blue-1" in name)
        with unseen(stage):
            command(stage, f"disable server default:todo:blue/{server}")
            stage.served_by("todo-blue-2")
        stage.served_by("todo-blue-1", "todo-blue-2")
        with unseen(stage):
            command(stage, f"del map {file(stage, 'hosts.map')} todo.example.com")
            stage.served_by("404")
        stage.served_by("todo-blue-1", "todo-blue-2")
    assert len(stage.daemon.log_lines("drift")) >= 3


@contextlib.contextmanager
def unseen(stage: Stage) -> Iterator[None]:
    """In a `with` block the daemon looks at nothing: it sets back within a second otherwise."""
    stage.daemon.process.pause()
    try:
        yield
    finally:
        stage.daemon.process.resume()


def servers(stage: Stage, backend: str) -> list[str]:
    live = Master(stage.daemon.master_socket, stage.daemon.directory).read_back()
    return list(live.servers[f"default:{backend}"])


def test_a_command_that_the_worker_refuses_is_thought_over(stage: Stage) -> None:
    """Somebody has added a server by the name of the one to come, with another address."""
    with mended(stage), stage.load():
        stage.pods.start("todo-blue-3", "blue")
        manifest = stage.pods.manifest("todo-blue-3", "todo")
        stage.cluster.store.create("pods", manifest)
        stage.served_by("todo-blue-1", "todo-blue-2", "todo-blue-3")
        name = next(each for each in servers(stage, "todo:blue") if "todo-blue-3" in each)
        for _ in range(3):
            not_ready = {"conditions": [{"type": "Ready", "status": "False"}]}
            stage.cluster.store.patch("pods", "default", "todo-blue-3", {"status": not_ready})
            stage.served_by("todo-blue-1", "todo-blue-2")
            eventually(lambda: name not in servers(stage, "todo:blue"), 30, "its server to go")
            command(stage, f"add server default:todo:blue/{name} 127.0.0.1:9")
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            stage.cluster.store.patch("pods", "default", "todo-blue-3", {"status": ready})
            stage.served_by("todo-blue-1", "todo-blue-2", "todo-blue-3")
    assert stage.daemon.metric("vulcanized_target_up") == 1


def test_a_socket_that_was_deleted_is_bound_again(stage: Stage) -> None:
    before = with_green(stage)
    with mended(stage), stage.load():
        stage.daemon.master_socket.unlink()
        stage.activate("green")
        stage.served_by("todo-green-1")
        # While the master executes itself anew nobody listens there.
        eventually(lambda: processes(stage).master == before.master, 20, ignore=ProxyUnreachable)
