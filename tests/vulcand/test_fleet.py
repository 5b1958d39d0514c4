"""The whole daemon: what it writes for a switch and for pods, and what requests see of that."""

from __future__ import annotations

import json

from tests.daemons import Vulcanized
from tests.servers.wait import eventually
from tests.vulcand.fleet import HOST, Fleet, Written


def changed(before: dict[str, Written], after: dict[str, Written]) -> dict[str, int]:
    """The keys that were put or deleted in between, with the revision (0: deleted)."""
    puts = {key: kv.revision for key, kv in after.items() if before.get(key) != kv}
    return puts | dict.fromkeys(before.keys() - after.keys(), 0)


def test_a_switch_is_one_put_of_the_frontend(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.written()

    asked = fleet.etcd.revision()
    fleet.activate("green")
    fleet.served_by("green-1")

    # One revision is the activation's.
    assert fleet.etcd.revision() == asked + 2
    assert changed(before, fleet.written()) == {fleet.frontend_key: asked + 2}


def test_all_routes_of_an_app_are_switched_in_one_transaction(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1", paths=["/", "/a", "/b"])
    fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.written()

    asked = fleet.etcd.revision()
    fleet.activate("green")
    fleet.served_by("green-1", path="/a")

    assert set(changed(before, fleet.written()).values()) == {asked + 2}


def test_a_pod_that_comes_or_goes_is_one_key(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.written()

    fleet.add_pod("blue-2")
    fleet.served_by("blue-1", "blue-2")
    came = fleet.written()
    fleet.remove_pod("blue-2")
    fleet.served_by("blue-1")

    assert len(changed(before, came)) == 1
    assert fleet.written() == before


def test_what_is_written_again_as_it_was_costs_no_write(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.written()

    fleet.configure(hosts=[HOST, HOST.upper()], paths=["/"])
    fleet.activate("blue")
    fleet.configure("marker", hosts=["marker.example.com"])
    eventually(lambda: daemon.app("default/marker"), 5, "the marker")
    fleet.settled(daemon)

    kept = {key: kv for key, kv in fleet.written().items() if "marker" not in key}
    assert {key: kept[key] for key in before} == before


def test_a_start_beside_a_tree_that_is_right_writes_nothing(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    daemon = fleet.daemon()
    fleet.settled(daemon)
    before = fleet.written()

    daemon.process.restart()
    daemon.wait_ready()

    fleet.settled(daemon)
    assert fleet.written() == before


def test_100_switches_and_40_replaced_pods_fail_no_request(fleet: Fleet) -> None:
    pods = ["blue-1", "blue-2", "green-1", "green-2"]
    fleet.todo(*pods)
    daemon = fleet.daemon()
    fleet.served_by("blue-1", "blue-2")

    with fleet.load(keep_alive=4, one_shot=2) as load:
        for number in range(100):
            version = ("green", "blue")[number % 2]
            fleet.activate(version)
            backend = f'"BackendId":"{fleet.backend(version)}"'.encode()
            eventually(lambda b=backend: b in (fleet.etcd.get(fleet.frontend_key) or b""), 5)  # type: ignore[misc]
            if number % 5 < 2:
                old = pods.pop(0)
                colour, _, count = old.partition("-")
                fleet.add_pod(f"{colour}-{int(count) + 2}", colour)
                fleet.remove_pod(old)
                pods.append(f"{colour}-{int(count) + 2}")
        load.go_on(50)

    assert load.report.versions.keys() == {"blue", "green"}
    fleet.served_by(*(pod for pod in pods if pod.startswith("blue")))
    fleet.like_a_fresh_start(daemon)


def test_no_routing_key_is_on_a_lease(fleet: Fleet) -> None:
    fleet.todo("blue-1", max_connections={"app": 10})
    fleet.daemon(probes=[fleet.vulcand])
    fleet.served_by("blue-1")

    assert {kv.lease for kv in fleet.written().values()} == {0}
    assert fleet.written(fleet.leader_key)[fleet.leader_key].lease != 0


def test_apps_and_versions_whose_names_begin_one_another_share_no_server(fleet: Fleet) -> None:
    apps = {"app": "b1", "app-green": "b1", "app2": "b10"}
    for app, version in apps.items():
        fleet.add_pod(f"{app}-pod", version, app)
        fleet.configure(app)
        fleet.activate(version, app)
    fleet.add_pod("app-pod-10", "b10", "app")
    fleet.daemon()
    for app in apps:
        fleet.served_by(f"{app}-pod", host=f"{app}.example.com")

    fleet.vulcand.restart()

    for app in apps:
        fleet.served_by(f"{app}-pod", host=f"{app}.example.com")


def test_every_value_is_an_object_and_none_is_null(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1", hosts=[HOST, "*.w.test", "x.w.test"], paths=["/a", "/b"])
    fleet.activate('{"weights": {"blue": 1, "green": 1}}')
    fleet.daemon(probes=[fleet.vulcand])
    fleet.served_by("blue-1", "green-1", path="/a")

    assert all(isinstance(json.loads(kv.value), dict) for kv in fleet.written().values())


def test_the_end_of_a_daemon_leaves_the_tree(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    daemon: Vulcanized = fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.written()
    with fleet.load():
        daemon.process.stop()
    assert fleet.written() == before
    assert fleet.etcd.get(fleet.leader_key) is None
