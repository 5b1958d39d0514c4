"""The Kubernetes source on the wire: what it asks, what it tells, how it ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.fakes import faults, manifests
from tests.fakes.faults import Fault
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.wait import eventually
from tests.sources.following import TODO, add, following
from vulcanized.model import AppId
from vulcanized.reflector import Timing
from vulcanized.settings import KubernetesSettings
from vulcanized.sources.kubernetes import Limits

# --- the whole --------------------------------------------------------------------------------


def test_pods_and_controllers_are_followed(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    for kind, plural in [
        ("ReplicationController", "replicationcontrollers"),
        ("ReplicaSet", "replicasets"),
        ("Deployment", "deployments"),
    ]:
        server.store.create(plural, manifests.controller(kind, "todo-1"))
    with following(settings) as running:
        running.until_spoken()
        assert running.dirty.drain(1) is not None
        kinds = {controller.kind for controller in running.source.controllers(TODO)}
        assert kinds == {"ReplicationController", "ReplicaSet", "Deployment"}
        assert running.names() == ["a"]

        eventually(lambda: server.watching() == 4)
        add(server, "b")
        server.store.delete("pods", "default", "a")
        running.until_names("b")
        server.store.patch("replicasets", "default", "todo-1", {"spec": {"replicas": 7}})
        eventually(lambda: 7 in [c.desired for c in running.source.controllers(TODO)])

        assert running.dirty.drain(1) is not None
        assert running.source.apps() == {TODO}
        uids = [controller.uid for controller in running.source.controllers(TODO)]
        assert uids == sorted(uids)


def test_namespaces_and_selector_are_asked_of_the_server(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    add(server, "b", namespace="blue", tier="x")
    add(server, "c", namespace="green")
    add(server, "d", namespace="other")
    server.store.patch("pods", "green", "c", {"metadata": {"labels": {"tier": "web"}}})
    settings = settings.model_copy(
        update={"namespaces": ("blue", "green", "blue"), "selector": "tier notin (db),app"}
    )

    with following(settings) as running:
        running.until_spoken()

        assert len(running.source.streams) == 8
        assert running.source.apps() == {AppId("blue", "todo"), AppId("green", "todo")}
        assert running.names(AppId("green", "todo")) == ["c"]
        assert running.names(AppId("other", "todo")) == []
        assert {stream.name for stream in running.source.streams} >= {
            "kubernetes/pods/blue",
            "kubernetes/deployments/green",
        }
    asked = {request.query.get("labelSelector") for request in server.requests}
    assert asked == {"tier notin (db),app"}
    assert {request.namespace for request in server.requests} == {"blue", "green"}


def test_labels_that_count_are_settings(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    labels = {"service": "shop", "release": "9"}
    server.store.create("pods", {**manifests.pod("b"), "metadata": {"name": "b", "labels": labels}})
    settings = settings.model_copy(update={"app_label": "service", "version_label": "release"})

    with following(settings) as running:
        running.until_spoken()

        assert running.source.apps() == {AppId("default", "shop")}
        assert running.source.pods(AppId("default", "shop"))[0].version == "9"


def test_lists_are_paged_and_their_connection_is_used_again(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    server.store.seed("pods", manifests.many_pods(1250, apps=10))
    with following(settings) as running:
        running.until_spoken()

        assert running.state().records == 1251
        assert server.count("list", "pods") == 3
        eventually(lambda: server.watching() == 4)
        assert server.connections == 4
    limits = [request.query["limit"] for request in server.requests if request.verb == "list"]
    assert set(limits) == {"500"}
    assert all("resourceVersion" not in r.query for r in server.requests if r.verb == "list")


def test_watches_ask_for_bookmarks_and_a_length_within_the_range(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings):
        eventually(lambda: server.watching() == 4)

    watches = [request.query for request in server.requests if request.verb == "watch"]
    assert all(query["allowWatchBookmarks"] == "true" for query in watches)
    assert all(300 <= int(query["timeoutSeconds"]) <= 600 for query in watches)


def test_a_bookmark_moves_the_place(server: FakeKubernetes, settings: KubernetesSettings) -> None:
    with following(settings) as running:
        eventually(lambda: server.watching("pods") == 1)
        server.store.create("deployments", manifests.controller("Deployment", "todo"))
        server.bookmark()
        eventually(lambda: running.state().age < 0.05)
        server.store.compact()
        server.cut()
        add(server, "b")
        running.until_names("a", "b")

        assert running.state().relists == {}


# --- latency ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault(), faults.Unchunked()], ids=["chunked", "unchunked"])
def test_an_event_is_marked_without_waiting_for_more_bytes(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault
) -> None:
    with server.suffering(fault, verb="watch"), following(settings) as running:
        eventually(lambda: server.watching() == 4)
        assert running.dirty.drain(1) is not None
        whole: list[float] = []
        for number in range(50):
            sent = time.monotonic()
            add(server, f"p{number}")
            assert running.dirty.drain(2) is not None
            whole.append(time.monotonic() - sent)

    # How fast it is, `make bench` says. What waits for bytes that do not come takes seconds.
    assert sorted(whole)[25] < 0.25


# --- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault(), faults.Mute(), faults.SlowHeaders(), faults.SlowBody(), faults.HalfOpen()],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_stopping_is_quick_whatever_is_waited_for(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault, verb: str
) -> None:
    with server.suffering(fault, verb=verb), following(settings):
        eventually(lambda: server.count(verb) >= 4)


def test_stopping_is_quick_while_backing_off(tmp_path: Path, server: FakeKubernetes) -> None:
    settings = KubernetesSettings(kubeconfig=server.write_kubeconfig(tmp_path / "kubeconfig"))
    server.stop()
    with following(settings, timing=Timing(backoff=(60.0, 120.0))) as running:
        running.until_error("Connection refused")


def test_a_source_may_be_stopped_and_run_again(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings) as running:
        running.until_spoken()
    [pods, *_] = running.source.streams
    stop = threading.Event()
    thread = threading.Thread(target=pods.run, args=(stop,))
    thread.start()
    try:
        add(server, "b")
        running.until_names("a", "b")
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()


# --- defaults ---------------------------------------------------------------------------------


def test_a_mute_server_is_noticed_within_half_a_minute() -> None:
    usual = Limits()

    assert usual.connect + usual.headers <= 30
    assert usual.gap == 90
    assert usual.objects == 500
