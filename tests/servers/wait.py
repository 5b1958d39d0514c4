"""Waiting in tests: poll a condition up to a deadline, never sleep a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TooLate(AssertionError):
    """The awaited condition did not come true within its deadline."""


def eventually(
    condition: Callable[[], T],
    deadline: float = 10.0,
    what: str | Callable[[], str] = "",
    *,
    interval: float = 0.02,
    ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> T:
    """Return the first true value of `condition()`, asked every `interval` seconds.

    `deadline` is in seconds from now; the condition is asked at least once, and once more when the
    time is up. `what` says what was awaited, as text or as a call made only on failure (for a log's
    tail). Exceptions of the kinds in `ignore` count as "not yet", and the last one is the cause of
    the `TooLate` that is raised in the end; all others go through.
    """
    end = time.monotonic() + deadline
    while True:
        last_try = time.monotonic() >= end
        error: BaseException | None = None
        value: T | None = None
        try:
            value = condition()
        except ignore as caught:
            error = caught
        if value:
            return value
        if last_try:
            awaited = what() if callable(what) else what
            awaited = awaited or getattr(condition, "__name__", "the condition")
            seen = f"{type(error).__name__}: {error}" if error else f"last value {value!r}"
            raise TooLate(f"not within {deadline:g} s: {awaited} ({seen})") from error
        time.sleep(max(0.0, min(interval, end - time.monotonic())))
