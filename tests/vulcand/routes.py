"""How to write routes so that vulcand takes the one that every other proxy takes.

What is wanted: an exact host beats `*.example.com`, which beats `*`; within one host an exact path
beats a regex (the longest first), which beats a prefix (the longest first). A path that the best
host does not have is 404, not the next host's.

What vulcand does (`vulcand/route` 0.1.0): it sorts all expressions as strings, backwards, and takes
the first that matches. Neighbours made of `Host`, `Path`, `Method`, `Header` alone are merged into
a trie, where the order is another; anything with a `...Regexp` in it never is. An expression is
read by Go's parser, which skips comments. So:

1. Every expression begins with a comment of fixed width that sorts as the route should: rank of the
   host, rank of the path, length of the path. Nothing behind it counts unless all of that is equal.
2. The rest is a `HostRegexp` and a `PathRegexp` with anchors, which are never merged.
3. But "all paths of an exact host", the most common of all, is `Host(...)` alone. Such neighbours
   are merged into one trie, which holds whole names only: half a microsecond to a request for
   10,000 of them, where each route of 2. costs 0.1 to 0.3 to every request that gets past it.
4. A host that has not all paths, and that a wildcard would match too, gets a last route that
   answers 404 (`not_found`).

`/` sorts before all letters: a route of somebody else's without a comment is tried before ours.
"""

from __future__ import annotations

import json
import re

from vulcanized.model import PathKind, Route

_RANKS = {PathKind.EXACT: 3, PathKind.REGEX: 2, PathKind.PREFIX: 1}


def expression(route: Route) -> str:
    """The route as vulcand reads it."""
    # Exact paths exclude each other: the length would only keep neighbours of 3. apart.
    length = 0 if route.kind is PathKind.EXACT else len(route.path)
    key = f"{_RANKS[route.kind]}{length:06d}"
    if (route.kind, route.path) == (PathKind.PREFIX, "/"):
        return f"{_key(route.host, key)}{_whole_host(route.host)}"
    path = re.escape(route.path)
    pattern = {
        PathKind.EXACT: f"^{path}$",
        PathKind.REGEX: f"^(?:{route.path})",
        PathKind.PREFIX: f"^{path}(?:/|$)",
    }[route.kind]
    host = _call("HostRegexp", _host_pattern(route.host))
    return f"{_key(route.host, key)}{host} && {_call('PathRegexp', pattern)}"


def not_found(host: str) -> str:
    """What no other route of that host takes. Its frontend has to answer 404 by itself."""
    return f"{_key(host, '0000000')}{_whole_host(host)}"


def _key(host: str, path: str) -> str:
    rank = 1 if host == "*" else 2 if host.startswith("*.") else 3
    return f"/*{rank}{path}*/ "


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


def _call(matcher: str, text: str) -> str:
    # What JSON quotes, Go reads alike. Not as a raw string: that could hold no backquote.
    return f"{matcher}({json.dumps(text)})"
