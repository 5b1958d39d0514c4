"""etcd that fails in the midst of many transactions: the end is that of a fresh start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Vulcanized
from tests.servers.fixtures import NewEtcd, NewVulcand
from tests.servers.localpods import LocalPods
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from tests.vulcand.fleet import HOST, Fleet, target_of

APPS = 60
PODS = 10


@pytest.fixture
def alone(
    tmp_path: Path, new_etcd: NewEtcd, new_vulcand: NewVulcand, pods: LocalPods
) -> Iterator[Fleet]:
    """With an etcd and a vulcand of the test's own."""
    etcd = new_etcd()
    fleet = Fleet(tmp_path, etcd, new_vulcand(etcd.endpoint), pods)
    yield fleet
    fleet.close()


def many(fleet: Fleet, version: str = "1") -> None:
    """Sixty apps of ten pods each."""
    for number in range(APPS):
        fleet.paper_pods(f"app-{number}", version, PODS, net=number)
        text = json.dumps({"hosts": [f"{number}.example.com"]})
        fleet.etcd.put(f"{fleet.store}/apps/default/app-{number}", text)


def some_are_written(fleet: Fleet) -> None:
    """Wait until a part of the apps is there."""
    eventually(lambda: len(fleet.tree(ours=True)) > 40, 20, "a part of it", interval=0.001)


def killed(fleet: Fleet, daemon: Vulcanized) -> None:
    fleet.etcd.kill()
    eventually(lambda: target_of(daemon)["error"], 20, "its error")
    fleet.etcd.start()


def frozen(fleet: Fleet, daemon: Vulcanized) -> None:
    fleet.etcd.pause()
    eventually(lambda: target_of(daemon)["error"], 20, "its error")
    fleet.etcd.resume()


def restarted(fleet: Fleet, daemon: Vulcanized) -> None:
    fleet.etcd.restart()


def compacted(fleet: Fleet, daemon: Vulcanized) -> None:
    fleet.etcd.compact()


def killed_daemon(fleet: Fleet, daemon: Vulcanized) -> None:
    daemon.process.kill()
    daemon.start()


FAULTS: dict[str, Callable[[Fleet, Vulcanized], None]] = {
    "etcd killed": killed,
    "etcd frozen": frozen,
    "etcd restarted": restarted,
    "etcd compacted": compacted,
    "the daemon killed": killed_daemon,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_midst_of_many_writes_ends_as_a_fresh_start_would(
    alone: Fleet, fault: str
) -> None:
    alone.todo("blue-1", "green-1")
    daemon = alone.daemon()
    alone.served_by("blue-1")

    with alone.load():
        many(alone)
        some_are_written(alone)
        FAULTS[fault](alone, daemon)
        alone.activate("green")
        alone.served_by("green-1", deadline=30)
        alone.like_a_fresh_start(daemon, 40)
    assert len(alone.tree(ours=True)) > APPS * (PODS + 2)
    # Known to vulcand, and nobody listens there.
    alone.answers(502, "59.example.com")


def test_a_change_made_while_etcd_was_away_from_us_and_compacted_is_put_back(alone: Fleet) -> None:
    alone.todo("blue-1")
    with Relay(alone.etcd.port) as relay:
        daemon = alone.daemon(etcd=[f"http://127.0.0.1:{relay.port}"])
        alone.served_by("blue-1")
        value = alone.etcd.get(alone.backend_key())
        assert value is not None
        before = alone.tree()
        with alone.load():
            relay.refuse()
            eventually(lambda: target_of(daemon)["error"], 10, "its error")
            # Nothing tells of this but the revision at which it was made.
            alone.etcd.delete(alone.backend_key())
            alone.etcd.put(alone.backend_key(), value)
            alone.hand.server(alone.backend(), "mine", "http://127.0.0.1:1")
            for number in range(20):
                alone.etcd.put("/elsewhere", str(number))
            alone.etcd.compact()
            relay.restore()
            eventually(lambda: alone.tree() == before, 30, "the tree as it was")
            alone.add_pod("blue-2")
            alone.served_by("blue-1", "blue-2")


def test_an_etcd_that_lost_everything_is_filled_again(alone: Fleet) -> None:
    alone.todo("blue-1")
    daemon = alone.daemon()
    alone.served_by("blue-1")
    for _ in range(50):
        alone.etcd.put("/elsewhere", "so that its revisions go back")
    before = alone.tree()

    alone.etcd.stop()
    shutil.rmtree(alone.etcd.folder / "m1")
    alone.etcd.start()

    # The store is as empty; what it said is remembered, and put there again by people.
    alone.configure()
    alone.activate("blue")
    eventually(lambda: alone.tree() == before, 30, daemon.process.log_tail)
    alone.vulcand.restart()
    assert alone.hand.ask(HOST).status == 200


def test_recovery_from_a_short_outage_waits_for_no_retry(alone: Fleet) -> None:
    alone.todo("blue-1", "green-1")
    with Relay(alone.etcd.port) as relay:
        daemon = alone.daemon(etcd=[f"http://127.0.0.1:{relay.port}"])
        alone.served_by("blue-1")
        for version, pod in (("green", "green-1"), ("blue", "blue-1")):
            relay.cut()
            alone.activate(version)
            alone.served_by(pod, deadline=4)
        alone.settled(daemon)
