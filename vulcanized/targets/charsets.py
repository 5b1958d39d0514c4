"""What may stand in a proxy's config, for all that are told by files: one wall for all of them.

Whatever reaches a config is refused when it has a character outside its charset. Nothing is escaped
here: what cannot be said plainly is not said. Names of Kubernetes and label values can hold neither
":" nor "/" nor "~", so ids made of them with these between are unique.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Callable
from typing import Final

from vulcanized.errors import Rejected
from vulcanized.model import AppId, Endpoint, Server

NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})\Z")
SERVER: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
HOST: Final = re.compile(r"(?=.{1,255}\Z)(?:\*\Z|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z)")
PATH: Final = re.compile(r"/[A-Za-z0-9/_.~%:@!$&*+,=-]{0,1000}\Z")
REGEX: Final = re.compile(r"/[A-Za-z0-9/_.~%:@!&*+,=?^|(){}\[\]\\$-]{0,1000}\Z")
COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
FILE: Final = re.compile(r"/[A-Za-z0-9/_.+@=~-]{0,250}\Z")

BOUNDED: Final = "(*LIMIT_MATCH=2000)"
"""Steps that PCRE may take for one match: without it `/a*a*a*[bc]` keeps a thread, or a worker with
all of its requests, busy for 3 s over one path of 14,000 characters; each new path again."""

_MAX_WEIGHT: Final = 256

Word = Callable[[str], str]
"""Returns what may be written. Raises Rejected."""


def refuser(pattern: re.Pattern[str], what: str, proxy: str) -> Word:
    """Words of one charset; `what` they are, in which proxy's config."""

    def check(value: str) -> str:
        if not pattern.match(value):
            raise Rejected(f"{value[:80]!r} cannot be {what} in {proxy}: it is not written there")
        return value

    return check


def cookie_regex(cookie: str, group: str) -> str:
    """Finds the value of a cookie in `COOKIE;` and the header; `group` begins the value's group.

    The first of several, without a way back: its steps grow with the number of cookies.
    """
    value = f"{group}[^;,[:blank:]]+)"
    return f"^{cookie};(?:[^;]*+;)*?[[:blank:]]*{cookie}={value}"


def app_key(name: Word, app: AppId) -> str:
    """What an app is called: `namespace/name`."""
    return sys.intern(f"{name(app.namespace)}/{name(app.name)}")


def address(endpoint: Endpoint) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`. Only IP literals: nothing is ever resolved."""
    literal, number = ip(endpoint.address), port(endpoint.port)
    return f"[{literal}]:{number}" if ":" in literal else f"{literal}:{number}"


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
        raise Rejected(f"{literal[:80]!r} has a zone, which no proxy can follow: not written")
    return str(parsed)


def port(number: int) -> int:
    """A port that can be connected to."""
    if not 1 <= number <= 65535:
        raise Rejected(f"{number} is not a port: it is not written")
    return number


def weight(server: Server) -> int:
    """From 0 (no new sessions) to 256, which is what HAProxy takes."""
    if not 0 <= server.weight <= _MAX_WEIGHT:
        raise Rejected(f"weight {server.weight} of server {server.name} is not within 0..256")
    return server.weight


def milliseconds(seconds: float) -> str:
    """A duration, at least one millisecond: 0 may mean for ever."""
    return f"{max(1, round(seconds * 1000))}ms"
