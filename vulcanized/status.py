"""What `/status` says: one JSON document of everything known, for people and for scripts. Pure.

Its shape is part of the contract: fields are added, never renamed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vulcanized.activation import activation_text
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Built,
    Controller,
    Problem,
    Server,
    ServerState,
    SourceState,
)
from vulcanized.reconciler import Snapshot
from vulcanized.targets.runner import RunnerState

Json = dict[str, Any]


def status_document(
    instance: str,
    version: str,
    snapshot: Snapshot,
    sources: Sequence[SourceState],
    targets: Sequence[RunnerState],
    controllers: Mapping[Any, Iterable[Controller]],
) -> Json:
    """The whole document. `controllers` by AppId, for the wanted number of pods."""
    problems: dict[AppId, list[Problem]] = defaultdict(list)
    for problem in problems_on(targets):
        problems[problem.app].append(problem)
    return {
        "instance": instance,
        "version": version,
        "generation": snapshot.generation,
        "synced": snapshot.synced,
        "ready": is_ready(snapshot.synced, targets),
        "sources": [source_document(state) for state in sources],
        "targets": [target_document(state) for state in targets],
        "apps": [
            app_document(built, controllers.get(app, ()), problems.get(app, ()))
            for app, built in sorted(snapshot.apps.items())
        ],
    }


def problems_on(targets: Iterable[RunnerState]) -> list[Problem]:
    """What is wrong with single apps on single targets."""
    return [problem for state in targets for problem in state.problems]


def is_ready(synced: bool, targets: Sequence[RunnerState]) -> bool:
    """All sources have spoken and every target has applied once."""
    return synced and all(state.applied_once for state in targets)


def source_document(state: SourceState) -> Json:
    """One stream; `age` in seconds. `held`: objects that stay although a list is without them."""
    return {
        "name": state.name,
        "state": state.phase.value,
        "age": round(state.age, 3),
        "records": state.records,
        "relists": dict(state.relists),
        "skipped": state.skipped,
        "error": state.error,
        "held": state.held,
        "holding": state.holding,
        "left_out": list(state.left_out),
    }


def target_document(state: RunnerState) -> Json:
    """One target; `generation` is in effect, `wanted` the newest it was given.

    `leading` and `leader`: who writes what several daemons share, null and "" where nothing is.
    `proven`: the generation that the proxy itself has shown, null where it cannot be asked.
    `old_workers`: those that only finish what they have, null where nobody can see them.
    """
    old = state.standing.old_workers
    return {
        "name": state.name,
        "kind": state.kind,
        "generation": state.in_effect,
        "wanted": state.wanted,
        "applied": state.applied_once,
        "error": state.error,
        "outcomes": dict(state.outcomes),
        "reloads": dict(state.reloads),
        "failures": state.failures,
        "quarantined": [
            {"app": str(problem.app), "reason": problem.message} for problem in state.quarantined
        ],
        "leading": state.standing.leading,
        "leader": state.standing.leader,
        "proven": state.standing.proven,
        "unproven": state.standing.unproven,
        "old_workers": None
        if old is None
        else {
            "count": old.count,
            "pid": old.pid,
            "age": round(old.age, 1),
            "notice": old.notice,
        },
    }


def app_document(
    built: Built, controllers: Iterable[Controller] = (), more: Iterable[Problem] = ()
) -> Json:
    """One app: what is wanted, what is in effect, every version with its servers.

    `more`: problems that targets have with it.
    """
    desired = built.desired
    return {
        "app": str(built.app),
        "namespace": built.app.namespace,
        "name": built.app.name,
        "routed": bool(desired and desired.routes),
        "routes": [
            {"host": route.host, "kind": route.kind.value, "path": route.path}
            for route in (desired.routes if desired else ())
        ],
        "maintenance": bool(desired and desired.maintenance),
        "activation": {
            "wanted": built.wanted,
            "in_effect": _in_effect(built),
            "held": built.held,
        },
        "quarantined": built.quarantined,
        "versions": _versions(built, controllers),
        "problems": [problem_document(problem) for problem in (*built.problems, *more)],
    }


def problem_document(problem: Problem) -> Json:
    """One problem; `target` empty: on every one."""
    return {
        "code": problem.code,
        "message": problem.message,
        "where": problem.where,
        "target": problem.target,
    }


def standing_in_words(target: Json) -> str:
    """Who leads on a target that several daemons share, what is not proven, how many workers are
    old; "" when there is nothing of it.

    A daemon of an older release may not say.
    """
    words = []
    leading, leader = target.get("leading"), target.get("leader")
    if leading is not None:
        waiting = f"waits behind {leader}" if leader else "nobody leads"
        words.append("leads" if leading else waiting)
    if unproven := target.get("unproven"):
        words.append(f"unproven: {unproven}")
    if (old := target.get("old_workers")) and old["count"]:
        workers = "1 old worker" if old["count"] == 1 else f"{old['count']} old workers"
        words.append(f"{workers}, the oldest ({old['pid']}) for {duration_in_words(old['age'])}")
    return ", ".join(words)


def notice_of(target: Json) -> str:
    """What a person should look at on a target that works, "" when there is nothing."""
    return str((target.get("old_workers") or {}).get("notice", ""))


def duration_in_words(seconds: float) -> str:
    """Seconds as `40 s`, `12 min` or `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def activation_in_words(app: Json) -> str:
    """The activation in effect of an app's document, for people."""
    in_effect = app["activation"]["in_effect"]
    if in_effect == ANY_VERSION:
        return "every version"
    if not in_effect.startswith("{"):
        return in_effect or "none"
    shares = [v for v in app["versions"] if v["weight"]]
    total = sum(version["weight"] for version in shares)
    return ", ".join(f"{v['version']} {100 * v['weight'] / total:.3g} %" for v in shares)


def _in_effect(built: Built) -> str:
    if built.desired is None or not built.desired.split:
        return ""
    if built.desired.split[0].version == ANY_VERSION:
        return ANY_VERSION
    return activation_text(built.desired.split)


def _versions(built: Built, controllers: Iterable[Controller]) -> list[Json]:
    wanted: dict[str, int] = defaultdict(int)
    for controller in controllers:
        # A Deployment's pods are counted at its ReplicaSets.
        if controller.version and controller.kind != "Deployment":
            wanted[controller.version] += controller.desired
    servers: dict[str, list[Server]] = {version: [] for version in built.versions}
    weights: dict[str, int] = {}
    if built.desired is not None:
        for backend in built.desired.backends:
            if backend.version != ANY_VERSION:
                servers.setdefault(backend.version, [])
            for server in backend.servers:
                servers.setdefault(server.version, []).append(server)
        weights = {share.version: share.weight for share in built.desired.split}
    everything = ANY_VERSION in weights
    return [
        {
            "version": version,
            "weight": weights.get(version, 0),
            "active": everything or version in weights,
            "desired": wanted.get(version, 0),
            "ready": sum(server.state is ServerState.READY for server in placed),
            "servers": [
                {
                    "name": server.name,
                    "address": str(server.endpoint),
                    "state": server.state.value,
                    "weight": server.weight,
                }
                for server in placed
            ],
        }
        for version, placed in sorted(servers.items())
    ]
