"""How a deployment stands: what record, world and reports amount to. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vulcanized.activation import activation_text, parse_activation
from vulcanized.deployer.words import Finish, Record, Ref, Report, Seen, Stage, Status
from vulcanized.errors import Invalid
from vulcanized.model import Share

_MOST_NAMED = 5


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


# --- activations ------------------------------------------------------------------------------


def stages_of(record: Record) -> tuple[Stage, ...]:
    """The way to go: for a first version there is nobody to share the traffic with."""
    return record.stages if before(record) else record.stages[-1:]


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


def shares_of(olds: Sequence[Ref], wanted: int) -> list[tuple[Ref, int]]:
    """So many pods in all, as they are shared out now."""
    total = sum(old.replicas for old in olds) or 1
    return [(old, math.ceil(old.replicas * wanted / total)) for old in olds]


# --- words -------------------------------------------------------------------------------------


def deadline(record: Record, step: str, stage: int, seconds: float, now: float) -> float:
    """The end of a wait. It counts from when that first began, over all deployers that died."""
    first = next((e for e in record.journal if e.step == step and e.stage == stage), None)
    return (first.began if first is not None else now) + seconds


def changed(seen: Seen) -> str:
    return f"somebody else changed the activation (revision {seen.revision})"


def called(ref: Ref) -> str:
    return f"{ref.kind} {ref.name}"


def complaints(record: Record, seen: Seen) -> str:
    pods = [p for p in seen.of(record.new.version) if p.why and not p.terminating]
    told = [*seen.complaints, *(f"{pod.name}: {pod.why}" for pod in pods)]
    shown = list(dict.fromkeys(told))[:_MOST_NAMED]
    return f": {'; '.join(shown)}" if shown else ""


def person(record: Record, why: str) -> Finish:
    reason = f"{record.reason}; {why}" if record.reason else why
    return Finish(step="finish", status=Status.FAILURE, reason=reason, person=True)
