"""How our values are written in HAProxy's files and commands.

Whatever reaches a config line, a map line or a command passes through here, and is refused when it
has a character outside its charset. Nothing is escaped: what cannot be said plainly is not said.
The app config's schema refuses earlier and with a kinder text; this is the wall behind it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Callable
from typing import Final

from vulcanized.errors import Rejected
from vulcanized.model import ANY_VERSION, AppId, Endpoint, PathKind, Route, Server

# Names of Kubernetes and label values. None can hold ":" or "/", so ids made of them with these
# between are unique.
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})\Z")
_SERVER: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
_HOST: Final = re.compile(r"(?=.{1,255}\Z)(?:\*\Z|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z)")
_PATH: Final = re.compile(r"/[A-Za-z0-9/_.~%:@!$&*+,=-]{0,1000}\Z")
_REGEX: Final = re.compile(r"/[A-Za-z0-9/_.~%:@!&*+,=?^|(){}\[\]\\$-]{0,1000}\Z")
_URI: Final = re.compile(r"/[A-Za-z0-9/_.~%:@!$&*+,=?-]{0,1000}\Z")
_FILE: Final = re.compile(r"/[A-Za-z0-9/_.+@=~-]{0,250}\Z")
_OPTIONS: Final = re.compile(r"[A-Za-z0-9/_.:@+=,()\[\]* -]{0,500}\Z")
_MAX_WEIGHT: Final = 256

# Steps that PCRE may take for one match before it says "no": without it `/a*a*a*[bc]` keeps a
# thread busy for 3 s over one path of 14,000 characters, with it for 0.2 ms; each new path again.
_BOUNDED: Final = "(*LIMIT_MATCH=2000)"


def _refuser(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not pattern.match(value):
            raise Rejected(f"{value[:80]!r} cannot be {what} in HAProxy: it is not written there")
        return value

    return check


name = _refuser(_NAME, "a namespace, app or version")
host = _refuser(_HOST, "a host")
file = _refuser(_FILE, "the path of a file")
health_path = _refuser(_URI, "the path of a health check")
_server = _refuser(_SERVER, "the name of a server")
_path = _refuser(_PATH, "a path")
_regex = _refuser(_REGEX, "a regex of a path")
_options = _refuser(_OPTIONS, "the options of a server")


def app_key(app: AppId) -> str:
    """What an app is called in the maps: `namespace/name`."""
    return sys.intern(f"{name(app.namespace)}/{name(app.name)}")


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
    return f"{_BOUNDED}^{re.escape(scope)}(?:{_regex(route.path)})"


def host_of_regex(key: str) -> str:
    """The host in a `route_key` of a regex."""
    return re.sub(r"\\(.)", r"\1", key.removeprefix(_BOUNDED)[1:].partition("(?:")[0])


def address(endpoint: Endpoint) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`. Only IP literals: nothing is ever resolved."""
    literal = ip(endpoint.address)
    return (
        f"[{literal}]:{port(endpoint.port)}"
        if ":" in literal
        else f"{literal}:{port(endpoint.port)}"
    )


def ip(literal: str) -> str:
    """The one way to write this address."""
    try:
        # Nearly all are IPv4, and this takes a tenth of the time.
        return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, literal))
    except (OSError, ValueError):
        pass
    try:
        parsed = ipaddress.ip_address(literal)
    except ValueError:
        raise Rejected(f"{literal[:80]!r} is not an IP address: it is not written") from None
    if "%" in literal:
        raise Rejected(f"{literal[:80]!r} has a zone, which HAProxy cannot follow: not written")
    return str(parsed)


def port(number: int) -> int:
    """A port that can be connected to."""
    if not 1 <= number <= 65535:
        raise Rejected(f"{number} is not a port: it is not written")
    return number


def weight(server: Server) -> int:
    """HAProxy's weights go from 0 (no new sessions) to 256."""
    if not 0 <= server.weight <= _MAX_WEIGHT:
        raise Rejected(f"weight {server.weight} of server {server.name} is not within 0..256")
    return server.weight


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


def milliseconds(seconds: float) -> str:
    """A duration, at least one millisecond: to HAProxy 0 means for ever."""
    return f"{max(1, round(seconds * 1000))}ms"
