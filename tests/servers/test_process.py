"""A server's process ends when it is told to, and with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.process import ServerFailed, ServerProcess
from tests.servers.wait import TooLate, eventually

ROOT = Path(__file__).parents[2]

# Starts a server from a thread that ends, then waits to be killed.
TEST_RUN = """
import sys, threading, time
from pathlib import Path
from tests.servers.process import ServerProcess
server = ServerProcess("sleep", ["/bin/sleep", "1000"], Path(sys.argv[1]))
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
print(server.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess("sleeper", ["/bin/sleep", "1000"], tmp_path / "log")
    yield server
    server.kill()


def state(pid: int) -> str:
    """The kernel's letter for a process's state; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return ""


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TEST_RUN, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        # The kernel may still be at the launcher; it must outlive the thread that asked for it.
        eventually(lambda: "sleep" in Path(f"/proc/{pid}/comm").read_text(), 5)

        run.send_signal(signal.SIGKILL)

    eventually(lambda: state(pid) in {"", "Z"}, 5, "the server has died")


def test_stop_ends_a_paused_server_by_a_term(sleeper: ServerProcess) -> None:
    sleeper.start()
    pid = sleeper.pid
    eventually(lambda: state(pid) == "S", 5)
    sleeper.pause()
    eventually(lambda: state(pid) == "T", 5)

    sleeper.stop()

    assert not sleeper.running
    assert state(pid) == ""


def test_a_server_deaf_to_term_is_killed(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.01; done"
    server = ServerProcess("deaf", ["/bin/sh", "-c", deaf], tmp_path / "log")
    server.start()
    server.wait_until(lambda: "deaf" in server.log_tail(), 5)

    server.stop(grace=0.1)

    assert not server.running


def test_a_server_that_ends_early_is_told_with_its_log(tmp_path: Path) -> None:
    server = ServerProcess("brief", ["/bin/sh", "-c", "echo no port; exit 3"], tmp_path / "log")
    server.start()

    with pytest.raises(ServerFailed, match=r"(?s)brief ended with 3.*no port"):
        server.wait_until(lambda: False, 5)

    server.kill()


def test_a_server_that_does_not_get_ready_is_told_with_its_log(sleeper: ServerProcess) -> None:
    sleeper.start()

    with pytest.raises(ServerFailed, match="sleeper is ready"):
        sleeper.wait_until(lambda: False, 0.05)


def test_a_server_is_alone_in_its_process_group(sleeper: ServerProcess) -> None:
    sleeper.start()

    assert os.getpgid(sleeper.pid) == sleeper.pid
    with pytest.raises(ServerFailed, match="running already"):
        sleeper.start()


def test_waiting_returns_the_value_or_says_what_was_seen() -> None:
    values = iter([0, 0, 7])
    assert eventually(lambda: next(values), 5) == 7

    with pytest.raises(TooLate, match=r"the pods \(last value \[\]\)"):
        eventually(list, 0.01, "the pods")

    broken = KeyError("phase")

    def ask() -> bool:
        raise broken

    with pytest.raises(TooLate, match="KeyError: 'phase'") as late:
        eventually(ask, 0.01, ignore=KeyError)
    assert late.value.__cause__ is broken
    with pytest.raises(KeyError):
        eventually(ask, 5)


def test_waiting_ends_while_another_thread_brings_the_value() -> None:
    done = threading.Event()
    timer = threading.Timer(0.05, done.set)
    timer.start()

    assert eventually(done.is_set, 5)

    timer.join()
