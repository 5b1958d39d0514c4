"""The HTTP server inside a pod: asyncio, one event loop for the pods of all nodes.

| request | answer |
|---|---|
| `/health` | 200 `{"healthy": true}`, or 503 `{"healthy": false}` |
| `/slow?seconds=1.5` | the usual answer, after that time |
| `/status/418` | the usual body under that status |
| `/echo...` | the request as it arrived: method, target, headers, body |
| anything else | 200 `{"pod": NAME, "version": VERSION}` |

Every answer has `X-Pod` and `X-Version` headers and a Content-Length. Speaks HTTP/1.1 with
keep-alive and HTTP/1.0, takes bodies with a length or in chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

_MAX_HEAD = 1 << 16
_KEPT_BODY = 1 << 16
_BACKLOG = 1024

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    keep_alive: bool

    def header(self, name: str) -> str:
        """The value of the first header of that name (in lower case), "" if there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(frozen=True)
class Answer:
    """Status, body, and the seconds to wait before it is sent."""

    status: int
    content: bytes
    delay: float = 0.0


class PodServer:
    """Answers for one pod at an address, on all its ports; `listen` before anything else."""

    def __init__(self, pod: str, version: str) -> None:
        self.pod = pod
        self.version = version
        self.healthy = True
        self.in_flight = 0
        self.served = 0
        self.closing = False
        self._body = json.dumps({"pod": pod, "version": version}).encode()
        self._marks = f"X-Pod: {pod}\r\nX-Version: {version}\r\n"
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._idle = asyncio.Event()

    async def listen(self, address: str, ports: Sequence[int]) -> None:
        """Accept connections on `address`, on every port or, raising OSError, on none."""
        self.closing = False
        listeners: list[socket.socket] = []
        try:
            for port in ports:
                listener = socket.create_server((address, port), backlog=_BACKLOG)
                listeners.append(listener)
        except OSError:
            for listener in listeners:
                listener.close()
            raise
        loop = asyncio.get_running_loop()
        for listener in listeners:
            server = await loop.create_server(
                lambda: _Connection(self), sock=listener, backlog=_BACKLOG
            )
            self._servers.append(server)

    async def close(self, timeout: float) -> None:
        """End as a well-behaved program does: accept no more, finish what is in flight.

        What is still in flight after `timeout` seconds is cut off.
        """
        self.closing = True
        self._stop_accepting()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        self._idle.clear()
        if self.in_flight:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), max(0.0, timeout))
        for connection in tuple(self._connections):
            connection.abort_if_busy()

    def abort(self) -> None:
        """End as a program that is killed: whatever is open is closed at once."""
        self._stop_accepting()
        for connection in tuple(self._connections):
            connection.abort()

    def _stop_accepting(self) -> None:
        for server in self._servers:
            loop = server.get_loop()
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
            # Not yet: asyncio loses connections that are being accepted when a server is closed.
            loop.call_soon(server.close)
        self._servers.clear()

    def answer(self, request: Request, body: bytes) -> Answer:
        url = urlsplit(request.target)
        if url.path == "/health":
            content = json.dumps({"healthy": self.healthy}).encode()
            return Answer(200 if self.healthy else 503, content)
        if url.path == "/slow":
            delay = float(parse_qs(url.query).get("seconds", ["1"])[0])
            return Answer(200, self._body, delay)
        if url.path.startswith("/status/"):
            status = int(url.path.removeprefix("/status/"))
            return Answer(status, b"" if status in {204, 304} else self._body)
        if url.path.startswith("/echo"):
            return Answer(200, self._echo(request, body))
        return Answer(200, self._body)

    def message(self, answer: Answer, *, with_body: bool, stay: bool) -> bytes:
        """An answer as bytes; `stay` says whether the connection will."""
        closing = "" if stay else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, 'Unknown')}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(answer.content)}\r\n{self._marks}{closing}\r\n"
        ).encode()
        return head + answer.content if with_body else head

    def _echo(self, request: Request, body: bytes) -> bytes:
        seen = {
            "pod": self.pod,
            "version": self.version,
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "body": body.decode("latin-1"),
        }
        return json.dumps(seen).encode()

    # Called by its connections.

    def opened(self, connection: _Connection) -> None:
        self._connections.add(connection)
        if not self._servers:
            connection.abort()  # accepted in the moment in which we stopped to

    def closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def began(self) -> None:
        self.in_flight += 1

    def ended(self, *, answered: bool) -> None:
        self.in_flight -= 1
        self.served += answered
        if not self.in_flight:
            self._idle.set()


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, each from its head to the end of its answer.

    `_read` is the state: what to do with the bytes that are there. It returns whether it got on.
    """

    _transport: asyncio.Transport

    def __init__(self, server: PodServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._read: Callable[[], bool] = self._read_head
        self._request: Request | None = None
        self._body = bytearray()
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._request is not None:
            self._request = None
            self._server.ended(answered=False)
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def close_if_idle(self) -> None:
        if self._request is None:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def abort_if_busy(self) -> None:
        if self._request is not None:
            self._transport.abort()

    def _advance(self) -> None:
        try:
            while self._buffer and not self._transport.is_closing() and self._read():
                pass
        except ValueError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            self._transport.close()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise ValueError("the head does not end")
            return False
        head = self._take(end + 4).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, protocol = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = tuple((name, value.strip()) for name, _, value in pairs)
        request = Request(method, target, headers, keep_alive=False)
        wish = request.header("connection").lower()
        keep_alive = wish != "close" if protocol == "HTTP/1.1" else wish == "keep-alive"
        self._request = Request(method, target, headers, keep_alive)
        self._server.began()
        self._body.clear()
        if request.header("expect").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in request.header("transfer-encoding").lower():
            self._read = self._read_chunk_size
        else:
            self._left = int(request.header("content-length") or 0)
            self._read = self._read_body
            if not self._left:
                self._respond()
        return True

    def _read_body(self) -> bool:
        self._left -= self._keep(min(self._left, len(self._buffer)))
        if not self._left:
            self._respond()
        return True

    def _read_chunk_size(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = self._take(end + 2)
        self._left = int(line.split(b";")[0], 16)
        self._read = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._left -= self._keep(min(self._left, len(self._buffer)))
        if not self._left:
            self._read = self._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        self._take(2)
        self._read = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        if not self._take(end + 2).strip():
            self._respond()
        return True

    def _wait_for_answer(self) -> bool:
        return False

    def _respond(self) -> None:
        assert self._request is not None
        self._read = self._wait_for_answer
        answer = self._server.answer(self._request, bytes(self._body))
        if answer.delay:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(answer.delay, self._send_late, answer)
        else:
            self._send(answer)

    def _send_late(self, answer: Answer) -> None:
        self._timer = None
        self._send(answer)
        self._advance()

    def _send(self, answer: Answer) -> None:
        assert self._request is not None
        stay = self._request.keep_alive and not self._server.closing
        with_body = self._request.method != "HEAD"
        self._transport.write(self._server.message(answer, with_body=with_body, stay=stay))
        self._request = None
        self._read = self._read_head
        if not stay:
            self._transport.close()
        self._server.ended(answered=True)

    def _keep(self, count: int) -> int:
        """Take `count` bytes of the body, keeping only the first of a long one."""
        self._body += self._take(count)[: max(0, _KEPT_BODY - len(self._body))]
        return count

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data
