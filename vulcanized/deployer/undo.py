"""The way back of a deployment that failed or was cancelled. Pure.

Before the first switch the new version goes, and nothing else is touched. After it, traffic goes
back only to a version that was proven healthy since; where there is none, all stays as it is for a
person to decide.
"""

from __future__ import annotations

from collections.abc import Sequence

from vulcanized.deployer.retire import retire
from vulcanized.deployer.standing import (
    before,
    busy,
    changed,
    deadline,
    person,
    pinned,
    serving,
    stages_of,
    text_of,
    unproven,
    versions_of,
)
from vulcanized.deployer.words import (
    Action,
    AnyStep,
    Finish,
    Record,
    Report,
    Scale,
    Seen,
    Status,
    Switch,
    Wait,
)


def undo(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    """The next step back."""
    if record.action is Action.SCALE:
        return _scale_back(record, seen)
    if record.action is Action.UNDEPLOY:
        return _failed(record)
    if (step := _put_back(record, seen, reports, now)) is not None:
        return step
    if record.creates:
        current = seen.controller(record.new)
        ours = current is not None and current.deployment == record.id
        if ours and (step := retire(record, seen, record.new, now)) is not None:
            return step
        if (step := _unpin(record, seen)) is not None:
            return step
    return _failed(record)


def _put_back(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep | None:
    """Traffic off the new version, and the proof of it; None: it has none."""
    began = any(entry.step == "switch" for entry in record.journal)
    if not began:
        return None
    if (step := _restore(record, seen)) is not None:
        return step
    new, text = record.new.version, before(record)
    if new in versions_of(seen.activation):
        if seen.activation not in {text_of(record, stage) for stage in stages_of(record)}:
            return person(record, f"{changed(seen)}, and it names version {new}")
        if not text:
            return person(record, "there is no version to go back to: the new one stays")
        if (step := _prove_old(record, seen, now)) is not None:
            return step
        return Switch(step="put back", text=text, expect=seen.revision, config="back")
    if record.ended("gone"):
        return None
    back = record.entry("put back")
    revision = max(seen.revision, back.revision if back is not None else 0)
    configured = back is not None and back.configured
    if why := unproven(record, reports, revision, configured=configured):
        until = deadline(record, "back proof", 0, record.times.switch, now)
        if now >= until:
            return person(record, f"the new version stays, since balancers may still use it: {why}")
        return Wait(step="back proof", until=until, why=why)
    until = deadline(record, "gone", 0, record.times.drain, now)
    if record.creates and now < until and (why := busy(record, reports, [new])):
        return Wait(step="gone", until=until, why=why)
    return None


def _restore(record: Record, seen: Seen) -> AnyStep | None:
    if not any(entry.step.startswith("shrink ") for entry in record.journal):
        return None
    for old in serving(record):
        current = seen.controller(old)
        if current is not None and current.desired < old.replicas:
            return Scale(step="restore", controller=old, replicas=old.replicas)
    return None


def _prove_old(record: Record, seen: Seen, now: float) -> AnyStep | None:
    """None: every version that would take the traffic back is ready and healthy now."""
    olds = serving(record)
    states = [seen.controller(old) for old in olds]
    if not olds or any(state is None for state in states):
        return person(record, "the version before it is gone: the new one stays")
    until = deadline(record, "old ready", 0, record.times.ready, now)
    for old in olds:
        ready = len(seen.ready(old.version))
        if ready < max(1, old.replicas):
            why = f"{ready} of {old.replicas} pods of version {old.version} are ready"
            if now >= until:
                return person(record, f"not switched back, since {why}")
            return Wait(step="old ready", until=until, why=why)
    checked = tuple(sorted({s.version for s in states if s is not None and s.health is not None}))
    healthy = seen.healthy if seen.checked == ("old health", 0) else frozenset()
    for version in checked:
        pods = seen.ready(version)
        well = sum(pod.uid in healthy for pod in pods)
        if well < len(pods):
            until = deadline(record, "old health", 0, record.times.health, now)
            why = f"{well} of {len(pods)} pods of version {version} are healthy"
            if now >= until:
                return person(record, f"not switched back, since {why}")
            return Wait(step="old health", until=until, why=why, check=checked)
    return None


def _unpin(record: Record, seen: Seen) -> AnyStep | None:
    if record.previous or not seen.activation or seen.activation != pinned(record):
        return None
    revisions = {e.revision for e in record.journal if e.step in ("pin", "put back") and e.ended}
    if seen.revision not in revisions:
        return None
    return Switch(step="unpin", text=None, expect=seen.revision)


def _failed(record: Record) -> Finish:
    return Finish(step="finish", status=Status.FAILURE, reason=record.reason)


def _scale_back(record: Record, seen: Seen) -> AnyStep:
    for old in record.old:
        current = seen.controller(old)
        if current is not None and current.desired == record.new.replicas != old.replicas:
            return Scale(step="scale back", controller=old, replicas=old.replicas)
    return _failed(record)
