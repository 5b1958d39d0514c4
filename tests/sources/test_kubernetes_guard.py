"""The Kubernetes source's first lists, judged by what is remembered: each stream by its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.factory import TODO, controller, pod
from tests.fakes import manifests
from tests.fakes.faults import EmptyList
from tests.fakes.kubernetes import FakeKubernetes
from tests.network import Network
from tests.servers.wait import eventually
from tests.sources.following import following
from vulcanized.guard import Patience
from vulcanized.holds import Guarding, NoBaseline
from vulcanized.model import AppId, Controller, Pod, Server
from vulcanized.settings import KubernetesSettings

ELSEWHERE = AppId("elsewhere", "todo")
PODS = [pod(f"todo-{number}", ip=f"10.0.0.{number}") for number in (1, 2)]
FAR = pod("far", ip="10.0.0.9", app=ELSEWHERE)
CONTROLLERS = [
    controller("todo-blue", config={"hosts": ["todo.example.com"]}),
    controller("todo", "", kind="Deployment"),
]


class Remembered(NoBaseline):
    def pods(self, namespace: str) -> Iterator[Pod]:
        return (each for each in (*PODS, FAR) if namespace in ("", each.namespace))

    def controllers(self, namespace: str) -> Iterator[Controller]:
        return (each for each in CONTROLLERS if namespace in ("", each.namespace))


def servers(app: AppId) -> Sequence[Server]:
    return [Server(each.name, each.ip, 8080, version="blue") for each in PODS]


def guarding(*answering: str) -> Guarding:
    patience = Patience(confirm=(0.2, 0.3), longest=0.5)
    return Guarding(0.5, Remembered(), Network(answering), patience, servers)


def test_lists_of_nothing_at_a_start_keep_pods_controllers_and_their_annotations(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with (
        server.suffering(EmptyList()),
        following(settings, guarding=guarding("10.0.0.1", "10.0.0.2", "10.0.0.9")) as it,
    ):
        it.until_spoken()
        assert it.names() == ["todo-1", "todo-2"]
        assert {each.kind for each in it.source.controllers(TODO)} == {
            "ReplicationController",
            "Deployment",
        }
        assert it.state().held == 3
        assert it.state("kubernetes/replicationcontrollers").held == 1
        assert it.state("kubernetes/replicasets").held == 0
        eventually(lambda: it.state().relists.get("held", 0) > 2, 20, "more lists")
        assert it.state().held == 3
        assert sum(stream.accept() for stream in it.source.streams) == 5
        assert it.source.apps() == set()


def test_each_namespace_is_judged_by_what_is_remembered_of_it(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    narrow = settings.model_copy(update={"namespaces": ("default", "elsewhere")})
    with following(narrow, guarding=guarding("10.0.0.9")) as it:
        it.until_spoken()
        assert it.state("kubernetes/pods/elsewhere").held == 1
        assert it.source.pods(ELSEWHERE) == (FAR,)
        # One pod is listed, two are remembered: no more than the share is lost.
        assert it.state("kubernetes/pods/default").held == 0
        assert it.names() == ["a"]


def test_a_watch_shows_a_held_pod_again_and_takes_it_away(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings, guarding=guarding("10.0.0.9")) as it:
        it.until_spoken()
        eventually(lambda: it.state().held == 1, 20, "only the one that answers")
        it.until_synced()
        back = manifests.pod("far", "todo", ip="10.0.0.9", namespace="elsewhere", uid=FAR.uid)
        server.store.create("pods", back)
        eventually(lambda: it.state().held == 0, 10)
        server.store.delete("pods", "elsewhere", "far")
        eventually(lambda: it.source.pods(ELSEWHERE) == (), 10)
