"""A small asyncio client for the Kubernetes API: quick enough to play thousands of kubelets."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

_CONNECTIONS = 8
_LIMIT = 1 << 20


class Broken(OSError):
    """The connection ended, or what came was no HTTP/1.1, before an answer was complete."""


@dataclass(frozen=True)
class Answer:
    """`sent` is the moment just before the request's bytes went out, as `time.monotonic()`."""

    status: int
    body: bytes
    sent: float


@dataclass(frozen=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class AsyncApi:
    """Requests with a bearer token over up to 8 kept connections; streams over one of their own.

    Errors: OSError (which `Broken`, ssl.SSLError and TimeoutError are) when there is no answer.
    """

    def __init__(self, port: int, ca: str, token: str, *, timeout: float = 10.0) -> None:
        self._port = port
        self._timeout = timeout
        self._ssl = ssl.create_default_context(cafile=ca)
        self._fixed = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Accept: application/json\r\n"
        )
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "json"
    ) -> Answer:
        """Send one request; `kind` is the body's type after `application/`."""
        message = self._message(method, path, body, kind)
        async with self._slots, asyncio.timeout(self._timeout):
            while self._idle:
                connection = self._idle.pop()
                try:
                    return await self._exchange(connection, message)
                except Broken:
                    continue  # it was closed while it lay idle, or no longer answers: try another
            return await self._exchange(await self._connect(), message)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a GET's answer as they come; raises `Broken` if its status is not 200."""
        connection = await self._connect()
        try:
            connection.writer.write(self._message("GET", path, None, ""))
            status, headers = await _read_head(connection.reader)
            if status != 200 or headers.get("transfer-encoding") != "chunked":
                raise Broken(f"GET {path}: {status}")
            yield _lines(connection.reader)
        finally:
            connection.writer.close()

    async def _connect(self) -> _Connection:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._ssl, limit=_LIMIT
        )
        return _Connection(reader, writer)

    async def _exchange(self, connection: _Connection, message: bytes) -> Answer:
        """One request and its answer; the connection is kept if that went well, else closed."""
        try:
            sent = time.monotonic()
            connection.writer.write(message)
            status, headers = await _read_head(connection.reader)
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([part async for part in _chunks(connection.reader)])
            else:
                body = await connection.reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException as error:
            connection.writer.close()
            if isinstance(error, (EOFError, ConnectionError, ValueError)):
                raise Broken(str(error)) from error
            raise
        if headers.get("connection") == "close":
            connection.writer.close()
        else:
            self._idle.append(connection)
        return Answer(status, body, sent)

    def _message(self, method: str, path: str, body: Mapping[str, Any] | None, kind: str) -> bytes:
        data = json.dumps(body).encode() if body is not None else b""
        about = f"Content-Type: application/{kind}\r\n" if data else ""
        length = f"Content-Length: {len(data)}\r\n"
        return f"{method} {path} HTTP/1.1\r\n{self._fixed}{about}{length}\r\n".encode() + data


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {key.lower(): value.strip() for key, _, value in pairs}


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int((await reader.readline()).split(b";")[0] or b"0", 16)
        part = await reader.readexactly(size + 2)
        if not size:
            return
        yield part[:-2]


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Ends with the answer; raises `Broken` if that is cut."""
    rest = b""
    try:
        async for part in _chunks(reader):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line:
                    yield line
    except (EOFError, ValueError) as error:
        raise Broken(str(error)) from error
