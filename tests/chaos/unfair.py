"""Why a step is left out."""

from __future__ import annotations

from collections.abc import Callable

Later = Callable[[float, str, Callable[[], None]], None]
"""Ends something after so many seconds; the text says what."""


class Unfair(Exception):
    """No daemon could get through this without a failed request; why."""
