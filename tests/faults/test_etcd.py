"""etcd as others use it: compacted, cut off again and again, full of keys that are not ours."""

from __future__ import annotations

from tests.faults.etcdfaults import is_stale, relists, unharmed
from tests.faults.stage import Stage
from tests.servers.wait import eventually
from vulcanized.etcd import EtcdClient, Put


def test_history_compacted_while_we_were_away_costs_one_list(stage: Stage) -> None:
    """python-etcd3 #258: a watch from a compacted revision is silent."""
    stage.add_pod("todo-green-1", version="green")
    stage.configure("third", hosts=["third.example.com"])
    with unharmed(stage):
        stage.relay.refuse()
        is_stale(stage)
        stage.activate("green")
        stage.etcd.delete(f"{stage.prefix}/apps/default/third")
        for number in range(50):
            stage.etcd.put("/elsewhere", str(number))
        stage.etcd.compact()
        stage.relay.restore()
        stage.served_by("todo-green-1")
        eventually(lambda: not stage.daemon.app("default/third"), 20, "the end of the third app")
    assert relists(stage) == 1


def test_a_connection_cut_again_and_again_loses_no_change(stage: Stage) -> None:
    """confd #629: after some errors the watch is over, and nobody notices."""
    stage.add_pod("todo-green-1", version="green")
    with unharmed(stage):
        for number in range(6):
            # Each cut hits a watch that was begun anew.
            seen = stage.relay.accepted
            stage.relay.cut()
            stage.activate("green" if number % 2 else "blue")
            eventually(lambda seen=seen: stage.relay.accepted > seen, 20)  # type: ignore[misc]
        stage.served_by("todo-green-1")
    assert relists(stage) == 0


def test_thousands_of_keys_that_are_no_apps_change_nothing(stage: Stage) -> None:
    places = ("deployments/x", "apps", "apps/default/a/b", "active/NOT A NAMESPACE/x", "actively")
    keys = [f"{stage.prefix}/{places[n % 5]}/{n:05}" for n in range(10_000)]
    stage.add_pod("todo-green-1", version="green")
    log = stage.daemon.process.log
    with unharmed(stage), EtcdClient(stage.etcd.endpoints) as client:
        grown = log.stat().st_size
        client.write(Put(key, b"x" * 500) for key in keys)
        stage.activate("green")
        stage.served_by("todo-green-1")
        stage.relay.cut()
        stage.activate("blue")
        stage.served_by("todo-blue-1", "todo-blue-2")
        assert log.stat().st_size - grown < 100_000
        assert len(stage.daemon.status()["apps"]) == 2
        skipped = "vulcanized_source_skipped_objects_total"
        assert stage.daemon.metric(skipped, source="etcd") == 6_000
        stage.etcd.delete_prefix(f"{stage.prefix}/apps/default/a/")
        eventually(lambda: stage.daemon.metric(skipped, source="etcd") == 4_000, 10)
