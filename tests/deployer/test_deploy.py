"""Deployments on a real control plane, etcd, daemon and proxy: HAProxy where only one is needed."""

from __future__ import annotations

import json

import pytest

from tests.daemons import ask
from tests.deployer.stage import BLIND, Stage, measures, on_every_proxy
from tests.servers.load import Load
from tests.servers.manifests import replication_controller
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)


@on_every_proxy
def test_a_first_deployment_serves_and_the_next_take_over_without_a_failed_request(
    stage: Stage,
) -> None:
    first = stage.deploy(replicas=2)
    assert first.code == 0, first.text
    assert first.record["status"] == "DEPLOYED"
    assert stage.active == "1"
    assert stage.controllers() == {"1": 2}
    assert ask(stage.daemon.url, stage.host)[1]["version"] == "1"
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        for version in ("2", "3"):
            done = stage.deploy(replicas=2, controller="ReplicaSet")
            assert done.code == 0, done.text
            assert stage.active == version
            assert stage.controllers() == {version: 2}
            # Where nobody can tell whether the old version is idle, that is said and waited for.
            waits = [line["waiting"] for line in done.lines if line.get("step") == "idle"]
            assert any(BLIND in each for each in waits) == (not measures(stage.front)), waits
            load.go_on()
    assert load.report.failed == {}
    assert load.report.versions.keys() == {"1", "2", "3"}
    eventually(lambda: stage.pods() == ["3", "3"], 20, "only the newest pods to be left")


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "canary", "steps": [{"weight": 20, "pause": "1s"}, {"weight": 60, "pause": "1s"}]},
        {"type": "rolling"},
    ],
    ids=["canary", "rolling"],
)
def test_traffic_goes_over_by_and_by_without_a_failed_request(
    stage: Stage, strategy: object
) -> None:
    assert stage.deploy(replicas=3).code == 0
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        done = stage.deploy(replicas=3, strategy=strategy)
        assert done.code == 0, done.text
        load.go_on()
    assert load.report.failed == {}
    assert done.steps.count("switch") == 3
    assert stage.controllers() == {"2": 3}
    assert stage.active == "2"


def test_the_same_version_twice_is_refused_and_the_live_one_is_untouched(stage: Stage) -> None:
    assert stage.deploy(version="2.0.1").code == 0
    before = stage.nodes.pods(stage.namespace)
    again = stage.deploy(version="2.0.1")
    assert again.code == 1
    assert "version 2.0.1 of" in again.text
    assert "is there already" in again.text
    assert stage.nodes.pods(stage.namespace) == before
    assert len(stage.records()) == 1


def test_of_two_deployers_one_works_and_the_other_says_who_does(stage: Stage) -> None:
    stage.nodes.behave(Behaviour(hold_ready=True), {"app": "todo"})
    one = stage.start("deploy", stage.write(stage.descriptor()))
    (pod,) = stage.nodes.wait_pods(1, stage.namespace, {"app": "todo"}, state="Running")
    other = stage.deploy()
    assert other.code == 4
    assert f"pid {one.pid}" in other.text
    stage.nodes.set_ready(pod)
    done = stage.wait(one)
    assert done.code == 0, done.text
    assert stage.controllers() == {"1": 1}


def test_the_old_version_stays_until_its_last_request_is_answered(stage: Stage) -> None:
    spec = {**stage.descriptor()["podspec"], "terminationGracePeriodSeconds": 0}
    assert stage.deploy(podspec=spec).code == 0
    path = "/slow?seconds=6"
    with Load(stage.daemon.port, stage.host, path=path, keep_alive=0, one_shot=1) as load:
        eventually(lambda: stage.nodes.pods(stage.namespace)[0].in_flight, 10, "a request")
        done = stage.deploy(podspec=spec, drain_timeout="30s")
        assert done.code == 0, done.text
        load.go_on(1)
    waits = {line.get("waiting", "") for line in done.lines if line.get("step") == "idle"}
    assert "1 sessions are still on version 1" in waits
    assert load.report.failed == {}


def test_what_served_without_an_activation_is_named_before_another_version_has_pods(
    stage: Stage,
) -> None:
    stage.etcd.put(f"{stage.prefix}/apps/{stage.app}", json.dumps({"hosts": [stage.host]}))
    path = f"/api/v1/namespaces/{stage.namespace}/replicationcontrollers"
    stage.cluster.api.post(path, replication_controller("todo", "hand", replicas=2))
    stage.nodes.wait_pods(2, stage.namespace, {"app": "todo"})
    eventually(lambda: ask(stage.daemon.url, stage.host)[0] == 200, 10)
    stage.settle()
    stage.nodes.behave(Behaviour(healthy=False), {"app": "todo", "version": "1"})
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        done = stage.deploy(health_timeout="2s")
        assert done.code == 1, done.text
        assert stage.active is None
        load.go_on()
        stage.nodes.reset()
        done = stage.deploy()
        assert done.code == 0, done.text
        load.go_on()
    assert load.report.failed == {}
    assert load.report.versions.keys() == {"hand", "2"}
    assert stage.controllers() == {"2": 1}


def test_what_is_injected_reaches_the_pods_and_is_shown_nowhere(stage: Stage) -> None:
    stage.etcd.put(f"{stage.prefix}/environment/db-password", "geheim-1")
    settings = [{"name": "TOKEN", "value": "geheim-2"}]
    stage.etcd.put(f"{stage.prefix}/config/todo", json.dumps(settings))
    spec = stage.descriptor()["podspec"]
    spec["containers"][0]["env"] = [{"name": "OWN", "value": "${SECRET}"}]
    more = {"podspec": spec, "environment": {"LAST": "geheim-4"}}
    plan = stage.run("plan", stage.write(stage.descriptor(**more)), "--set", "SECRET=geheim-3")
    assert plan.code == 0, plan.text
    done = stage.deploy("--set", "SECRET=geheim-3", **more)
    assert done.code == 0, done.text
    path = f"/api/v1/namespaces/{stage.namespace}/pods"
    (pod,) = stage.cluster.api.get(path)["items"]
    given = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
    assert given == {
        "OWN": "geheim-3",
        "APP_NAME": "todo",
        "POD_NAMESPACE": stage.namespace,
        "APP_VERSION": "1",
        "POD_NAME": None,
        "DB_PASSWORD": "geheim-1",
        "TOKEN": "geheim-2",
        "LAST": "geheim-4",
    }
    kept = {
        key: value
        for key, value in stage.etcd.list(f"{stage.prefix}/").items()
        if not key.startswith((f"{stage.prefix}/environment", f"{stage.prefix}/config"))
    }
    assert kept
    told = [plan.out, plan.text, done.text, done.out, stage.run("status").out, str(kept)]
    told.append(stage.run("logs", stage.app).out)
    assert not [text for text in told if "geheim" in text]
