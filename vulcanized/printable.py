"""Text from elsewhere, fit to be shown. Pure.

A terminal obeys what it is shown: names and messages from hostile places must not reach it as they
are. What cannot be printed is written as Python would (`\\x1b`, `\\n`, `\\u202e`).
"""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    """The text in one line, every character of which can be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def printable_document(value: Any) -> Any:
    """A JSON document in which every text is `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_document(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [printable_document(inner) for inner in value]
    return value
