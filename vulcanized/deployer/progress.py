"""How a deployment goes on, for who watches: a live table on a terminal, else JSON lines."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any, TextIO

from vulcanized.deployer import standing
from vulcanized.deployer.words import (
    AnyStep,
    Create,
    Delete,
    Finish,
    GiveUp,
    Record,
    Report,
    Scale,
    Seen,
    Switch,
    Wait,
)
from vulcanized.printable import printable

Json = dict[str, Any]

_WORDS = {
    "pin": "name the versions that serve",
    "pinned": "every balancer has taken that over",
    "create": "create the new version",
    "grow": "scale the new version up",
    "ready": "pods ready",
    "health": "pods healthy by their own word",
    "switch": "switch",
    "proof": "every balancer proves the switch",
    "pause": "watch",
    "idle": "old version idle",
    "restore": "scale the old version up again",
    "old ready": "old version ready",
    "old health": "old version healthy",
    "put back": "switch back",
    "back proof": "every balancer proves the switch back",
    "gone": "new version idle",
    "unpin": "name no version any more",
    "close": "take the routes away",
    "scale": "scale",
    "scale back": "scale back",
    "keep": "previous version kept",
    "disposed": "previous version taken away",
    "fail": "give up",
    "finish": "done",
}


def words(step: str) -> str:
    """A step's name, for people."""
    kind, _, name = step.partition(" ")
    if step in _WORDS:
        return _WORDS[step]
    known = {"empty": "scale down", "drain": "pods of", "delete": "delete", "shrink": "shrink"}
    return f"{known.get(kind, kind)} {name}"


def line_of(record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep) -> Json:
    """What is done or waited for now, as one JSON object."""
    new = record.new.version
    line: Json = {
        "deployment": record.id,
        "app": str(record.app_id),
        "version": record.version,
        "step": step.step,
        "stage": step.stage,
        "message": words(step.step),
    }
    match step:
        case Wait():
            line |= {"waiting": step.why, "until": moment(step.until)}
            line["pods"] = f"{len(seen.ready(new))}/{len(seen.of(new))}"
            line["instances"] = len(reports)
        case Scale():
            line |= {"controller": step.controller.name, "replicas": step.replicas}
        case Create():
            line |= {"controller": record.new.name, "replicas": step.replicas}
        case Delete():
            line["controller"] = step.controller.name
        case Switch():
            line["activation"] = step.text
        case GiveUp():
            line["reason"] = step.reason
        case Finish():
            line |= {"status": step.status.value, "reason": step.reason}
    return line


def summary(record: Record) -> Json:
    """A record as it is listed and printed at its end."""
    return {
        "deployment": record.id,
        "app": str(record.app_id),
        "action": record.action.value,
        "version": record.version,
        "status": record.status.value,
        "reason": record.reason,
        "needs_person": record.person,
        "previous": standing.before(record),
        "created": moment(record.created),
        "modified": moment(record.modified),
        "kept_until": moment(record.dispose_at) if record.keeps else None,
        "by": record.by,
    }


def moment(when: float | None) -> str | None:
    """A time as it is shown: UTC, with milliseconds."""
    if when is None:
        return None
    time = dt.datetime.fromtimestamp(when, dt.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_news(line: Json, last: Json) -> bool:
    """Whether a line says something else than the last one; the time it is waited to is nothing."""
    return {**line, "until": None} != {**last, "until": None}


class JsonLines:
    """One object a line, whenever something else is said than before."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last: Json = {}
        self._last_trouble = ""

    def step(self, record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep) -> None:
        """What is done or waited for now."""
        line = line_of(record, seen, reports, step)
        if is_news(line, self._last):
            self._last, self._last_trouble = line, ""
            self._write(line)

    def trouble(self, record: Record, error: str) -> None:
        """Something is away: it is tried again."""
        if error != self._last_trouble:
            self._last_trouble = error
            self._write({"deployment": record.id, "message": "trying again", "reason": error})

    def details(self, record: Record, lines: Sequence[str]) -> None:
        """Why pods are not well."""
        for each in lines:
            self._write({"deployment": record.id, "message": "detail", "detail": each})

    def ended(self, record: Record) -> None:
        """How it ended."""
        self._write({"message": "ended", **summary(record)})

    def _write(self, line: Json) -> None:
        stamp = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = json.dumps({"@timestamp": stamp, **line}, ensure_ascii=False)
        self._out.write(text.encode("utf-8", "replace").decode() + "\n")
        self._out.flush()


class LiveTable:
    """The steps as a table that grows, the current one with what it waits for."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=out, highlight=False, markup=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._started = False
        self._name = ""
        self._trouble = ""

    def step(self, record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep) -> None:
        """What is done or waited for now."""
        from rich.table import Table

        if not self._started:
            self._live.start()
            self._started = True
        line = line_of(record, seen, reports, step)
        name = f"{step.step}/{step.stage}"
        if name != self._name:
            self._name, self._trouble = name, ""
            self._live.console.print(self._text(line))
        table = Table.grid(padding=(0, 2))
        for version in sorted({pod.version for pod in seen.pods}):
            pods = seen.of(version)
            active = version in standing.versions_of(seen.activation)
            table.add_row(
                f"version {printable(version)}",
                f"{len(seen.ready(version))}/{len(pods)} pods ready",
                "takes traffic" if active else "",
            )
        table.add_row("now", printable(words(step.step)), printable(str(line.get("waiting", ""))))
        if self._trouble:
            table.add_row("trouble", printable(self._trouble[:200]), "")
        self._live.update(table)

    @staticmethod
    def _text(line: Json) -> str:
        known = ("controller", "replicas", "activation", "reason")
        more = ", ".join(f"{k} {line[k]}" for k in known if line.get(k) not in (None, ""))
        return printable(f"{line['app']} {line['version']}: {line['message']} {more}".rstrip())

    def trouble(self, record: Record, error: str) -> None:
        """Something is away: it is tried again."""
        del record
        self._trouble = error

    def details(self, record: Record, lines: Sequence[str]) -> None:
        """Why pods are not well."""
        del record
        for each in lines:
            self._live.console.print(printable(f"  {each}"))

    def ended(self, record: Record) -> None:
        """How it ended."""
        if self._started:
            self._live.stop()
            self._started = False
        reason = f": {record.reason}" if record.reason else ""
        text = f"{record.app_id} {record.version}: {record.status.value}{reason}"
        self._console.print(printable(text))

    def close(self) -> None:
        """Give the terminal back."""
        if self._started:
            self._live.stop()
            self._started = False
