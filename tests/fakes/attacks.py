"""What an API server that means harm may send: bodies and headers without an end, and lies.

Faults of honest servers are in `faults`. Whoever is attacked by these has asked us, with a good
certificate: nothing but bounds helps.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes.faults import Fault
from tests.fakes.wire import Exchange

_MIB = b"x" * (1 << 20)


@dataclass
class Flood(Fault):
    """Sends `head`, then `more` again and again, as fast as it can, or each `every` seconds."""

    head: bytes
    more: bytes
    every: float = 0.0

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.write(self.head)
        while True:
            await exchange.write(self.more)
            # Also where nothing is waited for: the other connections have their turn.
            await asyncio.sleep(self.every)


@dataclass
class Raw(Fault):
    """Answers with these bytes and closes the connection."""

    answer: bytes

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.write(self.answer)
        raise ConnectionError


@dataclass
class Redirect(Fault):
    """Sends the client elsewhere; `location` is asked for each time."""

    location: Callable[[], str]
    code: int = 302

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.answer(self.code, b"{}", f"Location: {self.location()}")
        return True


def _bomb(layers: int = 1) -> bytes:
    """10 MiB of spaces, packed."""
    body = b" " * (10 << 20)
    for _ in range(layers):
        body = gzip.compress(body)
    return body


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


FLOODS: dict[str, Fault] = {
    "a line without an end": Flood(_CHUNKED + b"\r\n", _chunk(_MIB)),
    "a line of little chunks": Flood(_CHUNKED + b"\r\n", _chunk(b"xx") * 10_000),
    "a body without an end": Flood(_OK + b"Connection: close\r\n\r\n", _MIB),
    "a body of a petabyte": Flood(_OK + b"Content-Length: 1125899906842624\r\n\r\n", _MIB),
    "a chunk of a petabyte": Flood(_CHUNKED + b"\r\n4000000000000\r\n", _MIB),
    "a chunk of a negative size": Flood(_CHUNKED + b"\r\n-1\r\n", _MIB),
    "a chunk whose size has no end": Flood(_CHUNKED + b"\r\n", b"f" * (1 << 20)),
    "trailers without an end": Flood(_CHUNKED + b"\r\n0\r\n", b"X: y\r\n" * 10_000),
    "headers without an end": Flood(_OK, b"X-Y: z\r\n" * 10_000),
    "a header without an end": Flood(_OK + b"X-Y: ", _MIB),
    "continuations without an end": Flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    "a packed body": Flood(_CHUNKED + b"Content-Encoding: gzip\r\n\r\n", _chunk(_bomb())),
    "a body packed twice": Flood(
        _CHUNKED + b"Content-Encoding: gzip, gzip\r\n\r\n", _chunk(_bomb(2))
    ),
    "a body packed to nothing": Flood(
        _CHUNKED + b"Content-Encoding: deflate\r\n\r\n", _chunk(b"\0\0\0\xff\xff" * 100_000)
    ),
    "members packed to nothing": Flood(
        _CHUNKED + b"Content-Encoding: gzip\r\n\r\n",
        _chunk(gzip.compress(b"") * 10_000),
    ),
    "a refusal without an end": Flood(b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\n", _MIB),
}
"""Faster than anybody could take it."""

DRIPS: dict[str, Fault] = {
    "a line": Flood(_CHUNKED + b"\r\n", _chunk(b"x"), 0.02),
    "a chunk": Flood(_CHUNKED + b"\r\n1000000\r\n", b"x", 0.02),
    "a body": Flood(_OK + b"Connection: close\r\n\r\n", b"x", 0.02),
    "trailers": Flood(_CHUNKED + b"\r\n0\r\n", b"X: y\r\n", 0.02),
    "headers": Flood(_OK, b"X", 0.02),
}
"""So slowly that no silence is long."""
