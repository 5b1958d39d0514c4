"""The busy apps: their pods, versions, configs, and the host that moves between them."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

from tests.chaos.proxy import Address
from tests.chaos.schedule import BUSY, MOVING, Step, good_config
from tests.chaos.trouble import Trouble
from tests.chaos.unfair import Later, Unfair
from tests.faults.stage import Stage

UNREADY_AFTER = 0.4
"""Seconds from a crash to the moment at which kubelet has noticed it."""


SURE_AFTER = 40.0
"""Seconds after a change of a pod's readiness from which on it is sure that the daemon saw it. One
that was cut off gets to see all changes in their order: the pod is not ready for a moment again."""


class Apps:
    """What people, deployers and kubelets do to the busy apps.

    `crashes` are by app the moments at which one of its pods crashed.
    """

    def __init__(self, stage: Stage, trouble: Trouble, later: Later) -> None:
        self.crashes: dict[str, list[float]] = {app: [] for app in BUSY}
        self._stage = stage
        self._trouble = trouble
        self._later = later
        self._alive: dict[str, tuple[str, Address]] = {}
        self._versions: dict[str, str] = {}
        self._flapped: dict[str, float] = {}
        self._fields: dict[str, dict[str, Any]] = {app: {} for app in BUSY}
        self._claims = {BUSY[0]}
        # Versions of the activation written last, and of all that the daemon may still act upon.
        self._latest: dict[str, set[str]] = {app: {"v1"} for app in BUSY}
        self._possible: dict[str, set[str]] = {app: {"v1"} for app in BUSY}
        for app in BUSY:
            for number in (1, 2):
                self._add(f"{app}-v1-{number}", app, "v1")
            self._configure(app)
            stage.activate("v1", app)

    def mend(self) -> None:
        """Good configs, and activations of versions that have pods."""
        for app in BUSY:
            self._configure(app)
            pods = [pod for pod, (of, _) in self._alive.items() if of == app]
            there = {self._versions[pod] for pod in pods}
            self._stage.activate(max(self._latest[app] & there or there), app)

    # --- pods -----------------------------------------------------------------------------------

    def pod_add(self, step: Step) -> None:
        self._add(step.name, step.app, step.value)

    def pod_remove(self, step: Step) -> None:
        if step.name not in self._alive:
            raise Unfair("it is down")
        self._may_lose(step.app, step.name)
        del self._alive[step.name]
        self._stage.remove_pod(step.name)

    def pod_crash(self, step: Step) -> None:
        if step.name not in self._alive:
            raise Unfair("it is down")
        self._may_lose(step.app, step.name)
        self.crashes[step.app].append(time.monotonic())
        was = self._alive.pop(step.name)
        self._stage.pods.crash(step.name)
        unready = functools.partial(self._ready, step.name, "False")
        self._later(UNREADY_AFTER, f"silence about {step.name}", unready)
        revive = functools.partial(self._revive, step.name, was)
        self._later(step.lasting, f"crash of {step.name}", revive)

    def pod_unready(self, step: Step) -> None:
        if step.name not in self._alive:
            raise Unfair("it is down")
        self._may_lose(step.app, step.name)
        self._ready(step.name, "False")
        again = functools.partial(self._ready, step.name, "True")
        self._later(step.lasting, f"{step.name} unready", again)

    def _add(self, name: str, app: str, version: str) -> None:
        self._stage.add_pod(name, app, version)
        self._alive[name] = (app, self._stage.pods.endpoint(name))
        self._versions[name] = version

    def _ready(self, name: str, status: str) -> None:
        """What kubelet says of it; raises StatusError if it has been deleted since."""
        self._flapped[name] = time.monotonic()
        conditions = [{"type": "Ready", "status": status}]
        self._stage.cluster.store.patch(
            "pods", "default", name, {"status": {"conditions": conditions}}
        )

    def _revive(self, name: str, was: tuple[str, Address]) -> None:
        self._stage.pods.revive(name)
        self._alive[name] = was
        self._ready(name, "True")

    # --- versions -------------------------------------------------------------------------------

    def app_switch(self, step: Step) -> None:
        self._may_have(step.app, step.name)
        self._activate(step.app, {step.name}, step.name)

    def app_weights(self, step: Step) -> None:
        versions = step.name.split()
        for version in versions:
            self._may_have(step.app, version)
        shares = dict(zip(versions, map(int, step.value.split()), strict=True))
        self._activate(step.app, set(versions), json.dumps({"weights": shares}))

    def app_nowhere(self, step: Step) -> None:
        self._activate(step.app, {step.name}, step.name)

    def _activate(self, app: str, versions: set[str], text: str) -> None:
        self._trouble.needs_etcd()
        self._latest[app] = versions
        self._possible[app] = self._possible[app] | versions
        self._stage.activate(text, app)

    # --- configs --------------------------------------------------------------------------------

    def app_config(self, step: Step) -> None:
        self._trouble.needs_etcd()
        self._fields[step.app] = good_config(int(step.value))
        self._configure(step.app)

    def app_broken(self, step: Step) -> None:
        """Only once the good one is in effect: what is remembered is the last that was seen."""
        self._trouble.needs_etcd()
        if step.app in self._claims and not self._has_moving(step.app):
            raise Unfair("it may not have been seen yet that the host is this app's")
        self._stage.etcd.put(f"{self._stage.prefix}/apps/default/{step.app}", step.value)

    def app_claim(self, step: Step) -> None:
        self._trouble.needs_etcd()
        self._claims.add(step.app)
        self._configure(step.app)

    def app_yield(self, step: Step) -> None:
        """To the app that has claimed it, and whose config is not broken."""
        self._trouble.needs_etcd()
        other = step.name
        if other not in self._claims:
            raise Unfair(f"{other} does not claim the host")
        self._configure(other)
        self._claims.discard(step.app)
        self._configure(step.app)

    def app_extra(self, step: Step) -> None:
        self._trouble.needs_etcd()
        names = [f"{step.app}-1", f"{step.app}-2"]
        for name in names:
            self._stage.add_pod(name, step.app, "v1")
        self._stage.configure(step.app)
        gone = functools.partial(self._extra_goes, step.app, names)
        self._later(step.lasting, step.app, gone)

    def _extra_goes(self, app: str, names: list[str]) -> None:
        try:
            self._trouble.needs_etcd()
        except Unfair:
            self._later(1.0, app, functools.partial(self._extra_goes, app, names))
            return
        self._stage.etcd.delete(f"{self._stage.prefix}/apps/default/{app}")
        for name in names:
            self._stage.remove_pod(name)

    def _configure(self, app: str) -> None:
        hosts = [f"{app}.example.com", *([MOVING] if app in self._claims else [])]
        self._stage.configure(app, **{**self._fields[app], "hosts": hosts})

    def _has_moving(self, app: str) -> bool:
        routes = self._trouble.known().tables["routes-prefix.map"]
        return routes.get(f"{MOVING}/") == f"default/{app}"

    # --- what is fair ---------------------------------------------------------------------------

    def _may_lose(self, app: str, pod: str) -> None:
        """Raises Unfair if the app could be left without a pod that the proxy knows."""
        known = self._trouble.known()
        active = known.active(app)
        if active == self._backends(app, self._latest[app]):
            self._possible[app] = set(self._latest[app])
        there = known.servers.keys()
        own = self._backends(app, {self._versions[pod]} & self._possible[app])
        if own - there:
            raise Unfair(f"the proxy does not know {own} yet")
        for id_ in active | (self._backends(app, self._possible[app]) & there):
            self._judge(id_, known.servers[id_] - {self._alive[pod][1]})

    def _may_have(self, app: str, version: str) -> None:
        """Raises Unfair unless the proxy knows pods of this version, and no dead ones."""
        (id_,) = self._backends(app, {version})
        self._judge(id_, self._trouble.known().servers.get(id_, frozenset()))

    def _judge(self, id_: str, servers: frozenset[Address]) -> None:
        alive = {address for _, address in self._alive.values()}
        unsure = time.monotonic() - SURE_AFTER
        sure = {
            address
            for name, (_, address) in self._alive.items()
            if self._flapped.get(name, 0.0) < unsure
        }
        if not servers & sure:
            raise Unfair(f"{id_} has no other pod that the proxy is sure to know")
        if servers - alive:
            raise Unfair(f"{id_} has a dead pod that the proxy does not know to be dead")

    def _backends(self, app: str, versions: set[str]) -> set[str]:
        return {f"default:{app}:{version}" for version in versions}
