"""Old workers of a real nginx, whose clients stay: bounded, cheap, and told by a whole daemon."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from rich.console import Console

from benchmarks.usage import descriptors, memory
from tests.daemons import Vulcanized, ask
from tests.servers.fixtures import missing
from tests.servers.localpods import Files, LocalPods
from tests.servers.ports import free_port
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from vulcanized.resources import templates_directory
from vulcanized.statustable import print_status
from vulcanized.targets.nginx import process
from vulcanized.targets.nginx.process import Master, Workers

HOST = "todo.example.com"
PODS = ("blue-1", "blue-2")
MEGABYTE = 1 << 20
RELOADS = 200


class World:
    """One app in files, a daemon with an nginx of one worker, and clients that stay."""

    def __init__(self, folder: Path, pods: LocalPods, shutdown_timeout: str = "1h") -> None:
        self.directory = folder / "nginx"
        self.files = Files(folder / "files")
        self.pods = pods
        port = free_port()
        for name in PODS:
            pods.start(name, "blue")
            self.files.pod(pods.manifest(name, "todo"))
        self.files.config("todo")
        templates = folder / "templates"
        templates.mkdir()
        shipped = (templates_directory() / "nginx/nginx.conf.j2").read_text()
        (templates / "nginx.conf.j2").write_text(
            shipped.replace("worker_processes auto;", "worker_processes 1;").replace(
                "worker_shutdown_timeout 1h;", f"worker_shutdown_timeout {shutdown_timeout};"
            )
        )
        target = f"""
[[targets]]
kind = "nginx"
directory = "{self.directory}"
listen = ["127.0.0.1:{port}"]
templates = "{templates}"
start = true
"""
        spacing = "[sync]\nhold_off = 0.001\nceiling = 0.001"
        self.daemon = Vulcanized(
            folder / "v", self.files.sides, targets=target, port=port, more=spacing
        )
        self.clients: list[socket.socket] = []
        self._changes = 0

    def __enter__(self) -> Self:
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(0)
        with contextlib.suppress(OSError):
            self.daemon.close()
        left = process.child_of(self.directory)
        if left is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, 15)

    # --- clients --------------------------------------------------------------------------------

    def stay(self) -> None:
        """One more client that waits for a long answer, in a worker of now."""
        client = socket.create_connection(("127.0.0.1", self.daemon.port))
        client.sendall(f"GET /slow?seconds=3600 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        self.clients.append(client)
        eventually(self._all_wait, interval=0.002)

    def _all_wait(self) -> bool:
        return sum(map(self.pods.in_flight, PODS)) == len(self.clients)

    def leave(self, but: int) -> None:
        """Clients go, the second one first, until so many are left."""
        while len(self.clients) > but:
            self.clients.pop(min(1, len(self.clients) - 1)).close()

    # --- nginx ----------------------------------------------------------------------------------

    @property
    def master(self) -> Master:
        found = process.child_of(self.directory)
        assert found is not None
        return found

    @property
    def workers(self) -> Workers:
        return process.workers(self.master)

    def change(self) -> None:
        """Let the second pod go, or come back: a reload."""
        self._changes += 1
        if self._changes % 2:
            self.files.remove_pod("blue-2")
        else:
            self.files.pod(self.pods.manifest("blue-2", "todo"))

    def reload(self) -> None:
        """A change, and its reload."""
        before = self.reloads
        self.change()
        eventually(lambda: self.reloads > before, 60, interval=0.01)

    @property
    def target(self) -> dict[str, Any]:
        (target,) = self.daemon.status()["targets"]
        assert isinstance(target, dict)
        return target

    @property
    def reloads(self) -> int:
        return sum(self.target["reloads"].values())

    @property
    def old(self) -> dict[str, Any]:
        told = self.target["old_workers"]
        assert isinstance(told, dict)
        return told

    def used(self) -> dict[str, int]:
        """What nginx as a whole and the daemon use."""
        daemon, master = self.daemon.process.pid, self.master.pid
        workers = self.workers
        everyone = {master, *workers.active, *workers.leaving}
        return {
            "memory of nginx": sum(map(memory, everyone)),
            "memory of the daemon": memory(daemon),
            "descriptors of nginx": descriptors(master),
            "descriptors of the daemon": descriptors(daemon),
        }


@pytest.fixture
def pods() -> Iterator[LocalPods]:
    try:
        find_program("nginx")
    except ServerMissing as reason:
        missing(reason)
    with LocalPods() as pods:
        yield pods


def test_reloads_in_a_row_with_clients_that_stay_cost_nothing_that_grows(
    pods: LocalPods, tmp_path: Path
) -> None:
    """One client stays all along, each other one for five reloads."""
    with World(tmp_path, pods) as world:
        world.stay()
        (held,) = world.workers.active
        most = 0
        used = {}
        for number in range(1, RELOADS + 1):
            world.stay()
            world.leave(6)
            world.reload()
            most = max(most, len(world.workers.leaving))
            if number in (RELOADS // 2, RELOADS):
                eventually(lambda: len(world.workers.leaving) == 6)
                used[number] = world.used()
        assert world.reloads == 1 + RELOADS
        assert most <= 8
        early, late = used[RELOADS // 2], used[RELOADS]
        assert late["descriptors of nginx"] == early["descriptors of nginx"]
        assert late["descriptors of the daemon"] <= early["descriptors of the daemon"] + 2
        assert late["memory of nginx"] < early["memory of nginx"] + 2 * MEGABYTE
        assert late["memory of the daemon"] < early["memory of the daemon"] + 4 * MEGABYTE
        assert world.old["pid"] == held
        assert held in world.workers.leaving
        world.leave(1)
        eventually(lambda: world.old["count"] == 1)
        world.leave(0)
        eventually(lambda: world.old == {"count": 0, "pid": None, "age": 0.0, "notice": ""})


def test_many_old_workers_are_told_in_every_place(pods: LocalPods, tmp_path: Path) -> None:
    with World(tmp_path, pods) as world:
        (held,) = world.workers.active
        world.stay()
        world.reload()
        eventually(lambda: world.old["count"] == 1)
        assert (world.old["pid"], world.old["notice"]) == (held, "")
        for _ in range(8):
            world.stay()
            world.reload()
        eventually(lambda: world.old["count"] == 9)
        assert world.old["pid"] == held
        assert "reloads wait" in world.old["notice"]
        daemon = world.daemon
        shown = io.StringIO()
        print_status(daemon.status(), Console(file=shown, width=400))
        for text in (shown.getvalue(), daemon.page("/")[1].decode()):
            assert f"9 old workers, the oldest ({held})" in text
            assert "old workers of nginx do not end" in text
        assert daemon.metric("vulcanized_target_old_workers", target="nginx") == 9
        assert daemon.metric("vulcanized_target_oldest_worker_seconds", target="nginx") > 0
        (line,) = daemon.log_lines("old workers of nginx do not end")
        assert (line["oldest"], line["level"]) == (held, "warning")
        world.leave(0)
        eventually(lambda: world.old["count"] == 0 and not world.old["notice"])
        assert daemon.log_lines("old workers of nginx have ended")


def test_changes_without_a_pause_with_clients_that_stay_are_ever_fewer_reloads(
    pods: LocalPods, tmp_path: Path
) -> None:
    with World(tmp_path, pods) as world:
        for _ in range(60):
            world.stay()
            world.change()
        assert len(world.workers.leaving) <= 24


def test_a_client_that_stays_longer_than_nginx_lets_it_ends_no_later_than_its_worker(
    pods: LocalPods, tmp_path: Path
) -> None:
    """What an hour of `worker_shutdown_timeout` does, in seconds."""
    with World(tmp_path, pods, shutdown_timeout="2s") as world:
        world.stay()
        (client,) = world.clients
        world.reload()
        world.reload()
        assert ask(world.daemon.url, HOST)[0] == 200
        eventually(lambda: world.old["count"] == 1)
        client.settimeout(20)
        assert client.recv(100) == b""
        eventually(lambda: world.old["count"] == 0)


def test_a_daemon_that_starts_knows_the_old_workers_of_before(
    pods: LocalPods, tmp_path: Path
) -> None:
    with World(tmp_path, pods) as world:
        (held,) = world.workers.active
        world.stay()
        world.reload()
        (begun_by_the_reload,) = world.workers.active
        world.daemon.process.kill()
        world.daemon.start()
        since_the_reload = process.age_of(begun_by_the_reload)
        told = world.old
        assert (told["count"], told["pid"]) == (1, held)
        # Not only since it is seen by the new daemon; the numbers are rounded.
        assert told["age"] > since_the_reload - 0.1
