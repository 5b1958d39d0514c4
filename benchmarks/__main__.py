"""`python -m benchmarks`: measure, show the table, write it to a file."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog
from rich.console import Console

from benchmarks import deployer, figures, proxies, scale, startup, switches, vulcand
from benchmarks.figures import Row
from benchmarks.pods import Pods
from benchmarks.stage import Say, Stage, set_up
from tests.daemons import Vulcanized

MEGABYTE = 1e6
QUIET = 0.1
"""The share that other programs may use without the figures suffering much."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    sizes: tuple[int, ...] = (10, 1000)
    calm: int = 36
    churn: float = 10.0
    switches: int = 30
    switches_under_load: int = 100
    replacements: int = 40
    starts: int = 5


QUICK = Extent(
    sizes=(10,),
    calm=4,
    churn=1.0,
    switches=4,
    switches_under_load=10,
    replacements=3,
    starts=1,
)


def measure(stage: Stage, extent: Extent, rows: list[Row]) -> None:
    """Add a row for each figure, as soon as it is known."""
    for size in extent.sizes:
        stage.grow(size)
        with stage.daemon() as daemon:
            daemon.start()
            _measure_pods(stage, daemon, extent, rows)
            _measure_switches(stage, daemon, extent, rows)
    _measure_starts(stage, extent, rows)


def _measure_pods(stage: Stage, daemon: Vulcanized, extent: Extent, rows: list[Row]) -> None:
    what = f"{len(stage.hosts):,} apps"
    with Pods(stage, daemon) as pods:
        stage.say(f"{what}: {extent.calm} pods replaced, well apart")
        ready, deleted = pods.calm(extent.calm)
        rows.append(figures.compared(f"Ready sent → first answer, calm, {what}", ready, 2.5))
        stage.say(f"{what}: a pod ready every 0.1 s, for {extent.churn:g} s")
        churned = pods.churn(extent.churn)
        rows.append(figures.compared(f"Ready sent → first answer, churn, {what}", churned, 3.0))
        rows.append(figures.bounded(f"DELETE sent → last answer, {what}", deleted, 0.020))


def _measure_switches(stage: Stage, daemon: Vulcanized, extent: Extent, rows: list[Row]) -> None:
    what = f"{len(stage.hosts):,} apps"
    stage.say(f"{what}: {extent.switches} switches, well apart")
    samples = switches.switches(stage, daemon, extent.switches)
    rows.append(figures.compared(f"switch put → first answer, {what}", samples))
    stage.say(f"{what}: {extent.switches_under_load} switches under load")
    report = switches.switches_under_load(stage, daemon, extent.switches_under_load)
    rows.append(figures.failed(f"{extent.switches_under_load} switches under load, {what}", report))
    stage.say(f"{what}: {extent.replacements} pods replaced under load")
    report = switches.replacements_under_load(stage, daemon, extent.replacements)
    rows.append(figures.failed(f"{extent.replacements} pods replaced under load, {what}", report))


def _measure_starts(stage: Stage, extent: Extent, rows: list[Row]) -> None:
    what = f"{len(stage.hosts):,} apps, {stage.pods:,} pods"
    stage.say(f"{what}: {extent.starts} starts")
    starts = []
    for _ in range(extent.starts):
        starts.append(startup.start(stage))
        stage.say("  " + ", ".join(f"{step} {at:.2f}" for step, at in starts[-1].steps))
    last = statistics.median(each.last for each in starts)
    first = statistics.median(each.first for each in starts)
    rows.append(
        Row(
            f"start → all served, {what} ({len(starts)}x)",
            f"{last:.2f} s; the first of them at {first:.2f} s",
            goal="< 1.2 s",
            ok=last < 1.2,
        )
    )
    memory = max(each.memory for each in starts) / MEGABYTE
    peak = max(each.peak for each in starts) / MEGABYTE
    ours = f"{memory:.0f} MB; at most {peak:.0f} MB"
    rows.append(Row(f"memory there, {what}", ours, goal="< 110 MB", ok=memory < 110))


def haproxy() -> str:
    """Which HAProxy is on this machine."""
    ran = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=False)
    return f"HAProxy {ran.stdout.split(' ')[2] if ran.returncode == 0 else '?'}"


def machine(others: float, proxy: str) -> str:
    """What the figures are true of, in a line. `others`: what other programs used meanwhile."""
    return (
        f"Medians, in brackets 95th percentiles; {os.cpu_count()} processors for servers, pods, "
        f"daemon and measuring together, of which other programs used {others:.0%}; "
        f"Python {platform.python_version()}, {proxy}."
        + (" That is much: measure again when nothing else runs." if others > QUIET else "")
    )


class Processors:
    """How much of the processors' time others use, from when it is made."""

    def __init__(self) -> None:
        self._before = self._used()

    def used_by_others(self) -> float:
        """A share of all there was; right once whatever we started has ended."""
        total, idle, ours = (
            now - then for now, then in zip(self._used(), self._before, strict=True)
        )
        return max(0.0, 1 - (idle + ours) / max(1.0, total))

    def _used(self) -> tuple[float, float, float]:
        """Seconds of all processors: in all, idle, and used by us and our ended children."""
        line = Path("/proc/stat").read_text().partition("\n")[0]
        seconds = [int(field) / os.sysconf("SC_CLK_TCK") for field in line.split()[1:9]]
        return sum(seconds), seconds[3] + seconds[4], sum(os.times()[:4])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 when all was measured, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--scale", action="store_true", help="many apps, in place of a real cluster"
    )
    parser.add_argument("--vulcand", action="store_true", help="vulcand in place of HAProxy")
    parser.add_argument("--proxies", action="store_true", help="each change on every proxy")
    parser.add_argument("--deployer", action="store_true", help="switches and releases")
    parser.add_argument("--quick", action="store_true", help="10 apps, few samples: a smoke test")
    parser.add_argument("--output", type=Path, help="default: build/bench[-WHAT].md")
    options = parser.parse_args(arguments)
    chosen = [
        name for name in ("scale", "vulcand", "proxies", "deployer") if getattr(options, name)
    ]
    if len(chosen) > 1:
        parser.error(f"--{' or --'.join(chosen)}, one at a time")
    name = f"bench-{chosen[0]}.md" if chosen and not options.scale else "bench.md"
    output = options.output or Path("build") / name
    signal.signal(signal.SIGTERM, _ended)
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, cache_logger_on_first_use=False)
    rows: list[Row] = []
    processors = Processors()
    try:
        say = _say_since(time.monotonic())
        if options.scale:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                extent = scale.QUICK if options.quick else scale.Extent()
                scale.measure(Path(folder), say, extent, rows)
        elif options.proxies:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                each = proxies.QUICK if options.quick else proxies.Extent()
                proxies.measure(Path(folder), say, each, rows)
        elif options.deployer:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                some = deployer.QUICK if options.quick else deployer.Extent()
                deployer.measure(Path(folder), say, some, rows)
        elif options.vulcand:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                much = vulcand.QUICK if options.quick else vulcand.Extent()
                vulcand.measure(Path(folder), say, much, rows)
        else:
            with set_up(say) as stage:
                measure(stage, QUICK if options.quick else Extent(), rows)
    except KeyboardInterrupt:
        print("ended before all was measured", file=sys.stderr)
        return 130
    finally:
        proxy = vulcand.version() if options.vulcand else haproxy()
        notes = [machine(processors.used_by_others(), proxy)]
        if rows:
            figures.show(rows, notes, Console())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(figures.markdown(rows, notes))
    return 0


def _ended(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)


def _say_since(begin: float) -> Say:
    def say(line: str) -> None:
        print(f"[{time.monotonic() - begin:5.0f} s] {line}", file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
