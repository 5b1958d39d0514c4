"""How our values are written in nginx's config.

Whatever reaches the config passes through here, and is refused when it has a character outside its
charset. Only a backslash is escaped, since regexes need it; nothing else that nginx gives a meaning
within double quotes is in any charset, but for `$` in places where it knows no variables. The app
config's schema refuses earlier and with a kinder text; this is the wall behind it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import partial
from typing import Final

from vulcanized.errors import Rejected
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
    "GENERATION_HOST",
    "above",
    "address",
    "app_key",
    "check_server",
    "client",
    "file",
    "flag",
    "host",
    "ip",
    "listen",
    "listened",
    "location",
    "milliseconds",
    "name",
    "options",
    "pinned",
    "pool_id",
    "port",
    "sticky",
]

GENERATION_HOST: Final = "vulcanized.invalid"
"""The name under which nginx is asked what it runs. No app can have it: RFC 2606, 2."""

_OPTIONS: Final = re.compile(r"[A-Za-z0-9/_.:=, -]{0,500}\Z")
# What `$http_...` and a regex of cookies can name.
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_LONGEST_FLAG: Final = 200

_word = partial(refuser, proxy="nginx")
name = _word(charsets.NAME, "a namespace, app or version")
file = _word(charsets.FILE, "the path of a file")
_host = _word(charsets.HOST, "a host")
_server = _word(charsets.SERVER, "the name of a server")
_path = _word(charsets.PATH, "a path")
_regex = _word(charsets.REGEX, "a regex of a path")
_options = _word(_OPTIONS, "the options of a server")
_header = _word(_HEADER, "a header that pins a client: letters, digits and - only")
_cookie = _word(charsets.COOKIE, "the name of a cookie")

app_key = partial(charsets.app_key, name)
"""What an app is called: `namespace/name`."""


def host(value: str) -> str:
    """A host of a route."""
    if value == GENERATION_HOST:
        raise Rejected(f"{value} is the name under which nginx is asked what it runs")
    return _host(value)


def pool_id(app: AppId, version: str) -> str:
    """What the pool of one version is called: `0a1b2c3d~namespace~name~version`, or without one.

    nginx looks a pool up by comparing its name with all of them, without regard to case: the
    digest tells names apart that differ in case only, and nearly all by their first character.
    """
    plain = f"{name(app.namespace)}~{name(app.name)}"
    if version != ANY_VERSION:
        plain = f"{plain}~{name(version)}"
    digest = hashlib.blake2b(plain.encode(), digest_size=4).hexdigest()
    return sys.intern(f"{digest}~{plain}")


def flag(app: AppId, version: str) -> str:
    """The file that is there while a version is the active one of its app."""
    return pool_id(app, version)[:_LONGEST_FLAG]


def location(route: Route) -> str:
    """What stands behind `location` for a route, quoted.

    A request is looked up as `/HOST` PATH `/#` PATH. So whole path elements are matched by nginx's
    own tree of prefixes, and a regex is matched from the start of the path behind the mark, which
    no path can hold.
    """
    path = _regex(route.path) if route.kind is PathKind.REGEX else _path(route.path)
    scope = host(route.host)
    if route.kind is PathKind.EXACT:
        return f'= "/{scope}{path}/#{path}"'
    if route.kind is PathKind.PREFIX:
        return f'"/{scope}{path.rstrip("/")}/"'
    escaped = path.replace("\\", "\\\\")
    return f'~ "{BOUNDED}^[^#]*#(?:{escaped})"'


def pinned(pin: Pin, version: str) -> str:
    """The condition of an `if`: the client asks for this version."""
    if pin.kind is PinKind.HEADER:
        variable = _header(pin.name).lower().replace("-", "_")
        return f'$http_{variable} = "{name(version)}"'
    escaped = name(version).replace(".", "[.]")
    return f'$http_cookie ~ "(?:^|;) *{_cookie(pin.name)}={escaped} *(?:;|$)"'


def client(cookie: str) -> str:
    """The line of a map that finds a cookie's value in its name, `;` and all cookies."""
    regex = charsets.cookie_regex(_cookie(cookie), "(?<vulcanized_cookie>")
    return f'"~{regex}" $vulcanized_cookie;'


def sticky(wanted: Sticky) -> tuple[str, str]:
    """The name of a cookie, and what says in `Set-Cookie` how long it lives."""
    age = "" if wanted.max_age is None else f"; Max-Age={int(wanted.max_age)}"
    return _cookie(wanted.cookie), age


def check_server(server: Server) -> None:
    """Raises Rejected unless every value of a server can be written."""
    _server(server.name)
    address(server.endpoint)
    weight(server)


def options(text: str) -> str:
    """What a template gave as options of a server: words with single spaces between."""
    return _options(" ".join(text.split()))


def listen(endpoint: Endpoint) -> str:
    """What stands behind `listen`: `*:80`, `127.0.0.1:80`, `[::]:80`."""
    if endpoint.address == "*":
        return f"*:{port(endpoint.port)}"
    return address(endpoint)


def listened(text: str) -> Endpoint:
    """What `listen` wrote."""
    literal, _, number = text.rpartition(":")
    return Endpoint(literal.strip("[]"), int(number))


def above(number: int) -> str:
    """A regex of the decimal numbers that are greater: nginx compares texts only."""
    digits = str(number)
    longer = f"[0-9]{{{len(digits) + 1},}}"
    greater = (
        f"{digits[:at]}[{int(digit) + 1}-9][0-9]{{{len(digits) - at - 1}}}"
        for at, digit in enumerate(digits)
        if digit != "9"
    )
    return f"^0*(?:{'|'.join([longer, *greater])})$"
