"""What is wrong with single apps on a target: said once when it comes, and when it is over."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import structlog

from vulcanized.model import QUARANTINED, AppId, Problem

log = structlog.get_logger(__name__)


def kept_back(
    target: str, reasons: Mapping[AppId, str], routed: Container[AppId]
) -> tuple[Problem, ...]:
    """The apps that a file target keeps back, each with why; `routed`: those that still answer."""
    found = []
    for app, reason in sorted(reasons.items()):
        state = "its last good config stays" if app in routed else "it is not routed"
        text = f"{reason}; {state} on target {target} until its config or template changes"
        found.append(Problem(app, QUARANTINED, text, target=target))
    return tuple(found)


def tell(target: str, before: Iterable[Problem], now: Iterable[Problem]) -> tuple[Problem, ...]:
    """Log what has come or changed and what is over; `now`, sorted."""
    over = {(problem.app, problem.code): problem for problem in before}
    told = tuple(sorted(now))
    for problem in told:
        if problem != over.pop((problem.app, problem.code), None):
            fields = {"target": target, "app": str(problem.app)}
            log.warning(problem.code, **fields, reason=problem.message)
    for problem in over.values():
        word = "released" if problem.code == QUARANTINED else "mended"
        log.info(word, target=target, app=str(problem.app), code=problem.code)
    return told
