"""One app in nginx's words: its routes, its pools, the choice of one of them, how requests pass.

An app has a *shape*: everything about it that nginx may refuse. The rest (servers, where traffic
goes) is written by us from typed values. Whatever differs needs a reload, but for one thing: which
of several versions is the active one is told by a flag file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Backend,
    Balance,
    DesiredApp,
    Policies,
    Protocol,
    Route,
    Server,
    ServerState,
)
from vulcanized.targets.nginx import words
from vulcanized.targets.shares import slots

MAINTENANCE: Final = "/:maintenance"
UNAVAILABLE: Final = "/:unavailable"
NOT_FOUND: Final = "/:not-found"

DEFAULT_RETRIES: Final = 3
DEFAULT_CONNECT: Final = 5.0
DEFAULT_SERVER: Final = 60.0
DEFAULT_TUNNEL: Final = 3600.0

_MOST_WEIGHT_OF_A_HASH: Final = 16
"""A hash has 160 points for each unit of weight of each server, sorted at every reload."""
_BALANCES: Final = {
    Balance.ROUND_ROBIN: "",
    # nginx has no `first`: a field of its own, which the target does not declare.
    Balance.FIRST: "",
    Balance.LEAST_CONNECTIONS: "least_conn",
    Balance.RANDOM: "random",
    Balance.SOURCE: "hash $remote_addr consistent",
    Balance.URI: "hash $vulcanized_path consistent",
}
_BY_CLIENT: Final = "hash $vulcanized_client consistent"
_BY_HASH: Final = frozenset({Balance.SOURCE, Balance.URI})


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What of an app nginx may refuse.

    `head`: directives of each of its pools; `options`: what each server carries; `passing` and
    `tunnel`: directives of the locations that pass requests on, and upgraded connections.
    """

    routes: tuple[Route, ...]
    head: str
    options: str
    passing: str
    tunnel: str
    digest: str

    @classmethod
    def of(
        cls, routes: tuple[Route, ...], head: str, options: str, passing: str, tunnel: str
    ) -> Shape:
        """A shape with its digest."""
        told = hashlib.blake2b(digest_size=8)
        for text in (*map(words.location, routes), head, options, passing, tunnel):
            told.update(text.encode() + b"\0")
        told.update(repr([route.host for route in routes]).encode())
        return cls(routes, head, options, passing, tunnel, told.hexdigest())


class Part(msgspec.Struct, frozen=True, gc=False):
    """One app: what is wanted of it, in this shape."""

    desired: DesiredApp
    shape: Shape

    @property
    def judged(self) -> Shape:
        """What of it nginx may refuse."""
        return self.shape


# --- what a template sees ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AppView:
    """`app` in `app.j2`, `pool.j2` and `server.j2`, every value ready to be written.

    `balance` is "" for round robin; `too_large` a regex of the lengths that are; numbers that are
    not set are None. `read` is the longest silence of a pod.
    """

    app: str
    scheme: str
    balance: str
    tunnel: bool
    connect: str
    read: str
    tries: int
    max_body_size: int | None
    too_large: str
    max_connections_server: int | None
    max_connections_app: int | None
    sticky: bool


def app_view(app: AppId, policies: Policies, *, tunnel: bool = False) -> AppView:
    """What the templates get to see of one app."""
    timeouts, size = policies.timeouts, policies.max_body_size
    server = timeouts.server or DEFAULT_SERVER
    retries = DEFAULT_RETRIES if policies.retries is None else policies.retries
    return AppView(
        app=words.app_key(app),
        scheme="https" if policies.protocol is Protocol.HTTPS else "http",
        balance=_BALANCES[policies.balance] if policies.sticky is None else _BY_CLIENT,
        tunnel=tunnel,
        connect=words.milliseconds(timeouts.connect or DEFAULT_CONNECT),
        read=words.milliseconds((timeouts.tunnel or DEFAULT_TUNNEL) if tunnel else server),
        tries=retries + 1,
        max_body_size=size,
        too_large="" if size is None else words.above(size),
        max_connections_server=policies.max_connections_server,
        max_connections_app=policies.max_connections_app,
        sticky=policies.sticky is not None,
    )


def make_part(desired: DesiredApp, before: Part | None, shape: Shape) -> Part:
    """One app in nginx's words. Raises Rejected for a value that cannot be written."""
    known = set() if before is None else {*_servers(before.desired)}
    for backend in desired.backends:
        words.pool_id(desired.app, backend.version)
        for server in backend.servers:
            if server not in known:
                words.check_server(server)
    if desired.policies.pin is not None:
        for version in {"any", *pools_of(desired)} - {ANY_VERSION}:
            words.pinned(desired.policies.pin, version)
    return Part(desired, shape)


def _servers(desired: DesiredApp) -> Iterable[Server]:
    return (server for backend in desired.backends for server in backend.servers)


# --- text -------------------------------------------------------------------------------------


def serving(backend: Backend) -> tuple[Server, ...]:
    """The servers that take new requests. Others finish theirs in the workers that know them."""
    return tuple(
        server
        for server in backend.servers
        if server.weight > 0 and server.state is ServerState.READY
    )


def pools_of(desired: DesiredApp) -> dict[str, tuple[Server, ...]]:
    """The pools that have a server, by version: nginx refuses one without.

    Where clients may ask for a version there is one of each that pods have, activated or not.
    """
    found = {backend.version: serving(backend) for backend in desired.backends}
    by_version: dict[str, list[Server]] = {}
    if desired.policies.pin is not None:
        for server in found.get(ANY_VERSION, ()):
            by_version.setdefault(server.version, []).append(server)
    for version, servers in sorted(by_version.items()):
        if version:
            found.setdefault(version, tuple(servers))
    return {version: servers for version, servers in found.items() if servers}


def pools_text(part: Part) -> str:
    """All pools of an app."""
    desired, shape = part.desired, part.shape
    policies = desired.policies
    by_hash = policies.sticky is not None or policies.balance in _BY_HASH
    limited = policies.max_connections_server is not None
    text = ""
    for version, servers in pools_of(desired).items():
        lines = "".join(_server_lines(servers, shape.options, by_hash=by_hash))
        id_ = words.pool_id(desired.app, version)
        # Only what all workers share can count connections over all of them.
        shared = f'    zone "{id_}" {_zone(len(servers))}k;\n' if limited else ""
        text += f'upstream "{id_}" {{\n{indented(shape.head)}{shared}{lines}}}\n'
    return text


def _zone(servers: int) -> int:
    """Kilobytes of memory that so many servers need, with room to spare; measured: below one."""
    return 128 << (servers // 64).bit_length()


def _server_lines(servers: tuple[Server, ...], options: str, *, by_hash: bool) -> Iterable[str]:
    divisor = math.gcd(*(server.weight for server in servers))
    most = max(server.weight for server in servers) // divisor
    scale = min(1.0, _MOST_WEIGHT_OF_A_HASH / most) if by_hash else 1.0
    more = f" {options}" if options else ""
    for server in servers:
        weight = max(1, round(server.weight // divisor * scale))
        share = f" weight={weight}" if weight > 1 else ""
        yield f"    server {words.address(server.endpoint)}{share}{more}; # {server.name}\n"


def flags_of(desired: DesiredApp) -> tuple[str, ...]:
    """The flags of the versions among which one chooses, nothing where no flag is asked.

    Versions without a server have none: a worker of before may live on, and must not be sent to
    what it does not have. So nothing is chosen while the active one is such a version.
    """
    if desired.maintenance or len(desired.split) != 1:
        return ()
    full = [backend.version for backend in desired.backends if serving(backend)]
    if len(full) < 2 or desired.split[0].version not in full:
        return ()
    return tuple(words.flag(desired.app, version) for version in full)


def active(desired: DesiredApp) -> str | None:
    """The flag of the version that takes all traffic, None where no flag is asked."""
    return words.flag(desired.app, desired.split[0].version) if flags_of(desired) else None


def choice_text(part: Part, flags: str) -> str:
    """The location in which a request of this app chooses its pool. `flags`: their directory."""
    desired = part.desired
    key = words.app_key(desired.app)
    lines = [f'set $vulcanized_app "{key}";', *_sticky(desired.policies), *_choice(desired, flags)]
    if lines[-1].startswith("rewrite"):
        return _located(key, lines)
    if any('"";' in line for line in lines):
        lines.append(f'if ($vulcanized_pool = "") {{ rewrite ^ "{UNAVAILABLE}?" last; }}')
    lines.append(f'rewrite ^ "/:$vulcanized_way/{passing_digest(part.shape)}?" last;')
    return _located(key, lines)


def _sticky(policies: Policies) -> Iterable[str]:
    if policies.sticky is not None:
        cookie, age = words.sticky(policies.sticky)
        yield f'set $vulcanized_sticky "{cookie}";'
        yield f'set $vulcanized_age "{age}";'


def _choice(desired: DesiredApp, flags: str) -> Iterable[str]:
    pools = {version: words.pool_id(desired.app, version) for version in pools_of(desired)}
    named = [share.version for share in desired.split]
    if desired.maintenance:
        yield f'rewrite ^ "{MAINTENANCE}?" last;'
    elif not pools.keys() & {*named, *(pools if desired.policies.pin and named else ())}:
        yield f'rewrite ^ "{UNAVAILABLE}?" last;'
    else:
        if len(named) > 1:
            yield from _by_slot(desired, pools)
        elif flags_of(desired):
            yield from _by_flag(desired, pools, flags)
        else:
            yield f'set $vulcanized_pool "{pools.get(named[0], "")}";'
        if desired.policies.pin is not None:
            for version, pool in pools.items():
                if version != ANY_VERSION:
                    yield _if(words.pinned(desired.policies.pin, version), pool)


def _by_slot(desired: DesiredApp, pools: Mapping[str, str]) -> Iterable[str]:
    drawn = slots(desired.split)
    first, *others = (share.version for share in desired.split)
    yield f'set $vulcanized_pool "{pools.get(first, "")}";'
    for version in others:
        own = [slot for slot, each in enumerate(drawn) if each == version]
        yield _if(f'$vulcanized_slot ~ "^(?:{_slots_regex(own)})$"', pools.get(version, ""))


def _slots_regex(own: list[int]) -> str:
    tens: dict[int, list[int]] = {}
    for slot in own:
        tens.setdefault(slot // 10, []).append(slot % 10)
    return "|".join(f"{ten}[{units[0]}-{units[-1]}]" for ten, units in tens.items())


def _by_flag(desired: DesiredApp, pools: Mapping[str, str], flags: str) -> Iterable[str]:
    """The text must not tell which is the active one: then a switch would need a reload.

    The first needs no flag, so that there is never none: of two, exactly one is chosen whatever
    happens to the files in between.
    """
    first, *others = (each.version for each in desired.backends if each.version in pools)
    yield f'set $vulcanized_pool "{pools[first]}";'
    for version in others:
        yield _if(f'-f "{flags}/{words.flag(desired.app, version)}"', pools[version])


def _if(condition: str, pool: str) -> str:
    return f'if ({condition}) {{ set $vulcanized_pool "{pool}"; }}'


def passing_digest(shape: Shape) -> str:
    """Tells apart how requests are passed on: most apps have one way in common."""
    text = f"{shape.passing}\0{shape.tunnel}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def passing_text(shape: Shape) -> str:
    """The locations in which requests are passed on; `$vulcanized_way` is one of these names."""
    digest = passing_digest(shape)
    ways = (("pass", shape.passing), ("tunnel", shape.tunnel))
    return "".join(_located(f"{way}/{digest}", text.splitlines()) for way, text in ways)


def _located(key: str, lines: Iterable[str]) -> str:
    return f'location = "/:{key}" {{\n{"".join(f"    {line}{chr(10)}" for line in lines)}}}\n'


def indented(text: str) -> str:
    """One level deeper."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def rewritten(app: AppId) -> str:
    """What stands in the location of a route."""
    return f'rewrite ^ "/:{words.app_key(app)}?" last;'
