"""Pods without a cluster: real HTTP servers on 127/8, and the manifests that say so."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from tests.servers.loopthread import LoopThread
from tests.servers.podserver import PodServer
from tests.servers.ports import free_port


class LocalPods(LoopThread):
    """Serves pods from one thread; a context manager that ends them all."""

    _addresses = itertools.count(1)

    def __init__(self) -> None:
        super().__init__("pods")
        self._pods: dict[str, tuple[PodServer, str, int]] = {}

    def start(self, name: str, version: str) -> tuple[str, int]:
        """Serve a pod on an address of its own: (address, port)."""
        number = next(self._addresses)
        address, port = f"127.77.{number // 250}.{number % 250 + 1}", free_port()
        server = PodServer(name, version)
        self._run(server.listen(address, [port]))
        self._pods[name] = (server, address, port)
        return address, port

    def stop(self, name: str) -> None:
        """The pod finishes what it has and is gone."""
        self._run(self._pods.pop(name)[0].close(5.0))

    def crash(self, name: str) -> None:
        """The pod is killed: whatever is open is cut, nobody listens until `revive`."""
        self._run(self._crash(self._pods[name][0]))

    async def _crash(self, server: PodServer) -> None:
        server.abort()

    def revive(self, name: str) -> None:
        """Its container is started again: the same address and port."""
        server, address, port = self._pods[name]
        self._run(server.listen(address, [port]))

    def endpoint(self, name: str) -> tuple[str, int]:
        """Where it listens."""
        _, address, port = self._pods[name]
        return address, port

    def be_healthy(self, name: str, *, healthy: bool) -> None:
        """What the pod says at `/health` from now on."""
        self._pods[name][0].healthy = healthy

    def in_flight(self, name: str) -> int:
        """How many requests it is busy with."""
        return self._pods[name][0].in_flight

    def manifest(
        self,
        name: str,
        app: str = "todo",
        *,
        ready: bool = True,
        terminating: bool = False,
    ) -> dict[str, Any]:
        """The pod as `kubectl get pod -o json` prints it."""
        server, address, port = self._pods[name]
        deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if terminating else {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}-{port}",
                "labels": {"app": app, "version": server.version},
                **deleted,
            },
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": port}]}]},
            "status": {
                "phase": "Running",
                "podIP": address,
                "conditions": [{"type": "Ready", "status": str(ready)}],
            },
        }

    def _end(self) -> None:
        for name in list(self._pods):
            self.stop(name)


class Files:
    """The embedded default's directories, written as an editor or a script would."""

    def __init__(self, folder: Path) -> None:
        self.manifests = folder / "manifests"
        self.store = folder / "store"
        for path in (self.manifests, self.store / "apps/default", self.store / "active/default"):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def sides(self) -> str:
        """The settings' section."""
        return f'[directory]\nmanifests = "{self.manifests}"\nstore = "{self.store}"'

    def pod(self, manifest: dict[str, Any]) -> None:
        """Write a pod's manifest."""
        name = manifest["metadata"]["name"]
        (self.manifests / f"{name}.json").write_text(json.dumps(manifest))

    def remove_pod(self, name: str) -> None:
        """Take a pod's manifest away."""
        (self.manifests / f"{name}.json").unlink()

    def config(self, app: str = "todo", **fields: Any) -> None:
        """Write an app config; the app answers <app>.example.com unless `hosts` says otherwise."""
        text = json.dumps({"hosts": [f"{app}.example.com"], **fields})
        (self.store / f"apps/default/{app}.json").write_text(text)

    def raw_config(self, text: str, app: str = "todo") -> None:
        """Write whatever somebody may write."""
        (self.store / f"apps/default/{app}.json").write_text(text)

    def activate(self, text: str, app: str = "todo") -> None:
        """Write an activation."""
        (self.store / f"active/default/{app}").write_text(text)
