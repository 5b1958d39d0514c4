"""Routes in vulcand's words, and what its precedence makes of them. Pure.

What is wanted: an exact host beats `*.example.com`, which beats `*`; within one host an exact path
beats a regex (the longest first), which beats a prefix (the longest first). A path that the best
host does not have is not the next host's.

What vulcand does (vulcand/route 0.1.0): it sorts all expressions as strings, backwards, and takes
the first that matches. Neighbours made of `Host`, `Path`, `Method` and `Header` alone are merged
into a trie, where the order is another; anything with a `...Regexp` in it never is. An expression
is read by Go's parser, which skips comments. So:

1. Every expression begins with a comment of fixed width that sorts as the route should: rank of the
   host, rank of the path, length of the path. What is behind it counts if all of that is equal.
2. The rest is a `HostRegexp` and a `PathRegexp` with anchors, which are never merged.
3. But "all paths of an exact host", the most common of all, is `Host(...)` alone. Such neighbours
   are merged into one trie, which holds whole names only: half a microsecond for a request among
   10,000 of them, where each route of 2. costs 0.1 to 0.3 to every request that gets past it.
4. A host that has not all paths, and that a wildcard would match too, gets a last route that
   answers 404 (`not_found_text`).

`/` sorts before all letters: a route of somebody else's, without a comment, is tried before ours.
The owner's name in the comment keeps the routes of two fleets apart.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Final, NamedTuple

from vulcanized.errors import Rejected
from vulcanized.model import PathKind, Pin, PinKind, Route

_RANK: Final = {PathKind.EXACT: 3, PathKind.REGEX: 2, PathKind.PREFIX: 1}
_LAST: Final = "0000000"

_NOT_GO: Final = re.compile(r"\[[^\]]*\\[bB]")
"""A backspace or a boundary in a class, which Go's regexps do not have."""


class Pinned(NamedTuple):
    """Requests that ask for a version."""

    pin: Pin
    version: str


def route_text(route: Route, owner: str, pinned: Pinned | None = None) -> str:
    """The `Route` of a frontend. Raises Rejected for a path that vulcand's regexps cannot say."""
    # Exact paths exclude each other: the length would only keep neighbours of 3. apart.
    length = 0 if route.kind is PathKind.EXACT else len(route.path)
    text = _key(route.host, f"{_RANK[route.kind]}{length:06d}", owner)
    if is_whole(route):
        text += _whole_host(route.host)
    else:
        text += f"{_call('HostRegexp', _host_pattern(route.host))} && "
        text += _call("PathRegexp", _path_pattern(route))
    # Longer than the text that it begins with, so it is tried before that.
    return text if pinned is None else f"{text} && {_pin_clause(pinned)}"


def not_found_text(host: str, owner: str) -> str:
    """What no other route of that host takes. Its frontend has to answer 404 by itself."""
    return f"{_key(host, _LAST, owner)}{_whole_host(host)}"


def is_whole(route: Route) -> bool:
    """Whether it takes every path of its host."""
    return route.kind is PathKind.PREFIX and route.path == "/"


def covering(host: str) -> tuple[str, ...]:
    """The hosts whose routes would take what the routes of this one leave."""
    if host == "*":
        return ()
    if host.startswith("*."):
        return ("*",)
    _, dot, parent = host.partition(".")
    return (f"*.{parent}", "*") if dot else ("*",)


def _key(host: str, path: str, owner: str) -> str:
    rank = 1 if host == "*" else 2 if host.startswith("*.") else 3
    return f"/*{rank}{path} {owner}*/ "


def _whole_host(host: str) -> str:
    if host.startswith("*"):
        return _call("HostRegexp", _host_pattern(host))
    return _call("Host", host)


def _host_pattern(host: str) -> str:
    # Compared in lower case, without the port. vulcand lowers the pattern too: no \S or \D here.
    if host == "*":
        return ""
    if host.startswith("*."):
        return rf"^[^.]+{re.escape(host[1:])}$"
    return f"^{re.escape(host)}$"


def _path_pattern(route: Route) -> str:
    if route.kind is PathKind.REGEX:
        if _NOT_GO.search(route.path):
            raise Rejected(
                f"the regex {route.path} has \\b or \\B in a class, which vulcand does not know: "
                "write the characters themselves"
            )
        return f"^(?:{route.path})"
    if route.kind is PathKind.EXACT:
        return f"^{re.escape(route.path)}$"
    return f"^{re.escape(route.path)}(?:/|$)"


def _pin_clause(pinned: Pinned) -> str:
    (kind, name), version = pinned
    if kind is PinKind.HEADER:
        return _call("HeaderRegexp", name, f"^{re.escape(version)}$")
    cookie = rf"(?:^|;) *{re.escape(name)}={re.escape(version)} *(?:;|$)"
    return _call("HeaderRegexp", "Cookie", cookie)


def _call(matcher: str, *texts: str) -> str:
    # What JSON quotes, Go reads alike. Not as a raw string: that could hold no backquote.
    return f"{matcher}({', '.join(map(json.dumps, texts))})"


# --- routes of other people -------------------------------------------------------------------


class Clause(NamedTuple):
    """One matcher of a route: `Host`, `PathRegexp` and so on, with its arguments."""

    name: str
    arguments: tuple[str, ...]


_LONGEST_TEXT: Final = 16 * 1024
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CLAUSE = re.compile(
    r"""\s*([A-Za-z]+)\(\s*((?:`[^`]*`|"(?:[^"\\]|\\.)*")(?:\s*,\s*(?:`[^`]*`|"(?:[^"\\]|\\.)*"))?)\s*\)\s*"""
)
_STRING = re.compile(r'`([^`]*)`|"((?:[^"\\]|\\.)*)"')
_PARAMETER = re.compile(r"<[^<>]*>")
_META = re.compile(r"[.*+?(){}\[\]|\\^$]")
_PRIVATE: Final = 0xE000
"""Where Unicode has nothing: escaped characters stand there while the others are looked at."""
_WHATEVER: Final = (".*", ".*$", ".+", "/.*", "/.*$", "(/.*)?", "(/.*)?$", "(?:/|$)", "(/|$)")
_LONGEST_PATH: Final = 128
_BRANCH = re.compile(r"[*+?{|]")
_MOST_BRANCHES: Final = 3
"""Of a regex of ours that is run on a path of theirs: each multiplies the time by its length."""


@functools.lru_cache(maxsize=16 * 1024)
def clauses(text: str) -> tuple[Clause, ...]:
    """The matchers of a route, none if it cannot be read: then vulcand hardly takes it either."""
    if len(text) > _LONGEST_TEXT:
        return ()
    text = _COMMENT.sub(" ", text)
    found = []
    position = 0
    while True:
        match = _CLAUSE.match(text, position)
        if match is None:
            return ()
        strings = [
            raw or re.sub(r"\\(.)", r"\1", escaped) for raw, escaped in _STRING.findall(match[2])
        ]
        found.append(Clause(match[1], tuple(strings)))
        position = match.end()
        if position == len(text):
            return tuple(found)
        if not text.startswith("&&", position):
            return ()
        position += 2


def exact_host(text: str) -> str:
    """The one host that a route is for, as it is written; "" where it may be for others."""
    found = clauses(text)
    host = next((clause for clause in found if clause.name in {"Host", "HostRegexp"}), None)
    if host is None or host.name != "Host" or _PARAMETER.search(host.arguments[0]):
        return ""
    return host.arguments[0]


def overlaps(ours: Route, our_text: str, theirs: str) -> bool:
    """Whether one of two frontends would take requests that the other has now.

    Told by a request that each is for: what stands first in vulcand's order must not match that of
    the other. `ours` and `our_text` are the same route. Methods and headers are taken as matching,
    and a regexp that is more than a beginning and "whatever follows" as not: theirs are hostile, so
    none is ever run.
    """
    found = clauses(theirs)
    if not found:
        return False
    their_host = next((c for c in found if c.name in {"Host", "HostRegexp"}), None)
    their_path = next((c for c in found if c.name in {"Path", "PathRegexp"}), None)
    our_host = "any.invalid" if ours.host == "*" else ours.host.replace("*", "any", 1)
    if theirs > our_text:
        paths = [_beginning(ours.path) if ours.kind is PathKind.REGEX else ours.path]
        if ours.kind is PathKind.PREFIX and not is_whole(ours):
            paths.append(f"{ours.path}/")
        return _may_be(their_host, our_host) and any(_may_be(their_path, path) for path in paths)
    host = our_host if their_host is None else _example_host(their_host)
    path = "/" if their_path is None else _example_path(their_path)
    return _leads(ours, host, path)


def _leads(route: Route, host: str, path: str) -> bool:
    """Whether a request to this host and path is one for the route; by regexes that we checked."""
    if route.host.startswith("*."):
        if host.partition(".")[2] != route.host[2:]:
            return False
    elif route.host not in {"*", host}:
        return False
    if route.kind is PathKind.EXACT:
        return path == route.path
    if route.kind is PathKind.REGEX:
        if len(_BRANCH.findall(route.path)) > _MOST_BRANCHES:
            return path.startswith(_beginning(route.path))
        return re.match(route.path, path[:_LONGEST_PATH]) is not None
    return route.path == "/" or path == route.path or path.startswith(f"{route.path}/")


def _example_host(clause: Clause) -> str:
    """A host that one of their matchers is for."""
    text = clause.arguments[0] if clause.arguments else ""
    if clause.name == "Host":
        return _PARAMETER.sub("any", text).lower()
    ending = _ending(text)
    if ending and f"^{re.escape(ending)}$" == text.lower():
        return ending
    # What takes more than one name takes one that nobody else would think of.
    return f"any{ending or '.invalid'}"


def _example_path(clause: Clause) -> str:
    """A path that one of their matchers is for."""
    text = clause.arguments[0] if clause.arguments else ""
    return text if clause.name == "Path" else _beginning(text) or "/"


def _may_be(clause: Clause | None, text: str) -> bool:
    """Whether one of their matchers takes a text."""
    if clause is None:
        return True
    pattern = clause.arguments[0] if clause.arguments else ""
    if not clause.name.endswith("Regexp"):
        first, *more = _PARAMETER.split(pattern)
        return text == first if not more else text.startswith(first) and text.endswith(more[-1])
    if clause.name == "HostRegexp":
        return text.endswith(_ending(pattern))
    pattern = pattern.removeprefix("^")
    beginning = _beginning(pattern)
    following = pattern.replace("\\", "")[len(beginning) :]
    if following in {"", *_WHATEVER}:
        return text.startswith(beginning)
    return following == "$" and text == beginning


def _ending(pattern: str) -> str:
    """The characters that a regex of hosts ends with: they are told apart by these."""
    text = _hidden(pattern.lower()).removesuffix("$")
    return _shown(_META.split(text)[-1])


def _beginning(pattern: str) -> str:
    """The characters that a regex begins with, up to the first that means something else."""
    return _shown(_META.split(_hidden(pattern).removeprefix("^"), maxsplit=1)[0])


def _hidden(pattern: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", lambda found: chr(_PRIVATE + ord(found[1])), pattern)


def _shown(text: str) -> str:
    return re.sub(f"[{chr(_PRIVATE)}-{chr(_PRIVATE + 127)}]", _told, text)


def _told(found: re.Match[str]) -> str:
    return chr(ord(found[0]) - _PRIVATE)
