"""Golden messages: what was put in, and all that is said of it, one file for each kind of input.

`GOLDEN=update pytest tests/badinput` writes them anew: read the difference as the person would who
made the mistake. Each message says where, what, and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def agrees(name: str, said: Iterable[tuple[str, str | bytes, Iterable[str]]]) -> None:
    """Compare with `golden/<name>.txt`; `said`: title, input, messages of each case."""
    text = "\n".join(_section(*case) for case in said)
    path = FOLDER / f"{name}.txt"
    if os.environ.get("GOLDEN") == "update":
        path.write_text(text)
    assert text == path.read_text()


def _section(title: str, given: str | bytes, messages: Iterable[str]) -> str:
    lines = "".join(f"=> {message}\n" for message in messages) or "=> nothing is said\n"
    return f"## {title}\n{_shown(given)}{lines}"


def _shown(given: str | bytes) -> str:
    """The input as far as a reader wants to see it, harmless in any editor."""
    text = given.decode(errors="backslashreplace") if isinstance(given, bytes) else given
    text = text if len(text) <= 300 else f"{text[:120]}... ({len(text)} characters)"
    lines = text.removesuffix("\n").split("\n") if text else []
    return "".join(f"   {''.join(map(_harmless, line))}\n" for line in lines)


def _harmless(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


def without(text: str, places: Mapping[str, str]) -> str:
    """The text with what differs from run to run replaced by names."""
    for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
        text = text.replace(place, name)
    return text
