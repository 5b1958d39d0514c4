"""Deployments on a real control plane, etcd, daemon and HAProxy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.daemons import ask
from tests.deployer.stage import Stage
from tests.servers.load import Load
from tests.servers.manifests import deployment, replication_controller
from tests.servers.nodeagent import Behaviour
from tests.servers.relay import Relay
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)

NEW = {"app": "todo", "version": "2"}


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


@pytest.mark.parametrize(
    ("behaviour", "fields", "words"),
    [
        (Behaviour(healthy=False), {}, "/health at port 8080 answers 503"),
        (
            Behaviour(healthy=False),
            {"health": {"type": "probe", "interval": "100ms"}},
            'without "healthy": true',
        ),
        (Behaviour(hold_ready=True), {}, "0 of 2 pods are ready"),
        (Behaviour(waiting="ImagePullBackOff"), {}, "ImagePullBackOff"),
        (Behaviour(), {"podspec": "unschedulable"}, "Unschedulable"),
    ],
    ids=["http", "probe", "never-ready", "no-image", "unschedulable"],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "next"])
def test_what_is_not_well_goes_again_and_what_serves_never_notices(
    stage: Stage, first: bool, behaviour: Behaviour, fields: dict[str, object], words: str
) -> None:
    version = "1" if first else "2"
    if not first:
        assert stage.deploy(replicas=2).code == 0
    stage.nodes.behave(behaviour, {"app": "todo", "version": version})
    fields = {"ready_timeout": "3s", "health_timeout": "2s", **fields}
    if fields.get("podspec") == "unschedulable":
        spec = stage.descriptor()["podspec"]
        fields["podspec"] = {**spec, "nodeSelector": {"no": "where"}}
    config, active = stage.key("apps"), stage.active
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        done = stage.deploy(replicas=2, **fields)
        load.go_on()
    assert done.code == 1, done.text
    assert done.record["status"] == "FAILURE"
    assert words in done.record["reason"]
    assert stage.controllers() == ({} if first else {"1": 2})
    assert (stage.key("apps"), stage.active) == (config, active)
    if not first:
        assert load.report.failed == {}
        assert load.report.versions.keys() == {"1"}
    eventually(lambda: version not in stage.pods(), 20, "its pods to be gone")
    # The number is used up.
    stage.nodes.reset()
    assert stage.deploy(replicas=2).record["version"] == ("2" if first else "3")


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


def test_back_to_the_version_before_while_it_is_kept_then_it_is_disposed_of(stage: Stage) -> None:
    assert stage.deploy(keep_previous=600).code == 0
    assert stage.deploy(keep_previous=600).code == 0
    assert stage.controllers() == {"1": 1, "2": 1}
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        assert stage.run("scale", stage.app, "2").code == 0
        back = stage.run("rollback", stage.app)
        assert back.code == 0, back.text
        assert stage.active == "1"
        assert ask(stage.daemon.url, stage.host)[1]["version"] == "1"
        forth = stage.run("switch", stage.app, "2")
        assert forth.code == 0, forth.text
        assert stage.active == "2"
        # One previous version is kept, and no third.
        assert stage.deploy(keep_previous=1).code == 0
        assert stage.controllers() == {"2": 2, "3": 1}
        eventually(
            lambda: stage.run("dispose").code == 0 and stage.controllers() == {"3": 1},
            30,
            "the previous version to be disposed of",
        )
        load.go_on()
    assert load.report.failed == {}
    gone = stage.run("rollback", stage.app)
    assert gone.code == 1
    assert "no version 2 any more" in gone.text


def test_an_app_is_scaled_and_taken_away(stage: Stage) -> None:
    assert stage.deploy().code == 0
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        for replicas in (3, 1):
            done = stage.run("scale", stage.app, str(replicas))
            assert done.code == 0, done.text
            assert stage.controllers() == {"1": replicas}
        load.go_on()
    assert load.report.failed == {}
    done = stage.run("undeploy", stage.app)
    assert done.code == 0, done.text
    assert done.record["status"] == "UNDEPLOYED"
    assert stage.controllers() == {}
    assert stage.pods() == []
    assert stage.key("apps") is stage.active is None
    assert ask(stage.daemon.url, stage.host)[0] in (404, 503)
    assert stage.run("undeploy", stage.app).code == 1
    # Numbers go on where they were.
    assert stage.deploy().record["version"] == "2"


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


def test_a_controller_that_can_make_no_pod_says_why(stage: Stage) -> None:
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas"
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    stage.cluster.api.post(path, body)
    eventually(
        lambda: "hard" in stage.cluster.api.get(f"{path}/none").get("status", {}), 10, "the quota"
    )
    done = stage.deploy(ready_timeout="4s")
    assert done.code == 1, done.text
    assert "exceeded quota" in done.record["reason"]
    assert stage.controllers() == {}


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


def test_an_app_that_a_deployment_runs_is_left_to_it(stage: Stage) -> None:
    path = f"/apis/apps/v1/namespaces/{stage.namespace}/deployments"
    stage.cluster.api.post(path, deployment("todo", "1"))
    stage.nodes.wait_pods(1, stage.namespace, {"app": "todo"})
    done = stage.deploy()
    assert done.code == 1
    assert "is run by Deployment todo" in done.text


def test_a_cancelled_deployment_is_undone(stage: Stage) -> None:
    assert stage.deploy().code == 0
    stage.nodes.behave(Behaviour(hold_ready=True), NEW)
    process = stage.start("deploy", stage.write(stage.descriptor()))
    stage.nodes.wait_pods(1, stage.namespace, NEW, state="Running")
    process._signal(15)
    done = stage.wait(process)
    assert done.code == 1, done.text
    assert done.record["reason"] == "it was cancelled"
    assert stage.controllers() == {"1": 1}


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


def test_a_descriptor_that_cannot_be_used_touches_nothing(stage: Stage) -> None:
    for fields, words in (
        (
            {"podspec": {"containers": [{"name": "app", "image": "x", "ports": [{}]}]}},
            "containerPort",
        ),
        ({"replicas": 0}, "replicas: must be 1 or more"),
        ({"environment": {"A": "${NO}", "B": "${NOR_THAT}"}}, "${NO}; ${NOR_THAT}: no value"),
        ({"labels": {"app": "else"}}, "labels: app is written by the deployer"),
        ({"config": {"hosts": ["no host"]}}, "config.hosts.0"),
    ):
        done = stage.deploy(**fields)
        assert done.code == 2, done.text
        assert words in done.text
    assert stage.etcd.list(f"{stage.prefix}/deployments") == {}
    assert stage.controllers() == {}


def through(stage: Stage, etcd: Relay | None, api: Relay | None) -> None:
    """Let deployers go through relays from now on."""
    text = stage.config.read_text()
    if etcd is not None:
        text = text.replace(stage.etcd.endpoint, f"http://127.0.0.1:{etcd.port}")
    if api is not None:
        path = stage.folder / "relayed"
        url = f"https://127.0.0.1:{api.port}"
        stage.cluster.write_kubeconfig(path, stage.cluster.admin, url)
        text = text.replace(str(stage.cluster.kubeconfig), str(path))
    stage.config.write_text(text)


@pytest.mark.parametrize("server", ["etcd", "api"])
@pytest.mark.parametrize("fault", ["refuse", "mute"])
def test_a_server_that_is_away_in_the_middle_is_waited_for(
    stage: Stage, server: str, fault: str
) -> None:
    assert stage.deploy().code == 0
    port = stage.etcd.port if server == "etcd" else stage.cluster.port
    with Relay(port) as relay, Load(stage.daemon.port, stage.host) as load:
        through(stage, relay if server == "etcd" else None, relay if server == "api" else None)
        stage.nodes.behave(Behaviour(hold_ready=True), NEW)
        process = stage.start("deploy", stage.write(stage.descriptor(ready_timeout="60s")))
        (pod,) = stage.nodes.wait_pods(1, stage.namespace, NEW, state="Running")
        getattr(relay, fault)()
        eventually(lambda: "trying again" in process.log.read_text(), 40, "trouble to be told")
        stage.nodes.set_ready(pod)
        if server == "etcd":
            # Longer than the lock lives.
            key = f"{stage.prefix}/locks/{stage.app}"
            eventually(lambda: stage.etcd.get(key) is None, 20, "the lock to run out")
        relay.restore()
        done = stage.wait(process)
        load.go_on()
    assert done.code == 0, done.text
    assert stage.controllers() == {"2": 1}
    assert load.report.failed == {}


def test_a_daemon_that_dies_proves_nothing_and_the_old_version_stays(stage: Stage) -> None:
    assert stage.deploy().code == 0
    stage.nodes.behave(Behaviour(hold_ready=True), NEW)
    descriptor = stage.write(stage.descriptor(switch_timeout="4s"))
    process = stage.start("deploy", descriptor)
    (pod,) = stage.nodes.wait_pods(1, stage.namespace, NEW, state="Running")
    stage.daemon.process.kill()
    instances = f"{stage.prefix}/instances/"
    eventually(lambda: not stage.etcd.list(instances), 20, "its report to run out")
    with Load(stage.daemon.port, stage.host) as load:
        stage.nodes.set_ready(pod)
        done = stage.wait(process)
        load.go_on()
    assert load.report.failed == {}
    assert done.code == 5, done.text
    assert "is away" in done.record["reason"]
    # Its HAProxy serves the old version, and nobody can tell otherwise.
    assert stage.controllers() == {"1": 1, "2": 1}
    assert stage.active == "1"


def test_a_switch_without_a_cluster_writes_the_file_that_the_daemon_follows(tmp_path: Path) -> None:
    from vulcanized.deployer.cli import main

    settings = tmp_path / "vulcanized.toml"
    settings.write_text('[directory]\nmanifests = "manifests"\nstore = "store"\n')
    assert main(["switch", "shop/todo", "green", "--config", str(settings)]) == 0
    assert (tmp_path / "store/active/shop/todo").read_text() == "green\n"
    assert [each.name for each in (tmp_path / "store/active/shop").iterdir()] == ["todo"]
    for wrong in ("shop/", "/todo", "", "shop/../x", "a/b/c"):
        assert main(["switch", wrong, "green", "--config", str(settings)]) == 2
    assert main(["switch", "shop/todo", "no version", "--config", str(settings)]) == 2
    assert main(["deploy", str(settings), "--config", str(settings)]) == 2
