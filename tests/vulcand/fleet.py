"""Whole daemons on a real etcd and a real vulcand: what people do to them, what is seen of them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons import Vulcanized
from tests.servers.etcd import Etcd
from tests.servers.load import Load
from tests.servers.localpods import LocalPods
from tests.servers.vulcand import Vulcand
from tests.servers.wait import eventually
from tests.vulcand.stage import Stage
from vulcanized.model import AppId, PathKind, Route
from vulcanized.targets.vulcand.keys import MIXED, Keys
from vulcanized.targets.vulcand.routes import route_text

HOST = "todo.example.com"
NOT_YET = (OSError, http.client.HTTPException, ValueError)
LEASE = 5
"""Seconds, the shortest there is: tests wait for it to be over."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Written:
    """A key as etcd has it. `lease` 0: on none."""

    value: bytes
    revision: int
    lease: int


class Fleet:
    """Daemons with vulcand targets, and what is around them; whoever makes it closes it.

    The cluster is a directory of manifests, the store is etcd. `hand` does what other people do:
    its keys stand below vulcand's prefix. The app of most tests is `todo`.
    """

    def __init__(self, folder: Path, etcd: Etcd, vulcand: Vulcand, pods: LocalPods) -> None:
        self.folder = folder
        self.etcd = etcd
        self.vulcand = vulcand
        self.pods = pods
        self.hand = Stage(etcd, vulcand, pods)
        self.store = f"/s{vulcand.prefix}-{next(_numbers)}"
        self.keys = Keys(vulcand.prefix, "vulcanized")
        self.leader_key = f"{self.store}/leader/vulcanized"
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self._daemons: list[Vulcanized] = []
        self._running: set[str] = set()

    def daemon(
        self,
        name: str = "one",
        *,
        etcd: Sequence[str] = (),
        etcd_more: str = "",
        target: str = "",
        targets: str = "",
        more: str = "",
        probes: Sequence[Vulcand] = (),
        store: str = "",
        start: bool = True,
    ) -> Vulcanized:
        """A daemon with one vulcand target, ready unless `start` says otherwise.

        `etcd`: URLs other than etcd's own; `targets`: others beside it; `target`, `etcd_more`:
        further lines of those sections; `store`: another prefix of etcd.
        """
        probe = [f"127.0.0.1:{each.port}" for each in probes]
        folder = self.folder / name
        made = Vulcanized(
            folder,
            f"""instance = "{name}"

[directory]
manifests = "{self.manifests}"

[etcd]
endpoints = {json.dumps(list(etcd or self.etcd.endpoints))}
prefix = "{store or self.store}"
{etcd_more}
""",
            targets=f"""[[targets]]
kind = "vulcand"
prefix = "{self.vulcand.prefix}"
lease = {LEASE}
probe = {json.dumps(probe)}
{target}

{targets}
""",
            more=f'[sync]\nstate = "{folder}/state"\n{more}',
        )
        self._daemons.append(made)
        return made.start() if start else made

    def close(self) -> None:
        """End all daemons and pods, and take everything away."""
        for daemon in self._daemons:
            daemon.close()
        for name in self._running:
            self.pods.stop(name)
        if any(member.process.running for member in self.etcd.members):
            self.hand.clear()
            self.etcd.delete_prefix(f"{self.store}/")

    # --- what the cluster and people do ---

    def add_pod(self, name: str, version: str = "blue", app: str = "todo") -> None:
        """Serve a pod that is ready at once. Its name in the fleet: `name`, in answers too."""
        self.pods.start(name, version)
        self._running.add(name)
        self._manifest(name, self.pods.manifest(name, app))

    def remove_pod(self, name: str, app: str = "todo") -> None:
        """As Kubernetes does: terminating first; it ends when no balancer has it any more."""
        self._manifest(name, self.pods.manifest(name, app, terminating=True))
        eventually(lambda: not self.servers_of(name), 10, f"{name} to be taken out")
        self.pods.stop(name)
        self._running.discard(name)
        (self.manifests / f"{name}.json").unlink()

    def paper_pods(self, app: str, version: str, count: int, *, net: int) -> None:
        """Pods of an app that stand in its manifests and nowhere else; `net` tells apps apart."""
        pods = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{app}-{number}",
                    "namespace": "default",
                    "uid": f"uid-{app}-{number}-{version}",
                    "labels": {"app": app, "version": version},
                },
                "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
                "status": {
                    "phase": "Running",
                    "podIP": f"127.78.{net}.{number + 1}",
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
            for number in range(count)
        ]
        self._manifest(app, {"apiVersion": "v1", "kind": "List", "items": pods})

    def _manifest(self, name: str, manifest: dict[str, Any]) -> None:
        partial = self.manifests / f".{name}.part"
        partial.write_text(json.dumps(manifest))
        partial.replace(self.manifests / f"{name}.json")

    def configure(self, app: str = "todo", **fields: Any) -> None:
        """Put an app config; the app answers <app>.example.com unless `hosts` says otherwise."""
        text = json.dumps({"hosts": [f"{app}.example.com"], **fields})
        self.etcd.put(f"{self.store}/apps/default/{app}", text)

    def remove_app(self, app: str = "todo") -> None:
        """Delete an app's config."""
        self.etcd.delete(f"{self.store}/apps/default/{app}")

    def activate(self, text: str, app: str = "todo") -> None:
        """Put an activation."""
        self.etcd.put(f"{self.store}/active/default/{app}", text)

    def todo(self, *pods: str, active: str = "blue", **fields: Any) -> None:
        """The app `todo` with these pods, `green-1` of version `green` and so on."""
        for name in pods:
            self.add_pod(name, name.partition("-")[0])
        self.configure(**fields)
        self.activate(active)

    # --- keys ---

    def frontend(self, host: str = HOST, path: str = "/") -> str:
        """The id of the frontend of a route."""
        text = route_text(Route(host, PathKind.PREFIX, path), self.keys.owner)
        return self.keys.frontend_id(host, text)

    def backend(self, version: str = "blue", app: str = "todo") -> str:
        """The id of a version's backend."""
        return self.keys.backend_id(AppId("default", app), version)

    @property
    def mixed(self) -> str:
        """The id of the backend of todo's weights."""
        return self.backend(MIXED)

    @property
    def frontend_key(self) -> str:
        """The key of todo's frontend."""
        return self.keys.frontend(self.frontend())

    def backend_key(self, version: str = "blue") -> str:
        """The key of the backend of a version of todo."""
        return self.keys.backend(self.backend(version))

    @property
    def server_key(self) -> str:
        """The key of the one server that is blue-1."""
        (key,) = self.servers_of("blue-1")
        return key

    @property
    def middleware_key(self) -> str:
        """The key of the middleware that todo has with max_connections."""
        return self.keys.middleware(self.frontend(), "vulcanized-max-connections")

    def tree(self, *, ours: bool = False) -> dict[str, bytes]:
        """All keys below vulcand's prefix, without what only proves."""
        found = self.etcd.list(f"{self.vulcand.prefix}/")
        return {
            key: value
            for key, value in found.items()
            if "/vulcanized___proof__/" not in key and (not ours or "/vulcanized__" in key)
        }

    def written(self, prefix: str = "") -> dict[str, Written]:
        """All keys below a prefix, vulcand's unless told, with their revisions and leases."""
        start = prefix or f"{self.vulcand.prefix}/"
        end = start[:-1] + chr(ord(start[-1]) + 1)
        request = {"key": _base64(start), "range_end": _base64(end)}
        return {
            base64.b64decode(kv["key"]).decode(): Written(
                base64.b64decode(kv.get("value", "")),
                int(kv["mod_revision"]),
                int(kv["lease"]) if "lease" in kv else 0,
            )
            for kv in self.etcd.call("kv/range", request).get("kvs", ())
        }

    def servers_of(self, pod: str) -> list[str]:
        """The keys of the servers that are this pod."""
        address, port = self.pods.endpoint(pod)
        url = f"://{address}:{port}".encode()
        return [key for key, value in self.tree().items() if url in value]

    # --- what is seen ---

    def served_by(
        self, *pods: str, host: str = HOST, deadline: float = 10.0, path: str = "/"
    ) -> None:
        """Wait until exactly these pods answer."""
        asked = max(6, 3 * len(pods))
        eventually(
            lambda: self.hand.pods_of(host, path, asked).keys() == set(pods),
            deadline,
            f"answers from {pods}",
            ignore=NOT_YET,
        )

    def answers(self, status: int, host: str = HOST, path: str = "/", **how: Any) -> None:
        """Wait for an answer with this status."""
        eventually(
            lambda: self.hand.ask(host, path, **how).status == status,
            10,
            f"status {status}",
            ignore=NOT_YET,
        )

    def settled(self, daemon: Vulcanized, deadline: float = 20.0) -> None:
        """Wait until all that its sources say is in effect."""

        def settled() -> bool:
            status = daemon.status()
            synced = all(source["state"] == "synced" for source in status["sources"])
            return synced and all(
                target["generation"] == status["generation"] and not target["error"]
                for target in status["targets"]
            )

        eventually(settled, deadline, daemon.process.log_tail, ignore=NOT_YET)

    def like_a_fresh_start(self, daemon: Vulcanized, deadline: float = 20.0) -> None:
        """Wait until the keys are those that a daemon would write which starts now."""
        self.settled(daemon, deadline)
        seen = daemon.command("diff")
        assert (seen.returncode, seen.stdout) == (0, ""), seen.stdout + seen.stderr

    def load(self, host: str = HOST, **options: Any) -> contextlib.AbstractContextManager[Load]:
        """Ask for an app in a `with` block; in the end no request may have failed."""
        return _unfailing(self.vulcand.port, host, options)


@contextlib.contextmanager
def _unfailing(port: int, host: str, options: dict[str, Any]) -> Any:
    calm = {"keep_alive": 2, "one_shot": 2, "pause": 0.005, **options}
    with Load(port, host, **calm) as load:
        load.go_on(20)
        yield load
        load.go_on(50)
    if load.report.failed:
        raise AssertionError(f"failed requests: {load.report.failed}, {load.report.moments[:3]}")


def target_of(daemon: Vulcanized) -> dict[str, Any]:
    """The vulcand target in `/status`."""
    found: dict[str, Any] = next(
        each for each in daemon.status()["targets"] if each["kind"] == "vulcand"
    )
    return found


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
