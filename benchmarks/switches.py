"""Versions that switch, and whether a change of any kind costs a request."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from benchmarks.figures import Sample
from benchmarks.pods import EFFECT, NoEffect, Span
from benchmarks.probe import Probe
from benchmarks.stage import REPLICAS, SHOP_HOST, VERSIONS, Stage, host
from tests.daemons import Vulcanized
from tests.servers.load import Load, Report
from tests.servers.nodeagent import AgentPod
from tests.servers.wait import eventually

_CALM = 0.15
_PAUSE = 0.01  # between two requests of each of the twelve clients


def switches(stage: Stage, daemon: Vulcanized, count: int) -> list[Sample]:
    """Switch the shop over and over, well apart: put sent -> first answer of the new version.

    The floor is a bare watch of the key, and then a bare `set map`.
    """
    revisions: list[str] = []

    def put(version: str) -> None:
        revisions.append(str(stage.etcd.put(stage.active, version)))

    with stage.switch_floor() as floor:
        moments = effects(daemon, put, count)
        puts = dict(zip(revisions, moments, strict=False))
        seen = floor.moments("put", puts)
    return [Sample(seen[at][1] - sent, first - sent) for at, (sent, first) in puts.items()]


def effects(daemon: Vulcanized, put: Callable[[str], None], count: int) -> list[Span]:
    """When each put was sent and first answered by its version; `put` makes a version active."""
    moments = []
    with Probe(daemon.port) as probe:
        for number in range(count):
            time.sleep(_CALM)
            version = _other(number)
            sent = time.monotonic()
            put(version)
            moments.append((sent, _first_answer(probe, version)))
    put(VERSIONS[0])
    return moments


def switches_under_load(stage: Stage, daemon: Vulcanized, count: int) -> Report:
    """Switch the shop while it is asked without a pause."""
    with Load(daemon.port, SHOP_HOST, pause=_PAUSE) as load, Probe(daemon.port) as probe:
        load.go_on()
        for number in range(count):
            version = _other(number)
            stage.etcd.put(stage.active, version)
            _first_answer(probe, version)
            load.go_on(20)
        load.go_on()
    _back(stage)
    return load.report


def replacements_under_load(stage: Stage, daemon: Vulcanized, count: int) -> Report:
    """Delete the pods of an app one after the other while it is asked without a pause."""
    app = stage.staged[0]
    labels = {"app": app}

    def pods() -> list[AgentPod]:
        return sorted(stage.agent.pods(stage.stage, labels), key=lambda pod: pod.ready_sent or 0.0)

    def complete() -> bool:
        return [pod.ready for pod in pods()] == [True] * REPLICAS

    with Load(daemon.port, host(app), pause=_PAUSE) as load:
        load.go_on()
        for number in range(count):
            old = pods()[0]
            stage.control_plane.api.delete(f"/api/v1/namespaces/{stage.stage}/pods/{old.name}")
            eventually(complete, EFFECT, f"{REPLICAS} pods of {app}", interval=0.05)
            if (number + 1) % 10 == 0:
                stage.say(f"  {number + 1} of {count}, {load.report.answers} answers")
        load.go_on()
    return load.report


def _other(number: int) -> str:
    """The version that is not active at a switch of this number; the first is active at first."""
    return VERSIONS[(number + 1) % 2]


def _back(stage: Stage) -> None:
    stage.etcd.put(stage.active, VERSIONS[0])


def _first_answer(probe: Probe, version: str) -> float:
    seen: Counter[tuple[int, str]] = Counter()
    for answer in probe.answers(SHOP_HOST, time.monotonic() + EFFECT):
        if answer.version == version:
            return answer.at
        seen[answer.status, answer.version] += 1
    raise NoEffect(f"no answer by {version} within {EFFECT:g} s of the switch, but {dict(seen)}")
