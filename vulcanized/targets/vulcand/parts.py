"""One app in vulcand's words: the objects that it needs, as the tree should hold them. Pure."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from vulcanized.errors import Rejected
from vulcanized.model import (
    ANY_VERSION,
    Backend,
    DesiredApp,
    Policies,
    Protocol,
    Route,
    Server,
    ServerState,
)
from vulcanized.targets.vulcand.keys import MIDDLEWARES, MIXED, NOTHING, Keys, server_id
from vulcanized.targets.vulcand.mix import Mix, mix
from vulcanized.targets.vulcand.routes import Pinned, not_found_text, route_text

DEFAULT_RETRIES: Final = 10
"""The tries of several requests take turns: with one of two servers dead and 8 clients, 7 % of
requests failed with 2 retries, 0.7 % with 4, none with 10."""
IDLE_CONNECTIONS: Final = 128
"""For each server. Go's own default of 2 would open a new connection for most requests."""

PROOF: Final = f"{MIDDLEWARES}proof-"
"""What the id of the middleware that proves begins with; the word follows."""

_HOUR: Final = 3600 * 10**9
_TICK: Final = 10**6
"""Nanoseconds."""

_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]+").fullmatch

_NONE: Final[Mapping[str, bytes]] = {}


@dataclass(frozen=True, slots=True)
class BackendObject:
    """A backend and its servers, each as its JSON."""

    value: bytes
    servers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FrontendObject:
    """A frontend and its middlewares, each as its JSON; `backend` is the id that the JSON names."""

    value: bytes
    backend: str
    route: str
    middlewares: Mapping[str, bytes] = field(default_factory=dict)


class Claim(NamedTuple):
    """What a frontend is for, to tell whether somebody else's is in its way."""

    route: Route
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """All objects of one app by their ids. `mix`: how far its weights could be reached."""

    desired: DesiredApp
    backends: Mapping[str, BackendObject]
    frontends: Mapping[str, FrontendObject]
    claims: Mapping[str, Claim]
    mix: Mix | None = None


def make_part(desired: DesiredApp, keys: Keys, mark: str) -> Part:
    """The objects of an app; `mark` is written into each, for people and for other fleets to see.

    Raises Rejected for what vulcand cannot be told.
    """
    made = _Made(desired, keys, mark)
    mixed = made.traffic()
    for route in desired.routes:
        made.lead(route, made.target)
        for version, backend in made.pins.items():
            made.lead(route, backend, version)
    return Part(desired, made.backends, made.frontends, made.claims, mixed)


class _Made:
    def __init__(self, desired: DesiredApp, keys: Keys, mark: str) -> None:
        self.backends: dict[str, BackendObject] = {}
        self.frontends: dict[str, FrontendObject] = {}
        self.claims: dict[str, Claim] = {}
        self.target = ""
        self.pins: dict[str, str] = {}
        self._desired = desired
        self._keys = keys
        self._marks = {"Owner": mark, "App": str(desired.app)}
        self._settings = _backend_settings(desired.policies)

    def traffic(self) -> Mix | None:
        """Make all backends, and choose the one that takes the requests."""
        desired = self._desired
        servers = {backend.version: _serving(backend) for backend in desired.backends}
        for version, some in servers.items():
            self._backend(version, some)
        shares = desired.split
        if desired.maintenance or not shares:
            # Without a server vulcand answers 503.
            self.target = self._backend(NOTHING, ())
            return None
        if desired.policies.pin is not None:
            self._pin(servers)
        if len(shares) == 1:
            self.target = self._keys.backend_id(desired.app, shares[0].version)
            return None
        mixed = mix({share: servers.get(share.version, ()) for share in shares})
        self.target = self._backend(MIXED, mixed.servers)
        return mixed

    def _pin(self, servers: Mapping[str, tuple[Server, ...]]) -> None:
        by_version: dict[str, list[Server]] = {}
        for some in servers.values():
            for server in some:
                by_version.setdefault(server.version, []).append(server)
        for version, found in sorted(by_version.items()):
            if version and version != ANY_VERSION:
                self.pins[version] = self._backend(version, found)

    def _backend(self, version: str, servers: Iterable[Server]) -> str:
        id_ = self._keys.backend_id(self._desired.app, version)
        scheme = "https" if self._desired.policies.protocol is Protocol.HTTPS else "http"
        content = {"Type": "http", "Settings": self._settings, **self._marks}
        self.backends[id_] = BackendObject(
            encoded(content),
            {server_id(server.name): _server(scheme, server) for server in servers},
        )
        return id_

    def lead(self, route: Route, backend: str, version: str = "") -> None:
        """Make a frontend; `version`: only for those who ask for it."""
        policies = self._desired.policies
        pinned = Pinned(policies.pin, version) if policies.pin and version else None
        text = route_text(route, self._keys.owner, pinned)
        id_ = self._keys.frontend_id(route.host, text)
        content = {
            "Type": "http",
            "BackendId": backend,
            "Route": text,
            "Settings": _frontend_settings(policies),
            **self._marks,
        }
        middlewares = _middlewares(policies)
        self.frontends[id_] = FrontendObject(encoded(content), backend, text, middlewares)
        self.claims[id_] = Claim(route, text)


def not_found(keys: Keys, host: str, mark: str) -> FrontendObject:
    """Answers 404 to what no route of a host takes, where a wildcard would take it.

    The backend has no servers, so the first try is answered with 503. That opens the breaker, and
    the second try gets its answer.
    """
    text = not_found_text(host, keys.owner)
    backend = keys.nowhere_id
    content = {
        "Type": "http",
        "BackendId": backend,
        "Route": text,
        "Settings": {"FailoverPredicate": "ResponseCode() == 503 && Attempts() < 2"},
        "Owner": mark,
    }
    answer = {"StatusCode": 404, "ContentType": "text/plain", "Body": "404 no such host or path"}
    breaker = {
        # Always true. A number without a point would have vulcand drop it.
        "Condition": "NetworkErrorRatio() < 2.0",
        "Fallback": {"Type": "response", "Action": answer},
        "FallbackDuration": _HOUR,
        "RecoveryDuration": _HOUR,
        "CheckPeriod": _TICK,
    }
    middleware = encoded({"Type": "cbreaker", "Priority": 1, "Middleware": breaker})
    return FrontendObject(encoded(content), backend, text, {f"{MIDDLEWARES}not-found": middleware})


def nowhere(mark: str) -> BackendObject:
    """A backend without servers."""
    return BackendObject(encoded({"Type": "http", "Owner": mark}))


def proof(keys: Keys, host: str, word: str, mark: str) -> FrontendObject:
    """What a probe asks; see `proof_middleware`.

    Each word has a key of its own: of an event vulcand takes the key, and reads what stands there
    by then. Under one key it would show a word before it has worked through what came before it.
    """
    text = f"Host({json.dumps(host)})"
    backend = keys.nowhere_id
    content = {"Type": "http", "BackendId": backend, "Route": text, "Settings": {}, "Owner": mark}
    middlewares = {f"{PROOF}{word}": proof_middleware(host, word)}
    return FrontendObject(encoded(content), backend, text, middlewares)


def proof_middleware(host: str, word: str) -> bytes:
    """Answers every request with a redirect that says the word.

    vulcand works through its events one after another: who sees the word knows that everything
    written before it has been worked through.
    """
    rewrite = {
        "Regexp": ".*",
        "Replacement": f"http://{host}/{word}",
        "RewriteBody": False,
        "Redirect": True,
    }
    return encoded({"Type": "rewrite", "Priority": 1, "Middleware": rewrite})


class _Rewrite(msgspec.Struct):
    Replacement: str = ""


class _Middleware(msgspec.Struct):
    Middleware: _Rewrite = msgspec.field(default_factory=_Rewrite)


_DECODER = msgspec.json.Decoder(_Middleware)


def word_of(value: bytes) -> str:
    """The word that a middleware answers with; "" if it is none of `proof_middleware`."""
    try:
        return _DECODER.decode(value).Middleware.Replacement.rpartition("/")[2]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def encoded(content: Mapping[str, Any]) -> bytes:
    """An object as JSON, always an object: the literal `null` ends vulcand."""
    return msgspec.json.encode(content)


def _serving(backend: Backend) -> tuple[Server, ...]:
    """Servers that take new requests. vulcand lets those that are removed finish what they have."""
    return tuple(server for server in backend.servers if server.state is ServerState.READY)


def _server(scheme: str, server: Server) -> bytes:
    """A server as JSON; nothing in an address needs to be quoted."""
    address, port = server.address, server.port
    if not _ADDRESS(address) or not 1 <= port <= 65535:
        raise Rejected(f"{str(server.endpoint)!r:.100} is no address of a server")
    literal = f"[{address}]" if ":" in address else address
    return f'{{"URL":"{scheme}://{literal}:{port}"}}'.encode()


# Thousands of apps have the same policies.
@functools.lru_cache(maxsize=256)
def _backend_settings(policies: Policies) -> dict[str, Any]:
    timeouts = {
        name: duration(value)
        for name, value in (("Dial", policies.timeouts.connect), ("Read", policies.timeouts.server))
        if value is not None
    }
    kept = policies.keep_alive
    keep_alive: dict[str, Any] = {
        "MaxIdleConnsPerHost": IDLE_CONNECTIONS if kept.connections is None else kept.connections
    }
    if kept.period is not None:
        keep_alive["Period"] = duration(kept.period)
    settings: dict[str, Any] = {"KeepAlive": keep_alive}
    if timeouts:
        settings["Timeouts"] = timeouts
    if policies.protocol is Protocol.HTTPS:
        # Pods have certificates of nobody's: as on the other proxies they are not checked.
        settings["TLS"] = {"InsecureSkipVerify": True}
    return settings


@functools.lru_cache(maxsize=256)
def _frontend_settings(policies: Policies) -> dict[str, Any]:
    settings: dict[str, Any] = {"PassHostHeader": True}
    if policies.max_body_size is not None:
        settings["Limits"] = {"MaxBodyBytes": policies.max_body_size}
    elif policies.retries == 0:
        # What may not be tried again and is not limited need not be held until it is whole.
        settings["Stream"] = True
        return settings
    settings["FailoverPredicate"] = failover(policies.retries)
    return settings


def failover(retries: int | None) -> str:
    """When a request is tried on another server: only those that may be made twice.

    Not after a time-out (504): what is too slow for one pod would be sent to all of them.
    """
    tries = DEFAULT_RETRIES if retries is None else retries
    repeatable = " || ".join(f'RequestMethod() == "{method}"' for method in ("GET", "HEAD"))
    return f"ResponseCode() == 502 && Attempts() <= {tries} && ({repeatable})"


@functools.lru_cache(maxsize=256)
def _middlewares(policies: Policies) -> Mapping[str, bytes]:
    if policies.max_connections_app is None:
        return _NONE
    limit = {"Connections": policies.max_connections_app, "Variable": "request.host"}
    content = {"Type": "connlimit", "Priority": 1, "Middleware": limit}
    return {f"{MIDDLEWARES}max-connections": encoded(content)}


def duration(seconds: float) -> str:
    """A duration in Go's words, to the millisecond; never 0, which would mean "the default"."""
    return f"{max(1, round(seconds * 1000))}ms"
