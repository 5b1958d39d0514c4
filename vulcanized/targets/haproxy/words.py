"""How our values are written in HAProxy's files and commands.

Whatever reaches a config line, a map line or a command passes through here, and is refused when it
has a character outside its charset. Nothing is escaped: what cannot be said plainly is not said.
The app config's schema refuses earlier and with a kinder text; this is the wall behind it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import partial
from typing import Final

from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Endpoint,
    PathKind,
    Pin,
    PinKind,
    Route,
    Server,
    Sticky,
)
from vulcanized.targets import charsets
from vulcanized.targets.charsets import BOUNDED, address, ip, milliseconds, port, refuser, weight

__all__ = [
    "address",
    "app_key",
    "backend_id",
    "check_server",
    "cookie_regex",
    "file",
    "health_path",
    "host",
    "host_of_regex",
    "ip",
    "is_pin_regex",
    "listen",
    "milliseconds",
    "name",
    "options",
    "pin",
    "pin_regex",
    "pinned_key",
    "port",
    "route_key",
    "server_id",
    "sticky",
    "weight",
]

_URI: Final = re.compile(r"/[A-Za-z0-9/_.~%:@!$&*+,=?-]{0,1000}\Z")
_OPTIONS: Final = re.compile(r"[A-Za-z0-9/_.:@+=,()\[\]* -]{0,500}\Z")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$&*+.^_|~-]{1,64}\Z")
_ASKED: Final = r"([A-Za-z0-9][A-Za-z0-9._-]{0,252}+)"
"""A version in what a client sends: of one that no app can have nothing is looked up."""

_word = partial(refuser, proxy="HAProxy")
name = _word(charsets.NAME, "a namespace, app or version")
host = _word(charsets.HOST, "a host")
file = _word(charsets.FILE, "the path of a file")
health_path = _word(_URI, "the path of a health check")
_server = _word(charsets.SERVER, "the name of a server")
_path = _word(charsets.PATH, "a path")
_regex = _word(charsets.REGEX, "a regex of a path")
_options = _word(_OPTIONS, "the options of a server")
_header = _word(_HEADER, "a header that pins a client")
_cookie = _word(charsets.COOKIE, "the name of a cookie")

app_key = partial(charsets.app_key, name)
"""What an app is called in the maps: `namespace/name`."""


def backend_id(app: AppId, version: str) -> str:
    """What the backend of one version is called: `namespace:name:version`, or without a version."""
    if version == ANY_VERSION:
        return sys.intern(f"{name(app.namespace)}:{name(app.name)}")
    return sys.intern(f"{name(app.namespace)}:{name(app.name)}:{name(version)}")


def route_key(route: Route) -> str:
    """The key of a route in the map of its kind; the host comes first, as it was chosen first.

    A prefix ends with a slash, and so does the path that is looked up: whole elements match. A
    regex that takes too long matches nothing, so it costs other apps nothing either.
    """
    scope = host(route.host)
    if route.kind is PathKind.EXACT:
        return scope + _path(route.path)
    if route.kind is PathKind.PREFIX:
        return sys.intern(f"{scope}{_path(route.path).rstrip('/')}/")
    return f"{BOUNDED}^{re.escape(scope)}(?:{_regex(route.path)})"


def host_of_regex(key: str) -> str:
    """The host in a `route_key` of a regex."""
    return re.sub(r"\\(.)", r"\1", key.removeprefix(BOUNDED)[1:].partition("(?:")[0])


def sticky(wanted: Sticky) -> str:
    """What the map of sticky apps has: the name of a cookie, and behind a colon its age if any."""
    age = "" if wanted.max_age is None else f":{int(wanted.max_age)}"
    return f"{_cookie(wanted.cookie)}{age}"


def cookie_regex(value: str) -> str:
    """The key in the map that finds the cookie of a `sticky` in its name, `;` and all cookies."""
    return charsets.cookie_regex(_cookie(value.partition(":")[0]), "(")


def server_id(server: str) -> int:
    """A number for a consistent hash, the same in each process. Two servers seldom share one.

    28 bits: HAProxy multiplies it by 16 in 32.
    """
    digest = hashlib.blake2b(server.encode(), digest_size=4).digest()
    return int.from_bytes(digest) % (1 << 28) or 1


def pin(of: Pin) -> str:
    """Where the clients of an app say which version they want: `header:x-version`, `cookie:v`."""
    if of.kind is PinKind.HEADER:
        # HAProxy knows all names of headers in lower case.
        return sys.intern(f"header:{_header(of.name).lower()}")
    return sys.intern(f"cookie:{_cookie(of.name)}")


def pin_regex(of: str) -> str:
    """Finds the version in a `pin`, ":" and the lines of a request's head.

    Each piece can be matched in one way only, so nothing is tried twice; what is bounded all the
    same is the stack of a PCRE without JIT.
    """
    kind, _, name = of.partition(":")
    escaped = re.escape(name)
    if kind == PinKind.HEADER.value:
        line = rf"{escaped}:[\t\x20]*+{_ASKED}[\t\x20]*+\r"
    else:
        line = rf"cookie:(?:[^;\n]*+;)*?[\t\x20]*+{escaped}={_ASKED}[\t\x20]*+[;\r]"
    return sys.intern(rf"{_begin(of)}(?:[^\n]*+\n)*?{line}")


def is_pin_regex(key: str, of: str) -> bool:
    """Whether this key is the `pin_regex` of a `pin`."""
    return key.startswith(_begin(of))


def _begin(of: str) -> str:
    return f"{BOUNDED}^{re.escape(of)}:"


def pinned_key(app: AppId, version: str) -> str:
    """The key of a version for which clients of an app may ask."""
    return sys.intern(f"{app_key(app)}:{name(version)}")


def check_server(server: Server) -> None:
    """Raises Rejected unless every value of a server can be written."""
    _server(server.name)
    address(server.endpoint)
    weight(server)


def options(text: str) -> str:
    """What a template gave as options of a server: words with single spaces between."""
    return _options(" ".join(text.split()))


def listen(endpoint: Endpoint) -> str:
    """What stands behind `bind`: `*:80`, `127.0.0.1:80`, `[::]:80 v6only`.

    Without `v6only` the system would decide whether `::` means IPv4 too.
    """
    if endpoint.address == "*":
        return f"*:{port(endpoint.port)}"
    written = address(endpoint)
    return f"{written} v6only" if written.startswith("[::]:") else written
