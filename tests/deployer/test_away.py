"""Deployments while a server or a daemon is away."""

from __future__ import annotations

import pytest

from tests.deployer.stage import Stage
from tests.servers.load import Load
from tests.servers.nodeagent import Behaviour
from tests.servers.relay import Relay
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)

NEW = {"app": "todo", "version": "2"}


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
