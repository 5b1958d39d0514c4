"""nginx's own view of text, as a reader of its own: it knows nothing of how ours is written.

What is here follows `ngx_conf_read_token` of nginx 1.22 (src/core/ngx_conf_file.c).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.hostile.grammar import Unreadable

_BLANK: Final = " \t\r\n"
_ESCAPES: Final = {'"': '"', "'": "'", "\\": "\\", "t": "\t", "r": "\r", "n": "\n"}


class Directive(NamedTuple):
    """The words of a directive, and what stands in its braces; None: it has none."""

    words: tuple[str, ...]
    block: tuple[Directive, ...] | None = None


def directives(text: str) -> tuple[Directive, ...]:
    """A config as directives. Raises Unreadable where nginx would refuse its form."""
    found, at = _block(text, 0, inside=False)
    if at != len(text):
        raise Unreadable(f"unexpected }} at {at}")
    return found


def _block(text: str, at: int, *, inside: bool) -> tuple[tuple[Directive, ...], int]:
    found: list[Directive] = []
    said: list[str] = []
    while at < len(text):
        char = text[at]
        if char in _BLANK:
            at += 1
        elif char == "#":
            at = text.find("\n", at) + 1 or len(text)
        elif char == ";":
            if not said:
                raise Unreadable(f"unexpected ; at {at}")
            found.append(Directive(tuple(said)))
            said, at = [], at + 1
        elif char == "{":
            if not said:
                raise Unreadable(f"unexpected {{ at {at}")
            block, at = _block(text, at + 1, inside=True)
            found.append(Directive(tuple(said), block))
            said = []
        elif char == "}":
            if said or not inside:
                raise Unreadable(f"unexpected }} at {at}")
            return tuple(found), at + 1
        else:
            word, at = _word(text, at)
            said.append(word)
    if said or inside:
        raise Unreadable("unexpected end of file")
    return tuple(found), at


def _word(text: str, at: int) -> tuple[str, int]:
    quote = text[at] if text[at] in "'\"" else ""
    at += len(quote)
    start = at
    while at < len(text):
        char = text[at]
        if char == "\0":
            raise Unreadable("NUL")
        if char == "\\" or text.startswith("${", at):
            at += 2
        elif quote and char == quote:
            if at + 1 < len(text) and text[at + 1] not in _BLANK + ";{)":
                raise Unreadable(f"unexpected {text[at + 1]!r} behind a quote")
            return _plain(text[start:at]), at + 1
        elif not quote and char in _BLANK + ";{":
            return _plain(text[start:at]), at
        else:
            at += 1
    raise Unreadable("unexpected end of file in a word")


def _plain(raw: str) -> str:
    word, at = "", 0
    while at < len(raw):
        if raw[at] == "\\" and raw[at + 1 : at + 2] in _ESCAPES:
            word, at = word + _ESCAPES[raw[at + 1]], at + 2
        else:
            word, at = word + raw[at], at + 1
    return word
