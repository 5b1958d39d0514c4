"""The Kubernetes source on a real control plane: TLS, rights, a service account, restarts."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.controlplane import ControlPlane
from tests.servers.fixtures import NewControlPlane
from tests.servers.wait import eventually
from vulcanized.errors import Expired
from vulcanized.model import AppId, SourcePhase, SourceState
from vulcanized.settings import KubernetesSettings
from vulcanized.slot import DirtyApps
from vulcanized.sources.kubernetes import KubernetesSource

TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "todo", "version": "1"}},
    "spec": {
        "containers": [{"name": "c", "image": "todo", "ports": [{"containerPort": 80}]}],
        "schedulerName": "nobody",
    },
}


@contextmanager
def following(settings: KubernetesSettings, **options: Any) -> Iterator[KubernetesSource]:
    source = KubernetesSource(settings, DirtyApps(), **options)
    stop = threading.Event()
    threads = [threading.Thread(target=s.run, args=(stop,), daemon=True) for s in source.streams]
    for thread in threads:
        thread.start()
    try:
        yield source
    finally:
        began = time.monotonic()
        stop.set()
        for thread in threads:
            thread.join(10)
        took = time.monotonic() - began
    assert not any(thread.is_alive() for thread in threads)
    assert took < 0.5, f"stopping took {took:.1f} s"


def states(source: KubernetesSource) -> Mapping[str, SourceState]:
    return {stream.name: stream.state() for stream in source.streams}


def until_synced(source: KubernetesSource) -> None:
    eventually(
        lambda: all(s.phase is SourcePhase.SYNCED for s in states(source).values()),
        20,
        lambda: f"synced: {states(source)}",
    )


def test_a_pods_life_is_followed_from_its_controller_to_its_end(
    control_plane: ControlPlane, namespace: str
) -> None:
    app = AppId(namespace, "todo")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    settings = KubernetesSettings(kubeconfig=control_plane.kubeconfig, namespaces=(namespace,))
    with following(settings) as source:
        until_synced(source)
        control_plane.api.post(
            f"/api/v1/namespaces/{namespace}/replicationcontrollers",
            {
                "metadata": {"name": "todo-1", "labels": {"app": "todo"}},
                "spec": {"replicas": 2, "selector": {"app": "todo"}, "template": TEMPLATE},
            },
        )
        eventually(lambda: len(source.pods(app)) == 2, 20, "two pods")
        [controller] = source.controllers(app)
        assert (controller.name, controller.version, controller.desired) == ("todo-1", "1", 2)
        first = source.pods(app)[0]
        assert (first.version, first.ready, first.ip) == ("1", False, "")

        status = {
            "phase": "Running",
            "podIP": "127.9.8.7",
            "podIPs": [{"ip": "127.9.8.7"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        control_plane.api.patch(f"{pods}/{first.name}/status", {"status": status})
        eventually(lambda: [p.ip for p in source.pods(app) if p.ready] == ["127.9.8.7"], 10)

        control_plane.api.delete(f"{pods}/{first.name}", {"gracePeriodSeconds": 0})
        eventually(
            lambda: (
                first.uid not in {p.uid for p in source.pods(app)} and len(source.pods(app)) == 2
            ),
            20,
            "its replacement",
        )


def test_a_restarted_server_is_followed_again_and_what_went_meanwhile_goes(
    new_control_plane: NewControlPlane,
) -> None:
    plane = new_control_plane(controllers=False, scheduler=False)
    pods = "/api/v1/namespaces/default/pods"
    for name in ("a", "b"):
        plane.api.post(
            pods, {"metadata": {"name": name, **TEMPLATE["metadata"]}, "spec": TEMPLATE["spec"]}
        )
    app = AppId("default", "todo")
    with following(KubernetesSettings(kubeconfig=plane.kubeconfig)) as source:
        until_synced(source)
        plane.apiserver.kill()
        eventually(lambda: states(source)["kubernetes/pods"].phase is SourcePhase.STALE, 10)
        assert len(source.pods(app)) == 2
        plane.start_apiserver()
        plane.api.delete(f"{pods}/a", {"gracePeriodSeconds": 0})

        eventually(lambda: [pod.name for pod in source.pods(app)] == ["b"], 30, "a is gone")
        until_synced(source)


def test_rights_that_are_missing_are_named(control_plane: ControlPlane) -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    user = control_plane.user([rule])
    with following(KubernetesSettings(kubeconfig=user.kubeconfig)) as source:
        pods = source.streams[0]
        eventually(lambda: pods.state().phase is SourcePhase.SYNCED, 10)
        for plural, group in [
            ("replicationcontrollers", ""),
            ("replicasets", "apps"),
            ("deployments", "apps"),
        ]:
            name = f"kubernetes/{plural}"
            eventually(lambda: states(source)[name].error, 10)  # noqa: B023
            assert states(source)[name].error.startswith(
                f"list {plural} in all namespaces is forbidden: grant verbs list, watch on"
                f' resource "{plural}" (apiGroup "{group}"); the server says: '
            )


def test_in_a_cluster_the_service_account_is_used_as_it_is_on_disk(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    environ = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(control_plane.port),
    }
    shutil.copy(control_plane.ca, tmp_path / "ca.crt")
    (tmp_path / "token").write_text(f"{control_plane.admin.token}\n")

    with following(KubernetesSettings(), environ=environ, service_account=tmp_path) as source:
        until_synced(source)


def test_a_server_with_an_unknown_certificate_is_not_believed(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    text = control_plane.kubeconfig.read_text()
    lines = [line for line in text.splitlines() if "certificate-authority" not in line]
    path = tmp_path / "kubeconfig"
    path.write_text("\n".join(lines))

    with following(KubernetesSettings(kubeconfig=path)) as source:
        pods = source.streams[0]
        eventually(lambda: "certificate verify failed" in pods.state().error, 10)
        # With the authority in it again, the file is read again.
        path.write_text(text)
        until_synced(source)


def test_a_version_beyond_the_servers_is_found_out(control_plane: ControlPlane) -> None:
    source = KubernetesSource(KubernetesSettings(kubeconfig=control_plane.kubeconfig), DirtyApps())
    transport = source.streams[0]._transport

    transport.check("1")
    with pytest.raises(Expired, match="Too large resource version"):
        transport.check("999999999999")
