"""The types of single settings: what each may look like, and what to write instead.

A validation context {"base": Path} gives the folder that relative paths are relative to.
"""

from __future__ import annotations

import json
import os
import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo

from vulcanized.model import Endpoint

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_NAME: Final = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_SELECTOR: Final = re.compile(r"[A-Za-z0-9_./=!,() -]*")
_VULCAND_PREFIX: Final = re.compile(r"/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def _absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    if "\0" in str(path):
        raise ValueError("a path cannot hold a zero byte")
    return Path(os.path.normpath(base / path))


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("must not be empty; write a path")
    return value


def _nothing(value: object) -> object:
    return None if value == "" else value


def listed(value: object) -> object:
    """A list as the environment can carry it: JSON, texts with commas between them, or by index."""
    if isinstance(value, dict):
        indexes = [str(index) for index in range(len(value))]
        if strange := [key for key in value if key not in indexes]:
            hint = "" if strange[0].isdecimal() else "; in a file, write [[...]] for each entry"
            raise ValueError(
                f"must be a list: {strange[0]!r} is not the index of the next entry{hint}"
            )
        return [value[index] for index in indexes]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"is not a JSON list ({error})") from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _address(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    written = re.fullmatch(r"(.*):([0-9]{1,5})", value) if isinstance(value, str) else None
    if written is None or not 1 <= int(written[2]) <= 65535:
        raise ValueError(
            f"{value!r:.60} is no address with a port from 1 to 65535;"
            ' write it as "0.0.0.0:80", "[::]:80" or ":80"'
        )
    host = written[1]
    try:
        if host in ("", "*"):
            host = "*"
        elif host.startswith("[") and host.endswith("]"):
            host = str(IPv6Address(host[1:-1]))
        else:
            host = str(IPv4Address(host))
    except ValueError:
        raise ValueError(
            f"{value!r} does not start with an address; "
            'write an IPv4 address, an IPv6 address in brackets, or "*" for all'
        ) from None
    return Endpoint(host, int(written[2]))


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def _endpoint_url(value: str) -> str:
    try:
        url = urlsplit(value)
        port = url.port or 2379
    except ValueError:
        raise ValueError(f'{value!r} is not a URL; write "https://10.0.0.1:2379"') from None
    if url.username is not None:
        raise ValueError("holds a user name; use username and password_file instead")
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/"):
        raise ValueError(f'{value!r} is not of the form "https://10.0.0.1:2379"')
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


def _prefix(value: str) -> str:
    stripped = value.rstrip("/")
    if not stripped.startswith("/") or "//" in stripped:
        raise ValueError(f'{value!r} is no prefix; write it as "/vulcanized"')
    return stripped


T = TypeVar("T")
Location = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_absolute)]
MaybeLocation = Annotated[Location | None, BeforeValidator(_nothing)]
MaybeText = Annotated[str | None, BeforeValidator(_nothing)]
Listed = Annotated[tuple[T, ...], BeforeValidator(listed)]
Address = Annotated[Endpoint, PlainValidator(_address)]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Namespace = Annotated[str, _matching(_DNS_LABEL, "a Kubernetes namespace")]
LabelName = Annotated[str, _matching(_LABEL_NAME, "the name of a Kubernetes label")]
PlainName = Annotated[
    str, _matching(_PLAIN_NAME, "a name of letters, digits, dots, dashes and underscores")
]
Selector = Annotated[str, _matching(_SELECTOR, "a label selector such as team=shop,tier!=db")]
EtcdUrl = Annotated[str, AfterValidator(_endpoint_url)]
EtcdPrefix = Annotated[str, AfterValidator(_prefix)]
VulcandPrefix = Annotated[
    str,
    _matching(
        _VULCAND_PREFIX,
        "vulcand's -etcdKey, such as vulcand: letters, digits, ._- and / in between",
    ),
]
