"""What happens when: a schedule made of a seed alone. Pure.

The same seed, length and kinds give the same steps. Whether a step is fair at its moment is for
whoever carries it out to see: a pod is not taken away while the proxy cannot know of another one.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

STEADY: Final = ("todo", "other")
"""Apps to which nothing is done: no request to them may fail."""
BUSY: Final = ("shop", "mail", "blog")
"""Apps whose pods, versions and configs change; a request may fail only when a pod crashes."""
MOVING: Final = "moving.example.com"
"""A host that one busy app has, then another."""


@dataclass(frozen=True, slots=True)
class Step:
    """`at` seconds from the start `kind` happens; what lasts ends `lasting` seconds later."""

    at: float
    kind: str
    app: str = ""
    name: str = ""
    value: str = ""
    lasting: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.at:6.1f} s  {self.kind}", self.app, self.name, self.value[:60]]
        lasting = f"for {self.lasting:.1f} s" if self.lasting else ""
        return "  ".join(word for word in (*words, lasting) if word)


WEIGHTS: Final = {
    "pod.replace": 16,
    "pod.add": 10,
    "pod.remove": 10,
    "pod.crash": 8,
    "pod.unready": 10,
    "app.release": 12,
    "app.switch": 8,
    "app.weights": 8,
    "app.nowhere": 3,
    "app.config": 8,
    "app.broken": 6,
    "app.move": 5,
    "app.extra": 5,
    "template.changed": 1,
    "template.broken": 1,
    "kubernetes.cut": 2,
    "kubernetes.frozen": 1,
    "kubernetes.expired": 1,
    "kubernetes.busy": 1,
    "kubernetes.failing": 1,
    "kubernetes.mute": 1,
    "kubernetes.empty": 2,
    "kubernetes.half": 2,
    "kubernetes.garbage": 2,
    "kubernetes.away": 1,
    "etcd.frozen": 1,
    "etcd.killed": 1,
    "etcd.compacted": 2,
    "etcd.cut": 2,
    "etcd.refused": 1,
    "etcd.mute": 1,
    "haproxy.reload": 2,
    "haproxy.edited": 1,
    "haproxy.spoiled": 1,
    "haproxy.weight": 2,
    "daemon.killed": 1,
    "daemon.frozen": 2,
    "daemon.hup": 1,
}
"""How often each kind is drawn, against the others."""
KINDS: Final = tuple(WEIGHTS)

_FAULT_SECONDS: Final = {
    "kubernetes.frozen": (0.5, 6.0),
    "kubernetes.busy": (0.5, 5.0),
    "kubernetes.failing": (0.5, 5.0),
    "kubernetes.mute": (0.5, 6.0),
    "kubernetes.empty": (1.0, 6.0),
    "kubernetes.half": (1.0, 6.0),
    "kubernetes.garbage": (1.0, 5.0),
    "kubernetes.away": (0.5, 4.0),
    "etcd.frozen": (0.5, 5.0),
    "etcd.killed": (0.3, 3.0),
    "etcd.refused": (0.5, 4.0),
    "etcd.mute": (0.5, 6.0),
    "template.changed": (1.0, 8.0),
    "template.broken": (0.5, 4.0),
    "daemon.killed": (0.2, 3.0),
    "daemon.frozen": (0.3, 4.0),
}
_BROKEN: Final = (
    '{"hosts": ',
    '{"hosts": ["a b"]}',
    '{"hosts": ["x.example.com"], "port": "no such thing"}',
    '{"hosts": ["x.example.com"], "timeouts": {"server": -1}}',
    "[]",
    "",
    '{"hosts": ["x.example.com\\n  bind :1"]}',
    '{"hosts": ["x.example.com"], "paths": [{"regex": "/(a+)+$"}]}',
)
_GOOD: Final[tuple[dict[str, object], ...]] = (
    {"retries": 2},
    {"retries": 4, "balance": "leastconn"},
    {"balance": "random"},
    {"timeouts": {"server": "20s", "queue": "10s"}},
    {"max_connections": {"server": 200, "app": 500}},
    {"health_check": {"path": "/health", "interval": "1s"}},
    {"paths": ["/", {"exact": "/exact"}, {"regex": "/r[0-9]+$"}]},
    {},
)


@dataclass
class _App:
    versions: dict[str, list[str]] = field(default_factory=dict)
    active: str = "v1"
    released: int = 1


class _Plot:
    """Draws steps, and keeps in mind which pods and versions they leave."""

    def __init__(self, seed: int, seconds: float) -> None:
        self._dice = random.Random(seed)
        self._seconds = seconds
        self._apps = {app: _App({"v1": [f"{app}-v1-1", f"{app}-v1-2"]}) for app in BUSY}
        self._pods = 2
        self._extras = 0
        self._owner = BUSY[0]
        self.steps: list[Step] = []

    def run(self, kinds: Collection[str]) -> None:
        names = [kind for kind in KINDS if kind in kinds]
        weights = [WEIGHTS[kind] for kind in names]
        now = 0.5
        # The last tenth is calm, so that what lasts ends within the time.
        while now < self._seconds * 0.9:
            kind = self._dice.choices(names, weights)[0]
            area, _, what = kind.partition(".")
            if area in ("pod", "app"):
                app = self._dice.choice(BUSY)
                getattr(self, f"_{area}_{what}")(now, app, self._apps[app])
            else:
                self._fault(now, kind)
            now += self._dice.expovariate(1.6)

    def _add(self, at: float, kind: str, app: str = "", name: str = "", value: str = "") -> None:
        self.steps.append(Step(round(at, 2), kind, app, name, value))

    # --- faults ---------------------------------------------------------------------------------

    def _fault(self, now: float, kind: str) -> None:
        low, high = _FAULT_SECONDS.get(kind, (0.0, 0.0))
        lasting = min(self._dice.uniform(low, high), max(0.2, self._seconds * 0.95 - now))
        app = self._dice.choice(BUSY)
        pods = [pod for version in self._apps[app].versions.values() for pod in version]
        name = self._dice.choice(pods) if kind == "kubernetes.garbage" else ""
        if kind == "daemon.killed" and now > self._seconds / 3 and self._seconds >= 60:
            return  # what is held in memory is judged over the life of one process
        number = str(self._dice.randrange(1000))
        step = Step(round(now, 2), kind, app, name, number)
        self.steps.append(replace(step, lasting=round(lasting, 2) if high else 0.0))

    # --- pods -----------------------------------------------------------------------------------

    def _new_pod(self, at: float, app: str, version: str) -> None:
        self._pods += 1
        name = f"{app}-{version}-{self._pods}"
        self._apps[app].versions.setdefault(version, []).append(name)
        self._add(at, "pod.add", app, name, version)

    def _version(self, state: _App) -> str:
        return self._dice.choice(sorted(state.versions))

    def _pod_add(self, now: float, app: str, state: _App) -> None:
        version = self._version(state)
        if len(state.versions[version]) < 5:
            self._new_pod(now, app, version)

    def _pod_remove(self, now: float, app: str, state: _App) -> None:
        version = self._version(state)
        if len(state.versions[version]) > 2:
            pods = state.versions[version]
            pods.remove(gone := self._dice.choice(pods))
            self._add(now, "pod.remove", app, gone)

    def _pod_replace(self, now: float, app: str, state: _App) -> None:
        version = self._version(state)
        self._new_pod(now, app, version)
        pods = state.versions[version]
        pods.remove(gone := pods[0])
        self._add(now + self._dice.uniform(0.2, 1.5), "pod.remove", app, gone)

    def _pod_crash(self, now: float, app: str, state: _App) -> None:
        pod = self._dice.choice(state.versions[self._version(state)])
        self.steps.append(Step(round(now, 2), "pod.crash", app, pod, lasting=1.5))

    def _pod_unready(self, now: float, app: str, state: _App) -> None:
        pod = self._dice.choice(state.versions[self._version(state)])
        lasting = round(self._dice.uniform(0.05, 2.0), 2)
        self.steps.append(Step(round(now, 2), "pod.unready", app, pod, lasting=lasting))

    # --- versions, configs, apps ----------------------------------------------------------------

    def _app_release(self, now: float, app: str, state: _App) -> None:
        """A new version comes, is switched to, and the one before it goes, as a deployer does."""
        state.released += 1
        new = f"v{state.released}"
        for _ in range(2):
            self._new_pod(now, app, new)
        old, state.active = state.active, new
        later = now + self._dice.uniform(0.5, 2.0)
        self._add(later, "app.switch", app, new)
        if self._dice.random() < 0.7:
            for pod in state.versions.pop(old):
                later += self._dice.uniform(0.1, 1.0)
                self._add(later, "pod.remove", app, pod)

    def _app_switch(self, now: float, app: str, state: _App) -> None:
        state.active = self._version(state)
        self._add(now, "app.switch", app, state.active)

    def _app_weights(self, now: float, app: str, state: _App) -> None:
        if len(state.versions) > 1:
            one, other = self._dice.sample(sorted(state.versions), 2)
            share = self._dice.randint(1, 99)
            self._add(now, "app.weights", app, f"{one} {other}", f"{share} {100 - share}")

    def _app_nowhere(self, now: float, app: str, state: _App) -> None:
        """A version that nobody runs, then the right one again."""
        self._add(now, "app.nowhere", app, "ghost")
        self._add(now + self._dice.uniform(0.2, 2.0), "app.switch", app, state.active)

    def _app_config(self, now: float, app: str, state: _App) -> None:
        self._add(now, "app.config", app, value=str(self._dice.randrange(len(_GOOD))))

    def _app_broken(self, now: float, app: str, state: _App) -> None:
        self._add(now, "app.broken", app, value=self._dice.choice(_BROKEN))
        self._add(now + self._dice.uniform(0.2, 5.0), "app.config", app, value="0")

    def _app_move(self, now: float, app: str, state: _App) -> None:
        """The new app claims the host before the old one lets it go."""
        if app != self._owner:
            self._add(now, "app.claim", app)
            self._add(now + self._dice.uniform(0.1, 1.0), "app.yield", self._owner, app)
            self._owner = app

    def _app_extra(self, now: float, app: str, state: _App) -> None:
        """An app that comes and goes as a whole."""
        self._extras += 1
        name = f"extra-{self._extras}"
        lasting = round(self._dice.uniform(0.5, 8.0), 2)
        self.steps.append(Step(round(now, 2), "app.extra", name, lasting=lasting))


def good_config(number: int) -> dict[str, object]:
    """The fields of one of the configs that are good."""
    return dict(_GOOD[number])


def schedule(seed: int, seconds: float, kinds: Collection[str] = KINDS) -> tuple[Step, ...]:
    """The steps of a run, in their order. The world begins with two pods `v1` of each app."""
    plot = _Plot(seed, seconds)
    plot.run(kinds)
    return tuple(sorted(plot.steps, key=lambda step: step.at))
