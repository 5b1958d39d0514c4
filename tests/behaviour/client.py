"""What clients of a proxy do and see: whole requests, and bytes where these matter."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """An answer; header names in lower case, in the order in which they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first of that name, "" if there is none."""
        return next((value for key, value in self.headers if key == name), "")

    def every(self, name: str) -> list[str]:
        """All of that name."""
        return [value for key, value in self.headers if key == name]

    @property
    def pod(self) -> str:
        """The pod that gave it; "503" and the like when it is the proxy's own."""
        return self.header("x-pod") or str(self.status)

    @property
    def echo(self) -> dict[str, Any]:
        """What a pod's `/echo` saw; the names of its headers in lower case."""
        seen: dict[str, Any] = json.loads(self.body)
        seen["headers"] = [(name.lower(), value) for name, value in seen["headers"]]
        return seen

    @property
    def arrived(self) -> dict[str, str]:
        """The headers that a pod's `/echo` saw, the last of each name."""
        return dict(self.echo["headers"])


class Client:
    """One connection to a proxy, kept open; a context manager."""

    def __init__(self, port: int, timeout: float = 20.0, source: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=timeout, source_address=(source, 0)
        )

    def send(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Headers | Mapping[str, str] = (),
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """A request as it is written here, with nothing added but the body's framing."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        chunked = body is not None and not isinstance(body, bytes)
        connection = self._connection
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        for name, value in pairs:
            connection.putheader(name, value)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif isinstance(body, bytes):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body, encode_chunked=chunked)

    def receive(self) -> Answer:
        """The whole answer to what was sent."""
        response = self._connection.getresponse()
        return _answer(response, response.read())

    def begin(self) -> tuple[Answer, http.client.HTTPResponse]:
        """The head of the answer, and the rest of it to be read."""
        response = self._connection.getresponse()
        return _answer(response, b""), response

    def ask(self, host: str, path: str = "/", **how: Any) -> Answer:
        """Send and receive."""
        self.send(host, path, **how)
        return self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()


def _answer(response: http.client.HTTPResponse, body: bytes) -> Answer:
    headers = tuple((name.lower(), value) for name, value in response.getheaders())
    return Answer(response.status, headers, body)


class Wire:
    """A connection on which bytes are written and read; a context manager."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._data = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def until(self, mark: bytes) -> bytes:
        """All that comes up to and with `mark`; EOFError if the connection ends before."""
        while mark not in self._data:
            if not (more := self._socket.recv(65536)):
                raise EOFError(f"ended before {mark!r}: {self._data[:500]!r}")
            self._data += more
        end = self._data.index(mark) + len(mark)
        found, self._data = self._data[:end], self._data[end:]
        return found

    def read(self, count: int) -> bytes:
        """So many bytes; EOFError if the connection ends before."""
        while len(self._data) < count:
            if not (more := self._socket.recv(65536)):
                raise EOFError(f"ended after {len(self._data)} bytes of {count}")
            self._data += more
        found, self._data = self._data[:count], self._data[count:]
        return found

    def message(self) -> bytes:
        """A websocket's next message, in however many frames it comes."""
        text, whole = b"", False
        while not whole:
            flags, length = self.read(2)
            if length > 125:
                length = int.from_bytes(self.read(2 if length == 126 else 8))
            text += self.read(length)
            whole = bool(flags & 0x80)
        return text

    def rest(self) -> bytes:
        """All that comes until the other side closes."""
        while more := self._socket.recv(65536):
            self._data += more
        found, self._data = self._data, b""
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
