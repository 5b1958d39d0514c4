"""HAProxy killed or replaced: it is back within moments, with all that happened meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import served_by
from tests.faults.haproxyfaults import gap, is_down, is_gone, mended, processes, with_green
from tests.faults.stage import Stage, haproxy_for
from tests.faults.stage import stage as made
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable

MOST_GAP = 10.0
"""Seconds. On an idle machine HAProxy is away for 0.1 to 1.2 s: a look a second, and its start."""


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose HAProxy is not the daemon's child."""
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    with made(tmp_path, target="") as started:
        yield started


@pytest.mark.parametrize("who", ["worker", "master", "both"])
def test_a_killed_haproxy_is_started_again_with_what_happened_meanwhile(
    stage: Stage, who: str
) -> None:
    """Requests fail while nothing listens, and not one of them after that."""
    before = with_green(stage)
    with mended(stage):
        if who in {"worker", "both"}:
            os.kill(before.worker, signal.SIGKILL)
        if who in {"master", "both"}:
            with contextlib.suppress(ProcessLookupError):  # it ends without its worker
                os.kill(before.master, signal.SIGKILL)
        killed = time.monotonic()
        stage.activate("green")
        # A worker without a master would go on with what it had, and may do so for a moment.
        eventually(lambda: is_gone(before.worker), 20, "the end of the old worker")
        gap(stage)
        took = time.monotonic() - killed
        with stage.load():
            stage.served_by("todo-green-1")
            # Its worker serves before a master of 2.6 listens.
            now = eventually(lambda: processes(stage), 10, "the master", ignore=ProxyUnreachable)
            assert now.master != before.master
    print(f"HAProxy's {who} killed: no answers for {took:.2f} s at most")
    assert took < MOST_GAP


def test_a_haproxy_killed_in_the_midst_of_a_reload_is_started_at_once(stage: Stage) -> None:
    """The reload failed, and that must not keep what was there before from being started. An old
    worker that is left over takes no connection beside the new one.
    """
    before = processes(stage)
    with socket.create_connection(("127.0.0.1", stage.daemon.port)) as lasting, mended(stage):
        # An old worker stays for the sake of this one.
        lasting.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: other.example.com\r\n\r\n")
        stage.configure(timeouts={"server": 9})
        eventually(lambda: processes(stage).worker != before.worker, 20, ignore=Exception)
        second = processes(stage)
        os.kill(second.master, signal.SIGKILL)
        eventually(lambda: is_gone(second.worker), 20, "the end of the worker without a master")
        gap(stage)
        with stage.load():
            eventually(lambda: is_gone(before.worker), 20)


def test_a_haproxy_of_a_service_manager_is_found_again_when_that_has_started_it(
    beside: Stage,
) -> None:
    stage = beside
    assert stage.haproxy is not None
    with_green(stage)
    reloads = stage.daemon.metric("vulcanized_reloads_total")
    with mended(stage):
        stage.haproxy.kill()
        assert "start one with -W -S" in is_down(stage)
        stage.activate("green")
        files = stage.daemon.directory / "active.map"
        eventually(lambda: "todo:green" in files.read_text(), 20, "files for its return")
        stage.haproxy.start()
        gap(stage)
        # It comes up with the switch: nobody had to tell it.
        assert served_by(stage.daemon.url, "todo.example.com") == {"todo-green-1"}
        stage.settled()
    assert stage.daemon.metric("vulcanized_reloads_total") == reloads


def test_another_haproxy_behind_the_same_socket_is_taken_for_what_it_is(beside: Stage) -> None:
    """Started beside the old one, as an upgrade does, and the old one ended after that."""
    stage = beside
    assert stage.haproxy is not None
    before = processes(stage)
    second = haproxy_for(stage.daemon)
    with mended(stage):
        with stage.load():
            second.start()
            eventually(lambda: processes(stage).master != before.master, 20, ignore=Exception)
            os.kill(before.master, signal.SIGUSR1)
            stage.add_pod("todo-blue-3")
            eventually(lambda: is_gone(before.worker), 20)
            stage.served_by("todo-blue-1", "todo-blue-2", "todo-blue-3")
        stage.like_a_fresh_start()
        stage.haproxy.kill()
        stage.haproxy = second
    second.kill()
