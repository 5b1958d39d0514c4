"""Deployments that fail, are refused or cancelled: what serves never notices."""

from __future__ import annotations

import pytest

from tests.deployer.stage import Stage
from tests.servers.load import Load
from tests.servers.manifests import deployment
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)

NEW = {"app": "todo", "version": "2"}


UNWELL: dict[str, tuple[Behaviour, dict[str, object], str]] = {
    "http": (Behaviour(healthy=False), {}, "/health at port 8080 answers 503"),
    "probe": (
        Behaviour(healthy=False),
        {"health": {"type": "probe", "interval": "100ms"}},
        'without "healthy": true',
    ),
    "never-ready": (Behaviour(hold_ready=True), {}, "0 of 2 pods are ready"),
    "no-image": (Behaviour(waiting="ImagePullBackOff"), {}, "ImagePullBackOff"),
    "unschedulable": (Behaviour(), {"podspec": "unschedulable"}, "Unschedulable"),
}


@pytest.mark.parametrize(
    ("balancer", "first", "fault"),
    [
        *(("haproxy", first, fault) for fault in UNWELL for first in (True, False)),
        ("nginx", False, "http"),
        ("vulcand", False, "http"),
    ],
    indirect=["balancer"],
)
def test_what_is_not_well_goes_again_and_what_serves_never_notices(
    stage: Stage, first: bool, fault: str
) -> None:
    behaviour, fields, words = UNWELL[fault]
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
    details = [line["detail"] for line in done.lines if "detail" in line]
    said = [line for line in details if f" log: app: version {version} listens" in line]
    # Those that began have a log, which may say why.
    assert bool(said) is (words not in ("ImagePullBackOff", "Unschedulable"))
    assert stage.controllers() == ({} if first else {"1": 2})
    assert (stage.key("apps"), stage.active) == (config, active)
    if not first:
        assert load.report.failed == {}
        assert load.report.versions.keys() == {"1"}
    eventually(lambda: version not in stage.pods(), 20, "its pods to be gone")
    # The number is used up.
    stage.nodes.reset()
    assert stage.deploy(replicas=2).record["version"] == ("2" if first else "3")


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
