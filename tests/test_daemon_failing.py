"""Faults of our own: the daemon ends and says so, what it feeds goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vulcanized.daemon
from tests.daemons import Vulcanized, ask
from tests.servers.fixtures import missing
from tests.servers.localpods import Files, LocalPods
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from vulcanized.daemon import Daemon
from vulcanized.errors import TargetError
from vulcanized.settings import Settings
from vulcanized.systemd import Notifier
from vulcanized.targets.haproxy import process

HOST = "todo.example.com"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    with LocalPods() as pods:
        files = Files(tmp_path)
        pods.start("blue-1", "blue")
        files.pod(pods.manifest("blue-1"))
        files.config()
        yield files


@pytest.fixture(autouse=True)
def _no_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon does to its interpreter is not for the tests' own."""
    monkeypatch.setattr(vulcanized.daemon, "tune", lambda: None)
    monkeypatch.setattr(vulcanized.daemon, "settle", lambda: None)


class Here:
    """A daemon in this process, since its faults are made here; `others` does not run."""

    def __init__(self, files: Files, folder: Path) -> None:
        self.other = Vulcanized(folder, files.sides)
        self.daemon = Daemon(lambda: Settings.load(self.other.config, {}), Notifier({}))

    @property
    def runtime(self) -> Any:
        return self.daemon._current()

    def end(self) -> None:
        """What SIGTERM does; a signal would end these tests if the daemon had ended before."""
        self.daemon._signalled(signal.SIGTERM, None)
        self.daemon._wake.send(b"\0")

    def run(self, then: Callable[[], None]) -> int:
        """Serve; once it is in step, do `then` in another thread. Returns the exit code."""
        failed: list[BaseException] = []

        def act() -> None:
            try:
                eventually(
                    lambda: self.other.page("/readyz")[0] == 200, 30, "ready", ignore=OSError
                )
                then()
            except BaseException as error:
                failed.append(error)
                self.end()

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        code = self.daemon.run()
        thread.join(30)
        # A process would end here, and its sockets with it.
        self.daemon._woken.close()
        self.daemon._wake.close()
        if failed:
            raise failed[0]
        return code


@contextmanager
def left_behind(here: Here) -> Iterator[None]:
    """Its HAProxy goes on: see that it serves, and end it."""
    pid = process.pid_of(here.other.directory)
    assert pid is not None, "the proxy went with the daemon"
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: process.pid_of(here.other.directory) is None, 20, "its end")


def test_a_thread_that_fails_ends_the_daemon_and_not_the_proxy(
    files: Files, tmp_path: Path
) -> None:
    here = Here(files, tmp_path / "v")

    def fail() -> None:
        def pods(app: object) -> None:
            raise RuntimeError("a fault of ours")

        here.runtime.parts.cluster.pods = pods
        files.config(hosts=[HOST, "other.example.com"])

    assert here.run(fail) == 1
    with left_behind(here):
        assert ask(here.other.url, HOST)[0] == 200


def test_a_target_that_cannot_be_closed_keeps_nothing_from_ending(
    files: Files, tmp_path: Path
) -> None:
    here = Here(files, tmp_path / "v")

    def end() -> None:
        def close(*, stop_proxy: bool) -> None:
            raise TargetError("the disk is gone")

        here.runtime.parts.targets[0].close = close
        here.end()

    began = time.monotonic()
    assert here.run(end) == 0
    assert time.monotonic() - began < 60
    with left_behind(here):
        assert ask(here.other.url, HOST)[0] == 200


def test_a_stuck_thread_shows_in_healthz(files: Files, tmp_path: Path) -> None:
    here = Here(files, tmp_path / "v")
    seen: list[tuple[int, bytes]] = []

    def stick() -> None:
        gone = threading.Thread(target=lambda: None)
        gone.start()
        gone.join(10)
        seen.append(here.other.page("/healthz"))
        here.runtime._threads.append(gone)
        seen.append(here.other.page("/healthz"))
        here.end()

    assert here.run(stick) == 0
    (healthy, _), (stuck, why) = seen
    assert (healthy, stuck) == (200, 503)
    assert b"stuck or gone" in why
