"""What is shown of an app and of a deployment: JSON documents. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vulcanized.deployer import plan
from vulcanized.deployer.progress import summary, words
from vulcanized.deployer.words import ControllerState, PodState, Record
from vulcanized.model import AppId

Json = dict[str, Any]


def status_of(
    app: AppId,
    records: Sequence[Record],
    activation: str,
    controllers: Iterable[ControllerState],
    pods: Sequence[PodState],
) -> Json:
    """One app: its activation, its versions, and its newest deployment."""
    named = plan.versions_of(activation)
    newest = records[-1] if records else None
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
        "needs_person": bool(newest is not None and newest.person),
    }


def journal_of(record: Record) -> list[Json]:
    """The steps of a deployment, in order, then how it stands."""
    steps = [
        {
            "step": entry.step,
            "stage": entry.stage,
            "message": words(entry.step),
            "began": entry.began,
            "seconds": round(entry.ended - entry.began, 3) if entry.ended is not None else None,
        }
        for entry in record.journal
    ]
    return [*steps, summary(record)]
