"""The real control plane with nodes that the tests play: does it behave as a cluster does?"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3

from tests.servers.api import ApiError
from tests.servers.controlplane import ControlPlane
from tests.servers.fixtures import NewControlPlane
from tests.servers.manifests import deployment, pod, pod_spec, replication_controller
from tests.servers.nodeagent import AgentError, AgentPod, Behaviour, NodeAgent
from tests.servers.wait import eventually

APPS = "/apis/apps/v1"
CORE = "/api/v1"


def ask(agent_pod: AgentPod, target: str = "/", timeout: float = 5) -> urllib3.BaseHTTPResponse:
    """One request on a connection of its own."""
    return urllib3.request("GET", agent_pod.url + target, timeout=timeout, retries=False)


def pods_path(namespace: str, name: str = "") -> str:
    return f"{CORE}/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def conditions(seen: Mapping[str, Any]) -> dict[str, str]:
    return {one["type"]: one["status"] for one in seen["status"]["conditions"]}


def refuses(agent_pod: AgentPod) -> bool:
    try:
        socket.create_connection((agent_pod.address, agent_pod.ports[0]), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture
def one_pod(control_plane: ControlPlane, node_agent: NodeAgent, namespace: str) -> AgentPod:
    """A Ready pod that no controller replaces."""
    body = pod("alone", {"app": "alone", "version": "1"}, node=node_agent.nodes[0])
    control_plane.api.post(pods_path(namespace), body)
    return node_agent.wait_pods(1, namespace)[0]


def test_the_control_plane_says_its_version(control_plane: ControlPlane) -> None:
    assert control_plane.api.get("/version")["gitVersion"].startswith("v1.")


def test_a_scaled_controller_gets_pods_that_answer_and_are_ready(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str
) -> None:
    path = f"{CORE}/namespaces/{namespace}/replicationcontrollers"
    spec = pod_spec((8080, 9090))
    control_plane.api.post(path, replication_controller("web", "7", replicas=1, spec=spec))
    control_plane.api.patch(f"{path}/web-7", {"spec": {"replicas": 3}})

    pods = node_agent.wait_pods(3, namespace)

    assert len({one.address for one in pods}) == 3
    for one in pods:
        seen = control_plane.api.get(pods_path(namespace, one.name))
        assert seen["status"]["phase"] == "Running"
        assert seen["status"]["podIP"] == one.address
        assert conditions(seen)["Ready"] == "True"
        for port in one.ports:
            answer = urllib3.request("GET", f"http://{one.address}:{port}/", timeout=5)
            assert answer.json() == {"pod": one.name, "version": "7"}
    counted = eventually(
        lambda: control_plane.api.get(f"{path}/web-7")["status"].get("readyReplicas") == 3, 10
    )
    assert counted


def test_a_deleted_pod_serves_through_its_grace(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str, one_pod: AgentPod
) -> None:
    node_agent.behave(Behaviour(grace=0.5), {"app": "alone"})
    path = pods_path(namespace, one_pod.name)
    deleted = time.monotonic()
    control_plane.api.delete(path)

    while time.monotonic() - deleted < 0.4:
        assert ask(one_pod).status == 200
    seen = control_plane.api.get(path)
    assert seen["metadata"]["deletionTimestamp"]
    assert conditions(seen)["Ready"] == "True"
    view = node_agent.pod(one_pod.uid)
    assert view is not None
    assert view.state == "Terminating"
    assert view.deletion_seen is not None
    assert view.deletion_seen > deleted

    eventually(lambda: refuses(one_pod), 5)
    assert time.monotonic() - deleted > 0.5
    eventually(lambda: node_agent.pod(one_pod.uid) is None, 5)
    with pytest.raises(ApiError, match="404"):
        control_plane.api.get(path)


def test_a_request_in_flight_holds_the_pods_end(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str, one_pod: AgentPod
) -> None:
    node_agent.behave(Behaviour(grace=0.0))
    with socket.create_connection((one_pod.address, one_pod.ports[0]), timeout=5) as connection:
        connection.sendall(b"GET /slow?seconds=0.7 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: in_flight(node_agent, one_pod) == 1, 5)

        control_plane.api.delete(pods_path(namespace, one_pod.name))

        eventually(lambda: refuses(one_pod), 5, "the pod accepts no more")
        assert control_plane.api.get(pods_path(namespace, one_pod.name))
        with connection.makefile("rb") as answer:
            assert b'"pod": "alone"' in answer.read()
    eventually(lambda: node_agent.pod(one_pod.uid) is None, 5)


def in_flight(agent: NodeAgent, agent_pod: AgentPod) -> int:
    view = agent.pod(agent_pod.uid)
    return view.in_flight if view else 0


def test_a_pod_of_the_same_name_outlives_the_end_of_the_first(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str, one_pod: AgentPod
) -> None:
    node_agent.behave(Behaviour(grace=5.0))
    path = pods_path(namespace, one_pod.name)
    control_plane.api.delete(path)
    eventually(lambda: node_agent.wait_pods(1, namespace, state="Terminating"), 5)

    control_plane.api.delete(path, {"gracePeriodSeconds": 0})  # as `kubectl delete --force` does
    eventually(lambda: refuses(one_pod), 5, "the first pod is cut off")
    control_plane.api.post(pods_path(namespace), pod("alone", node=node_agent.nodes[1]))

    second = node_agent.wait_pods(1, namespace)[0]
    assert second.uid != one_pod.uid
    assert second.address != one_pod.address
    assert ask(second).status == 200


def test_a_deployment_rolls_to_a_new_version(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str
) -> None:
    path = f"{APPS}/namespaces/{namespace}/deployments"
    control_plane.api.post(path, deployment("web", "1", replicas=2))
    node_agent.wait_pods(2, namespace, {"version": "1"})

    control_plane.api.patch(f"{path}/web", {"spec": deployment("web", "2", replicas=2)["spec"]})

    pods = node_agent.wait_pods(2, namespace, {"version": "2"})
    assert {ask(one).json()["version"] for one in pods} == {"2"}
    eventually(
        lambda: not node_agent.pods(namespace, {"version": "1"}), 10, "the old pods are gone"
    )


def test_readiness_is_told_when_the_test_says_so(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str
) -> None:
    node_agent.behave(Behaviour(hold_ready=True), {"app": "held"})
    body = pod("held", {"app": "held"}, node=node_agent.nodes[0])
    control_plane.api.post(pods_path(namespace), body)
    held = node_agent.wait_pods(1, namespace, state="Running")[0]
    path = pods_path(namespace, held.name)
    eventually(lambda: control_plane.api.get(path)["status"]["phase"] == "Running", 5)
    assert conditions(control_plane.api.get(path))["Ready"] == "False"
    assert ask(held).status == 200

    at = time.monotonic() + 0.2
    sent = node_agent.set_ready(held, at=at)

    assert at <= sent < time.monotonic()
    assert conditions(control_plane.api.get(path))["Ready"] == "True"
    view = node_agent.pod(held.uid)
    assert view is not None
    assert (view.ready, view.ready_sent) == (True, sent)

    node_agent.set_ready(held, False)
    assert conditions(control_plane.api.get(path))["Ready"] == "False"
    assert node_agent.release({"app": "held"})[held.uid] > sent
    assert conditions(control_plane.api.get(path))["Ready"] == "True"


def test_readiness_comes_by_itself_after_a_delay(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str
) -> None:
    node_agent.behave(Behaviour(ready_delay=0.3))
    control_plane.api.post(pods_path(namespace), pod("late", node=node_agent.nodes[0]))
    running = node_agent.wait_pods(1, namespace, state="Running")[0]
    noticed = time.monotonic()
    assert not running.ready

    ready = node_agent.wait_pods(1, namespace)[0]

    assert ready.ready_sent is not None
    assert ready.ready_sent > noticed


def test_health_is_apart_from_readiness(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str, one_pod: AgentPod
) -> None:
    assert ask(one_pod, "/health").json() == {"healthy": True}

    node_agent.set_health(one_pod, False)

    assert ask(one_pod, "/health").status == 503
    seen = control_plane.api.get(pods_path(namespace, one_pod.name))
    assert conditions(seen)["Ready"] == "True"


@pytest.mark.parametrize("told", [True, False])
def test_a_crashed_pod_refuses_until_it_recovers(
    control_plane: ControlPlane,
    node_agent: NodeAgent,
    namespace: str,
    one_pod: AgentPod,
    told: bool,
) -> None:
    path = pods_path(namespace, one_pod.name)
    with socket.create_connection((one_pod.address, one_pod.ports[0]), timeout=5) as connection:
        connection.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: in_flight(node_agent, one_pod) == 1, 5)
        node_agent.crash(one_pod, told=told)
        assert connection.recv(1) == b""

    assert refuses(one_pod)
    assert conditions(control_plane.api.get(path))["Ready"] == str(not told)

    node_agent.recover(one_pod)

    assert ask(one_pod).json()["pod"] == "alone"
    assert conditions(control_plane.api.get(path))["Ready"] == "True"


def test_a_pod_whose_image_cannot_be_had_waits_with_its_reason(
    control_plane: ControlPlane, node_agent: NodeAgent, namespace: str
) -> None:
    node_agent.behave(Behaviour(waiting="ImagePullBackOff"))
    control_plane.api.post(pods_path(namespace), pod("stuck", node=node_agent.nodes[0]))

    def status() -> Any:
        return control_plane.api.get(pods_path(namespace, "stuck"))["status"]

    waiting = eventually(lambda: status().get("containerStatuses"), 5)[0]["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff"
    assert status()["phase"] == "Pending"
    stuck = node_agent.wait_pods(1, namespace, state="Waiting")[0]
    with pytest.raises(AgentError, match="stuck is Waiting"):
        node_agent.set_ready(stuck)
    control_plane.api.delete(pods_path(namespace, "stuck"))
    eventually(lambda: node_agent.pod(stuck.uid) is None, 5)
    with pytest.raises(AgentError, match="no pod with uid"):
        node_agent.set_ready(stuck)


def test_a_restricted_user_may_do_what_was_granted_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
    user = control_plane.user([rule], namespace)
    everywhere = control_plane.user([rule])
    nobody = control_plane.user()

    with control_plane.client(user) as api:
        assert api.get(pods_path(namespace))["items"] == []
        with pytest.raises(ApiError) as refused:
            api.get(f"{CORE}/pods")
        assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
        with pytest.raises(ApiError, match="403"):
            api.post(pods_path(namespace), pod("x"))
    with control_plane.client(everywhere) as api:
        assert api.get(f"{CORE}/pods")["kind"] == "PodList"
    with control_plane.client(nobody) as api, pytest.raises(ApiError, match="403"):
        api.get(pods_path(namespace))
    assert user.token in user.kubeconfig.read_text()


def test_the_cluster_outlives_the_death_of_etcd_and_of_its_api_server(
    new_control_plane: NewControlPlane,
) -> None:
    cluster = new_control_plane(controllers=False, scheduler=False)
    failures = (ApiError, urllib3.exceptions.HTTPError)
    path = pods_path("default")
    with cluster.client(cluster.admin, timeout=1) as api, NodeAgent(cluster, nodes=1) as agent:
        api.post(path, pod("first", node="node-1"))
        first = agent.wait_pods(1)[0]

        cluster.etcd.kill()
        with pytest.raises(failures):
            api.post(path, pod("never", node="node-1"))
        cluster.etcd.start()
        second = pod("second", node="node-1")
        eventually(lambda: api.post(path, second), 20, ignore=failures)
        agent.wait_pods(2)

        cluster.apiserver.kill()
        assert ask(first).status == 200
        cluster.start_apiserver()
        api.post(path, pod("third", node="node-1"))
        pods = agent.wait_pods(3)

    assert first.uid in {one.uid for one in pods}


def test_a_frozen_api_server_answers_when_it_thaws(new_control_plane: NewControlPlane) -> None:
    cluster = new_control_plane(controllers=False, scheduler=False)
    with cluster.client(cluster.admin, timeout=0.5) as api:
        cluster.apiserver.pause()
        with pytest.raises(urllib3.exceptions.HTTPError):
            api.get("/readyz")

        cluster.apiserver.resume()

        assert eventually(lambda: api.get("/readyz"), 10, ignore=urllib3.exceptions.HTTPError)
