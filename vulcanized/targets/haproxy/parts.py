"""One app in HAProxy's words: its backends with their servers, and its entries in the maps.

A backend has a *shape*: everything about it that only a reload can change. Its digest tells two
shapes apart, in the file, in the running process (`structure.map`) and here.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Backend,
    Balance,
    DesiredApp,
    HealthCheck,
    PathKind,
    Policies,
    Protocol,
    Route,
    Server,
    ServerState,
)
from vulcanized.targets.haproxy import words
from vulcanized.targets.shares import slots

HOSTS: Final = "hosts.map"
REGEX_HOSTS: Final = "regex-hosts.map"
EXACT: Final = "routes-exact.map"
REGEX: Final = "routes-regex.map"
PREFIX: Final = "routes-prefix.map"
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

TABLES: Final = (
    LIMITS,
    SIZES,
    PINNED,
    PINS_REGEX,
    PINS,
    SPLIT,
    ACTIVE,
    COOKIES,
    STICKY,
    EXACT,
    REGEX,
    PREFIX,
    REGEX_HOSTS,
    HOSTS,
)
"""The maps that decide about requests, from the end of a request's way to its start."""
ROUTES: Final = {PathKind.EXACT: EXACT, PathKind.REGEX: REGEX, PathKind.PREFIX: PREFIX}
"""The map of each kind of route; its values are apps."""
SHARED: Final = frozenset({HOSTS, REGEX_HOSTS, PINS_REGEX, COOKIES})
"""Maps whose entries several apps may want: one stays as long as one of them does."""
WHOLE: Final = frozenset({REGEX, PINS_REGEX, PINS, COOKIES})
"""Maps replaced as a whole: of order, or with signs that mean something within a command."""

FOUND: Final = r"\1"
"""What a regex of `PINS_REGEX` and `COOKIES` leads to: what its group found."""

IS_SPLIT: Final = "split"
IS_IN_MAINTENANCE: Final = "maintenance"
IS_NOWHERE: Final = "nowhere"

_BY_HASH: Final = frozenset({Balance.SOURCE, Balance.URI})
_NONE: Final[frozenset[str]] = frozenset()
_SERVER: Final = "    server "
_OWN_SERVER: Final = re.compile(r"^\s*server\s+(\S+)", re.MULTILINE)
_CONSISTENT: Final = re.compile(r"^\s*hash-type\s+consistent\b", re.MULTILINE)
_WRITTEN_SERVER: Final = re.compile(rf"{_SERVER}(\S+) (\S+:\d+) weight (\d+)\b")
_MARK: Final = re.compile(r"# (\S+:\S+) ([0-9a-f]{16})(?: (.*))?\Z")


class Entry(NamedTuple):
    """One entry of one map."""

    table: str
    key: str
    value: str


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What only a reload can change of a backend.

    `head` is its section without the servers, ending in a newline; `options` what each of its
    servers carries. `own` names servers that a template of the user put into the head.
    """

    id: str
    head: str
    options: str
    digest: str
    own: frozenset[str] = _NONE

    @classmethod
    def of(cls, id_: str, head: str, options: str) -> Shape:
        """A shape with its digest."""
        digest = hashlib.blake2b(f"{head}\0{options}".encode(), digest_size=8).hexdigest()
        return cls(id_, head, options, digest, frozenset(_OWN_SERVER.findall(head)) or _NONE)


class Pool(msgspec.Struct, frozen=True, gc=False):
    """A backend: its shape, and what run time can change. `maxconn` 0: no limit per server."""

    shape: Shape
    maxconn: int
    servers: tuple[Server, ...]

    @property
    def limit(self) -> int:
        """What each server must be limited to; 0: that is not ours to say."""
        return 0 if "maxconn" in self.shape.options.split() else self.maxconn

    @property
    def ids(self) -> dict[str, int]:
        """The number of each server by which a consistent hash places it; none where there is none.

        Of its own HAProxy counts them as they come: each process and each balancer of a fleet would
        send the same client elsewhere.
        """
        if not _CONSISTENT.search(self.shape.head):
            return {}
        found: dict[int, str] = {}
        for server in self.servers:
            found.setdefault(words.server_id(server.name), server.name)
        return {name: number for number, name in found.items()}

    @property
    def structure(self) -> str:
        """Its value in `structure.map`."""
        return sys.intern(f"{self.shape.digest}:{self.maxconn}")


class Part(msgspec.Struct, frozen=True, gc=False):
    """One app: `entries` are its routes and limit, `traffic` says where its requests go."""

    desired: DesiredApp
    pools: tuple[Pool, ...]
    entries: tuple[Entry, ...]
    traffic: tuple[Entry, ...]

    @property
    def judged(self) -> tuple[object, ...]:
        """What of an app HAProxy may refuse: not its servers, nor where its traffic goes."""
        return (tuple((pool.shape.id, pool.structure) for pool in self.pools), self.entries)


# --- what a template sees ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckView:
    """A health check, every value ready to be written."""

    host: str
    path: str
    port: int | None
    interval: str
    timeout: str
    rise: int
    fall: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class BackendView:
    """`backend` in `backend.j2` and `server.j2`, every value ready to be written."""

    id: str
    app: str
    version: str
    balance: str
    consistent: bool
    sticky: bool
    tls: bool
    retries: int | None
    timeouts: tuple[tuple[str, str], ...]
    check: CheckView | None


def backend_view(desired: DesiredApp, version: str) -> BackendView:
    """What the templates get to see of one backend."""
    policies = desired.policies
    return BackendView(
        id=words.backend_id(desired.app, version),
        app=words.app_key(desired.app),
        version=version,
        balance=policies.balance.value,
        # Without it they spread by a table, which cannot take servers at run time.
        consistent=policies.sticky is not None or policies.balance in _BY_HASH,
        sticky=policies.sticky is not None,
        tls=policies.protocol is Protocol.HTTPS,
        retries=policies.retries,
        timeouts=_timeouts(policies),
        check=_check_view(policies.health_check, check_host(desired)),
    )


def _timeouts(policies: Policies) -> tuple[tuple[str, str], ...]:
    timeouts = policies.timeouts
    given = (
        ("connect", timeouts.connect),
        ("server", timeouts.server),
        ("queue", timeouts.queue),
        ("tunnel", timeouts.tunnel),
    )
    return tuple((name, words.milliseconds(value)) for name, value in given if value is not None)


def _check_view(check: HealthCheck | None, host: str) -> CheckView | None:
    if check is None:
        return None
    return CheckView(
        host=words.host(host),
        path=words.health_path(check.path),
        port=None if check.port is None else words.port(check.port),
        interval=words.milliseconds(check.interval),
        timeout=words.milliseconds(check.timeout),
        rise=check.rise,
        fall=check.fall,
        low=check.expect_low,
        high=check.expect_high,
    )


def check_host(desired: DesiredApp) -> str:
    """The Host header of health checks: the first plain name of the app, else localhost."""
    hosts = (route.host for route in desired.routes if not route.host.startswith("*"))
    return next(hosts, "localhost")


# --- an app's part ----------------------------------------------------------------------------


def make_part(desired: DesiredApp, before: Part | None, shape: Callable[[str], Shape]) -> Part:
    """One app in HAProxy's words; `shape` renders the shape of a version.

    What `before` has already is taken from there: a change of servers renders nothing. Raises
    Rejected for a value that cannot be written, TemplateFailed as `shape` does.
    """
    pools_before = {pool.shape.id: pool for pool in before.pools} if before is not None else {}
    shapes: dict[str, Shape] = {}
    if before is not None and _same_shapes(before.desired, desired):
        shapes = {id_: pool.shape for id_, pool in pools_before.items()}
    pools = []
    for backend in backends_of(desired):
        id_ = words.backend_id(desired.app, backend.version)
        checked = set(pools_before[id_].servers) if id_ in pools_before else ()
        for server in backend.servers:
            if server not in checked:
                words.check_server(server)
        known = shapes.get(id_) or shape(backend.version)
        pools.append(Pool(known, desired.policies.max_connections_server or 0, backend.servers))
    if before is None or not _same_entries(before.desired, desired):
        return Part(desired, tuple(pools), tuple(_entries(desired)), tuple(_traffic(desired)))
    # So a switch costs what it changes.
    same = _same_traffic(before.desired, desired)
    traffic = before.traffic if same else tuple(_traffic(desired))
    return Part(desired, tuple(pools), before.entries, traffic)


def _same_shapes(one: DesiredApp, other: DesiredApp) -> bool:
    checked = one.policies.health_check is not None
    return one.policies == other.policies and (not checked or check_host(one) == check_host(other))


def _same_entries(one: DesiredApp, other: DesiredApp) -> bool:
    return (
        one.routes == other.routes
        and one.policies.max_connections_app == other.policies.max_connections_app
        and one.policies.sticky == other.policies.sticky
        and one.policies.max_body_size == other.policies.max_body_size
        and one.policies.pin == other.policies.pin
        and (one.policies.pin is None or pinnable(one) == pinnable(other))
    )


def _same_traffic(one: DesiredApp, other: DesiredApp) -> bool:
    return one.split == other.split and one.maintenance == other.maintenance


def backends_of(desired: DesiredApp) -> tuple[Backend, ...]:
    """All backends that an app needs.

    Where clients may ask for a version there is one of each that pods have, activated or not.
    """
    every = desired.backend(ANY_VERSION)
    if desired.policies.pin is None or every is None:
        return desired.backends
    by_version: dict[str, list[Server]] = {}
    for server in every.servers:
        if server.version and desired.backend(server.version) is None:
            by_version.setdefault(server.version, []).append(server)
    more = (Backend(version, tuple(some)) for version, some in sorted(by_version.items()))
    return (*desired.backends, *more)


def pinnable(desired: DesiredApp) -> tuple[str, ...]:
    """The versions for which clients may ask, none while no version may take traffic.

    Whether one has a server is for HAProxy to say when it is asked for.
    """
    if desired.policies.pin is None or desired.maintenance or not desired.split:
        return ()
    versions = (backend.version for backend in backends_of(desired))
    return tuple(version for version in versions if version != ANY_VERSION)


def _entries(desired: DesiredApp) -> Iterable[Entry]:
    yield from route_entries(desired.app, desired.routes)
    limit = desired.policies.max_connections_app
    if limit is not None:
        yield Entry(LIMITS, words.app_key(desired.app), str(limit))
    size = desired.policies.max_body_size
    if size is not None:
        yield Entry(SIZES, words.app_key(desired.app), str(size))
    if desired.policies.pin is not None:
        yield from _pins(desired, words.pin(desired.policies.pin))
    if desired.policies.sticky is not None:
        yield from sticky_entries(desired.app, words.sticky(desired.policies.sticky))


def _pins(desired: DesiredApp, pin: str) -> Iterable[Entry]:
    versions = pinnable(desired)
    if versions:
        yield Entry(PINS, words.app_key(desired.app), pin)
        yield Entry(PINS_REGEX, words.pin_regex(pin), FOUND)
    for version in versions:
        key = words.pinned_key(desired.app, version)
        yield Entry(PINNED, key, words.backend_id(desired.app, version))


def sticky_entries(app: AppId, value: str) -> Iterable[Entry]:
    """What gives clients of an app a cookie, and finds it again."""
    yield Entry(COOKIES, words.cookie_regex(value), FOUND)
    yield Entry(STICKY, words.app_key(app), sys.intern(value))


def route_entries(app: AppId, routes: Collection[Route]) -> Iterable[Entry]:
    """What makes routes lead to an app."""
    for host in sorted({route.host for route in routes}):
        yield Entry(HOSTS, sys.intern(words.host(host)), sys.intern(host))
    for host in sorted({route.host for route in routes if route.kind is PathKind.REGEX}):
        yield Entry(REGEX_HOSTS, words.host(host), "yes")
    for route in routes:
        yield Entry(ROUTES[route.kind], words.route_key(route), words.app_key(app))


def _traffic(desired: DesiredApp) -> Iterable[Entry]:
    app = words.app_key(desired.app)
    if desired.maintenance:
        yield Entry(ACTIVE, app, IS_IN_MAINTENANCE)
    elif not desired.split:
        yield Entry(ACTIVE, app, IS_NOWHERE)
    elif len(desired.split) == 1:
        yield Entry(ACTIVE, app, words.backend_id(desired.app, desired.split[0].version))
    else:
        for slot, version in enumerate(slots(desired.split)):
            yield Entry(SPLIT, f"{app}:{slot}", words.backend_id(desired.app, version))
        yield Entry(ACTIVE, app, IS_SPLIT)


# --- text -------------------------------------------------------------------------------------


def server_line(pool: Pool, server: Server, ids: Mapping[str, int]) -> str:
    """A server in the file. One that drains takes no new sessions after a restart either."""
    weight = 0 if server.state is ServerState.DRAIN else server.weight
    disabled = " disabled" if server.state is ServerState.MAINT else ""
    return f"{_SERVER}{server.name} {server_arguments(pool, server, weight, ids)}{disabled}\n"


def server_arguments(pool: Pool, server: Server, weight: int, ids: Mapping[str, int]) -> str:
    """What stands behind the name of a server, in the file and in `add server`: the same.

    `ids`: those of the pool.
    """
    number = ids.get(server.name)
    id_ = f" id {number}" if number is not None else ""
    limit = f" maxconn {pool.maxconn}" if pool.maxconn else ""
    options = f" {pool.shape.options}" if pool.shape.options else ""
    return f"{words.address(server.endpoint)} weight {weight}{id_}{limit}{options}"


def pool_text(pool: Pool) -> str:
    """A whole backend section. Its first line lets `read_shapes` find the shape again."""
    shape = pool.shape
    mark = f"# {shape.id} {shape.digest} {shape.options}".rstrip()
    ids = pool.ids
    lines = "".join(server_line(pool, server, ids) for server in pool.servers)
    return f"\n{mark}\n{shape.head}{lines}"


def read_shapes(text: str) -> dict[str, Shape]:
    """The shapes in a file that we wrote, by digest. What was edited by hand since is left out."""
    found: dict[str, Shape] = {}
    for section in text.split("\n\n"):
        first, *lines = section.splitlines() or [""]
        mark = _MARK.match(first)
        if mark is None:
            continue
        head = "".join(line + "\n" for line in lines if not line.startswith(_SERVER))
        shape = Shape.of(mark[1], head, mark[3] or "")
        if shape.digest == mark[2]:
            found[shape.digest] = shape
    return found


def read_servers(text: str) -> dict[str, tuple[Server, ...]]:
    """The servers of each backend in a file that we wrote; a version is not in it."""
    found: dict[str, list[Server]] = {}
    servers: list[Server] = []
    for line in text.splitlines():
        if mark := _MARK.match(line):
            servers = found.setdefault(mark[1], [])
        elif server := _WRITTEN_SERVER.match(line):
            address, _, port = server[2].rpartition(":")
            state = ServerState.MAINT if line.endswith(" disabled") else ServerState.READY
            place = address.strip("[]"), int(port)
            servers.append(Server(server[1], *place, state, int(server[3])))
    return {id_: tuple(each) for id_, each in found.items()}


def app_of_mark(line: str) -> AppId | None:
    """The app whose section begins with this line, None where none does."""
    mark = _MARK.match(line)
    return app_of(mark[1]) if mark else None


def app_of(id_: str) -> AppId:
    """The app of a backend's id."""
    namespace, name, *_ = id_.split(":")
    return AppId(namespace, name)
