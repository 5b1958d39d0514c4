"""What is expected of the daemon whatever happens to its etcd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.faults.stage import Counter, Stage, cpu_seconds
from tests.servers.etcd import EtcdError
from tests.servers.wait import eventually

MOST_CONNECTS = 8
"""In one second, to all members together. Three are seen where all of them are away."""


@contextlib.contextmanager
def unharmed(stage: Stage) -> Iterator[None]:
    """In a `with` block etcd may do what it likes: `other` is served, nothing is pestered, nothing
    leaks, and in the end all is as after a fresh start.
    """

    def connects() -> int:
        return sum(relay.accepted for relay in stage.relays)

    with stage.load(), stage.no_leak():
        with Counter(connects) as counter:
            busy = cpu_seconds(stage.daemon.process.pid)
            yield
            busy = cpu_seconds(stage.daemon.process.pid) - busy
        stage.like_a_fresh_start()
    print("MOST", counter.most, "BUSY", busy)
    assert counter.most <= MOST_CONNECTS
    assert busy < 5


def activate_by(stage: Stage, member: int, version: str) -> None:
    """Put an activation by way of one member, as soon as its cluster has a leader."""

    def put() -> int:
        return stage.etcd.put(f"{stage.prefix}/active/default/todo", version, member)

    eventually(put, 30, "a leader", ignore=(OSError, EtcdError))


def is_stale(stage: Stage, seconds: float = 2.0, deadline: float = 30.0) -> str:
    """Wait until status and metrics say that etcd is away, for so long; the error that is told."""

    def age() -> float:
        return stage.daemon.metric("vulcanized_source_age_seconds", source="etcd")

    labels = {"source": "etcd", "state": "stale"}
    eventually(
        lambda: stage.daemon.metric("vulcanized_source_state", **labels) == 1 and age() > seconds,
        deadline,
        lambda: f"staleness to show; age {age():.1f} s",
    )
    return error(stage)


def error(stage: Stage) -> str:
    """What `/status` says is wrong with etcd; "" when nothing is."""
    sources = stage.daemon.status()["sources"]
    return str(next(each["error"] for each in sources if each["name"] == "etcd"))


def relists(stage: Stage) -> float:
    """Full lists after the first one."""
    return stage.daemon.metric("vulcanized_source_relists_total", source="etcd")
