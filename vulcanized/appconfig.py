"""The app config: its schema, and its translation into model values.

One schema for etcd, files and the annotation `vulcanized.io/config` (DESIGN section 5). It is
hostile text: every string that can reach a proxy's config is bounded and has a charset in which no
proxy's syntax can be written. What passes here needs no escaping later.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from vulcanized.errors import Invalid
from vulcanized.model import (
    Balance,
    HealthCheck,
    PathKind,
    Policies,
    Protocol,
    Route,
    Share,
    Timeouts,
)

MAX_CONFIG_BYTES = 256 * 1024
MAX_ACTIVATION_BYTES = 16 * 1024
MAX_SHOWN_ERRORS = 8

# A Kubernetes label value, the only thing that a version can be.
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_DNS_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_DNS_LABEL}(?:\.{_DNS_LABEL})*\Z")
# pchar of RFC 3986 without quotes, parentheses and semicolon: they mean something to proxies.
_PATH = re.compile(r"/[A-Za-z0-9/_.~%:@!$&*+,=-]*\Z")
_REGEX = re.compile(r"/[A-Za-z0-9/_.~%:@!&*+,=?^|(){}\[\]\\$-]*\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)\Z")
_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)\Z")
_DURATION_PATTERN = StringConstraints(pattern=r"^[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h)$")
_SIZE_PATTERN = StringConstraints(pattern=r"^[0-9]+[KMG]?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


# --- strings -----------------------------------------------------------------------------------


def _host(value: str) -> str:
    host = value.lower().removesuffix(".")
    if host != "*" and (len(host) > 253 or not _HOST.match(host)):
        raise ValueError(
            f"{_show(value)} is not a host name: write a name such as shop.example.com, "
            "*.example.com for every name one level below, or * for any other host; no port"
        )
    return host


def _plain_path(value: str) -> str:
    if not _PATH.match(value):
        raise ValueError(
            f"{_show(value)} is not a path: it starts with / and has letters, digits and "
            "_.~%:@!$&*+,=- only"
        )
    if any(part in {".", ".."} for part in value.split("/")) or "//" in value:
        raise ValueError(f"{_show(value)} has an empty, . or .. element: write the path it means")
    return value


def _prefix(value: str) -> str:
    return _plain_path(value).rstrip("/") or "/"


def _regex(value: str) -> str:
    if not _REGEX.match(value):
        raise ValueError(
            f"{_show(value)} is not a path regex: it starts with /, and spaces, quotes, # and ; "
            "must be written as a class or left out"
        )
    if re.search(r"\$(?![)|]|\Z)", value):
        raise ValueError(f"{_show(value)}: $ stands only at the end of an alternative")
    plain = value.replace("\\\\", "")
    if re.search(r"\(\?(?!:)|\{,|\\[1-9gkKNuU]", plain):
        raise ValueError(
            f"{_show(value)}: look-around, back-references, inline flags, named characters and "
            "{,n} are not the same on every proxy, so they are refused"
        )
    if re.search(r"\[[^\]]*(?:\[|--|&&|\|\||~~)", re.sub(r"\\.", "a", value)):
        raise ValueError(
            f"{_show(value)}: [, --, &&, || and ~~ in a class do not mean the same on every proxy"
        )
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{_show(value)} is not a regex: {error}") from None
    _refuse_explosive(value)
    return value


def _refuse_explosive(pattern: str) -> None:
    """Refuse what can take a backtracking matcher (PCRE in HAProxy and nginx) exponential time.

    A repeated group holds neither a repeat nor an alternative; the number of unbounded repeats,
    and of those of a bare dot, is small: each multiplies the worst case by the path's length.
    """
    bare = re.sub(r"\\.", "a", pattern)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "a", bare)
    stack: list[bool] = []
    for match in re.finditer(r"\((?:\?:)?|\)([*+?]|\{\d*,?\d*\})?|[*+|]|\{\d*,?\d*\}", bare):
        token = match.group()
        if token.startswith("("):
            stack.append(False)
        elif token.startswith(")"):
            risky = stack.pop() if stack else False
            repeat = match.group(1) or ""
            if repeat not in {"", "?"} and risky:
                raise ValueError(
                    f"{_show(pattern)}: a repeated group that holds a repeat or an alternative can "
                    "take for ever to match: write it without one"
                )
            if stack:
                stack[-1] = stack[-1] or risky or repeat not in {"", "?"}
        elif stack:
            stack[-1] = True
    if len(re.findall(r"[*+]|\{\d*,\}", bare)) > 6 or len(re.findall(r"\.(?:[*+]|\{)", bare)) > 2:
        raise ValueError(
            f"{_show(pattern)} repeats too much: at most 6 unbounded repeats, 2 of them of a dot"
        )
    if any(int(number) > 100 for number in re.findall(r"[{,](\d+)", bare)):
        raise ValueError(f"{_show(pattern)}: a count above 100")


def _seconds(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError(f'{_show(value)} is not a duration: write 5, "5s", "500ms" or "2m"')
        return float(match.group(1)) * _SECONDS[match.group(2)]
    if isinstance(value, bool):
        raise ValueError('a duration is a number of seconds or a text such as "5s"')  # noqa: TRY004
    return value


def _bytes(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError(f'{_show(value)} is not a size: write 1048576, "512K" or "10M"')
        return int(match.group(1)) * _BYTES[match.group(2)]
    return value


def _network(value: str) -> str:
    try:
        if "%" in value:  # a zone is any text behind it, and means something on one host only
            raise ValueError
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"{_show(value)} is not an address or CIDR such as 10.0.0.0/8") from None


def _show(value: object) -> str:
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:76] + '..."'


Host = Annotated[str, StringConstraints(max_length=254), AfterValidator(_host)]
Prefix = Annotated[str, StringConstraints(max_length=256), AfterValidator(_prefix)]
ExactPath = Annotated[str, StringConstraints(max_length=256), AfterValidator(_plain_path)]
PathRegex = Annotated[str, StringConstraints(max_length=256), AfterValidator(_regex)]
Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
]
Version = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
]
# IANA_SVC_NAME of the Kubernetes API: what a container port may be called.
PortName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?$")]
PortNumber = Annotated[int, Field(ge=1, le=65535, strict=True)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$&*+.^_|~-]{1,64}$")]
# Visible ASCII and single spaces, without quotes, backslash, percent, braces and dollar.
HeaderValue = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!#&()*+,./:;<=>?@\[\]^_|~ -]{0,512}$")
]
CookieName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Network = Annotated[str, StringConstraints(max_length=64), AfterValidator(_network)]
Duration = Annotated[
    float,
    Field(gt=0, le=86400, allow_inf_nan=False),
    BeforeValidator(_seconds, json_schema_input_type=float | Annotated[str, _DURATION_PATTERN]),
]
Size = Annotated[
    int,
    Field(ge=1, le=1024**4),
    BeforeValidator(_bytes, json_schema_input_type=int | Annotated[str, _SIZE_PATTERN]),
]
# crypt(3) hashes that every proxy's libc or own code checks: sha256, sha512, bcrypt, apr1.
PasswordHash = Annotated[
    str, StringConstraints(pattern=r"^\$(?:5|6|2[aby]|apr1)\$[A-Za-z0-9./$=]{8,160}$")
]
Url = Annotated[
    str,
    StringConstraints(
        pattern=r"^(?:https?://[A-Za-z0-9.:\[\]-]{1,255})?/[A-Za-z0-9/_.~%:@!&*+,=?-]{0,512}$"
    ),
]


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


class Sticky(_Model):
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

    origins: tuple[
        Annotated[str, StringConstraints(pattern=r"^(?:\*|https?://[A-Za-z0-9.:*-]{1,255})$")], ...
    ] = Field(min_length=1, max_length=32)
    methods: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,16}$")], ...] = ("GET",)
    headers: tuple[HeaderName, ...] = ()
    expose_headers: tuple[HeaderName, ...] = ()
    credentials: bool = False
    max_age: Duration = 600.0


class BasicAuth(_Model):
    """HTTP basic authentication. Passwords as crypt hashes only, never in the clear."""

    realm: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._-]{1,64}$")] = "restricted"
    users: dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]{1,64}$")], PasswordHash
    ] = Field(min_length=1, max_length=256)


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
        str,
        StringConstraints(pattern=r"^[1-5][0-9]{2}(?:-[1-5][0-9]{2})?$"),
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

    types: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z]+/[a-z0-9.+-]{1,64}$")], ...] = (
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
    port: PortNumber | PortName | None = Field(
        default=None,
        description="Number or name; default: the first container port not named `healthcheck`.",
    )
    protocol: Protocol = Protocol.HTTP
    balance: Balance = Balance.ROUND_ROBIN
    sticky: Annotated[
        Sticky | None, BeforeValidator(_switch, json_schema_input_type=Sticky | bool | None)
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
    template: Name | None = None


# --- translation -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AppSpec:
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
        raise Invalid(where, _explain(error)) from None
    return _spec(config)


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        parts = [str(part) for part in fault["loc"] if not str(part).startswith("constrained-")]
        place = ".".join(parts)[:120]
        message = fault["msg"].removeprefix("Value error, ")[:240]
        if fault["type"] == "extra_forbidden":
            message = "unknown field: see `vulcanized schema app` for the fields"
        if fault["type"] == "string_pattern_mismatch":
            message = message.replace("String should match pattern", "must match the pattern")
        if fault["type"] == "json_invalid":
            place, message = "", f"not JSON: {message.removeprefix('Invalid JSON: ')}"
        lines.append(_printable(f"{place}: {message}" if place else message))
    lines = list(dict.fromkeys(lines))
    more = len(lines) - MAX_SHOWN_ERRORS
    shown = "; ".join(lines[:MAX_SHOWN_ERRORS])
    return f"{shown}; and {more} more" if more > 0 else shown


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _spec(config: AppConfig) -> AppSpec:
    routes = {
        Route(host, kind, path) for host in config.hosts for kind, path in map(_path, config.paths)
    }
    timeouts = config.timeouts or TimeoutSettings()
    connections = config.max_connections or MaxConnections()
    policies = Policies(
        protocol=config.protocol,
        balance=config.balance,
        timeouts=Timeouts(timeouts.connect, timeouts.server, timeouts.queue, timeouts.tunnel),
        retries=config.retries,
        health_check=_health_check(config.health_check),
        max_connections_server=connections.server,
        max_connections_app=connections.app,
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


def _features(config: AppConfig) -> list[str]:
    """The fields in use: those that are not at their default. A protocol counts by its value."""
    used = [
        name
        for name, field in AppConfig.model_fields.items()
        if name != "protocol" and getattr(config, name) != field.default
    ]
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


# --- activation --------------------------------------------------------------------------------


class _Weights(_Model):
    weights: dict[Version, Annotated[int, Field(ge=0, le=1_000_000, strict=True)]] = Field(
        min_length=1, max_length=16
    )


def parse_activation(text: str, where: str) -> tuple[Share, ...]:
    """Parse an activation: a bare version, or JSON `{"weights": {version: weight}}`.

    Returns the shares, sorted by version, without those of weight 0. Raises `Invalid`.
    """
    if len(text) > MAX_ACTIVATION_BYTES:
        raise Invalid(where, f"larger than {MAX_ACTIVATION_BYTES // 1024} KiB: write one version")
    bare = text.strip()
    if not bare:
        raise Invalid(where, "empty: write a version, or delete it to route to every version")
    if not bare.startswith("{"):
        if not _LABEL_VALUE.match(bare):
            raise Invalid(
                where,
                f"{_printable(_show(bare))} is neither a version (a label value such as green or "
                '42) nor JSON such as {"weights": {"41": 90, "42": 10}}',
            )
        return (Share(bare, 1),)
    try:
        weights = _Weights.model_validate_json(bare).weights
    except ValidationError as error:
        raise Invalid(where, _explain(error)) from None
    shares = tuple(Share(version, weight) for version, weight in sorted(weights.items()) if weight)
    if not shares:
        raise Invalid(where, "every weight is 0: give at least one version a weight above 0")
    return shares


def activation_text(shares: tuple[Share, ...]) -> str:
    """The activation as a person would write it; the inverse of `parse_activation`."""
    if len(shares) == 1:
        return shares[0].version
    return json.dumps({"weights": dict(shares)})


def app_schema() -> dict[str, Any]:
    """The JSON Schema of the app config, as `vulcanized schema app` prints it."""
    schema = AppConfig.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
