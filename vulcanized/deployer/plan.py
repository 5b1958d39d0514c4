"""What to do next in a deployment. Pure: record, what is seen, what daemons report, the time.

    create -> ready -> health -> switch -> proof -> (pause, shrink, next stage) -> idle -> retire

The rules, whatever point a deployer died at:

* Each step is noted in the record before it is made and after. What is found half made is looked
  at, not believed: a switch that is there was made, a controller that is there was created.
* Nothing takes traffic before its pods are ready and healthy by their own word.
* Nothing is scaled down or deleted that the activation names, or that it named until every daemon
  proves that it does not send there any more.
* Before the first switch a failure takes the new version away, and touches nothing else. After it,
  traffic goes back only to a version that was proven healthy since (`undo`).
* Whoever else changes the activation wins: nothing is overwritten that we did not read.
"""

from __future__ import annotations

from collections.abc import Sequence

from vulcanized.deployer.retire import retire
from vulcanized.deployer.standing import (
    busy,
    called,
    changed,
    complaints,
    deadline,
    pinned,
    serving,
    shares_of,
    stages_of,
    text_of,
    unproven,
    versions_of,
)
from vulcanized.deployer.undo import undo
from vulcanized.deployer.words import (
    Action,
    Adopt,
    AnyStep,
    Create,
    Entry,
    Finish,
    GiveUp,
    Record,
    Report,
    Scale,
    Seen,
    Stage,
    Status,
    Switch,
    Wait,
)

POSTPONED = 60.0
"""Seconds until a disposal that could not be proven safe is tried again."""

_ONE_WAY = ("empty ", "drain ", "delete ")


def next_step(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    """The next step of a deployment that is under way, or of the disposal after it."""
    if not record.under_way:
        return _dispose(record, seen, reports, now)
    if record.reason:
        return undo(record, seen, reports, now)
    match record.action:
        case Action.UNDEPLOY:
            return _undeploy(record, seen, reports, now)
        case Action.SCALE:
            return _scale(record, seen, now)
        case _:
            return _go_over(record, seen, reports, now)


# --- to the new version ------------------------------------------------------------------------


def _go_over(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    if (step := _pin(record, seen, reports, now)) is not None:
        return step
    controller = seen.controller(record.new)
    stages = stages_of(record)
    if is_committed(record):
        return _settle(record, seen, reports, now)
    if controller is None:
        if record.ended("create") or not record.creates:
            return GiveUp(step="fail", reason=f"{called(record.new)} is gone: who deleted it?")
        if record.resumed:
            return GiveUp(
                step="fail", reason="its deployer ended before the new version was created"
            )
        return Create(step="create", replicas=stages[0].replicas)
    if record.creates and controller.deployment != record.id:
        return GiveUp(step="fail", reason=f"{called(record.new)} was made by somebody else")
    for index, stage in enumerate(stages):
        step = _stage(record, seen, reports, now, index, stage)
        if step is not None:
            return step
    return _settle(record, seen, reports, now)


def _pin(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep | None:
    """Without an activation every ready pod takes traffic: first name those that do."""
    text = pinned(record)
    if not record.creates or record.previous or not text or record.ended("pinned"):
        return None
    entry = record.entry("pin")
    if entry is None or entry.ended is None:
        return _put(record, seen, "pin", 0, text, record.base)
    created = record.entry("create") is not None
    if not created and (
        why := unproven(record, reports, entry.revision, configured=entry.configured)
    ):
        until = deadline(record, "pinned", 0, record.times.switch, now)
        if now >= until:
            return GiveUp(step="fail", reason=f"the versions that serve are not pinned: {why}")
        return Wait(step="pinned", until=until, why=why)
    return None


def is_committed(record: Record) -> bool:
    """Whether it goes one way only from here: the old version is being taken away."""
    return not record.reason and any(e.step.startswith(_ONE_WAY) for e in record.journal)


def _stage(
    record: Record, seen: Seen, reports: Sequence[Report], now: float, index: int, stage: Stage
) -> AnyStep | None:
    if not record.ended("switch", index):
        step = _make_ready(record, seen, now, index, stage)
        step = step or _put(
            record, seen, "switch", index, text_of(record, stage), _expected(record, index)
        )
        if step is not None:
            return step
    entry = record.entry("switch", index)
    following = record.entry("switch", index + 1) or record.entry("grow", index + 1)
    if entry is None or following is not None:
        return None
    return _prove(record, seen, reports, now, index, stage, entry)


def _make_ready(record: Record, seen: Seen, now: float, index: int, stage: Stage) -> AnyStep | None:
    new, times = record.new, record.times
    controller = seen.controller(new)
    if controller is not None and controller.desired < stage.replicas:
        return Scale(step="grow", stage=index, controller=new, replicas=stage.replicas)
    ready = seen.ready(new.version)
    if len(ready) < stage.replicas and not record.ended("ready", index):
        until = deadline(record, "ready", index, times.ready, now)
        missing = f"{len(ready)} of {stage.replicas} pods are ready"
        if now >= until:
            return GiveUp(
                step="fail", reason=f"{missing} after {times.ready:g} s{complaints(record, seen)}"
            )
        return Wait(step="ready", stage=index, until=until, why=missing)
    if record.health is None and len(ready) >= stage.replicas:
        return None
    proven = seen.healthy if seen.checked == ("health", index) else frozenset()
    healthy = [pod for pod in ready if pod.uid in proven]
    if record.health is None:
        healthy = list(ready)
    if len(healthy) < stage.replicas:
        until = deadline(record, "health", index, times.health, now)
        missing = f"{len(healthy)} of {stage.replicas} pods are healthy"
        if now >= until:
            return GiveUp(
                step="fail",
                reason=f"{missing} after {times.health:g} s{complaints(record, seen)}",
            )
        return Wait(step="health", stage=index, until=until, why=missing, check=(new.version,))
    return None


def _prove(
    record: Record,
    seen: Seen,
    reports: Sequence[Report],
    now: float,
    index: int,
    stage: Stage,
    entry: Entry,
) -> AnyStep | None:
    times = record.times
    if seen.revision != entry.revision:
        return GiveUp(step="fail", reason=changed(seen))
    if not seen.ready(record.new.version):
        return GiveUp(
            step="fail", reason=f"no pod of version {record.new.version} is ready any more"
        )
    if not record.ended("proof", index) and (
        why := unproven(record, reports, entry.revision, configured=entry.configured)
    ):
        until = deadline(record, "proof", index, times.switch, now)
        if now >= until:
            return GiveUp(step="fail", reason=f"not every balancer switched: {why}")
        return Wait(step="proof", stage=index, until=until, why=why)
    if stage.pause and not record.ended("pause", index):
        until = deadline(record, "pause", index, stage.pause, now)
        if now < until:
            why = f"{stage.weight} % of the traffic is on version {record.new.version}"
            return Wait(step="pause", stage=index, until=until, why=why)
        short = len(seen.ready(record.new.version)) < stage.replicas
        if short:
            return GiveUp(step="fail", reason="pods of the new version are no longer ready")
    if stage.old is not None and stage.old > 0:
        for old, replicas in shares_of(serving(record), stage.old):
            current = seen.controller(old)
            if current is not None and current.desired > replicas:
                return Scale(
                    step=f"shrink {old.name}", stage=index, controller=old, replicas=replicas
                )
    return None


def _settle(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    """It has switched, and all prove it: what becomes of the old one."""
    old = serving(record)
    if old and not (record.ended("idle") or is_committed(record)):
        until = deadline(record, "idle", 0, record.times.drain, now)
        versions = sorted({each.version for each in old})
        if now < until and (why := busy(record, reports, versions)):
            return Wait(step="idle", until=until, why=why)
    if record.action is Action.SWITCH:
        return Finish(step="finish", status=Status.DEPLOYED)
    rolled = any(stage.old is not None for stage in record.stages)
    keep = record.times.keep > 0 and not rolled and bool(old)
    for each in record.old:
        if not (keep and each in old) and (step := retire(record, seen, each, now)) is not None:
            return step
    at = now + record.times.keep if keep else None
    return Finish(step="finish", status=Status.DEPLOYED, dispose_at=at, disposed=not keep)


# --- away with it ------------------------------------------------------------------------------


def _undeploy(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    entry = record.entry("close")
    if entry is None or entry.ended is None:
        return Switch(step="close", text=None, expect=seen.revision, config="remove")
    if not record.ended("proof") and (
        why := unproven(record, reports, entry.revision, configured=entry.configured)
    ):
        until = deadline(record, "proof", 0, record.times.switch, now)
        if now >= until:
            reason = f"its pods stay, since balancers may still use them: {why}"
            return GiveUp(step="fail", reason=reason)
        return Wait(step="proof", until=until, why=why)
    for each in record.old:
        if (step := retire(record, seen, each, now)) is not None:
            return step
    return Finish(step="finish", status=Status.UNDEPLOYED)


def _dispose(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    """The previous version's time is up: away with it, unless it serves again."""
    done = Finish(
        step="disposed",
        status=record.status,
        reason=record.reason,
        person=record.person,
        disposed=True,
    )
    if record.status is not Status.DEPLOYED or record.disposed or record.dispose_at is None:
        return done
    if now < record.dispose_at:
        return Wait(step="keep", until=record.dispose_at, why="the previous version is kept")
    named = versions_of(seen.activation)
    if not named:
        return done  # every version serves: none of them is a previous one
    left = [each for each in record.old if each.version not in named]
    if any(seen.controller(each) for each in left) and (
        why := unproven(record, reports, seen.revision, known=())
    ):
        at = now + POSTPONED
        return Finish(step="disposed", status=record.status, reason=why, dispose_at=at)
    for each in left:
        if (step := retire(record, seen, each, now)) is not None:
            return step
    return done


# --- scale -------------------------------------------------------------------------------------


def _scale(record: Record, seen: Seen, now: float) -> AnyStep:
    new, times = record.new, record.times
    current = seen.controller(new)
    if current is None:
        return GiveUp(step="fail", reason=f"{called(new)} is gone: who deleted it?")
    if current.desired != new.replicas and not record.ended("scale"):
        return Scale(step="scale", controller=new, replicas=new.replicas)
    ready = len(seen.ready(new.version))
    if ready != new.replicas:
        until = deadline(record, "ready", 0, times.ready, now)
        why = f"{ready} of {new.replicas} pods are ready"
        if now >= until:
            reason = f"{why} after {times.ready:g} s{complaints(record, seen)}"
            return GiveUp(step="fail", reason=reason)
        return Wait(step="ready", until=until, why=why)
    return Finish(step="finish", status=Status.DEPLOYED)


# --- what is written ---------------------------------------------------------------------------


def _put(
    record: Record, seen: Seen, step: str, stage: int, text: str, expect: int
) -> AnyStep | None:
    """Have the activation be `text`; None: it is, and is noted."""
    entry = record.entry(step, stage)
    if entry is not None and entry.ended is not None:
        return None
    if entry is not None and seen.activation == text and seen.revision > entry.revision:
        return Adopt(step=step, stage=stage, revision=seen.revision)
    if seen.revision != expect:
        return GiveUp(step="fail", reason=changed(seen))
    first = step == "switch" and stage == 0
    return Switch(
        step=step,
        stage=stage,
        text=text,
        expect=expect,
        config="new" if first and record.configures else "keep",
    )


def _expected(record: Record, index: int) -> int:
    """The revision at which the activation should still be before the switch of a stage."""
    entry = record.entry("switch", index - 1) if index else record.entry("pin")
    return entry.revision if entry is not None else record.base
