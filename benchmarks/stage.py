"""What is measured on: real servers on loopback, and the apps that live there.

| namespace | what | for |
|---|---|---|
| `stage` | up to 9 apps of two pods, each by a ReplicationController | pods that come and go |
| `shop` | the app `shop`: versions blue and green, two pods each | switches |
| `bulk` | all other apps, two pods each | being there |

Every app has a host of its own, `<app>.test`, by an app config in etcd.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.floor import Floor, KeyWatch, PodWatch
from tests.daemons import Vulcanized
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.manifests import replication_controller
from tests.servers.nodeagent import NodeAgent
from tests.servers.process import ServerProcess
from tests.servers.programs import find_program
from tests.servers.vulcand import Vulcand
from tests.servers.wait import eventually

Say = Callable[[str], None]

STAGED = 9
REPLICAS = 2
VERSIONS = ("blue", "green")
SHOP_HOST = "shop.test"

_PODS_READY = 120.0
_TRANSACTION = 100  # etcd takes 128 operations in one


def host(app: str) -> str:
    """The host that an app answers to."""
    return f"{app}.test"


class Stage:
    """The servers, and as many apps as `grow` was told. Use `set_up`."""

    def __init__(
        self, control_plane: ControlPlane, agent: NodeAgent, etcd: Etcd, folder: Path, say: Say
    ) -> None:
        self.control_plane = control_plane
        self.agent = agent
        self.etcd = etcd
        self.folder = folder
        self.say = say
        self.apps: tuple[str, ...] = ()
        self.stage, self.shop, self.bulk = map(
            control_plane.create_namespace, ("stage", "shop", "bulk")
        )
        self.active = f"/vulcanized/active/{self.shop}/shop"
        self._daemons = 0
        for version in VERSIONS:
            self._create(self.shop, "shop", version)
        self._put({f"/vulcanized/apps/{self.shop}/shop": _config("shop"), self.active: VERSIONS[0]})

    @property
    def staged(self) -> tuple[str, ...]:
        """The apps whose pods come and go."""
        return self.apps[:STAGED]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that is to be served."""
        return (SHOP_HOST, *map(host, self.apps))

    @property
    def pods(self) -> int:
        """How many pods there are when all is calm."""
        return REPLICAS * (len(self.apps) + len(VERSIONS))

    def grow(self, count: int) -> None:
        """Have so many apps in all, and their pods ready."""
        wanted = tuple(f"app-{number:04}" for number in range(count - 1))
        for begin in range(len(self.apps), len(wanted), _TRANSACTION):
            more = wanted[begin : begin + _TRANSACTION]
            places = {app: self.stage if app in wanted[:STAGED] else self.bulk for app in more}
            for app, namespace in places.items():
                self._create(namespace, app, "1")
            keys = {f"/vulcanized/apps/{at}/{app}": _config(app) for app, at in places.items()}
            self._put(keys)
            self.apps = wanted[: begin + len(more)]
            self.say(f"{len(self.apps) + 1} of {count} apps made")
        self.wait_pods()

    def _create(self, namespace: str, app: str, version: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/replicationcontrollers"
        body = replication_controller(app, version, REPLICAS)
        self.control_plane.api.post(path, body)

    def _put(self, keys: dict[str, str]) -> None:
        puts = [
            {"requestPut": {"key": _base64(key), "value": _base64(value)}}
            for key, value in keys.items()
        ]
        self.etcd.call("kv/txn", {"success": puts})

    def wait_pods(self) -> None:
        """Wait until every app has its pods, all ready, and no others."""
        counts = {
            self.stage: REPLICAS * len(self.staged),
            self.shop: REPLICAS * len(VERSIONS),
            self.bulk: REPLICAS * (len(self.apps) - len(self.staged)),
        }

        def in_place() -> bool:
            there = {namespace: self.agent.pods(namespace) for namespace in counts}
            return all(pod.ready for pods in there.values() for pod in pods) and counts == {
                namespace: len(pods) for namespace, pods in there.items()
            }

        eventually(in_place, _PODS_READY, f"{self.pods} pods, all ready", interval=0.2)

    @contextlib.contextmanager
    def daemon(self, vulcand: Vulcand | None = None) -> Iterator[Vulcanized]:
        """A daemon that has never run before, with its HAProxy; not started. It is ended.

        `vulcand`: what it drives in place of HAProxy, and asks for proofs.
        """
        self._daemons += 1
        endpoints = json.dumps(self.etcd.endpoints)
        sides = (
            f'[kubernetes]\nkubeconfig = "{self.control_plane.kubeconfig}"\n\n'
            f"[etcd]\nendpoints = {endpoints}\n"
        )
        folder = self.folder / f"daemon-{self._daemons}"
        # The level that operators run it with: lines cost time.
        level = {"VULCANIZED_LOG__LEVEL": "info"}
        if vulcand is None:
            daemon = Vulcanized(folder, sides, environment=level)
        else:
            daemon = Vulcanized(
                folder,
                sides,
                targets='[[targets]]\nkind = "vulcand"\n'
                f'prefix = "{vulcand.prefix}"\nprobe = ["127.0.0.1:{vulcand.port}"]\n',
                more=f'[sync]\nstate = "{folder / "state"}"',
                port=vulcand.port,
                environment=level,
            )
        try:
            yield daemon
        except Exception:
            self.say(f"the daemon's log ends:\n{daemon.process.log_tail()}")
            raise
        finally:
            if daemon.process.running:
                daemon.close()

    def pod_floor(self) -> Floor:
        """A bare watch of all pods."""
        at = self.control_plane
        return Floor(PodWatch(at.port, str(at.ca), at.admin.token))

    @contextlib.contextmanager
    def switch_floor(self) -> Iterator[Floor]:
        """A bare watch of the shop's activation, and a `set map` to a HAProxy of its own."""
        # Not below our own folder: the path of a Unix socket has to be short.
        folder = Path(tempfile.mkdtemp(prefix="floor-"))
        socket, table = folder / "haproxy.sock", folder / "routes.map"
        table.write_text("".join(f"{name} {VERSIONS[0]}\n" for name in self.hosts))
        (folder / "haproxy.cfg").write_text(
            f"global\n  stats socket {socket} level admin\n"
            "defaults\n  mode http\n  timeout connect 1s\n"
            "  timeout client 1s\n  timeout server 1s\n"
            f"frontend floor\n  bind unix@{folder / 'http.sock'}\n"
            f"  use_backend %[req.hdr(host),map({table})]\n"
        )
        command = [str(find_program("haproxy")), "-db", "-f", str(folder / "haproxy.cfg")]
        proxy = ServerProcess("HAProxy of the floor", command, folder / "haproxy.log")
        proxy.start()
        try:
            proxy.wait_until(socket.exists, 10)
            set_map = f"set map {table} {SHOP_HOST} {VERSIONS[1]}"
            watched = KeyWatch(self.etcd.port, self.active, str(socket), set_map)
            with Floor(watched) as floor:
                yield floor
        finally:
            proxy.kill()
            shutil.rmtree(folder)


@contextlib.contextmanager
def set_up(say: Say) -> Iterator[Stage]:
    """Start the servers; they and all their data go at the end.

    Raises `ServerMissing` where one is not on this machine.
    """
    say("starting a Kubernetes control plane, its nodes, an etcd")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        etcd = stack.enter_context(Etcd())
        control_plane = stack.enter_context(ControlPlane(progress=say))
        agent = stack.enter_context(NodeAgent(control_plane))
        yield Stage(control_plane, agent, etcd, folder, say)


def _config(app: str) -> str:
    return json.dumps({"hosts": [host(app)]})


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
