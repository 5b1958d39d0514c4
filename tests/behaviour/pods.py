"""Pods that do what a test tells them, to see through a proxy what becomes of it.

| request | answer |
|---|---|
| `/echo...` | what arrived, as JSON: method, target, headers, length and SHA-256 of the body |
| `/hold...` | the usual answer, but not before `release` |
| `/status/301` | that status; of 204 and 304 without a body |
| `/headers?Name=value&...` | the usual answer with these headers too, in this order |
| `/bytes?count=9` | so many bytes |
| `/stream` | what `say` is told, piece by piece, in chunks, up to `say(None)` |
| `/lines` | the same without chunks or length: the end of the connection ends it |
| `/health` | 200, or 503 if it is not `healthy` |
| `/websocket` | an upgrade; then each frame is sent back |
| anything else | `{"pod": ..., "version": ...}` |

Every answer has the headers `X-Pod`, `X-Version` and `X-Port`, the name of the port it came by.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qs, parse_qsl, urlsplit

from tests.servers.loopthread import LoopThread
from tests.servers.ports import free_port

_PIECE = 1 << 16
_BACKLOG = 512


@dataclass
class Request:
    """What arrived. `digest`: SHA-256 of the body; header names as they came."""

    method: str
    target: str
    protocol: str
    headers: list[tuple[str, str]]
    trailers: list[tuple[str, str]] = field(default_factory=list)
    length: int = 0
    digest: str = ""

    def header(self, name: str) -> str:
        """The first header of that name (in lower case), "" if there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def stays(self) -> bool:
        """Whether the client keeps the connection."""
        wish = self.header("connection").lower()
        return wish != "close" if self.protocol == "HTTP/1.1" else wish == "keep-alive"


class Pod:
    """One pod; made by `Pods.start`. `seen` are the requests whose heads have arrived.

    `accepted` counts connections. One that is not `sound` reads requests and cuts the connection.
    """

    def __init__(
        self,
        name: str,
        version: str,
        address: str,
        ports: Mapping[str, int],
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.name = name
        self.version = version
        self.address = address
        self.ports = dict(ports)
        self.seen: list[Request] = []
        self.in_flight = self.most_in_flight = 0
        self.accepted = 0
        self.healthy = self.sound = True
        self._loop = loop
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._idle: set[asyncio.StreamWriter] = set()
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closing = False
        self._released = asyncio.Event()
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()

    # --- what tests do --------------------------------------------------------------------------

    def release(self) -> None:
        """Let all requests of `/hold` have their answer, also those to come."""
        self._loop.call_soon_threadsafe(self._released.set)

    def hold(self) -> None:
        """Hold requests of `/hold` again after a `release`."""
        self._loop.call_soon_threadsafe(self._released.clear)

    def say(self, piece: bytes | None) -> None:
        """The next piece of the stream that is open; None ends it."""
        self._loop.call_soon_threadsafe(self._said.put_nowait, piece)

    # --- in the loop ----------------------------------------------------------------------------

    async def listen(self) -> None:
        """Accept connections on every port."""
        for name, port in self.ports.items():
            server = await asyncio.start_server(
                partial(self._serve, name),
                self.address,
                port,
                ssl=self._tls,
                backlog=_BACKLOG,
                limit=1 << 17,
            )
            self._servers.append(server)

    async def close(self) -> None:
        """End as a well-behaved program: accept no more, finish what is in flight."""
        self._closing = True
        self._released.set()
        for server in self._servers:
            server.close()
        for writer in tuple(self._idle):
            writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self.in_flight:
                    await asyncio.sleep(0.01)
        await self.cut()

    async def cut(self) -> None:
        """End as a program that is killed."""
        self._closing = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for task, writer in tuple(self._tasks.items()):
            writer.transport.abort()
            task.cancel()

    async def _serve(
        self, port: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer
        self.accepted += 1
        try:
            while not self._closing:
                self._idle.add(writer)
                try:
                    request = await _head(reader)
                finally:
                    self._idle.discard(writer)
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                self.seen.append(request)
                try:
                    await _body(request, reader, writer)
                    if not self.sound:
                        writer.transport.abort()
                        break
                    stays = await self._answer(request, reader, writer, port)
                    await writer.drain()
                finally:
                    self.in_flight -= 1
                if not stays:
                    break
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the other side went, or we were told to
        finally:
            del self._tasks[task]
            writer.close()

    async def _answer(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: str,
    ) -> bool:
        """Answer one request; whether the connection stays."""
        url = urlsplit(request.target)
        path, query = url.path, parse_qs(url.query)
        stays = request.stays
        status, more, content = 200, "", self._usual()
        if path == "/websocket":
            await self._websocket(request, reader, writer, port)
            return False
        if path in {"/stream", "/lines"}:
            return await self._stream(writer, port, chunked=path == "/stream") and stays
        if path.startswith("/hold"):
            await self._released.wait()
        elif path.startswith("/echo"):
            content = json.dumps({"pod": self.name, **vars(request)}).encode()
        elif path.startswith("/status/"):
            status = int(path.removeprefix("/status/"))
        elif path == "/health":
            status = 200 if self.healthy else 503
        elif path == "/bytes":
            content = bytes_of(int(query["count"][0]))
        elif path == "/headers":
            more = "".join(f"{name}: {value}\r\n" for name, value in parse_qsl(url.query))
        stays = stays and not self._closing
        if status not in {204, 304}:
            more += f"Content-Length: {len(content)}\r\n"
        if not stays:
            more += "Connection: close\r\n"
        writer.write(self._start(status, port, more))
        if status not in {204, 304} and request.method != "HEAD":
            writer.write(content)
        return stays

    def _usual(self) -> bytes:
        return json.dumps({"pod": self.name, "version": self.version}).encode()

    def _start(self, status: int, port: str, more: str) -> bytes:
        phrase = HTTPStatus(status).phrase
        marks = f"X-Pod: {self.name}\r\nX-Version: {self.version}\r\nX-Port: {port}\r\n"
        return f"HTTP/1.1 {status} {phrase}\r\n{marks}{more}\r\n".encode()

    async def _stream(self, writer: asyncio.StreamWriter, port: str, *, chunked: bool) -> bool:
        framing = "Transfer-Encoding: chunked\r\n" if chunked else "Connection: close\r\n"
        head = f"Content-Type: text/event-stream\r\nCache-Control: no-store\r\n{framing}"
        writer.write(self._start(200, port, head))
        while (piece := await self._said.get()) is not None:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        return chunked

    async def _websocket(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: str,
    ) -> None:
        key = request.header("sec-websocket-key").encode()
        token = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        accept = f"Sec-WebSocket-Accept: {base64.b64encode(token).decode()}\r\n"
        agreed = f"Upgrade: websocket\r\nConnection: Upgrade\r\n{accept}"
        writer.write(self._start(101, port, agreed))
        while True:
            flags, length = await reader.readexactly(2)
            length &= 0x7F
            if length > 125:
                length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8))
            mask = await reader.readexactly(4)
            masked = await reader.readexactly(length)
            said = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
            writer.write(framed(said, flags))
            await writer.drain()
            if flags & 0x0F == 8:
                return


async def _head(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, protocol = first.split(" ")
    return Request(method, target, protocol, _pairs(lines))


def _pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    found = (line.partition(":") for line in lines)
    return [(name, value.strip()) for name, _, value in found]


async def _body(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if request.header("expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    digest = hashlib.sha256()

    async def take(count: int) -> None:
        request.length += count
        while count:
            piece = await reader.readexactly(min(count, _PIECE))
            count -= len(piece)
            digest.update(piece)

    if "chunked" in request.header("transfer-encoding").lower():
        while size := int((await reader.readline()).split(b";")[0], 16):
            await take(size)
            await reader.readexactly(2)
        while (line := (await reader.readline()).decode("latin-1").strip()) != "":
            request.trailers += _pairs([line])
    else:
        await take(int(request.header("content-length") or 0))
    request.digest = digest.hexdigest()


def framed(said: bytes, flags: int = 0x81, mask: bytes = b"") -> bytes:
    """A websocket frame with a text; a client's has a mask, of zeros for all that we care."""
    length, bit = len(said), 0x80 if mask else 0
    if length < 126:
        return bytes([flags, bit | length]) + mask + said
    return bytes([flags, bit | 127]) + length.to_bytes(8) + mask + said


def bytes_of(count: int) -> bytes:
    """So many bytes, always the same ones."""
    block = bytes(range(256)) * 256
    return (block * (count // len(block) + 1))[:count]


class Pods(LoopThread):
    """Runs pods in a thread of its own; a context manager that ends them all."""

    _addresses = itertools.count(1)

    def __init__(self) -> None:
        super().__init__("pods")
        self._running: set[Pod] = set()

    def start(
        self,
        name: str,
        version: str,
        *,
        ports: Sequence[str] = ("http",),
        tls: ssl.SSLContext | None = None,
        at: Pod | None = None,
    ) -> Pod:
        """Serve a pod on an address of its own, or on that of one which is gone (`at`)."""
        number = next(self._addresses)
        address = f"127.79.{number // 250}.{number % 250 + 1}"
        numbers = {port: free_port() for port in ports}
        if at is not None:
            address, numbers = at.address, at.ports
        pod = Pod(name, version, address, numbers, self._loop, tls)
        self._run(pod.listen())
        self._running.add(pod)
        return pod

    def stop(self, pod: Pod) -> None:
        """It finishes what it has and is gone; nothing if it is already."""
        if pod in self._running:
            self._running.discard(pod)
            self._run(pod.close())

    def crash(self, pod: Pod) -> None:
        """It is killed: whatever is open is cut, nobody listens there any more."""
        self._running.discard(pod)
        self._run(pod.cut())

    def _end(self) -> None:
        for pod in list(self._running):
            self.crash(pod)
