"""One app on a real cluster, a real etcd and a real HAProxy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Vulcanized, sides_of
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.fixtures import needs
from tests.servers.nodeagent import AgentPod, NodeAgent
from tests.servers.wait import eventually


@dataclass(frozen=True)
class Site:
    """A namespace of the cluster, our keys in etcd, and the daemon between them."""

    cluster: ControlPlane
    nodes: NodeAgent
    etcd: Etcd
    namespace: str
    daemon: Vulcanized
    prefix: str

    @property
    def host(self) -> str:
        """What the app `todo` answers to."""
        return f"todo.{self.namespace}.example.com"

    def path(self, plural: str, name: str = "") -> str:
        """An object's path in the API."""
        group = "/apis/apps/v1" if plural in {"deployments", "replicasets"} else "/api/v1"
        return f"{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def configure(self, **fields: Any) -> None:
        """Put the app config of `todo`."""
        text = json.dumps({"hosts": [self.host], **fields})
        self.etcd.put(f"{self.prefix}/apps/{self.namespace}/todo", text)

    def activate(self, text: str) -> None:
        """The switch, as a person does it: one `etcdctl put`."""
        self.etcd.ctl("put", f"{self.prefix}/active/{self.namespace}/todo", text)

    def ready(self, count: int, version: str | None = None) -> tuple[AgentPod, ...]:
        """Wait for exactly so many ready pods."""
        labels = {"app": "todo"} | ({"version": version} if version else {})
        return self.nodes.wait_pods(count, self.namespace, labels)

    def settle(self) -> None:
        """Wait until the proxy has all that the daemon knows of in effect."""

        def settled() -> bool:
            (target,) = self.daemon.status()["targets"]
            return bool(target["generation"] == target["wanted"])

        eventually(settled, 10, "the proxy to be in step")

    def app(self) -> dict[str, Any]:
        """The app in `/status`."""
        return self.daemon.app(f"{self.namespace}/todo")


@pytest.fixture
def site(
    tmp_path: Path,
    control_plane: ControlPlane,
    node_agent: NodeAgent,
    etcd_server: Etcd,
    namespace: str,
) -> Iterator[Site]:
    """The daemon follows one namespace; nothing is there yet."""
    needs("haproxy", "etcdctl")
    prefix = f"/of-{namespace}"
    sides = sides_of(control_plane, etcd_server, namespace, prefix)
    with Vulcanized(tmp_path / "v", sides) as daemon:
        daemon.start()
        yield Site(control_plane, node_agent, etcd_server, namespace, daemon, prefix)
    etcd_server.delete_prefix(prefix)
