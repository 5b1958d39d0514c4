"""The process behind `tests.servers.nodeagent`: nodes, their pods, and a socket to command them.

    python -m tests.servers.kubelets CONFIG.json

One asyncio loop does it all, in a process of its own, so that thousands of pods neither wait for
the tests' threads nor slow them down. Every pod really listens, on an address of its own in
127.0.0.0/8: two sockets a pod cost less than what it would take to do without.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import os
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from tests.servers.asyncapi import AsyncApi, Broken
from tests.servers.kubeletapi import KubeletApi, Logs
from tests.servers.podserver import PodServer

log = logging.getLogger("kubelets")

HEARTBEAT = 10.0
"""Seconds between lease renewals: nodes go NotReady after 40 to 50 s without."""

_BOUND = quote("spec.nodeName!=")
_BACKOFF = (0.05, 2.0)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What pods do by themselves. Times are in seconds.

    `hold_ready`: Running, but not Ready until told. `ready_delay`: Ready that long after Running.
    `grace`: how long a pod goes on serving after its deletion; then it accepts no more, finishes
    what is in flight, and ends, all within its own terminationGracePeriodSeconds. `healthy`: what
    `/health` says from the start. `waiting`: never Running; its container waits with this reason,
    such as ImagePullBackOff.
    """

    hold_ready: bool = False
    ready_delay: float = 0.0
    grace: float = 0.5
    healthy: bool = True
    waiting: str = ""


class Config(msgspec.Struct, frozen=True):
    """`socket` is the name of an abstract Unix socket; `cert` and `key` are the kubelets'.

    `network`: pods get their addresses in `network`.0.0.0/8.
    """

    port: int
    ca: str
    token: str
    socket: str
    nodes: list[str]
    behaviour: Behaviour
    cert: str
    key: str
    network: int = 127


class AgentPod(msgspec.Struct, frozen=True):
    """What the agent knows of a pod.

    `state` is Waiting, Running, Crashed, Terminating (being deleted, serving still) or Ended (until
    the API server has no such pod any more). `ready` is what the API server was told
    and confirmed; `ready_sent` is when that it is Ready was last sent, and `deletion_seen` when the
    agent learnt that it is being deleted: both on `time.monotonic()`'s clock, None if not yet.
    """

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    version: str
    node: str
    address: str
    ports: tuple[int, ...]
    state: str
    ready: bool
    healthy: bool
    in_flight: int
    served: int
    ready_sent: float | None = None
    deletion_seen: float | None = None

    @property
    def url(self) -> str:
        """The pod's first port, as `http://127.20.0.1:8080`."""
        return f"http://{self.address}:{self.ports[0]}"


# What is read of a pod: the rest of it is skipped undecoded.


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class _Port(msgspec.Struct, rename="camel"):
    container_port: int
    protocol: str = "TCP"


class _Container(msgspec.Struct, rename="camel"):
    name: str
    image: str = ""
    ports: list[_Port] | None = None


class _Spec(msgspec.Struct, rename="camel"):
    containers: list[_Container] = []
    node_name: str = ""


class _Status(msgspec.Struct):
    phase: str = ""


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _Place(msgspec.Struct):
    """Of a bookmark: the rest of its pod is empty, and its containers are null."""

    metadata: _Metadata


class _PodList(msgspec.Struct):
    metadata: _Metadata
    items: list[_Pod]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_event = msgspec.json.Decoder(_Event)
_pod = msgspec.json.Decoder(_Pod)
_place = msgspec.json.Decoder(_Place)
_pods = msgspec.json.Decoder(_PodList)


class WatchLost(Exception):
    """The API server cannot go on from where the watch was."""


class Addresses:
    """Addresses of a /8, one after the other; none comes twice before 60,000 others."""

    def __init__(self, network: int) -> None:
        self._network = network
        # Agents of several test processes start in different places; who meets a taken address
        # takes the next.
        self._next = random.randrange(1, 254) << 16

    def take(self) -> str:
        self._next += 1
        while self._next & 0xFF in {0, 255} or self._next >> 16 == 0:
            self._next = (self._next + 1) % (255 << 16)
        number = self._next
        return f"{self._network}.{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}"


class Pod:
    """One pod on one of our nodes, from its binding to its end."""

    def __init__(self, agent: Agent, pod: _Pod, behaviour: Behaviour) -> None:
        self.agent = agent
        self.meta = pod.metadata
        self.spec = pod.spec
        self.behaviour = behaviour
        labels = self.meta.labels
        self.version = labels.get("version") or labels.get("pod-template-hash", "")
        self.server = PodServer(self.meta.name, self.version)
        self.server.healthy = behaviour.healthy
        self.address = ""
        self.ports = tuple(
            dict.fromkeys(
                port.container_port
                for container in pod.spec.containers
                for port in container.ports or ()
                if port.protocol == "TCP"
            )
        )
        self.state = "Waiting"
        self.wants_ready = False
        self.ready = False
        self.ready_sent: float | None = None
        self.deletion_seen: float | None = None
        self.deletion_grace = 0.0
        self.deletion = asyncio.Event()
        self.said: list[str] = []
        self.restarts = 0
        self._waiting = ("", "")
        self._started = _now()
        self._changed = self._started
        self._publishing = asyncio.Lock()
        self.task = asyncio.create_task(self._live())
        self.task.add_done_callback(_tell_failure)

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.meta.namespace}/pods/{self.meta.name}"

    def view(self) -> AgentPod:
        return AgentPod(
            namespace=self.meta.namespace,
            name=self.meta.name,
            uid=self.meta.uid,
            labels=self.meta.labels,
            version=self.version,
            node=self.spec.node_name,
            address=self.address,
            ports=self.ports,
            state=self.state,
            ready=self.ready,
            healthy=self.server.healthy,
            in_flight=self.server.in_flight,
            served=self.server.served,
            ready_sent=self.ready_sent,
            deletion_seen=self.deletion_seen,
        )

    def logs(self) -> Logs:
        """What its containers have said: each says what it sees of the pod."""
        told = [f"version {self.version} listens at {self.address}", *self.said]
        named = {c.name: [f"{c.name}: {line}" for line in told] for c in self.spec.containers}
        return Logs(named, "" if self.address else self._waiting[0])

    def deleting(self, grace: int | None) -> None:
        """The API server says that this pod is to go, within `grace` seconds."""
        if self.deletion_seen is None:
            self.deletion_seen = time.monotonic()
        self.deletion_grace = float(grace or 0)
        self.deletion.set()

    def gone(self) -> None:
        """The API server has no such pod any more."""
        self.task.cancel()
        self.server.abort()

    async def set_ready(self, ready: bool) -> float:
        """Tell the API server; the moment it was sent (monotonic), once it has been accepted."""
        if ready and self.state not in {"Running", "Terminating"}:
            raise ValueError(f"{self.meta.name} is {self.state}")
        if ready != self.wants_ready:
            self._changed = _now()
        self.wants_ready = ready
        return await self._publish()

    async def crash(self, told: bool) -> None:
        """Every connection is closed and nothing listens; the API server learns it if `told`."""
        self.server.abort()
        self.state = "Crashed"
        self._waiting = ("CrashLoopBackOff", "back-off restarting failed container")
        self.restarts += 1
        if told:
            await self.set_ready(False)

    async def recover(self) -> float:
        """The container runs again, at the same address, and is Ready; when that was sent."""
        if self.state != "Crashed":
            raise ValueError(f"{self.meta.name} is {self.state}")
        await self.server.listen(self.address, self.ports)
        self.state = "Running"
        return await self.set_ready(True)

    async def _live(self) -> None:
        behaviour = self.behaviour
        if behaviour.waiting:
            self._waiting = (behaviour.waiting, "as the test wants it")
        else:
            await self._listen()
        if self.state == "Running":
            self.wants_ready = not behaviour.hold_ready and not behaviour.ready_delay
        await self._publish()
        if self.state == "Running" and not behaviour.hold_ready and behaviour.ready_delay:
            try:
                await asyncio.wait_for(self.deletion.wait(), behaviour.ready_delay)
            except TimeoutError:
                await self.set_ready(True)
        await self.deletion.wait()
        await self._end()

    async def _listen(self) -> None:
        for _ in range(50):
            self.address = self.agent.addresses.take()
            try:
                await self.server.listen(self.address, self.ports)
            except OSError as error:
                # Taken at this one address by another agent, or by a wildcard listener at all.
                self._waiting = ("CreateContainerError", str(error))
                continue
            self.state = "Running"
            return
        log.error("%s cannot listen: %s", self.meta.name, self._waiting[1])
        self.address = ""

    async def _end(self) -> None:
        """As a kubelet does: the grace, the last status, then the pod is taken away."""
        began = time.monotonic()
        behaviour = self.agent.behaviour_of(self.meta.labels)
        if self.state == "Running":
            self.state = "Terminating"
            await asyncio.sleep(min(behaviour.grace, self.deletion_grace))
            left = began + self.deletion_grace - time.monotonic()
            await self.server.close(left)
        self.server.abort()
        self.wants_ready = False
        self.state = "Ended"
        await self._publish()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.meta.uid}}
        await self.agent.insist("DELETE", self.path, options)

    async def _publish(self) -> float:
        """Patch the status to what is; when the patch that was accepted was sent."""
        async with self._publishing:
            ready = self.wants_ready
            body = {"metadata": {"uid": self.meta.uid}, "status": self._status(ready)}
            sent = await self.agent.insist(
                "PATCH", f"{self.path}/status", body, on_sent=self._note_ready if ready else None
            )
            self.ready = ready
            return sent

    def _note_ready(self, sent: float) -> None:
        self.ready_sent = sent

    def _status(self, ready: bool) -> dict[str, Any]:
        ended, running = self.state == "Ended", self.state in {"Running", "Terminating"}
        phase = "Succeeded" if ended else "Running" if self.address else "Pending"
        said = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        if ended:
            when = {"startedAt": self._started, "finishedAt": _now()}
            state: dict[str, Any] = {"terminated": {"exitCode": 0, "reason": "Completed", **when}}
        elif running:
            state = {"running": {"startedAt": self._started}}
        else:
            state = {"waiting": dict(zip(("reason", "message"), self._waiting, strict=True))}
        containers = [
            {
                "name": container.name,
                "image": container.image,
                "imageID": f"tests/{container.image}",
                "containerID": f"tests://{self.meta.uid}/{container.name}",
                "ready": ready,
                "started": running,
                "restartCount": self.restarts,
                "state": state,
            }
            for container in self.spec.containers
        ]
        status: dict[str, Any] = {
            "phase": phase,
            "startTime": self._started,
            "hostIP": "127.0.0.1",
            "conditions": [
                {
                    "type": kind,
                    "status": str(value),
                    "lastTransitionTime": self._changed if "Ready" in kind else self._started,
                }
                for kind, value in said.items()
            ],
            "containerStatuses": containers,
        }
        if self.address:
            status |= {"podIP": self.address, "podIPs": [{"ip": self.address}]}
        return status


class Agent:
    """Plays the kubelets of some nodes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.api = AsyncApi(config.port, config.ca, config.token)
        self.addresses = Addresses(config.network)
        self._kubelet = KubeletApi(config.cert, config.key, self._logs)
        self._kubelet_port = 0
        self._nodes = frozenset(config.nodes)
        self._rules: list[tuple[dict[str, str], Behaviour]] = []
        self._pods: dict[str, Pod] = {}
        self._version = ""
        self._listed = asyncio.Event()
        self._commands: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "wait": self._wait_command,
            "pods": self._pods_command,
            "behave": self._behave_command,
            "ready": self._ready_command,
            "release": self._release_command,
            "health": self._health_command,
            "crash": self._crash_command,
            "recover": self._recover_command,
        }

    async def run(self) -> None:
        server = await asyncio.start_unix_server(self._serve, f"\0{self.config.socket}")
        self._kubelet_port = await self._kubelet.start()
        async with server, asyncio.TaskGroup() as tasks:
            for node in self.config.nodes:
                tasks.create_task(self._keep_node(node))
            tasks.create_task(self._watch())

    def behaviour_of(self, labels: Mapping[str, str]) -> Behaviour:
        for match, behaviour in reversed(self._rules):
            if match.items() <= labels.items():
                return behaviour
        return self.config.behaviour

    async def insist(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        on_sent: Callable[[float], None] | None = None,
    ) -> float:
        """Change something however long it takes; when the request that was answered was sent.

        What is gone, or is another by now, is left alone.
        """
        delay = _BACKOFF[0]
        while True:
            try:
                kind = "merge-patch+json" if method == "PATCH" else "json"
                answer = await self.api.request(method, path, body, kind)
            except OSError as error:
                log.warning("%s %s: %r", method, path, error)
            else:
                if answer.status < 300:
                    if on_sent is not None:
                        on_sent(answer.sent)
                    return answer.sent
                if answer.status in {404, 409, 422}:
                    log.info("%s %s: %d %.300r", method, path, answer.status, answer.body)
                    return answer.sent
                log.warning("%s %s: %d %.300r", method, path, answer.status, answer.body)
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(delay * 2, _BACKOFF[1])

    # Nodes

    async def _keep_node(self, name: str) -> None:
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        await self.insist("POST", "/api/v1/nodes", _node(name))
        # A node is born with a taint that keeps pods away, for a controller to remove.
        await self.insist("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}})
        # By itself: the node may be there, made by an agent that was killed.
        at = {"daemonEndpoints": {"kubeletEndpoint": {"Port": self._kubelet_port}}}
        await self.insist("PATCH", f"/api/v1/nodes/{name}/status", {"status": at})
        held = {"holderIdentity": name, "leaseDurationSeconds": 40}
        while True:
            renewed = {"spec": {**held, "renewTime": _now(micro=True)}}
            try:
                answer = await self.api.request(
                    "PATCH", f"{lease}/{name}", renewed, "merge-patch+json"
                )
                if answer.status == 404:
                    body = {"metadata": {"name": name}, **renewed}
                    answer = await self.api.request("POST", lease, body)
                renewal = answer.status < 300
            except OSError:
                renewal = False
            # The leases' namespace appears some moments after the API server.
            await asyncio.sleep(HEARTBEAT if renewal else 0.5)

    def _logs(self, namespace: str, name: str) -> Logs | None:
        for pod in self._pods.values():
            if (pod.meta.namespace, pod.meta.name) == (namespace, name):
                return pod.logs()
        return None

    # Pods

    async def _watch(self) -> None:
        delay = _BACKOFF[0]
        while True:
            try:
                if not self._version:
                    await self._list()
                async for event in self._events():
                    self._apply(event)
                    delay = _BACKOFF[0]
            except (WatchLost, OSError) as error:
                log.info("watch: %r", error)
                self._version = ""
                await asyncio.sleep(delay)
                delay = min(delay * 2, _BACKOFF[1])

    async def _list(self) -> None:
        answer = await self.api.request("GET", f"/api/v1/pods?fieldSelector={_BOUND}")
        if answer.status != 200:
            raise Broken(f"list: {answer.status} {answer.body[:300]!r}")
        listed = _pods.decode(answer.body)
        there = {pod.metadata.uid for pod in listed.items}
        for uid in self._pods.keys() - there:
            self._pods.pop(uid).gone()
        for pod in listed.items:
            self._see(pod)
        self._version = listed.metadata.resource_version
        self._listed.set()

    async def _events(self) -> Any:
        path = (
            f"/api/v1/pods?watch=1&allowWatchBookmarks=true&fieldSelector={_BOUND}"
            f"&resourceVersion={self._version}"
        )
        async with self.api.stream(path) as lines:
            async for line in lines:
                yield _event.decode(line)

    def _apply(self, event: _Event) -> None:
        if event.type == "ERROR":
            raise WatchLost
        if event.type == "BOOKMARK":
            self._version = _place.decode(event.object).metadata.resource_version
            return
        pod = _pod.decode(event.object)
        if event.type == "DELETED":
            known = self._pods.pop(pod.metadata.uid, None)
            if known is not None:
                known.gone()
        else:
            self._see(pod)
        self._version = pod.metadata.resource_version

    def _see(self, pod: _Pod) -> None:
        if pod.spec.node_name not in self._nodes:
            return
        known = self._pods.get(pod.metadata.uid)
        if known is None:
            if pod.status.phase in {"Succeeded", "Failed"} and not pod.metadata.deletion_timestamp:
                return
            known = Pod(self, pod, self.behaviour_of(pod.metadata.labels))
            self._pods[pod.metadata.uid] = known
        if pod.metadata.deletion_timestamp is not None:
            known.deleting(pod.metadata.deletion_grace_period_seconds)

    # Commands: one line of JSON each way, any number on a connection.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                command = json.loads(line)
                try:
                    answer = {"ok": await self._commands[command.pop("op")](command)}
                except (LookupError, ValueError, OSError) as error:
                    answer = {"error": str(error)}
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        writer.close()

    async def _wait_command(self, command: dict[str, Any]) -> None:
        """Returns when the pods are watched and all nodes take pods."""
        await self._listed.wait()
        for node in self.config.nodes:
            while (await self.api.request("GET", f"/api/v1/nodes/{node}")).status != 200:
                await asyncio.sleep(0.02)

    async def _pods_command(self, command: dict[str, Any]) -> list[AgentPod]:
        uid, namespace = command["uid"], command["namespace"]
        match = command["match"].items()
        return [
            pod.view()
            for pod in self._pods.values()
            if uid in {None, pod.meta.uid}
            and namespace in {None, pod.meta.namespace}
            and match <= pod.meta.labels.items()
        ]

    async def _behave_command(self, command: dict[str, Any]) -> None:
        self._rules = [
            (match, msgspec.convert(behaviour, Behaviour)) for match, behaviour in command["rules"]
        ]

    async def _ready_command(self, command: dict[str, Any]) -> float:
        pod = self._find(command)
        if command["at"] is not None:
            await asyncio.sleep(command["at"] - time.monotonic())
        return await pod.set_ready(command["ready"])

    async def _release_command(self, command: dict[str, Any]) -> dict[str, float]:
        match = command["match"].items()
        held = [
            pod
            for pod in self._pods.values()
            if match <= pod.meta.labels.items() and pod.state == "Running" and not pod.wants_ready
        ]
        sent = await asyncio.gather(*(pod.set_ready(True) for pod in held))
        return {pod.meta.uid: at for pod, at in zip(held, sent, strict=True)}

    async def _health_command(self, command: dict[str, Any]) -> None:
        pod = self._find(command)
        pod.server.healthy = command["healthy"]
        pod.said.append(f"healthy: {pod.server.healthy}")

    async def _crash_command(self, command: dict[str, Any]) -> None:
        await self._find(command).crash(command["told"])

    async def _recover_command(self, command: dict[str, Any]) -> float:
        return await self._find(command).recover()

    def _find(self, command: dict[str, Any]) -> Pod:
        pod = self._pods.get(command["uid"])
        if pod is None:
            raise LookupError(f"no pod with uid {command['uid']} on these nodes")
        return pod


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a pod's life failed", exc_info=task.exception())


def _node(name: str) -> dict[str, Any]:
    room = {"cpu": "10000", "memory": "100000Gi", "pods": "100000", "ephemeral-storage": "1000Gi"}
    now = _now()
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "played by the tests",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "conditions": [condition],
            "nodeInfo": {
                "machineID": name,
                "systemUUID": name,
                "bootID": name,
                "kernelVersion": "",
                "osImage": "",
                "containerRuntimeVersion": "tests://1",
                "kubeletVersion": "v1.36.3",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    }


def _now(*, micro: bool = False) -> str:
    now = dt.datetime.now(dt.UTC)
    text = now.isoformat(timespec="microseconds" if micro else "seconds")
    return text.replace("+00:00", "Z")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    log.info("pid %d plays %d nodes", os.getpid(), len(config.nodes))
    asyncio.run(Agent(config).run())


if __name__ == "__main__":
    main()
