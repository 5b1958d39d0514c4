"""HTTP/1.1 as far as the fake API server needs it, open to faults at every byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fakes.store import StatusError

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Abort(Exception):
    """Reset the connection now."""


class EndOfStream(Exception):
    """End the watch now, cleanly."""


@dataclass(frozen=True)
class Request:
    """One request. `verb` is RBAC's word for it; `at` is monotonic."""

    verb: str
    path: str
    group: str
    plural: str
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str]
    token: str
    body: bytes
    at: float = field(default_factory=time.monotonic)


class Exchange:
    """One request and the way to answer it. Nothing is written while `thawed` is not set."""

    def __init__(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        thawed: asyncio.Event,
    ) -> None:
        self.request = request
        self.chunked = True
        self._reader, self._writer, self._thawed = reader, writer, thawed

    async def write(self, data: bytes) -> None:
        await self._thawed.wait()
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, code: int, *headers: str) -> None:
        lines = [f"HTTP/1.1 {code} {code}", "Content-Type: application/json", *headers, "", ""]
        await self.write("\r\n".join(lines).encode())

    async def answer(self, code: int, body: bytes, *headers: str) -> None:
        await self.head(code, f"Content-Length: {len(body)}", *headers)
        await self.write(body)

    async def refuse(self, error: StatusError, *headers: str) -> None:
        await self.answer(error.code, json.dumps(error.status).encode(), *headers)

    async def begin_stream(self, *headers: str) -> None:
        end = "Transfer-Encoding: chunked" if self.chunked else "Connection: close"
        await self.head(200, end, *headers)

    async def chunk(self, data: bytes) -> None:
        """A part of a stream; the empty one ends it."""
        await self.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)
        if not data and not self.chunked:
            self._writer.write_eof()
            await self.until_gone()
            raise Abort

    async def until_gone(self) -> None:
        """Return when the client has closed the connection."""
        while await self._reader.read(1 << 16):
            pass


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    split = urlsplit(target)
    query = dict(parse_qsl(split.query, keep_blank_values=True))
    group, namespace, plural, name, subresource = _places(split.path)
    watches = query.get("watch") in ("true", "1")
    verb = _VERBS.get(method) or ("get" if name else "watch" if watches else "list")
    return Request(
        verb=verb,
        path=split.path,
        group=group,
        plural=plural,
        namespace=namespace,
        name=name,
        subresource=subresource,
        query=query,
        token=headers.get("authorization", "").partition(" ")[2],
        body=body,
    )


def _places(path: str) -> tuple[str, str, str, str, str]:
    """group, namespace, plural, name, subresource; each may be ""."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "apis":
        group, rest = parts[1], parts[3:]
    else:
        group, rest = "", parts[2:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = [*rest, "", "", ""][:3]
    return group, namespace, plural, name, subresource
