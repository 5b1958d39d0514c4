"""Time passes without the daemon: stopped and continued, as on a machine that was suspended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.etcdfaults import relists, unharmed
from tests.faults.stage import Stage
from tests.faults.stage import stage as made
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually

STOPPED = 22.0
"""Seconds: longer than any silence that is taken for an end (etcd's 15 s, a reconciler's 20 s)."""


class Manager:
    """What a service manager hears, with the moment."""

    def __init__(self, path: Path) -> None:
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, name="manager", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                said = self._socket.recv(4096).decode()
            except OSError:
                return
            self.heard += [(time.monotonic(), line) for line in said.split("\n")]

    def beats(self, start: float, end: float) -> int:
        """How often the watchdog was fed between two moments."""
        return sum(1 for at, line in self.heard if line == "WATCHDOG=1" and start <= at <= end)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def stage(tmp_path: Path, manager: Manager) -> Iterator[Stage]:
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    notify = f"NOTIFY_SOCKET={tmp_path / 'notify'}"
    words = ("/usr/bin/env", notify, "WATCHDOG_USEC=1500000", sys.executable, "-m", "vulcanized")
    with made(tmp_path, program=words) as started:
        yield started


def test_a_daemon_that_was_stopped_for_long_goes_on_where_it_was(
    stage: Stage, manager: Manager
) -> None:
    """The watchdog is not fed meanwhile, and is at once when the daemon goes on."""
    stage.add_pod("todo-green-1", version="green")
    pid = stage.daemon.process.pid
    with unharmed(stage):
        connects = stage.relay.accepted
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            stage.activate("green")
            stage.add_pod("todo-green-2", version="green")
            eventually(lambda: time.monotonic() > stopped + STOPPED, STOPPED + 10)
        finally:
            os.kill(pid, signal.SIGCONT)
        continued = time.monotonic()
        stage.served_by("todo-green-1", "todo-green-2")
        eventually(lambda: manager.beats(continued, continued + 20) > 3, 20, "the watchdog's food")
        assert manager.beats(stopped + 1, continued) == 0
        assert stage.relay.accepted <= connects + 3
        assert stage.daemon.page("/healthz")[0] == 200
    assert relists(stage) == 0
    assert stage.daemon.metric("vulcanized_source_relists_total") == 0
