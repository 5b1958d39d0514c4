"""A whole daemon, one proxy or several before it, and the apps of a case."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.client import Answer, Client
from tests.behaviour.front import Front
from tests.behaviour.pods import Pod, Pods
from tests.daemons import Vulcanized
from tests.servers.etcd import Etcd
from tests.servers.load import Load
from tests.servers.wait import eventually

shows = pytest.mark.shows
"""The row of the table in the README that a case stands for."""
needs = pytest.mark.needs
"""The app config fields that a proxy has to declare, or the case is not for it."""

NOT_YET = (OSError, http.client.HTTPException, ValueError)

_numbers = itertools.count(1)


class App:
    """One app of a case; its name, and so its own host, is like no other's."""

    def __init__(self, world: World, stem: str) -> None:
        self.name = f"{stem}-{next(_numbers)}"
        self.host = f"{self.name}.example.com"
        self.pods: list[Pod] = []
        self._world = world
        self._config: dict[str, Any] = {}
        self._count = 0

    def configure(self, **fields: Any) -> None:
        """Put its config anew; it answers `host` unless `hosts` says otherwise."""
        self._config = {"hosts": [self.host], **fields}
        self._world.put("apps", self.name, json.dumps(self._config))

    def change(self, **fields: Any) -> None:
        """Put its config with these fields changed."""
        self.configure(**{**self._config, **fields})

    def unconfigure(self) -> None:
        """Delete its config."""
        self._world.delete("apps", self.name)

    def activate(self, text: str) -> None:
        """Put its activation."""
        self._world.put("active", self.name, text)

    def deactivate(self) -> None:
        """Delete its activation."""
        self._world.delete("active", self.name)

    def pod(self, version: str = "blue", *, ready: bool = True, **how: Any) -> Pod:
        """Serve one more pod; `how` as for `Pods.start`."""
        self._count += 1
        name = f"{self.name}-{version}-{self._count}"
        pod = self._world.pods.start(name, version, **how)
        self.pods.append(pod)
        self.tell(pod, ready=ready)
        return pod

    def tell(self, pod: Pod, *, ready: bool = True, terminating: bool = False) -> None:
        """What Kubernetes says of it from now on."""
        deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if terminating else {}
        ports = [{"name": name, "containerPort": port} for name, port in pod.ports.items()]
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.name,
                "namespace": "default",
                "uid": f"uid-{pod.name}",
                "labels": {"app": self.name, "version": pod.version},
                **deleted,
            },
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {
                "phase": "Running",
                "podIP": pod.address,
                "conditions": [{"type": "Ready", "status": str(ready)}],
            },
        }
        self._world.write_manifest(pod.name, manifest)

    def forget(self, pod: Pod) -> None:
        """Kubernetes has it no more."""
        self._world.remove_manifest(pod.name)

    def delete(self, pod: Pod, but: Front | None = None) -> None:
        """As Kubernetes does, where a preStop hook waits until no balancer (`but` one) asks it."""
        self.tell(pod, terminating=True)
        self._world.settle(but=but)
        self._world.pods.stop(pod)
        self.forget(pod)

    @property
    def status(self) -> dict[str, Any]:
        """What `/status` says of it."""
        return self._world.daemon.app(f"default/{self.name}")

    @property
    def names(self) -> set[str]:
        """The names of its pods, as answers tell them."""
        return {pod.name for pod in self.pods}


class World:
    """A daemon between an etcd, a directory of manifests, and `fronts`; `front` is the first.

    Every case has apps of its own, which `clear` takes away.
    """

    def __init__(self, folder: Path, etcd: Etcd, pods: Pods, fronts: Sequence[Front]) -> None:
        self.etcd = etcd
        self.pods = pods
        self.fronts = tuple(fronts)
        self.front = self.fronts[0]
        self.prefix = f"/behaviour-{next(_numbers)}-{self.front.port}"
        self._manifests = folder / "manifests"
        self._manifests.mkdir(parents=True)
        self._apps: list[App] = []
        self._last: str | None = None
        self.daemon = Vulcanized(
            folder / "v",
            f"""
[directory]
manifests = "{self._manifests}"

[etcd]
endpoints = {json.dumps(list(etcd.endpoints))}
prefix = "{self.prefix}"
""",
            targets="\n".join(front.settings for front in self.fronts),
            # Cases come and go as no cluster does.
            more=f'[guard]\nmax_removed = 1\n[sync]\nstate = "{folder}/state"\n',
        )

    def start(self) -> None:
        for front in self.fronts:
            front.start()
        self.daemon.start()

    def close(self) -> None:
        """End the daemon, with it what it started, and all the rest."""
        self.daemon.close()
        for front in self.fronts:
            front.stop()
        self.etcd.delete_prefix(f"{self.prefix}/")

    def clear(self) -> None:
        """Take all apps and pods of a case away."""
        for app in self._apps:
            app.unconfigure()
            app.deactivate()
            for pod in app.pods:
                self.remove_manifest(pod.name)
                pod.say(None)
                self.pods.crash(pod)
        self._apps.clear()

    # --- what people and the cluster do ---

    def app(
        self, *versions: str, active: str | None = None, stem: str = "app", **config: Any
    ) -> App:
        """An app with one ready pod of each of these versions (`blue` by default)."""
        app = App(self, stem)
        self._apps.append(app)
        for version in versions or ("blue",):
            app.pod(version)
        if active is not None:
            app.activate(active)
        app.configure(**config)
        return app

    def bare_app(self) -> App:
        """An app of which nothing is written yet."""
        app = App(self, "app")
        self._apps.append(app)
        return app

    def put(self, kind: str, app: str, text: str) -> None:
        self.etcd.put(f"{self.prefix}/{kind}/default/{app}", text)

    def delete(self, kind: str, app: str) -> None:
        self.etcd.delete(f"{self.prefix}/{kind}/default/{app}")

    def write_manifest(self, name: str, manifest: dict[str, Any]) -> None:
        partial = self._manifests / f".{name}.part"
        partial.write_text(json.dumps(manifest))
        partial.replace(self._manifests / f"{name}.json")

    def remove_manifest(self, name: str) -> None:
        (self._manifests / f"{name}.json").unlink(missing_ok=True)

    # --- what is seen ---

    def settle(self, deadline: float = 30.0, but: Front | None = None) -> None:
        """Wait until all that was written before is in effect on every front `but` one.

        The last word of each source is an app that has a version and an activation but no config,
        so no proxy hears of it. When it is seen, so is what was written before.
        """
        word = f"v{next(_numbers)}"
        labels = {"app": "last-word", "version": word}
        controller = {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "last-word", "namespace": "default", "uid": "1", "labels": labels},
            "spec": {"replicas": 1, "template": {"metadata": {"labels": labels}}},
        }
        self.write_manifest("last-word", controller)
        self.put("active", "last-word", word)

        def settled() -> bool:
            status = self.daemon.status()
            told = next((app for app in status["apps"] if app["name"] == "last-word"), None)
            if told is None or told["activation"]["wanted"] != word:
                return False
            if [version["version"] for version in told["versions"]] != [word]:
                return False
            now = status["generation"]
            return all(
                each["generation"] == now and not each["error"] and each["proven"] in {None, now}
                for each in status["targets"]
                if but is None or each["kind"] != but.kind
            )

        eventually(settled, deadline, self.daemon.process.log_tail, ignore=NOT_YET)

    def client(self, front: Front | None = None, **how: Any) -> Client:
        """A connection to the front, or to another."""
        return Client((front or self.front).port, **how)

    def ask(self, host: str, path: str = "/", *, front: Front | None = None, **how: Any) -> Answer:
        """One request on a connection of its own."""
        with self.client(front) as client:
            return client.ask(host, path, **how)

    def answered_by(self, host: str, path: str = "/", tries: int = 1, **how: Any) -> Counter[str]:
        """The pods that answer so many requests; "503" and the like for the proxy's own answers."""
        return Counter(self.ask(host, path, **how).pod for _ in range(tries))

    @contextlib.contextmanager
    def in_flight(self, app: App) -> Iterator[tuple[Pod, Future[Answer]]]:
        """A request that a pod is busy with until it is released: the pod, and what will come."""
        with ThreadPoolExecutor(1) as pool:
            before = {pod: pod.in_flight for pod in app.pods}
            answer = pool.submit(self.ask, app.host, "/hold")
            try:

                def busy() -> list[Pod]:
                    return [pod for pod in app.pods if pod.in_flight > before[pod]]

                yield eventually(busy, 10, "it to arrive")[0], answer
            finally:
                for pod in app.pods:
                    pod.release()

    @contextlib.contextmanager
    def load(self, host: str, front: Front | None = None, **options: Any) -> Iterator[Load]:
        """Ask for an app in a `with` block; in the end no request may have failed."""
        calm = {"keep_alive": 2, "one_shot": 2, "pause": 0.005, **options}
        with Load((front or self.front).port, host, **calm) as load:
            load.go_on(20)
            yield load
            load.go_on(40)
        assert load.report.failed == {}, load.report.moments[:3]
