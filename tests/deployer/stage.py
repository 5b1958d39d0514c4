"""One namespace of a real cluster, a real etcd, a daemon with a proxy, and deployers beside it."""

from __future__ import annotations

import base64
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.front import FRONTS, Front
from tests.daemons import Vulcanized, sides_of
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.nodeagent import NodeAgent
from tests.servers.process import ServerProcess
from tests.servers.wait import eventually

Json = dict[str, Any]

PROGRAM = (sys.executable, "-m", "vulcanized.deployer.cli")

on_every_proxy = pytest.mark.parametrize("balancer", [f.kind for f in FRONTS], indirect=True)

BLIND = "cannot tell whether sessions are left"
"""What a deployment says that waits for the drain time, since its proxy counts no sessions."""


def measures(front: Front) -> bool:
    """Whether the target of a proxy counts the sessions of a version."""
    module: Any = importlib.import_module(f"vulcanized.targets.{front.kind}.target")
    targets = [each for each in vars(module).values() if isinstance(each, type)]
    return any(each.__module__ == module.__name__ and hasattr(each, "sessions") for each in targets)


def times(front: Front) -> str:
    """Settings: where sessions are not counted, all of the drain time is waited for."""
    return f"""
ready_timeout = 30
health_timeout = 15
switch_timeout = 15
drain_timeout = {10 if measures(front) else 2}
keep_previous = 0
lease = 5
"""


@dataclass
class Ended:
    """A deployer that has ended: its exit code, and the lines that it wrote."""

    code: int
    lines: list[Json]
    out: str
    text: str

    @property
    def record(self) -> Json:
        """The summary of the deployment."""
        return next((each for each in reversed(self.lines) if each["message"] == "ended"), {})

    @property
    def steps(self) -> list[str]:
        """The names of the steps, in order, each once in a row."""
        names = [each["step"] for each in self.lines if "step" in each]
        return [n for i, n in enumerate(names) if not i or names[i - 1] != n]


@dataclass
class Stage:
    """Where deployments happen."""

    folder: Path
    cluster: ControlPlane
    nodes: NodeAgent
    etcd: Etcd
    namespace: str
    daemon: Vulcanized
    front: Front
    prefix: str
    config: Path
    running: list[ServerProcess] = field(default_factory=list)

    @property
    def host(self) -> str:
        """What the app answers to."""
        return f"todo.{self.namespace}.example.com"

    @property
    def app(self) -> str:
        return f"{self.namespace}/todo"

    def descriptor(self, **fields: Any) -> Json:
        """A descriptor of `todo`, healthy by http, one pod."""
        return {
            "app": "todo",
            "namespace": self.namespace,
            "config": {"hosts": [self.host]},
            "health": {"type": "http", "path": "/health", "interval": "100ms", "timeout": "2s"},
            "podspec": {
                "containers": [
                    {"name": "app", "image": "tests/app:1", "ports": [{"containerPort": 8080}]}
                ],
                "terminationGracePeriodSeconds": 10,
            },
            **fields,
        }

    def write(self, descriptor: Json) -> Path:
        path = self.folder / f"descriptor-{len(list(self.folder.glob('descriptor-*')))}.json"
        path.write_text(json.dumps(descriptor))
        return path

    def run(
        self, *words: str | Path, timeout: float = 100, environment: Mapping[str, str] | None = None
    ) -> Ended:
        """A command of the deployer, to its end."""
        done = subprocess.run(
            [*PROGRAM, *map(str, words), "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        return ended(done.returncode, done.stderr, done.stdout)

    def deploy(self, *more: str, **fields: Any) -> Ended:
        """Deploy `todo`."""
        return self.run("deploy", self.write(self.descriptor(**fields)), *more)

    def start(self, *words: str | Path, program: Sequence[str] = PROGRAM) -> ServerProcess:
        """A command of the deployer as a process, to be killed or awaited."""
        log = self.folder / f"deployer-{len(self.running)}.log"
        command = [*program, *map(str, words), "--config", str(self.config)]
        process = ServerProcess("deployer", command, log)
        self.running.append(process)
        process.start()
        return process

    def wait(self, process: ServerProcess, deadline: float = 100) -> Ended:
        """The end of a process that was started."""
        child = process._child
        assert child is not None
        return ended(child.wait(deadline), process.log.read_text(), "")

    # --- what is there ---

    def controllers(self, app: str = "todo") -> dict[str, int]:
        """The versions of all controllers of an app, with the pods that they want."""
        found = {}
        for group, plural in (
            ("/api/v1", "replicationcontrollers"),
            ("/apis/apps/v1", "replicasets"),
        ):
            path = f"{group}/namespaces/{self.namespace}/{plural}?labelSelector=app%3D{app}"
            for each in self.cluster.api.get(path)["items"]:
                found[each["metadata"]["labels"]["version"]] = each["spec"]["replicas"]
        return found

    def pods(self) -> list[str]:
        """The versions of all pods that are not being deleted."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return sorted(
            each["metadata"]["labels"]["version"]
            for each in self.cluster.api.get(path)["items"]
            if not each["metadata"].get("deletionTimestamp")
        )

    def key(self, folder: str) -> str | None:
        """The value of a key of the app."""
        value = self.etcd.get(f"{self.prefix}/{folder}/{self.app}")
        return value.decode() if value is not None else None

    @property
    def active(self) -> str | None:
        return self.key("active")

    def records(self) -> list[Json]:
        """The records of all deployments, the oldest first, as they stand in etcd."""
        found = self.etcd.list(f"{self.prefix}/deployments/{self.app}/")
        return [json.loads(value) for _, value in sorted(found.items())]

    def expire_lock(self, app: str = "todo") -> None:
        """End the lease of a deployer that was killed now; etcd would some seconds later."""
        key = f"{self.prefix}/locks/{self.namespace}/{app}".encode()
        found = self.etcd.call("kv/range", {"key": base64.b64encode(key).decode()})
        for each in found.get("kvs", ()):
            self.etcd.call("lease/revoke", {"ID": each["lease"]})

    def settle(self) -> None:
        """Wait until the proxy has all that the daemon knows of in effect."""

        def settled() -> bool:
            return all(
                target["generation"] == target["wanted"]
                for target in self.daemon.status()["targets"]
            )

        eventually(settled, 10, "the proxy to be in step")


def ended(code: int, text: str, out: str) -> Ended:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return Ended(code, [each for each in lines if "message" in each], out, text)


@contextmanager
def staged(
    folder: Path,
    cluster: ControlPlane,
    nodes: NodeAgent,
    etcd: Etcd,
    namespace: str,
    front: Front,
) -> Iterator[Stage]:
    """A stage on which nothing is deployed yet; its daemon follows one namespace."""
    prefix = f"/of-{namespace}"
    sides = sides_of(cluster, etcd, namespace, prefix)
    config = folder / "deployer.toml"
    own = f'[deployer]\n{times(front)}\napp_settings = "{prefix}/config"\n'
    config.write_text(f"{sides}\n{own}")
    state = f'[sync]\nstate = "{folder}/state"\n'
    daemon = Vulcanized(folder / "v", sides, targets=front.settings, more=state, port=front.port)
    with daemon:
        daemon.start()
        stage = Stage(folder, cluster, nodes, etcd, namespace, daemon, front, prefix, config)
        try:
            yield stage
        finally:
            for process in stage.running:
                process.stop()
    etcd.delete_prefix(prefix)
