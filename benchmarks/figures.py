"""What was measured, as numbers and as a table. Pure, but for the printing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from tests.servers.load import Report

COLUMNS = ("what", "floor", "ours", "ratio", "goal", "ok")


@dataclass(frozen=True, slots=True)
class Sample:
    """One event: seconds from its cause to the floor's sight of it, and to our effect."""

    floor: float
    ours: float


@dataclass(frozen=True, slots=True)
class Switched:
    """One switch by the deployer, in seconds.

    `floor`: from a bare put until the last watcher's proxy has set its map. `before`: from the call
    until the switch is handed to etcd; `after`: from there until the last proxy serves the new
    version; `proven`: from the call until every daemon has reported it.
    """

    floor: float
    before: float
    after: float
    proven: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ok` None: there is no goal."""

    what: str
    ours: str
    floor: str = ""
    ratio: str = ""
    goal: str = ""
    ok: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS` has them."""
        ok = "" if self.ok is None else "yes" if self.ok else "NO"
        return (self.what, self.floor, self.ours, self.ratio, self.goal, ok)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> str:
    """Median and, in brackets, 95th percentile of seconds, in milliseconds."""
    return f"{1000 * statistics.median(values):.1f} ({1000 * percentile(values, 0.95):.1f}) ms"


def compared(what: str, samples: Sequence[Sample], most: float | None = None) -> Row:
    """A row of ours against the floor; `most`: the ratio of the medians must be below that."""
    floors = [sample.floor for sample in samples]
    ours = [sample.ours for sample in samples]
    ratio = statistics.median(ours) / statistics.median(floors)
    return Row(
        f"{what} ({len(samples)}x)",
        spread(ours),
        spread(floors),
        f"{ratio:.2f}x",
        f"< {most:g}x" if most else "",
        ratio < most if most else None,
    )


def bounded(what: str, samples: Sequence[Sample], most: float) -> Row:
    """A row whose goal is a time in seconds that 95 of a hundred keep; the floor for comparison."""
    row = compared(what, samples)
    within = percentile([sample.ours for sample in samples], 0.95) <= most
    return Row(row.what, row.ours, row.floor, row.ratio, f"p95 <= {1000 * most:g} ms", within)


def failed(what: str, report: Report) -> Row:
    """A row of requests under load, none of which may fail."""
    bad = sum(report.failed.values())
    reasons = "".join(f"; {n} {reason}" for reason, n in report.failed.items())
    requests = report.answers + sum(report.failures.values())
    ours = f"{bad} failed of {requests:,}{reasons}"
    return Row(what, ours, goal="0 failed", ok=not bad)


def show(rows: Sequence[Row], notes: Sequence[str], console: Console) -> None:
    """Print the table and what is to be known about it."""
    table = Table(box=box.SIMPLE)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column not in {"what", "ours"})
    for row in rows:
        colour = {None: "", True: "green", False: "red"}[row.ok]
        table.add_row(*row.cells[:-1], f"[{colour}]{row.cells[-1]}[/]" if colour else "")
    console.print(table, *notes, sep="\n", highlight=False)


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table and what is to be known about it, for a README."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row.cells) + " |" for row in rows]
    return "\n".join([*lines, "", *notes, ""])
