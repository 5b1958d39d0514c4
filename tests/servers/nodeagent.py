"""What stands in for kubelets: nodes whose pods are real HTTP servers on loopback.

Every pod serves at a 127.x.y.z address of its own, on all container ports that it declares; what
it answers is told in `tests.servers.podserver`. The agent is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.servers.controlplane import ControlPlane
from tests.servers.kubelets import AgentPod, Behaviour, Config
from tests.servers.process import ServerProcess
from tests.servers.wait import eventually

__all__ = ["AgentError", "AgentPod", "Behaviour", "NodeAgent"]

_ROOT = Path(__file__).parents[2]
_READY = 30.0
# The longest that a command may take: the agent insists while the API server is away.
_PATIENCE = 60.0


class AgentError(Exception):
    """The agent refused a command, such as one for a pod that is gone."""


class NodeAgent:
    """A context manager that plays `nodes` nodes of a control plane, and runs their pods.

    Pods listen in `network`.0.0.0/8, and have logs. `behaviour` is what they do by themselves
    unless `behave` says otherwise. Safe to command from several threads. Moments are on
    `time.monotonic()`'s clock, which all processes share.
    Every command raises `AgentError` if the agent refuses it, OSError if the agent does not answer.

    `process` can be paused (pods accept connections and never answer, nodes send no heartbeat) and
    killed (a crash of all nodes).
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        *,
        nodes: int = 2,
        behaviour: Behaviour | None = None,
        name: str = "node",
        network: int = 127,
    ) -> None:
        self.nodes = tuple(f"{name}-{number}" for number in range(1, nodes + 1))
        self._folder = Path(tempfile.mkdtemp(prefix="node-agent-"))
        self._socket = f"vulcanized-node-agent-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._rules: list[tuple[Mapping[str, str], Behaviour]] = []
        config = Config(
            port=control_plane.port,
            ca=str(control_plane.ca),
            token=control_plane.admin.token,
            socket=self._socket,
            nodes=list(self.nodes),
            behaviour=behaviour or Behaviour(),
            cert=str(control_plane.kubelet.cert),
            key=str(control_plane.kubelet.key),
            network=network,
        )
        file = self._folder / "config.json"
        file.write_bytes(msgspec.json.encode(config))
        command = [sys.executable, "-m", "tests.servers.kubelets", str(file)]
        log = control_plane.folder / f"{name}-agent.log"
        self.process = ServerProcess("node agent", command, log, folder=_ROOT)

    def start(self) -> Self:
        """Returns when the nodes take pods."""
        self.process.start()
        self.process.wait_until(lambda: self._call("wait", timeout=_READY) is None, _READY)
        return self

    def close(self) -> None:
        """End at once; the nodes and their pods stay in the API server, and serve no more."""
        self.process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def behave(self, behaviour: Behaviour, match: Mapping[str, str] | None = None) -> None:
        """What pods with these labels (None: all) do from now on; of rules that match, the last.

        Pods that run keep theirs, except for `grace`, which is looked up when a pod is deleted.
        """
        self._set_rules([*self._rules, (match or {}, behaviour)])

    def reset(self) -> None:
        """Forget what `behave` was told."""
        self._set_rules([])

    def pods(
        self, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[AgentPod, ...]:
        """The pods on these nodes, of one namespace and with these labels if given, by name."""
        return self._pods(namespace=namespace, match=dict(labels or {}))

    def wait_pods(
        self,
        count: int,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        state: str = "Ready",
        deadline: float = 30.0,
    ) -> tuple[AgentPod, ...]:
        """Wait until exactly `count` such pods are in a state, and return them by name.

        `state` is Ready (the API server has been told so, and they are not being deleted) or one of
        `AgentPod.state`'s words.
        """

        found: tuple[AgentPod, ...] = ()

        def right_number() -> bool:
            nonlocal found
            pods = self.pods(namespace, labels)
            found = tuple(pod for pod in pods if _is_in(pod, state))
            return len(found) == count

        def seen() -> str:
            states = [f"{pod.name} {pod.state}" for pod in self.pods(namespace, labels)]
            return f"{count} pods are {state}, there are {states}"

        eventually(right_number, deadline, seen, interval=0.02 if count < 100 else 0.2)
        return found

    def pod(self, uid: str) -> AgentPod | None:
        """One pod as it is now; None if it is gone."""
        return next(iter(self._pods(uid=uid)), None)

    def set_ready(self, pod: AgentPod, ready: bool = True, *, at: float | None = None) -> float:
        """Patch a pod's Ready condition, at a given moment or now; when the patch was sent.

        Returns when the API server has accepted it.
        """
        return float(self._call("ready", uid=pod.uid, ready=ready, at=at))

    def release(self, labels: Mapping[str, str] | None = None) -> dict[str, float]:
        """Make all Running pods with these labels Ready that are not: when each patch was sent.

        By the pods' uid. Pods that start later are held still, if they were told to be.
        """
        sent: dict[str, float] = self._call("release", match=dict(labels or {}))
        return sent

    def set_health(self, pod: AgentPod, healthy: bool) -> None:
        """What the pod's `/health` answers: 200 or 503. Its Ready condition stays as it is."""
        self._call("health", uid=pod.uid, healthy=healthy)

    def crash(self, pod: AgentPod, *, told: bool = True) -> None:
        """The pod's program dies: its connections are cut and its ports refuse.

        The API server learns at once that it is not Ready, or not at all.
        """
        self._call("crash", uid=pod.uid, told=told)

    def recover(self, pod: AgentPod) -> float:
        """A crashed pod serves again, at its address, and is Ready; when that was sent."""
        return float(self._call("recover", uid=pod.uid))

    def _pods(
        self,
        uid: str | None = None,
        namespace: str | None = None,
        match: Mapping[str, str] | None = None,
    ) -> tuple[AgentPod, ...]:
        answer = self._call("pods", uid=uid, namespace=namespace, match=match or {})
        pods = msgspec.convert(answer, list[AgentPod])
        return tuple(sorted(pods, key=lambda pod: (pod.namespace, pod.name)))

    def _set_rules(self, rules: list[tuple[Mapping[str, str], Behaviour]]) -> None:
        self._rules = rules
        told = [(dict(match), msgspec.to_builtins(behaviour)) for match, behaviour in rules]
        self._call("behave", rules=told)

    def _call(self, op: str, *, timeout: float = _PATIENCE, **words: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as lines:
            connection.settimeout(timeout)
            connection.connect(f"\0{self._socket}")
            connection.sendall(json.dumps({"op": op, **words}).encode() + b"\n")
            answer = json.loads(lines.readline() or b'{"error": "the node agent ended"}')
        if "error" in answer:
            raise AgentError(answer["error"])
        return answer["ok"]


def _is_in(pod: AgentPod, state: str) -> bool:
    if state == "Ready":
        return pod.ready and pod.state == "Running" and pod.deletion_seen is None
    return pod.state == state
