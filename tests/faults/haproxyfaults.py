"""What is expected of the daemon whatever happens to its HAProxy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.daemons import ask
from tests.faults.stage import OTHER_HOST, Counter, Stage, cpu_seconds
from tests.servers.wait import eventually
from vulcanized.targets.haproxy.live import Processes
from vulcanized.targets.haproxy.master import Master

MOST_APPLIES = 10
"""In one second while nothing changes: a look is taken once a second, retries come after 0.2 s."""


@contextlib.contextmanager
def mended(stage: Stage) -> Iterator[None]:
    """In a `with` block HAProxy suffers; no thread or descriptor leaks, nothing is tried all the
    time, and in the end all is as after a fresh start.
    """

    def applies() -> float:
        with contextlib.suppress(OSError):
            failed = stage.daemon.metric("vulcanized_apply_failures_total")
            return stage.daemon.metric("vulcanized_applies_total") + failed
        return 0.0

    with stage.no_leak():
        with Counter(applies) as counter:
            busy = cpu_seconds(stage.daemon.process.pid)
            yield
            busy = cpu_seconds(stage.daemon.process.pid) - busy
        stage.like_a_fresh_start()
    assert counter.most <= MOST_APPLIES
    assert busy < 5


def processes(stage: Stage) -> Processes:
    """The master and the worker that takes connections."""
    return Master(stage.daemon.master_socket, stage.daemon.directory).processes()


def command(stage: Stage, text: str) -> str:
    """A command to the worker, as an operator would type it."""
    return Master(stage.daemon.master_socket, stage.daemon.directory).ask(f"@1 {text}\n")


def is_down(stage: Stage, deadline: float = 30.0) -> str:
    """Wait until metrics and status say that the target fails; what they say."""

    def down() -> bool:
        return stage.daemon.metric("vulcanized_target_up", target="edge") == 0

    eventually(down, deadline, "the failure to show")
    (target,) = stage.daemon.status()["targets"]
    return str(target["error"])


def gap(stage: Stage, deadline: float = 20.0) -> float:
    """Ask `other` until it answers well; the seconds that it took."""
    began = time.monotonic()

    def answers() -> bool:
        return ask(stage.daemon.url, OTHER_HOST, timeout=1.0)[0] == 200

    eventually(answers, deadline, stage.daemon.process.log_tail, interval=0.01, ignore=OSError)
    return time.monotonic() - began


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "ZX"


def with_green(stage: Stage) -> Processes:
    """A version that can be switched to; who serves once that is so."""
    stage.add_pod("todo-green-1", version="green")
    config = stage.daemon.directory / "haproxy.cfg"
    eventually(lambda: "todo-green-1" in config.read_text(), 30, "the green version")
    stage.settled()
    return processes(stage)
