"""Pods that come and go: when their first answer comes through the proxy, and when their last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from benchmarks.figures import Sample
from benchmarks.probe import Probe
from benchmarks.stage import REPLICAS, Stage, host
from tests.daemons import Vulcanized
from tests.servers.nodeagent import AgentPod, Behaviour
from tests.servers.wait import eventually

EFFECT = 10.0
"""Seconds after which an effect counts as not coming."""

_LEAD = 0.02  # from telling the node agent when to patch, to that moment
_CALM = 0.4  # of quiet before an event
_AFTER_DELETE = 0.25  # how long a deleted pod is watched for answers; it serves for twice that
_CHURN = 0.1
_WAITING = 3  # pods that wait to become ready before no more are deleted


Span = tuple[float, float]
"""The moments of a cause and of its effect, monotonic."""


class NoEffect(Exception):
    """Something was not seen in time."""


class Pods:
    """Measures one running daemon; a context manager that ends its threads and connections."""

    def __init__(self, stage: Stage, daemon: Vulcanized) -> None:
        self._stage = stage
        self._agent = stage.agent
        self._probe = Probe(daemon.port)
        self._pool = ThreadPoolExecutor(4)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        self._probe.close()

    def calm(self, count: int) -> tuple[list[Sample], list[Sample]]:
        """Replace pods one by one, well apart: (Ready -> first answer, DELETE -> last answer)."""
        ready: dict[str, Span] = {}
        deleted: dict[str, Span] = {}
        with self._stage.pod_floor() as floor, self._held():
            for number in range(count):
                app = self._stage.staged[number % len(self._stage.staged)]
                old = self._ready_pods(app)[0]
                time.sleep(_CALM)
                deleted[old.uid] = self._delete(app, old)
                new = self._replacement(app)
                time.sleep(_CALM)
                ready[new.uid] = self._make_ready(app, new)
                if (number + 1) % 10 == 0:
                    self._stage.say(f"  {number + 1} of {count}")
            return (
                _samples(ready, floor.moments("ready", ready)),
                _samples(deleted, floor.moments("deleted", deleted)),
            )

    def churn(self, seconds: float) -> list[Sample]:
        """A pod that becomes ready every 0.1 s, and one of another app deleted each time."""
        ready: dict[str, Span] = {}
        apps = self._stage.staged
        end = time.monotonic() + EFFECT + 2 * seconds
        with self._stage.pod_floor() as floor, self._held():
            pods = self._pods()
            waiting: list[AgentPod] = []
            due = time.monotonic()
            while len(ready) < seconds / _CHURN:
                if time.monotonic() > end:
                    raise NoEffect("pods are not replaced as fast as they are to become ready")
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due, time.monotonic() - _CHURN) + _CHURN
                if waiting:
                    new = waiting.pop(0)
                    ready[new.uid] = self._make_ready(new.labels["app"], new)
                # As a rolling update does: the new one serves, an old one goes.
                serving = {app: [p for p in pods if _serves(p, app)] for app in apps}
                full = [old for old in serving.values() if len(old) == REPLICAS]
                if full and len(waiting) < _WAITING:
                    self._api_delete(min((min(pods, key=_age) for pods in full), key=_age))
                pods = self._pods()
                known = {pod.uid for pod in waiting} | ready.keys()
                waiting += [p for p in pods if _is_held(p) and p.uid not in known]
            return _samples(ready, floor.moments("ready", ready))

    def _make_ready(self, app: str, pod: AgentPod) -> Span:
        """When its Ready patch was sent, and when its first answer was in."""
        at = time.monotonic() + _LEAD
        told = self._pool.submit(self._agent.set_ready, pod, at=at)
        time.sleep(max(0.0, at - 0.002 - time.monotonic()))
        first = self._first_answer(app, pod)
        return told.result(), first

    def _delete(self, app: str, pod: AgentPod) -> Span:
        """When its DELETE was sent, and when its last answer was in (the former, if before)."""
        told = self._pool.submit(self._api_delete, pod)
        last = 0.0
        for answer in self._probe.answers(host(app), time.monotonic() + _AFTER_DELETE):
            if answer.pod == pod.name:
                last = answer.at
        sent = told.result()
        if last - sent > _AFTER_DELETE - 0.05:
            raise NoEffect(f"{pod.name} goes on answering after its deletion")
        return sent, max(sent, last)

    def _api_delete(self, pod: AgentPod) -> float:
        sent = time.monotonic()
        self._stage.control_plane.api.delete(f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}")
        return sent

    def _replacement(self, app: str) -> AgentPod:
        def found() -> AgentPod | None:
            return next((pod for pod in self._pods() if _is(pod, app) and _is_held(pod)), None)

        pod = eventually(found, EFFECT, f"a new pod of {app}", interval=0.05)
        assert pod is not None
        return pod

    def _pods(self) -> tuple[AgentPod, ...]:
        return self._agent.pods(self._stage.stage)

    def _ready_pods(self, app: str) -> list[AgentPod]:
        return sorted((pod for pod in self._pods() if _serves(pod, app)), key=_age)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """New pods become ready when they are told to; afterwards all are, as many as before."""
        self._agent.behave(Behaviour(hold_ready=True))
        try:
            yield
        finally:
            self._agent.reset()
            eventually(self._all_ready, 30, "the pods of the stage are ready", interval=0.2)

    def _all_ready(self) -> bool:
        self._agent.release()
        pods = self._pods()
        wanted = REPLICAS * len(self._stage.staged)
        return len(pods) == wanted and all(pod.ready for pod in pods)

    def _first_answer(self, app: str, pod: AgentPod) -> float:
        for answer in self._probe.answers(host(app), time.monotonic() + EFFECT):
            if answer.pod == pod.name:
                return answer.at
        raise NoEffect(f"{pod.name} was ready and has not answered within {EFFECT:g} s")


def _samples(ours: Mapping[str, Span], floor: Mapping[str, float]) -> list[Sample]:
    """Both sights of each event, by pod, as seconds since its cause."""
    return [Sample(floor[uid] - sent, seen - sent) for uid, (sent, seen) in ours.items()]


def _is(pod: AgentPod, app: str) -> bool:
    return pod.labels["app"] == app


def _serves(pod: AgentPod, app: str) -> bool:
    return _is(pod, app) and pod.ready and pod.state == "Running" and pod.deletion_seen is None


def _is_held(pod: AgentPod) -> bool:
    return pod.state == "Running" and not pod.ready


def _age(pod: AgentPod) -> float:
    """Sorts pods by when they became ready."""
    return pod.ready_sent or 0.0
