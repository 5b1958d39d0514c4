"""The commands that do one thing and end: they wire the same parts as the daemon."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vulcanized.daemon import Parts, Runtime, assemble
from vulcanized.errors import SettingsError, Unreachable, VulcanizedError
from vulcanized.memory import SqliteMemory
from vulcanized.metrics import Metrics
from vulcanized.model import Problem
from vulcanized.reconciler import Reconciler, Snapshot, Stream
from vulcanized.settings import Settings
from vulcanized.status import problems_on

SPEAK_SECONDS = 30.0
"""A one-shot command waits this long for every source to speak."""

FOLLOW_SECONDS = 15.0
"""And `run --once` this long for the targets to follow."""

HELD_SECONDS = 15.0
"""And for what a guard holds to be confirmed: longer than the second list takes to come."""

USAGE = SettingsError.exit_code


@dataclass(frozen=True, slots=True)
class Looked:
    """What a one-shot command saw: everything built once.

    `refused`: what targets said of single apps.
    """

    parts: Parts
    snapshot: Snapshot
    refused: tuple[Problem, ...] = ()


@contextlib.contextmanager
def look(settings: Settings) -> Iterator[Looked]:
    """Read all sources once and build every app, without touching a target.

    In the `with` block the targets may be asked; the sources are not followed any more. Raises
    Unreachable when a source has not spoken within SPEAK_SECONDS, with its own error.
    """
    stop = threading.Event()
    parts = assemble(settings, stop)
    memory = SqliteMemory(settings.state, read_only=True)
    reconciler = Reconciler(parts.cluster, parts.store, parts.outlets, parts.dirty, memory)
    threads = [
        threading.Thread(target=stream.run, args=(stop,), name=stream.name, daemon=True)
        for stream in parts.streams
    ]
    threads.append(threading.Thread(target=reconciler.run, args=(stop,), daemon=True))
    for thread in threads:
        thread.start()
    try:
        try:
            _await_sources(parts.streams, stop)
            deadline = time.monotonic() + SPEAK_SECONDS
            while not reconciler.synced and time.monotonic() < deadline:
                stop.wait(0.005)
        finally:
            stop.set()
            parts.dirty.close()
            for thread in threads:
                thread.join(2.0)
        yield Looked(parts, reconciler.snapshot())
    finally:
        for close in (*parts.closers, memory.close):
            close()


def _await_sources(streams: Sequence[Stream], stop: threading.Event) -> None:
    deadline = time.monotonic() + SPEAK_SECONDS
    while silent := [stream for stream in streams if not stream.spoken]:
        if time.monotonic() >= deadline:
            raise Unreachable(
                "; ".join(
                    f"source {stream.name}: {stream.state().error or 'has not answered'}"
                    for stream in silent
                )
            )
        stop.wait(0.005)


def run_once(settings: Settings) -> Looked:
    """Bring every target in step once, then leave everything running as it is.

    What a guard holds is given the time to be confirmed; what is held still is in the state of
    the streams. Raises Unreachable for a silent source, and what a target failed with.
    """
    failed = threading.Event()
    runtime = Runtime(settings, Metrics(lambda: runtime), failed.set)
    runtime.start()
    try:
        _await_sources(runtime.parts.streams, failed)
        _settle(runtime, failed)
        if _await_confirmation(runtime, failed):
            _settle(runtime, failed)
        refused = tuple(problems_on(runtime.targets()))
        return Looked(runtime.parts, runtime.reconciler.snapshot(), refused)
    finally:
        runtime.stop(stop_proxies=False)


def _settle(runtime: Runtime, failed: threading.Event) -> None:
    """Wait until the targets are in step."""
    deadline = time.monotonic() + FOLLOW_SECONDS
    while not _settled(runtime):
        if failed.is_set():
            raise VulcanizedError("a thread failed: see the log")
        # What the settings are at fault for does not mend itself by waiting.
        hopeless = any(state.exit_code == USAGE for state in runtime.targets())
        if hopeless or time.monotonic() >= deadline:
            _raise_failures(runtime)
        failed.wait(0.01)


def _await_confirmation(runtime: Runtime, failed: threading.Event) -> bool:
    """Give what a guard holds the time to be confirmed; whether anything was held."""

    def held() -> bool:
        return any(state.held for state in runtime.sources())

    was_held = held()
    deadline = time.monotonic() + HELD_SECONDS
    while held() and not failed.is_set() and time.monotonic() < deadline:
        failed.wait(0.01)
    return was_held


def _settled(runtime: Runtime) -> bool:
    generation = runtime.reconciler.snapshot().generation
    return runtime.reconciler.synced and all(
        state.applied_once and state.in_effect >= generation and not state.error
        for state in runtime.targets()
    )


class NotInStep(VulcanizedError):
    """A target was not brought in step in time."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _raise_failures(runtime: Runtime) -> None:
    behind = [state for state in runtime.targets() if state.error or not state.applied_once]
    late = f"has not applied within {FOLLOW_SECONDS:g} s: see the log"
    raise NotInStep(
        "; ".join(f"target {state.name}: {state.error or late}" for state in behind)
        or "the targets are not in step",
        max((state.exit_code for state in behind), default=1) or 1,
    )
