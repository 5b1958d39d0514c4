"""From a pod turning ready to a request answered by it, on real servers, and no request lost."""

from __future__ import annotations

import pytest

from tests.daemons import ask, eventually_served_by, served_by
from tests.e2e.conftest import Site
from tests.servers.load import Load
from tests.servers.manifests import deployment, pod_spec, replication_controller
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)


def names(pods: object) -> list[str]:
    return [pod.name for pod in pods]  # type: ignore[attr-defined]


def test_a_ready_pod_answers_and_one_that_only_runs_does_not(site: Site) -> None:
    site.configure()
    site.nodes.behave(Behaviour(hold_ready=True), {"app": "todo"})
    site.cluster.api.post(site.path("replicationcontrollers"), replication_controller("todo"))
    (pod,) = site.nodes.wait_pods(1, site.namespace, {"app": "todo"}, state="Running")
    eventually(lambda: site.app().get("routed"), 5, "the route")
    site.settle()
    assert ask(site.daemon.url, site.host)[0] == 503
    site.nodes.set_ready(pod)
    eventually_served_by(site.daemon.url, site.host, [pod.name])
    site.nodes.set_ready(pod, ready=False)
    eventually(lambda: ask(site.daemon.url, site.host)[0] == 503, 5, "503 again")


def test_a_controller_is_scaled_up_and_down_under_load_without_a_failed_request(
    site: Site,
) -> None:
    site.configure()
    path = site.path("replicationcontrollers")
    site.cluster.api.post(path, replication_controller("todo", replicas=2))
    eventually_served_by(site.daemon.url, site.host, names(site.ready(2)))
    site.settle()
    reloads = site.daemon.metric("vulcanized_reloads_total")
    with Load(site.daemon.port, site.host) as load:
        load.go_on()
        for replicas in (6, 1, 4):
            site.cluster.api.patch(f"{path}/todo-1", {"spec": {"replicas": replicas}})
            eventually_served_by(site.daemon.url, site.host, names(site.ready(replicas)))
            load.go_on()
    assert load.report.failed == {}
    assert site.daemon.metric("vulcanized_reloads_total") == reloads


def test_a_deleted_pod_gets_nothing_new_finishes_what_it_has_and_fails_nobody(site: Site) -> None:
    site.configure()
    path = site.path("replicationcontrollers")
    site.cluster.api.post(path, replication_controller("todo", replicas=3))
    site.nodes.behave(Behaviour(grace=1.0), {"app": "todo"})
    pods = site.ready(3)
    eventually_served_by(site.daemon.url, site.host, names(pods))
    with (
        Load(site.daemon.port, site.host) as load,
        Load(site.daemon.port, site.host, path="/slow?seconds=0.5", keep_alive=6) as slow,
    ):
        load.go_on()
        for pod in pods:
            site.cluster.api.delete(site.path("pods", pod.name))
            eventually(lambda: pod.name not in served_by(site.daemon.url, site.host), 5)  # noqa: B023
            site.ready(3)
            load.go_on()
        slow.go_on(30)
    assert load.report.failed == {}
    assert slow.report.failed == {}
    gone = {pod.name for pod in pods}
    eventually(
        lambda: not gone & {s["name"][:-9] for v in site.app()["versions"] for s in v["servers"]},
        10,
        "the deleted pods to be gone",
    )


def test_a_deployment_rolls_under_load_without_a_failed_request(site: Site) -> None:
    site.configure()
    body = deployment("todo", "1", replicas=3)
    body["spec"]["strategy"] = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    site.cluster.api.post(site.path("deployments"), body)
    eventually_served_by(site.daemon.url, site.host, names(site.ready(3)))
    with Load(site.daemon.port, site.host) as load:
        load.go_on()
        template = {"metadata": {"labels": {"app": "todo", "version": "2"}}}
        site.cluster.api.patch(site.path("deployments", "todo"), {"spec": {"template": template}})
        new = site.ready(3, "2")
        eventually_served_by(site.daemon.url, site.host, names(new), 20)
        load.go_on()
    assert load.report.failed == {}
    assert load.report.versions.keys() == {"1", "2"}


def test_a_new_version_beside_the_old_takes_over_by_one_put_without_a_failed_request(
    site: Site,
) -> None:
    site.configure()
    path = site.path("replicationcontrollers")
    site.cluster.api.post(path, replication_controller("todo", "blue", replicas=2))
    site.ready(2, "blue")
    site.activate("blue")
    # Two keys by two watches: the activation may be there before the routes are.
    eventually(lambda: site.app().get("routed"), 5, "the route")
    eventually(lambda: site.app().get("activation", {}).get("in_effect") == "blue", 5)
    site.settle()
    with Load(site.daemon.port, site.host) as load:
        load.go_on()
        site.cluster.api.post(path, replication_controller("todo", "green", replicas=2))
        green = site.ready(2, "green")
        load.go_on()
        assert load.report.versions.keys() == {"blue"}
        site.activate("green")
        eventually_served_by(site.daemon.url, site.host, names(green))
        site.cluster.api.patch(f"{path}/todo-blue", {"spec": {"replicas": 0}})
        site.ready(0, "blue")
        load.go_on()
    assert load.report.failed == {}
    assert load.report.versions.keys() == {"blue", "green"}


def test_the_first_activation_and_its_end_fail_no_request(site: Site) -> None:
    """Both need a backend that the running proxy does not have."""
    site.configure()
    path = site.path("replicationcontrollers")
    for version in ("blue", "green"):
        site.cluster.api.post(path, replication_controller("todo", version, replicas=2))
    every, blue = site.ready(4), site.ready(2, "blue")
    eventually_served_by(site.daemon.url, site.host, names(every))
    with Load(site.daemon.port, site.host) as load:
        load.go_on()
        for _ in range(4):
            site.activate("blue")
            eventually_served_by(site.daemon.url, site.host, names(blue))
            site.etcd.delete(f"{site.prefix}/active/{site.namespace}/todo")
            eventually_served_by(site.daemon.url, site.host, names(every))
        load.go_on()
    assert load.report.failed == {}


def test_an_activation_put_too_early_is_held_until_its_pods_are_ready(site: Site) -> None:
    site.configure()
    path = site.path("replicationcontrollers")
    site.cluster.api.post(path, replication_controller("todo", "blue", replicas=1))
    blue = site.ready(1, "blue")
    site.activate("blue")
    eventually_served_by(site.daemon.url, site.host, names(blue))
    with Load(site.daemon.port, site.host) as load:
        site.activate("green")
        eventually(lambda: site.app()["activation"]["held"], 5, "the activation to be held")
        site.cluster.api.post(path, replication_controller("todo", "green", replicas=1))
        eventually_served_by(site.daemon.url, site.host, names(site.ready(1, "green")))
        load.go_on()
    assert load.report.failed == {}
    assert not site.app()["activation"]["held"]


def test_weights_share_the_requests_and_change_without_a_reload(site: Site) -> None:
    site.configure()
    path = site.path("replicationcontrollers")
    site.cluster.api.post(path, replication_controller("todo", "41", replicas=1))
    site.cluster.api.post(path, replication_controller("todo", "42", replicas=3))
    site.ready(4)
    site.activate("41")
    eventually(lambda: site.app().get("activation", {}).get("in_effect") == "41", 5)
    eventually_served_by(site.daemon.url, site.host, names(site.ready(1, "41")))
    site.settle()
    reloads = site.daemon.metric("vulcanized_reloads_total")
    for weight in (20, 50):
        site.activate(f'{{"weights": {{"41": {100 - weight}, "42": {weight}}}}}')
        eventually(lambda: "42" in site.app()["activation"]["in_effect"], 5)
        site.settle()
        with Load(site.daemon.port, site.host, pause=0.0) as load:
            load.go_on(2000)
        assert load.report.failed == {}
        share = 100 * load.report.versions["42"] / load.report.answers
        # Four standard deviations of 2,000 draws.
        assert abs(share - weight) < 4 * (weight * (100 - weight) / 2000) ** 0.5
    assert site.daemon.metric("vulcanized_reloads_total") == reloads


def test_the_annotation_of_a_controller_is_enough(site: Site) -> None:
    config = {"vulcanized.io/config": f'{{"hosts": ["{site.host}"]}}'}
    body = replication_controller("todo", annotations=config)
    site.cluster.api.post(site.path("replicationcontrollers"), body)
    eventually_served_by(site.daemon.url, site.host, names(site.ready(1)))


def test_a_named_port_is_looked_up_in_each_pod(site: Site) -> None:
    site.configure(port="port-9090")
    spec = pod_spec((8080, 9090))
    site.cluster.api.post(
        site.path("replicationcontrollers"), replication_controller("todo", spec=spec)
    )
    eventually_served_by(site.daemon.url, site.host, names(site.ready(1)))
    (version,) = site.app()["versions"]
    assert version["servers"][0]["address"].endswith(":9090")
