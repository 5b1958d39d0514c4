"""The app config: its schema, and its translation into model values.

One schema for etcd, files and the annotation `vulcanized.io/config` (DESIGN section 5). It is
hostile text: every string that can reach a proxy's config is bounded and has a charset in which no
proxy's syntax can be written. What passes here needs no escaping later.
"""

from __future__ import annotations

import functools
from math import ceil
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from vulcanized.appfaults import explain, in_one_line, twice
from vulcanized.appstrings import (
    CookieName,
    Duration,
    ExactPath,
    HeaderName,
    HeaderValue,
    Host,
    MediaType,
    Method,
    Name,
    Network,
    ObjectId,
    Origin,
    PasswordHash,
    PathRegex,
    Port,
    PortNumber,
    Prefix,
    Realm,
    Size,
    Status,
    Url,
    UserName,
)
from vulcanized.errors import Invalid
from vulcanized.model import (
    Adoption,
    Balance,
    HealthCheck,
    KeepAlive,
    PathKind,
    Pin,
    PinKind,
    Policies,
    Protocol,
    Route,
    Sticky,
    Timeouts,
)

MAX_CONFIG_BYTES = 256 * 1024
MAX_REGEXES = 128

# --- the schema --------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Path(_Model):
    """One path rule: exactly one of `prefix`, `exact`, `regex`. A bare string is a prefix."""

    prefix: Prefix | None = None
    exact: ExactPath | None = None
    regex: PathRegex | None = Field(
        default=None, description="Matched from the start of the path; ends where it ends."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(kind is not None for kind in (self.prefix, self.exact, self.regex)) != 1:
            raise ValueError("give exactly one of prefix, exact and regex")
        return self


def _path_from_string(value: object) -> object:
    return {"prefix": value} if isinstance(value, str) else value


PathRule = Annotated[Path, BeforeValidator(_path_from_string, json_schema_input_type=Path | Prefix)]


class StickySettings(_Model):
    """Keep a client on one server by a cookie."""

    cookie: CookieName = "vulcanized"
    max_age: Duration | None = Field(default=None, description="Without: a session cookie.")


class Hsts(_Model):
    """Strict-Transport-Security, RFC 6797."""

    max_age: Annotated[int, Field(ge=0, le=63072000)] = 31536000
    include_subdomains: bool = False
    preload: bool = False


class Tls(_Model):
    """TLS towards the client."""

    certificate: Name | None = Field(default=None, description="Name of a certificate.")
    redirect: bool = Field(default=True, description="Send plain HTTP to HTTPS.")
    hsts: Hsts | None = None
    minimum_version: Literal["1.2", "1.3"] = "1.2"


class Redirect(_Model):
    """Answer a path with a redirect."""

    path: ExactPath
    to: Url
    status: Literal[301, 302, 303, 307, 308] = 302


class Rewrite(_Model):
    """Change the path on its way to the pods: the prefix is replaced."""

    strip_prefix: Prefix
    add_prefix: Prefix = "/"


class Headers(_Model):
    """Headers to set (replace), add, or remove."""

    set_: dict[HeaderName, HeaderValue] = Field(default={}, alias="set", max_length=32)
    add: dict[HeaderName, HeaderValue] = Field(default={}, max_length=32)
    remove: tuple[HeaderName, ...] = Field(default=(), max_length=32)


class Cors(_Model):
    """Cross-origin resource sharing."""

    origins: tuple[Origin, ...] = Field(min_length=1, max_length=32)
    methods: tuple[Method, ...] = ("GET",)
    headers: tuple[HeaderName, ...] = ()
    expose_headers: tuple[HeaderName, ...] = ()
    credentials: bool = False
    max_age: Duration = 600.0


class BasicAuth(_Model):
    """HTTP basic authentication. Passwords as crypt hashes only, never in the clear."""

    realm: Realm = "restricted"
    users: dict[UserName, PasswordHash] = Field(min_length=1, max_length=256)


class RateLimit(_Model):
    """At most `requests` in each `period` for each client."""

    requests: Annotated[int, Field(ge=1, le=1_000_000)]
    period: Duration = 1.0
    burst: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    by: Literal["client_ip"] | HeaderName = "client_ip"


class MaxConnections(_Model):
    """Bounds of concurrent requests. A bare number is `server`."""

    server: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    app: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None


def _connections_from_number(value: object) -> object:
    return {"server": value} if isinstance(value, int) else value


ConnectionsRule = Annotated[
    MaxConnections,
    BeforeValidator(_connections_from_number, json_schema_input_type=MaxConnections | int),
]


class TimeoutSettings(_Model):
    """Seconds, or a text such as "5s", "500ms", "2m"."""

    connect: Duration | None = Field(default=None, description="To open a connection to a pod.")
    server: Duration | None = Field(default=None, description="Longest silence of a pod.")
    queue: Duration | None = Field(default=None, description="Longest wait for a free server.")
    tunnel: Duration | None = Field(default=None, description="Longest silence of a websocket.")


class KeepAliveSettings(_Model):
    """Idle connections to pods that the proxy keeps open."""

    connections: Annotated[int, Field(ge=0, le=10_000, strict=True)] | None = Field(
        default=None, description="How many for each pod."
    )
    period: Duration | None = Field(default=None, description="Between TCP keep-alive probes.")


class AdoptSettings(_Model):
    """Objects of an existing vulcand installation that this app takes the place of, by their ids.

    A backend goes when no frontend uses it any more.
    """

    frontends: tuple[ObjectId, ...] = Field(default=(), max_length=64)
    backends: tuple[ObjectId, ...] = Field(default=(), max_length=64)


def _status_from_number(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class HealthCheckSettings(_Model):
    """An active check of each pod by the proxy, beside Kubernetes' own readiness."""

    path: ExactPath = "/health"
    port: PortNumber | None = None
    interval: Duration = 2.0
    timeout: Duration = 2.0
    rise: Annotated[int, Field(ge=1, le=100)] = 2
    fall: Annotated[int, Field(ge=1, le=100)] = 3
    expect: Annotated[
        Status,
        BeforeValidator(_status_from_number, json_schema_input_type=str | int),
    ] = Field(default="200-399", description='A status, or a range such as "200-399".')


class CanaryMatch(_Model):
    """A header or cookie whose value is a version pins that client to the version."""

    header: HeaderName | None = None
    cookie: CookieName | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("give exactly one of header and cookie")
        return self


def _switch(value: object) -> object:
    if value is True:
        return {}
    return None if value is False else value


class Compression(_Model):
    """Compress answers of these types. `true` stands for the defaults."""

    types: tuple[MediaType, ...] = (
        "text/html",
        "text/plain",
        "text/css",
        "application/javascript",
        "application/json",
    )


ErrorStatus = Literal["400", "403", "404", "405", "408", "413", "429", "500", "502", "503", "504"]


class AppConfig(_Model):
    """How one app is reached: hosts, paths, port and policies."""

    hosts: tuple[Host, ...] = Field(default=(), max_length=256)
    paths: tuple[PathRule, ...] = Field(default=(Path(prefix="/"),), min_length=1, max_length=256)
    port: Port = Field(
        default=None,
        description="Number or name; default: the first container port not named `healthcheck`.",
    )
    protocol: Protocol = Protocol.HTTP
    balance: Balance = Balance.ROUND_ROBIN
    sticky: Annotated[
        StickySettings | None,
        BeforeValidator(_switch, json_schema_input_type=StickySettings | bool | None),
    ] = None
    tls: Tls | None = None
    redirect_www: bool = False
    redirects: tuple[Redirect, ...] = Field(default=(), max_length=64)
    rewrite: Rewrite | None = None
    request_headers: Headers | None = None
    response_headers: Headers | None = None
    compression: Annotated[
        Compression | None,
        BeforeValidator(_switch, json_schema_input_type=Compression | bool | None),
    ] = None
    cors: Cors | None = None
    basic_auth: BasicAuth | None = None
    allow: tuple[Network, ...] = Field(default=(), max_length=256)
    deny: tuple[Network, ...] = Field(default=(), max_length=256)
    rate_limit: RateLimit | None = None
    max_connections: ConnectionsRule | None = None
    timeouts: TimeoutSettings | None = None
    retries: Annotated[int, Field(ge=0, le=10, strict=True)] | None = None
    max_body_size: Size | None = None
    health_check: HealthCheckSettings | None = None
    error_pages: dict[ErrorStatus, Annotated[str, StringConstraints(max_length=8192)]] | None = None
    maintenance: Annotated[bool, Field(strict=True)] = False
    canary_match: CanaryMatch | None = None
    keep_alive: KeepAliveSettings | None = None
    adopt: AdoptSettings | None = None
    template: Name | None = None

    @model_validator(mode="after")
    def _few_regexes(self) -> Self:
        # A proxy tries the regexes of a host one after another, on the time of every app.
        regexes = sum(path.regex is not None for path in self.paths)
        if regexes * len(self.hosts) > MAX_REGEXES:
            raise ValueError(
                f"{regexes} regexes for {len(self.hosts)} hosts are more than {MAX_REGEXES} "
                "together: write prefixes instead"
            )
        return self


# --- translation -------------------------------------------------------------------------------


class AppSpec(msgspec.Struct, frozen=True, gc=False):
    """An app config as model values. `port`: number, name, or None for the default."""

    routes: tuple[Route, ...]
    port: int | str | None
    policies: Policies
    maintenance: bool
    features: frozenset[str]


def parse_app_config(text: str, where: str) -> AppSpec:
    """Parse and translate the JSON of an app config.

    Raises `Invalid` with every fault of the document in one message, each with its field.
    """
    if len(text) > MAX_CONFIG_BYTES or len(text.encode("utf-8", "replace")) > MAX_CONFIG_BYTES:
        raise Invalid(where, f"larger than {MAX_CONFIG_BYTES // 1024} KiB: shorten it")
    try:
        config = AppConfig.model_validate_json(text)
    except ValidationError as error:
        raise Invalid(where, explain(error, AppConfig, text)) from None
    if doubles := twice(text):
        raise Invalid(where, in_one_line(doubles))
    return _spec(config)


def _spec(config: AppConfig) -> AppSpec:
    routes = {
        Route(host, kind, path) for host in config.hosts for kind, path in map(_path, config.paths)
    }
    timeouts = config.timeouts or TimeoutSettings()
    connections = config.max_connections or MaxConnections()
    keep_alive = config.keep_alive or KeepAliveSettings()
    adopt = config.adopt or AdoptSettings()
    policies = Policies(
        protocol=config.protocol,
        balance=config.balance,
        timeouts=Timeouts(timeouts.connect, timeouts.server, timeouts.queue, timeouts.tunnel),
        retries=config.retries,
        health_check=_health_check(config.health_check),
        max_connections_server=connections.server,
        max_connections_app=connections.app,
        max_body_size=config.max_body_size,
        keep_alive=KeepAlive(keep_alive.connections, keep_alive.period),
        pin=_pin(config.canary_match),
        sticky=_sticky(config.sticky),
        adopt=Adoption(adopt.frontends, adopt.backends),
        template=config.template,
    )
    return AppSpec(
        routes=tuple(sorted(routes)),
        port=config.port,
        policies=_shared_policies(policies),
        maintenance=config.maintenance,
        features=_shared_features(frozenset(_features(config))),
    )


def _path(path: Path) -> tuple[PathKind, str]:
    if path.exact is not None:
        return PathKind.EXACT, path.exact
    if path.regex is not None:
        return PathKind.REGEX, path.regex
    return PathKind.PREFIX, path.prefix or "/"


def _health_check(check: HealthCheckSettings | None) -> HealthCheck | None:
    if check is None:
        return None
    low, _, high = check.expect.partition("-")
    return HealthCheck(
        path=check.path,
        port=check.port,
        interval=check.interval,
        timeout=check.timeout,
        rise=check.rise,
        fall=check.fall,
        expect_low=int(low),
        expect_high=int(high or low),
    )


def _pin(match: CanaryMatch | None) -> Pin | None:
    if match is None:
        return None
    if match.header is not None:
        return Pin(PinKind.HEADER, match.header)
    return Pin(PinKind.COOKIE, match.cookie or "")


def _sticky(settings: StickySettings | None) -> Sticky | None:
    if settings is None:
        return None
    return Sticky(settings.cookie, None if settings.max_age is None else ceil(settings.max_age))


_BY_PART = frozenset({"max_connections", "timeouts", "canary_match"})
"""Fields that a target may be able to do in part: each of their own fields counts."""

_NOT_A_POLICY = frozenset({"protocol", "adopt"})
"""A protocol counts by its value; what is taken over is no wish that a proxy could fail."""


def _features(config: AppConfig) -> list[str]:
    """The fields in use: those that are not at their default."""
    used = []
    for name, field in AppConfig.model_fields.items():
        value = getattr(config, name)
        if name in _NOT_A_POLICY or value == field.default:
            continue
        if name in _BY_PART:
            used += [f"{name}.{part}" for part, given in value if given is not None]
        elif value is Balance.FIRST:
            used.append("balance.first")  # of all balances the one that a proxy may lack
        else:
            used.append(name)
    if config.protocol is not Protocol.HTTP:
        used.append(f"protocol.{config.protocol.value}")
    return used


@functools.lru_cache(maxsize=1024)
def _shared_policies(policies: Policies) -> Policies:
    """One object for equal values: thousands of apps have the same policies."""
    return policies


@functools.lru_cache(maxsize=1024)
def _shared_features(features: frozenset[str]) -> frozenset[str]:
    """One object for equal values, as for policies."""
    return features


def app_schema() -> dict[str, Any]:
    """The JSON Schema of the app config, as `vulcanized schema app` prints it."""
    schema = AppConfig.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
