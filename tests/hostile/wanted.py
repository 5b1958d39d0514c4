"""What HAProxy must have for an app: said a second time, from the model values alone.

Independent of how it is written: nothing here calls the renderer, its words or its templates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

from tests.hostile.grammar import Section
from vulcanized.model import AppId, Backend, DesiredApp, Server, ServerState

HOSTS: Final = "hosts.map"
REGEX_HOSTS: Final = "regex-hosts.map"
ROUTES: Final = {
    "exact": "routes-exact.map",
    "regex": "routes-regex.map",
    "prefix": "routes-prefix.map",
}
ACTIVE: Final = "active.map"
SPLIT: Final = "split.map"
LIMITS: Final = "limits.map"
SIZES: Final = "sizes.map"
PINS: Final = "pins.map"
PINS_REGEX: Final = "pins-regex.map"
PINNED: Final = "pinned.map"
STICKY: Final = "sticky.map"
COOKIES: Final = "cookies.map"
STRUCTURE: Final = "structure.map"
_BOUNDS: Final = (LIMITS, SIZES)
_CLIENTS: Final = (PINS, PINS_REGEX, PINNED, STICKY, COOKIES)
MAPS: Final = (HOSTS, REGEX_HOSTS, *ROUTES.values(), ACTIVE, SPLIT, *_BOUNDS, *_CLIENTS)
BOUNDED: Final = "(*LIMIT_MATCH=2000)"
"""In front of every regex: PCRE's own bound on what one match may cost."""

Words = tuple[str, ...]


class Wanted(NamedTuple):
    """`sections` in the order of the file; `maps` by file, each entry once.

    Of a split only the keys and the possible values are said: how many slots each version gets is
    the business of other tests.
    """

    sections: tuple[Section, ...]
    maps: dict[str, dict[str, str | frozenset[str]]]
    backends: dict[str, int]


def key(app: AppId) -> str:
    return f"{app.namespace}/{app.name}"


def backend_name(app: AppId, version: str) -> str:
    return f"{app.namespace}:{app.name}" + ("" if version == "*" else f":{version}")


def wanted(apps: Iterable[DesiredApp]) -> Wanted:
    """Everything that the files must say of these apps."""
    made: list[Section] = []
    maps: dict[str, dict[str, str | frozenset[str]]] = {name: {} for name in MAPS}
    backends = {}
    for desired in sorted(apps, key=lambda one: one.app):
        for backend in backends_of(desired):
            name = backend_name(desired.app, backend.version)
            made.append(_section(name, desired, backend))
            backends[name] = desired.policies.max_connections_server or 0
        _routes(desired, maps)
        _traffic(desired, maps)
        _pins(desired, maps)
    return Wanted(tuple(made), maps, backends)


def backends_of(desired: DesiredApp) -> tuple[Backend, ...]:
    """The backends of an app; with a pin also one of each version that its pods have."""
    found = {backend.version: backend for backend in desired.backends}
    if desired.policies.pin is not None and "*" in found:
        servers = found["*"].servers
        for version in sorted({server.version for server in servers if server.version}):
            own = tuple(server for server in servers if server.version == version)
            found.setdefault(version, Backend(version, own))
    return tuple(found.values())


def _section(name: str, desired: DesiredApp, backend: Backend) -> Section:
    policies = desired.policies
    said: list[Words] = [("balance", policies.balance.value)]
    if policies.sticky is not None:
        said = [("balance", "hash", "var(txn.client)")]
    if _by_hash(desired):
        said.append(("hash-type", "consistent"))
    if policies.retries is not None:
        said.append(("retries", str(policies.retries)))
    for what in ("connect", "server", "queue", "tunnel"):
        seconds = getattr(policies.timeouts, what)
        if seconds is not None:
            said.append(("timeout", what, _time(seconds)))
    check = policies.health_check
    if check is not None:
        hosts = [route.host for route in desired.routes if "*" not in route.host]
        host = ("hdr", "Host", hosts[0] if hosts else "localhost")
        said += [
            ("option", "httpchk"),
            ("http-check", "send", "meth", "GET", "uri", check.path, "ver", "HTTP/1.1", *host),
            ("http-check", "expect", "status", f"{check.expect_low}-{check.expect_high}"),
            ("timeout", "check", _time(check.timeout)),
        ]
    head = ("backend", name, "from", "vulcanized-defaults")
    return Section(head, (*said, *(_server(desired, server) for server in backend.servers)))


def _by_hash(desired: DesiredApp) -> bool:
    """Whether a client's pod is found by a consistent hash: then every server has its number."""
    policies = desired.policies
    return policies.sticky is not None or policies.balance.value in ("source", "uri")


def _time(seconds: float) -> str:
    return f"{max(round(seconds * 1000), 1)}ms"


def _server(desired: DesiredApp, server: Server) -> Words:
    off = ("disabled",) if server.state is ServerState.MAINT else ()
    return ("server", server.name, *server_words(desired, server), *off)


def server_words(desired: DesiredApp, server: Server) -> Words:
    """What stands behind the name of a server, in a file and in `add server`."""
    policies = desired.policies
    address, port = server.endpoint
    weight = 0 if server.state is ServerState.DRAIN else server.weight
    said = [f"[{ip_address(address)}]:{port}" if ":" in address else f"{address}:{port}"]
    said += ["weight", str(weight)]
    if _by_hash(desired):
        mark = hashlib.blake2b(server.name.encode(), digest_size=4).hexdigest()
        said += ["id", str(int(mark, 16) % 2**28 or 1)]
    if policies.max_connections_server:
        said += ["maxconn", str(policies.max_connections_server)]
    if policies.protocol.value == "https":
        said += ["ssl", "verify", "none"]
    check = policies.health_check
    if check is not None:
        said += ["check", "inter", _time(check.interval)]
        said += ["rise", str(check.rise), "fall", str(check.fall)]
        said += ["port", str(check.port)] if check.port else []
    return tuple(said)


def _routes(desired: DesiredApp, maps: dict[str, dict[str, str | frozenset[str]]]) -> None:
    for host, kind, path in desired.routes:
        maps[HOSTS][host] = host
        if kind.value == "regex":
            maps[REGEX_HOSTS][host] = "yes"
            literal = "".join(f"\\{char}" if char in ".*-" else char for char in host)
            written = f"(*LIMIT_MATCH=2000)^{literal}(?:{path})"
        elif kind.value == "prefix":
            written = f"{host}{path.rstrip('/')}/"
        else:
            written = f"{host}{path}"
        maps[ROUTES[kind.value]][written] = key(desired.app)
    limit = desired.policies.max_connections_app
    if limit is not None:
        maps[LIMITS][key(desired.app)] = str(limit)
    size = desired.policies.max_body_size
    if size is not None:
        maps[SIZES][key(desired.app)] = str(size)
    sticky = desired.policies.sticky
    if sticky is not None:
        cookie, age = sticky
        maps[STICKY][key(desired.app)] = cookie if age is None else f"{cookie}:{age}"
        value = f"{cookie}=([^;,[:blank:]]+)"
        maps[COOKIES][f"^{cookie};(?:[^;]*+;)*?[[:blank:]]*{value}"] = "\\1"


def _traffic(desired: DesiredApp, maps: dict[str, dict[str, str | frozenset[str]]]) -> None:
    app = key(desired.app)
    names = [backend_name(desired.app, share.version) for share in desired.split]
    if desired.maintenance:
        maps[ACTIVE][app] = "maintenance"
    elif not names:
        maps[ACTIVE][app] = "nowhere"
    elif len(names) == 1:
        maps[ACTIVE][app] = names[0]
    else:
        maps[ACTIVE][app] = "split"
        for slot in range(100):
            maps[SPLIT][f"{app}:{slot}"] = frozenset(names)


def _pins(desired: DesiredApp, maps: dict[str, dict[str, str | frozenset[str]]]) -> None:
    pin, app = desired.policies.pin, key(desired.app)
    versions = [each.version for each in backends_of(desired) if each.version != "*"]
    if pin is None or desired.maintenance or not desired.split or not versions:
        return
    header = pin.kind.value == "header"
    name = pin.name.lower() if header else pin.name
    literal = "".join(char if char.isalnum() or char in "_!" else f"\\{char}" for char in name)
    version, blanks = "([A-Za-z0-9][A-Za-z0-9._-]{0,252}+)", "[\\t\\x20]*+"
    if header:
        line = f"{literal}:{blanks}{version}{blanks}\\r"
    else:
        line = f"cookie:(?:[^;\\n]*+;)*?{blanks}{literal}={version}{blanks}[;\\r]"
    begin = f"{BOUNDED}^{pin.kind.value}:{literal}:(?:[^\\n]*+\\n)*?"
    maps[PINS][app] = f"{pin.kind.value}:{name}"
    maps[PINS_REGEX][begin + line] = "\\1"
    for each in versions:
        maps[PINNED][f"{app}:{each}"] = backend_name(desired.app, each)
