"""Regexes of paths: those that mean the same on every proxy and end in time on each. Pure."""

from __future__ import annotations

import re

from vulcanized.appfaults import shown

# pchar of RFC 3986 and the metacharacters, without quotes and semicolon.
_REGEX = re.compile(r"/[A-Za-z0-9/_.~%:@!&*+,=?^|(){}\[\]\\$-]*\Z")


def path_regex(value: str) -> str:
    """The pattern itself; raises ValueError."""
    if not _REGEX.match(value):
        raise ValueError(
            f"{shown(value)} is not a path regex: it starts with /, and spaces, quotes, # and ; "
            "must be written as a class or left out"
        )
    plain = value.replace("\\\\", "")
    if re.search(r"\\[A-Za-z0-9](?<![dDwWsSbB])", plain):
        raise ValueError(
            f"{shown(value)}: back-references and most escapes are not the same on every proxy: of "
            "letters and digits only d, D, w, W, s, S, b and B stand behind a backslash"
        )
    bare = re.sub(r"\\.", "a", plain)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "a", bare)
    if re.search(r"\$(?![)|]|\Z)", bare):
        raise ValueError(
            f"{shown(value)}: $ stands only at the end of an alternative: write [$] for the "
            "character itself"
        )
    if re.search(r"\(\?(?!:)|\{,|[*+?}]\+", bare):
        raise ValueError(
            f"{shown(value)}: look-around, inline flags, possessive repeats and {{,n}} are not the "
            "same on every proxy, so they are refused"
        )
    if re.search(r"\[[^\]]*(?:\[|--|&&|\|\||~~)", re.sub(r"\\.", "a", value)):
        raise ValueError(
            f"{shown(value)}: [, --, &&, || and ~~ in a class do not mean the same on every proxy: "
            "put a backslash before the first"
        )
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{shown(value)} is not a regex: {error}") from None
    _refuse_explosive(value)
    return value


def _refuse_explosive(pattern: str) -> None:
    """Refuse what can take a backtracking matcher (PCRE in HAProxy and nginx) exponential time.

    A repeated group holds neither a repeat nor an alternative; the number of unbounded repeats,
    and of those of a bare dot, is small: each multiplies the worst case by the path's length.
    """
    bare = re.sub(r"\\.", "a", pattern)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "a", bare)
    stack: list[bool] = []
    for match in re.finditer(r"\((?:\?:)?|\)([*+?]|\{\d*,?\d*\})?|[*+|]|\{\d*,?\d*\}", bare):
        token = match.group()
        if token.startswith("("):
            stack.append(False)
        elif token.startswith(")"):
            risky = stack.pop() if stack else False
            repeat = match.group(1) or ""
            if repeat not in {"", "?"} and risky:
                raise ValueError(
                    f"{shown(pattern)}: a repeated group that holds a repeat or an alternative can "
                    "take for ever to match: write it without one"
                )
            if stack:
                stack[-1] = stack[-1] or risky or repeat not in {"", "?"}
        elif stack:
            stack[-1] = True
    if len(re.findall(r"[*+]|\{\d*,\}", bare)) > 6 or len(re.findall(r"\.(?:[*+]|\{)", bare)) > 2:
        raise ValueError(
            f"{shown(pattern)} repeats too much: write at most 6 unbounded repeats, 2 of "
            "them of a dot"
        )
    if any(int(number) > 100 for number in re.findall(r"[{,](\d+)", bare)):
        raise ValueError(f"{shown(pattern)} has a count above 100: write a smaller one")
