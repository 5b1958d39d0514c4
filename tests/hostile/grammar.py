"""HAProxy's own view of text, as a reader of its own: it knows nothing of how ours is written.

What is here follows HAProxy's configuration manual (2.2 quoting and escaping, 2.3 environment
variables), its management guide (9.3, the syntax of commands) and the format of map files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

SECTIONS: Final = frozenset(
    (
        "global", "defaults", "frontend", "backend", "listen", "userlist", "peers", "mailers",
        "resolvers", "cache", "program", "http-errors", "ring", "log-forward", "fcgi-app",
        "crt-store", "traces", "log-profile", "acme",
    )
)  # fmt: skip
_ESCAPES: Final = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    " ": " ",
    "\\": "\\",
    '"': '"',
    "#": "#",
    "'": "'",
}
_BLANK: Final = " \t"


class Unreadable(Exception):
    """HAProxy would not take this text, or would take it for something with a side effect."""


class Section(NamedTuple):
    """A section: the words of its first line, then those of each of its directives, in order."""

    head: tuple[str, ...]
    directives: tuple[tuple[str, ...], ...]


def words(line: str) -> tuple[str, ...]:
    """The words of one line: blanks separate, a `#` outside quotes ends it, `\\` and quotes bind.

    Raises Unreadable for what is open at the end, for `\\` before anything odd, and for an
    environment variable, which could put in anything.
    """
    found: list[str] = []
    word: str | None = None
    quote = ""
    at = 0
    while at < len(line):
        char = line[at]
        at += 1
        if char == "\0":
            raise Unreadable(f"NUL in {line!r}")
        if quote == "'":
            quote, word = ("", word) if char == "'" else (quote, (word or "") + char)
        elif char == "\\":
            if at == len(line):
                raise Unreadable(f"a line that goes on: {line!r}")
            if line[at] == "x":
                char = chr(_hex(line[at + 1 : at + 3], line))
                at += 3
            elif line[at] in _ESCAPES:
                char = _ESCAPES[line[at]]
                at += 1
            word = (word or "") + char
        elif quote == '"':
            if char == "$":
                raise Unreadable(f"an environment variable in {line!r}")
            quote, word = ("", word) if char == '"' else (quote, (word or "") + char)
        elif char in "'\"":
            quote, word = char, word or ""
        elif char == "#":
            break
        elif char in _BLANK:
            found += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + char
    if quote:
        raise Unreadable(f"an open quote in {line!r}")
    return tuple(found if word is None else [*found, word])


def _hex(digits: str, line: str) -> int:
    try:
        return int(digits, 16)
    except ValueError:
        raise Unreadable(f"no hexadecimal number behind \\x in {line!r}") from None


def lines(text: str) -> Iterator[str]:
    """The lines of a file: only a newline ends one. A carriage return is no part of any of ours."""
    if text and not text.endswith("\n"):
        raise Unreadable("the last line has no end")
    for line in text.split("\n")[:-1]:
        if "\r" in line:
            raise Unreadable(f"a carriage return in {line!r}")
        yield line


def sections(text: str) -> tuple[Section, ...]:
    """A config as sections. Whatever stands in front of the first one is Unreadable."""
    found: list[tuple[tuple[str, ...], list[tuple[str, ...]]]] = []
    for line in lines(text):
        said = words(line)
        if not said:
            continue
        if said[0] in SECTIONS:
            found.append((said, []))
        elif said[0].startswith(".") or not found:
            raise Unreadable(f"{line!r} is in no section")
        else:
            found[-1][1].append(said)
    return tuple(Section(head, tuple(directives)) for head, directives in found)


def entries(text: str) -> list[tuple[str, str]]:
    """A map file: on each line a key up to the first blank, then the rest without outer blanks."""
    found = []
    for line in lines(text):
        entry = line.strip(_BLANK)
        if "\0" in line:
            raise Unreadable(f"NUL in {line!r}")
        if not entry or entry.startswith("#"):
            continue
        cut = next((at for at, char in enumerate(entry) if char in _BLANK), len(entry))
        found.append((entry[:cut], entry[cut:].lstrip(_BLANK)))
    return found


def command(text: str) -> tuple[str, ...]:
    """The words of exactly one run-time command.

    Raises Unreadable for one that would end early, be several, take a payload or be escaped, and
    for one that HAProxy's buffer would cut.
    """
    if any(mark in text for mark in ("\n", "\r", "\0", ";", "<<", "\\")) or "#" in text:
        raise Unreadable(f"not one plain command: {text!r}")
    if len(text.encode("utf-8", "surrogatepass")) > 8000:
        raise Unreadable(f"too long: {text[:200]!r}")
    return tuple(text.split(" "))
