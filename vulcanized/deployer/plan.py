"""What to do next in a deployment. Pure: record, what is seen, what daemons report, the time.

    create -> ready -> health -> switch -> proof -> (pause, shrink, next stage) -> idle -> retire

The rules, whatever point a deployer died at:

* Each step is noted in the record before it is made and after. What is found half made is looked
  at, not believed: a switch that is there was made, a controller that is there was created.
* Nothing takes traffic before its pods are ready and healthy by their own word.
* Nothing is scaled down or deleted that the activation names, or that it named until every daemon
  proves that it does not send there any more.
* Before the first switch a failure takes the new version away, and touches nothing else. After it,
  traffic goes back only to a version that was proven healthy since; where there is none, all stays
  as it is for a person to decide.
* Whoever else changes the activation wins: nothing is overwritten that we did not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vulcanized.activation import activation_text, parse_activation
from vulcanized.deployer.words import (
    Action,
    Adopt,
    AnyStep,
    Create,
    Delete,
    Entry,
    Finish,
    GiveUp,
    Record,
    Ref,
    Report,
    Scale,
    Seen,
    Stage,
    Status,
    Switch,
    Wait,
)
from vulcanized.errors import Invalid
from vulcanized.model import Share

POSTPONED = 60.0
"""Seconds until a disposal that could not be proven safe is tried again."""

_MOST_NAMED = 5
_ONE_WAY = ("empty ", "drain ", "delete ")


def next_step(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    """The next step of a deployment that is under way, or of the disposal after it."""
    if not record.under_way:
        return _dispose(record, seen, reports, now)
    if record.reason:
        return _undo(record, seen, reports, now)
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
            return GiveUp(step="fail", reason=f"{_named(record.new)} is gone: who deleted it?")
        if record.resumed:
            return GiveUp(
                step="fail", reason="its deployer ended before the new version was created"
            )
        return Create(step="create", replicas=stages[0].replicas)
    if record.creates and controller.deployment != record.id:
        return GiveUp(step="fail", reason=f"{_named(record.new)} was made by somebody else")
    for index, stage in enumerate(stages):
        step = _stage(record, seen, reports, now, index, stage)
        if step is not None:
            return step
    return _settle(record, seen, reports, now)


def stages_of(record: Record) -> tuple[Stage, ...]:
    """The way to go: for a first version there is nobody to share the traffic with."""
    return record.stages if before(record) else record.stages[-1:]


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
        until = _until(record, "pinned", 0, record.times.switch, now)
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
        until = _until(record, "ready", index, times.ready, now)
        missing = f"{len(ready)} of {stage.replicas} pods are ready"
        if now >= until:
            return GiveUp(
                step="fail", reason=f"{missing} after {times.ready:g} s{_complaints(record, seen)}"
            )
        return Wait(step="ready", stage=index, until=until, why=missing)
    if record.health is None and len(ready) >= stage.replicas:
        return None
    proven = seen.healthy if seen.checked == ("health", index) else frozenset()
    healthy = [pod for pod in ready if pod.uid in proven]
    if record.health is None:
        healthy = list(ready)
    if len(healthy) < stage.replicas:
        until = _until(record, "health", index, times.health, now)
        missing = f"{len(healthy)} of {stage.replicas} pods are healthy"
        if now >= until:
            return GiveUp(
                step="fail",
                reason=f"{missing} after {times.health:g} s{_complaints(record, seen)}",
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
        return GiveUp(step="fail", reason=_changed(seen))
    if not seen.ready(record.new.version):
        return GiveUp(
            step="fail", reason=f"no pod of version {record.new.version} is ready any more"
        )
    if not record.ended("proof", index) and (
        why := unproven(record, reports, entry.revision, configured=entry.configured)
    ):
        until = _until(record, "proof", index, times.switch, now)
        if now >= until:
            return GiveUp(step="fail", reason=f"not every balancer switched: {why}")
        return Wait(step="proof", stage=index, until=until, why=why)
    if stage.pause and not record.ended("pause", index):
        until = _until(record, "pause", index, stage.pause, now)
        if now < until:
            why = f"{stage.weight} % of the traffic is on version {record.new.version}"
            return Wait(step="pause", stage=index, until=until, why=why)
        short = len(seen.ready(record.new.version)) < stage.replicas
        if short:
            return GiveUp(step="fail", reason="pods of the new version are no longer ready")
    if stage.old is not None and stage.old > 0:
        for old, replicas in _shares_of(serving(record), stage.old):
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
        until = _until(record, "idle", 0, record.times.drain, now)
        versions = sorted({each.version for each in old})
        if now < until and (why := busy(record, reports, versions)):
            return Wait(step="idle", until=until, why=why)
    if record.action is Action.SWITCH:
        return Finish(step="finish", status=Status.DEPLOYED)
    rolled = any(stage.old is not None for stage in record.stages)
    keep = record.times.keep > 0 and not rolled and bool(old)
    for each in record.old:
        if not (keep and each in old) and (step := _retire(record, seen, each, now)) is not None:
            return step
    at = now + record.times.keep if keep else None
    return Finish(step="finish", status=Status.DEPLOYED, dispose_at=at, disposed=not keep)


# --- back --------------------------------------------------------------------------------------


def _undo(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    if record.action is Action.SCALE:
        return _scale_back(record, seen)
    if record.action is Action.UNDEPLOY:
        return _failed(record)
    if (step := _put_back(record, seen, reports, now)) is not None:
        return step
    if record.creates:
        current = seen.controller(record.new)
        ours = current is not None and current.deployment == record.id
        if ours and (step := _retire(record, seen, record.new, now)) is not None:
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
            return _person(record, f"{_changed(seen)}, and it names version {new}")
        if not text:
            return _person(record, "there is no version to go back to: the new one stays")
        if (step := _prove_old(record, seen, now)) is not None:
            return step
        return Switch(step="put back", text=text, expect=seen.revision, config="back")
    if record.ended("gone"):
        return None
    back = record.entry("put back")
    revision = max(seen.revision, back.revision if back is not None else 0)
    configured = back is not None and back.configured
    if why := unproven(record, reports, revision, configured=configured):
        until = _until(record, "back proof", 0, record.times.switch, now)
        if now >= until:
            return _person(
                record, f"the new version stays, since balancers may still use it: {why}"
            )
        return Wait(step="back proof", until=until, why=why)
    until = _until(record, "gone", 0, record.times.drain, now)
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
        return _person(record, "the version before it is gone: the new one stays")
    until = _until(record, "old ready", 0, record.times.ready, now)
    for old in olds:
        ready = len(seen.ready(old.version))
        if ready < max(1, old.replicas):
            why = f"{ready} of {old.replicas} pods of version {old.version} are ready"
            if now >= until:
                return _person(record, f"not switched back, since {why}")
            return Wait(step="old ready", until=until, why=why)
    checked = tuple(sorted({s.version for s in states if s is not None and s.health is not None}))
    healthy = seen.healthy if seen.checked == ("old health", 0) else frozenset()
    for version in checked:
        pods = seen.ready(version)
        well = sum(pod.uid in healthy for pod in pods)
        if well < len(pods):
            until = _until(record, "old health", 0, record.times.health, now)
            why = f"{well} of {len(pods)} pods of version {version} are healthy"
            if now >= until:
                return _person(record, f"not switched back, since {why}")
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


def _person(record: Record, why: str) -> Finish:
    reason = f"{record.reason}; {why}" if record.reason else why
    return Finish(step="finish", status=Status.FAILURE, reason=reason, person=True)


# --- away with it ------------------------------------------------------------------------------


def _retire(record: Record, seen: Seen, ref: Ref, now: float) -> AnyStep | None:
    """Scale down, wait for the pods to end, delete; None: it is gone."""
    current = seen.controller(ref)
    drain = f"drain {ref.name}"
    if current is None:
        return None
    if ref.version in versions_of(seen.activation):
        return _person(record, f"{_named(ref)} stays: the activation names its version")
    if current.desired > 0:
        return Scale(step=f"empty {ref.name}", controller=ref, replicas=0)
    if pods := seen.of(ref.version):
        until = _until(record, drain, 0, record.times.drain, now)
        if now < until:
            return Wait(step=drain, until=until, why=f"{len(pods)} pods still end")
    return Delete(step=f"delete {ref.name}", controller=ref)


def _undeploy(record: Record, seen: Seen, reports: Sequence[Report], now: float) -> AnyStep:
    entry = record.entry("close")
    if entry is None or entry.ended is None:
        return Switch(step="close", text=None, expect=seen.revision, config="remove")
    if not record.ended("proof") and (
        why := unproven(record, reports, entry.revision, configured=entry.configured)
    ):
        until = _until(record, "proof", 0, record.times.switch, now)
        if now >= until:
            reason = f"its pods stay, since balancers may still use them: {why}"
            return GiveUp(step="fail", reason=reason)
        return Wait(step="proof", until=until, why=why)
    for each in record.old:
        if (step := _retire(record, seen, each, now)) is not None:
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
        if (step := _retire(record, seen, each, now)) is not None:
            return step
    return done


# --- scale -------------------------------------------------------------------------------------


def _scale(record: Record, seen: Seen, now: float) -> AnyStep:
    new, times = record.new, record.times
    current = seen.controller(new)
    if current is None:
        return GiveUp(step="fail", reason=f"{_named(new)} is gone: who deleted it?")
    if current.desired != new.replicas and not record.ended("scale"):
        return Scale(step="scale", controller=new, replicas=new.replicas)
    ready = len(seen.ready(new.version))
    if ready != new.replicas:
        until = _until(record, "ready", 0, times.ready, now)
        why = f"{ready} of {new.replicas} pods are ready"
        if now >= until:
            reason = f"{why} after {times.ready:g} s{_complaints(record, seen)}"
            return GiveUp(step="fail", reason=reason)
        return Wait(step="ready", until=until, why=why)
    return Finish(step="finish", status=Status.DEPLOYED)


def _scale_back(record: Record, seen: Seen) -> AnyStep:
    for old in record.old:
        current = seen.controller(old)
        if current is not None and current.desired == record.new.replicas != old.replicas:
            return Scale(step="scale back", controller=old, replicas=old.replicas)
    return _failed(record)


# --- what is proven ----------------------------------------------------------------------------


def unproven(
    record: Record,
    reports: Sequence[Report],
    revision: int,
    known: Iterable[str] | None = None,
    *,
    configured: bool = False,
) -> str:
    """Why it is not certain that every daemon has an activation in effect, "" when it is.

    `configured`: an app config was written with it.
    `known`: daemons that must be there; default: those that were when the deployment began. One
    that is away has left its proxy as it was.
    """
    alive = {r.instance: r for r in reports if r.follows(record.namespace)}
    app = str(record.app_id)
    away = [name for name in (record.instances if known is None else known) if name not in alive]
    why = [f"{name} is away" for name in away]
    for name, report in sorted(alive.items()):
        reached = min(report.revision, report.configs) if configured else report.revision
        if reached < revision:
            errors = [f"{n}: {t.error}" for n, t in sorted(report.targets.items()) if t.error]
            behind = f"{name} has not got to it"
            why.append(f"{behind} ({'; '.join(errors)})" if errors else behind)
        elif app in report.held:
            why.append(f"{name} holds the switch back")
        elif app in report.quarantined:
            why.append(f"{name} refuses the app's config")
        elif report.left_out:
            why.append(f"{name} has more trouble than it can tell")
    if len(alive) < record.least_instances:
        why.append(f"{len(alive)} daemons report, and {record.least_instances} should")
    more = len(why) - _MOST_NAMED
    return "; ".join([*why[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])


def busy(record: Record, reports: Sequence[Report], versions: Sequence[str]) -> str:
    """Why versions without traffic may still have sessions, "" when they have none."""
    app = str(record.app_id)
    alive = [r for r in reports if r.follows(record.namespace)]
    sessions = sum(r.draining.get(app, {}).get(version, 0) for r in alive for version in versions)
    if sessions:
        return f"{sessions} sessions are still on version {', '.join(versions)}"
    blind = [r.instance for r in alive if not r.measures]
    return f"{blind[0]} cannot tell whether sessions are left" if blind else ""


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
        return GiveUp(step="fail", reason=_changed(seen))
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


def before(record: Record) -> str:
    """The activation to go back to, "" where nothing served."""
    return record.previous or pinned(record)


def pinned(record: Record) -> str:
    """The activation that says what holds without one: every version, by its pods."""
    shares: dict[str, int] = {}
    for old in record.old:
        if old.replicas:
            shares[old.version] = shares.get(old.version, 0) + old.replicas
    return activation_text(tuple(Share(v, w) for v, w in sorted(shares.items()))) if shares else ""


def serving(record: Record) -> tuple[Ref, ...]:
    """The controllers of what served before."""
    named = versions_of(before(record))
    return tuple(old for old in record.old if old.version in named)


def text_of(record: Record, stage: Stage) -> str:
    """The activation of a stage."""
    new, text = record.new.version, before(record)
    shares = _parsed(text) if text else ()
    if stage.weight >= 100 or not shares:
        return new
    total = sum(share.weight for share in shares)
    weights = {share.version: share.weight * (100 - stage.weight) for share in shares}
    weights[new] = total * stage.weight
    divisor = math.gcd(*weights.values())
    return activation_text(tuple(Share(v, w // divisor) for v, w in sorted(weights.items())))


def versions_of(text: str) -> frozenset[str]:
    """The versions that an activation names; of one that cannot be read, none."""
    return frozenset(share.version for share in _parsed(text))


def _parsed(text: str) -> tuple[Share, ...]:
    if not text.strip():
        return ()
    try:
        return parse_activation(text, "activation")
    except Invalid:
        return ()


def _shares_of(olds: Sequence[Ref], wanted: int) -> list[tuple[Ref, int]]:
    """So many pods in all, as they are shared out now."""
    total = sum(old.replicas for old in olds) or 1
    return [(old, math.ceil(old.replicas * wanted / total)) for old in olds]


# --- words -------------------------------------------------------------------------------------


def _until(record: Record, step: str, stage: int, seconds: float, now: float) -> float:
    """The end of a wait. It counts from when that first began, over all deployers that died."""
    first = next((e for e in record.journal if e.step == step and e.stage == stage), None)
    return (first.began if first is not None else now) + seconds


def _changed(seen: Seen) -> str:
    return f"somebody else changed the activation (revision {seen.revision})"


def _named(ref: Ref) -> str:
    return f"{ref.kind} {ref.name}"


def _complaints(record: Record, seen: Seen) -> str:
    pods = [p for p in seen.of(record.new.version) if p.why and not p.terminating]
    told = [*seen.complaints, *(f"{pod.name}: {pod.why}" for pod in pods)]
    shown = list(dict.fromkeys(told))[:_MOST_NAMED]
    return f": {'; '.join(shown)}" if shown else ""
