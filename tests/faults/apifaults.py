"""What is expected of the daemon whatever its API server does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.fakes.faults import Fault
from tests.faults.guarding import PODS, source
from tests.faults.stage import TODO_HOST, Counter, Stage, cpu_seconds
from tests.servers.wait import eventually

MOST_REQUESTS = 20
"""In one second, of all four streams together: each asks whether it has its place, and watches,
twice a second at most."""

MOST_LINES = 30
"""Of the log, a second."""


@contextlib.contextmanager
def unharmed(stage: Stage, most_requests: int = MOST_REQUESTS) -> Iterator[None]:
    """In a `with` block the API server may do what it likes: both apps are served, it is not
    pestered, nothing leaks, and in the end all is as after a fresh start.
    """
    daemon = stage.daemon.process
    with stage.load(), stage.load(TODO_HOST), stage.no_leak():
        with Counter(stage.cluster.count) as requests, Counter(lambda: _lines(stage)) as lines:
            busy = cpu_seconds(daemon.pid)
            yield
            busy = cpu_seconds(daemon.pid) - busy
        stage.like_a_fresh_start()

    assert requests.most <= most_requests, f"{requests.most} requests in one second"
    assert lines.most <= MOST_LINES, f"{lines.most} lines in one second"
    assert busy < 5, f"{busy:.1f} s of CPU time"


def _lines(stage: Stage) -> int:
    return stage.daemon.process.log.read_bytes().count(b"\n")


def is_stale(stage: Stage, error: str = "", seconds: float = 1.0, name: str = PODS) -> None:
    """Wait until status and metrics say that a source is away, for so long, and this of why."""

    def age() -> float:
        return stage.daemon.metric("vulcanized_source_age_seconds", source=name)

    def state() -> float:
        labels = {"source": name, "state": "stale"}
        return stage.daemon.metric("vulcanized_source_state", **labels)

    eventually(
        lambda: state() == 1 and age() > seconds and error in source(stage, name)["error"],
        30,
        lambda: f"staleness to show; age {age():.1f} s, {source(stage, name)}",
    )


def relists(stage: Stage, cause: str = "expired") -> float:
    """Full lists of pods after the first one."""
    name = "vulcanized_source_relists_total"
    return stage.daemon.metric(name, source=PODS, cause=cause)


@contextlib.contextmanager
def broken(
    stage: Stage, fault: Fault, verb: str = "", plural: str = "", times: int | None = None
) -> Iterator[None]:
    """The server has this fault from now on, also for those who are connected."""
    with stage.cluster.suffering(fault, verb=verb, plural=plural, times=times):
        stage.cluster.cut()
        yield


class Todo:
    """The pods of `todo`, which come and go."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._made = 2
        self.names = ["todo-blue-1", "todo-blue-2"]

    def replace(self) -> None:
        """A new pod, then the oldest one goes: kubelet ends it, whoever is told or not."""
        self._made += 1
        name = f"todo-blue-{self._made}"
        self._stage.add_pod(name)
        self._stage.remove_pod(self.names[0])
        self.names = [*self.names[1:], name]

    def served(self) -> None:
        """Wait until exactly its pods answer."""
        self._stage.served_by(*self.names)
