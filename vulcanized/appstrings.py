"""The strings of an app config: each bounded, each with a charset and with words for it.

No proxy's syntax can be written in any of them. What passes here needs no escaping later.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from vulcanized.appfaults import shown, worded
from vulcanized.appregex import path_regex

_DNS_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_DNS_LABEL}(?:\.{_DNS_LABEL})*\Z")
# pchar of RFC 3986 without quotes, parentheses and semicolon: they mean something to proxies.
_PATH = re.compile(r"/[A-Za-z0-9/_.~%:@!$&*+,=-]*\Z")
_PORT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)\Z")
_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)\Z")
_DURATION_PATTERN = StringConstraints(pattern=r"^[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h)$")
_SIZE_PATTERN = StringConstraints(pattern=r"^[0-9]+[KMG]?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _host(value: str) -> str:
    if not value.isascii():
        raise ValueError(f"{shown(value)} is not ASCII: write it {_ascii(value)}")
    host = value.lower().removesuffix(".")
    if host != "*" and (len(host) > 253 or not _HOST.match(host)):
        raise ValueError(
            f"{shown(value)} is not a host name: write a name such as shop.example.com, "
            "*.example.com for every name one level below, or * for any other host; no port"
        )
    return host


def _ascii(host: str) -> str:
    try:
        return f"as {host.encode('idna').decode()}"
    except UnicodeError:
        return "in its xn-- form"


def _port(value: object) -> object:
    if value is None or (type(value) is int and 1 <= value <= 65535):
        return value
    if isinstance(value, str) and _PORT.match(value):
        return value
    raise ValueError(
        f"{shown(value)} is no port: write a number from 1 to 65535, or the name of a container "
        "port, such as http"
    )


def _plain_path(value: str) -> str:
    if not _PATH.match(value):
        raise ValueError(
            f"{shown(value)} is not a path: it starts with / and has letters, digits and "
            "_.~%:@!$&*+,=- only"
        )
    if any(part in {".", ".."} for part in value.split("/")) or "//" in value:
        raise ValueError(f"{shown(value)} has an empty, . or .. element: write the path it means")
    return value


def _prefix(value: str) -> str:
    return _plain_path(value).rstrip("/") or "/"


def _seconds(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError(f'{shown(value)} is not a duration: write 5, "5s", "500ms" or "2m"')
        return float(match.group(1)) * _SECONDS[match.group(2)]
    if isinstance(value, bool):
        raise ValueError('a duration is a number of seconds or a text such as "5s"')  # noqa: TRY004
    return value


def _bytes(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError(f'{shown(value)} is not a size: write 1048576, "512K" or "10M"')
        return int(match.group(1)) * _BYTES[match.group(2)]
    return value


def _network(value: str) -> str:
    try:
        if "%" in value:  # a zone is any text behind it, and means something on one host only
            raise ValueError
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"{shown(value)} is not an address or CIDR such as 10.0.0.0/8") from None


Host = Annotated[str, StringConstraints(max_length=254), AfterValidator(_host)]
Prefix = Annotated[str, StringConstraints(max_length=256), AfterValidator(_prefix)]
ExactPath = Annotated[str, StringConstraints(max_length=256), AfterValidator(_plain_path)]
PathRegex = Annotated[str, StringConstraints(max_length=256), AfterValidator(path_regex)]
_LABEL_VALUE = worded(
    r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
    "at most 63 letters, digits and -._, the first and last a letter or digit",
)
Name = Annotated[str, _LABEL_VALUE]
Version = Annotated[str, _LABEL_VALUE]
# IANA_SVC_NAME of the Kubernetes API: what a container port may be called.
_PORT_NAME = StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?$")
PortNumber = Annotated[int, Field(ge=1, le=65535, strict=True)]
Port = Annotated[PortNumber | Annotated[str, _PORT_NAME] | None, BeforeValidator(_port)]
HeaderName = Annotated[
    str,
    worded(
        r"^[A-Za-z0-9!#$&*+.^_|~-]{1,64}$",
        "the name of a header: letters, digits and !#$&*+.^_|~-, at most 64",
    ),
]
ObjectId = Annotated[
    str,
    worded(
        r"^[A-Za-z0-9_.-]{1,128}$",
        "the id of a vulcand object: letters, digits and _.-, at most 128",
    ),
]
# Visible ASCII and single spaces, without quotes, backslash, percent, braces and dollar.
HeaderValue = Annotated[
    str,
    worded(
        r"^[A-Za-z0-9!#&()*+,./:;<=>?@\[\]^_|~ -]{0,512}$",
        "one line of at most 512 letters, digits, spaces and !#&()*+,./:;<=>?@[]^_|~-",
    ),
]
CookieName = Annotated[
    str,
    worded(r"^[A-Za-z0-9_-]{1,64}$", "the name of a cookie: letters, digits and _-, at most 64"),
]
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
    str,
    worded(
        r"^\$(?:5|6|2[aby]|apr1)\$[A-Za-z0-9./$=]{8,160}$",
        "a crypt hash ($5$, $6$, $2b$, $apr1$), never a password: `openssl passwd -5` makes one",
    ),
]
Url = Annotated[
    str,
    worded(
        r"^(?:https?://[A-Za-z0-9.:\[\]-]{1,255})?/[A-Za-z0-9/_.~%:@!&*+,=?-]{0,512}$",
        "a URL such as https://example.com/new, or a path",
    ),
]
Status = Annotated[
    str,
    worded(r"^[1-5][0-9]{2}(?:-[1-5][0-9]{2})?$", 'a status such as 200, or a range "200-399"'),
]
Realm = Annotated[
    str, worded(r"^[A-Za-z0-9 ._-]{1,64}$", "letters, digits, spaces and ._-, at most 64")
]
UserName = Annotated[
    str, worded(r"^[A-Za-z0-9._@-]{1,64}$", "the name of a user: letters, digits and ._@-")
]
Origin = Annotated[
    str,
    worded(
        r"^(?:\*|https?://[A-Za-z0-9.:*-]{1,255})$", 'an origin such as https://example.com, or "*"'
    ),
]
Method = Annotated[str, worded(r"^[A-Z]{1,16}$", "a method such as GET")]
MediaType = Annotated[
    str, worded(r"^[a-z]+/[a-z0-9.+-]{1,64}$", "a media type such as application/json")
]
