"""What is shown of an app and of a deployment: JSON documents. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vulcanized.deployer import standing
from vulcanized.deployer.progress import moment, summary, words
from vulcanized.deployer.words import ControllerState, History, PodState, Record, Unread
from vulcanized.model import AppId

Json = dict[str, Any]


def status_of(
    app: AppId,
    history: History,
    activation: str,
    controllers: Iterable[ControllerState],
    pods: Sequence[PodState],
) -> Json:
    """One app: its activation, its versions, and its newest deployment."""
    named = standing.versions_of(activation)
    newest = history.records[-1] if history.records else None
    return {
        "app": str(app),
        "activation": activation,
        "versions": [
            {
                "version": each.version,
                "controller": f"{each.kind} {each.name}",
                "active": each.version in named,
                "desired": each.desired,
                "ready": sum(pod.ready for pod in pods if pod.version == each.version),
                "pods": [
                    {"name": pod.name, "ready": pod.ready, "why": pod.why}
                    for pod in pods
                    if pod.version == each.version
                ],
            }
            for each in controllers
        ],
        "deployment": summary(newest) if newest is not None else None,
        "unreadable": [summary_of_unread(each) for each in history.unread],
        "needs_person": bool(history.unread or (newest is not None and newest.person)),
    }


def summary_of_unread(each: Unread) -> Json:
    """What stands in a list in place of a deployment that cannot be read."""
    return {
        "deployment": each.id,
        "app": str(each.app or ""),
        "status": "UNREADABLE",
        "reason": each.told,
        "needs_person": True,
        "key": each.key,
    }


def listed(history: History, most: int) -> list[Json]:
    """The newest deployments first; what cannot be read is left out of no list."""
    found = [summary(record) for record in reversed(history.records)][:most]
    return [*(summary_of_unread(each) for each in history.unread), *found]


def journal_of(record: Record) -> list[Json]:
    """The steps of a deployment, in order, then how it stands."""
    steps = [
        {
            "step": entry.step,
            "stage": entry.stage,
            "message": words(entry.step),
            "began": moment(entry.began),
            "seconds": round(entry.ended - entry.began, 3) if entry.ended is not None else None,
        }
        for entry in record.journal
    ]
    return [*steps, summary(record)]
