"""What an API server may do to a client, by name.

A new fault is a subclass of `Fault` that overrides one of its hooks; `FakeKubernetes.suffering`
puts it in place.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.store import Item, StatusError
from tests.fakes.wire import Abort, EndOfStream, Exchange


class Fault:
    """The hooks; by themselves they do no harm."""

    chunked = True
    """Whether watches are sent with `Transfer-Encoding: chunked`."""

    headers: tuple[str, ...] = ()
    """Headers to be added to a page and to a watch."""

    async def instead(self, exchange: Exchange) -> bool:
        """Answer in place of the server; True: done."""
        return False

    def listed(self, version: int, items: list[Item]) -> tuple[int, list[Item]]:
        """What a list is made of: its version and its objects."""
        return version, items

    def encoded(self, item: bytes) -> bytes:
        """The JSON of one object, in a list and in an event."""
        return item

    def page(self, body: bytes) -> bytes:
        """The body of a page of a list."""
        return body

    async def watching(self, exchange: Exchange) -> None:
        """A watch has been accepted, nothing is sent yet."""

    async def event(self, exchange: Exchange, line: bytes) -> None:
        """Send one line of a watch."""
        await exchange.chunk(line)


# --- no answer, or a bad one ------------------------------------------------------------------


class Mute(Fault):
    """Accepts, and never answers."""

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.until_gone()
        raise Abort


@dataclass
class SlowHeaders(Fault):
    """Sends the headers of a good answer byte by byte, and never comes to their end."""

    every: float = 0.05

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            await asyncio.sleep(self.every)
            await exchange.write(b"x")


@dataclass
class SlowBody(Fault):
    """Announces a page and sends it byte by byte."""

    every: float = 0.05

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.head(200, "Content-Length: 1000000")
        while True:
            await exchange.write(b" ")
            await asyncio.sleep(self.every)


class Reset(Fault):
    """Resets the connection in place of an answer."""

    async def instead(self, exchange: Exchange) -> bool:
        raise Abort


@dataclass
class Refuse(Fault):
    """An HTTP error; `retry_after` is the header's text."""

    code: int
    reason: str = "InternalError"
    message: str = "an error on the server"
    retry_after: str = ""

    async def instead(self, exchange: Exchange) -> bool:
        headers = [f"Retry-After: {self.retry_after}"] if self.retry_after else []
        await exchange.refuse(StatusError(self.code, self.reason, self.message), *headers)
        return True


def expired() -> Refuse:
    """410 as the status of the answer."""
    return Refuse(410, "Expired", "too old resource version: 1 (1000)")


@dataclass
class Answer(Fault):
    """200 with a body that is not what was asked for (a login page, an empty object)."""

    body: bytes

    async def instead(self, exchange: Exchange) -> bool:
        await exchange.answer(200, self.body)
        return True


# --- lists ------------------------------------------------------------------------------------


class EmptyList(Fault):
    """A valid list of nothing."""

    def listed(self, version: int, items: list[Item]) -> tuple[int, list[Item]]:
        return version, []


class HalfList(Fault):
    """A valid list without the second half of the objects."""

    def listed(self, version: int, items: list[Item]) -> tuple[int, list[Item]]:
        return version, items[: len(items) // 2]


@dataclass
class OldList(Fault):
    """A list of an earlier time: as a server shows that has been restored from a backup."""

    version: int
    items: list[Item]

    def listed(self, version: int, items: list[Item]) -> tuple[int, list[Item]]:
        return self.version, self.items


class CutPage(Fault):
    """The second half of a page does not come."""

    def page(self, body: bytes) -> bytes:
        return body[: len(body) // 2]


class EndlessPaging(Fault):
    """Every page says that there are more."""

    def page(self, body: bytes) -> bytes:
        page = json.loads(body)
        page["metadata"].setdefault("continue", "MC0wLTBAMA==")
        return json.dumps(page).encode()


# --- objects ----------------------------------------------------------------------------------


@dataclass
class Garbage(Fault):
    """Changes the JSON of the object with this name, in lists and in events."""

    name: str
    change: Callable[[bytes], bytes]

    def encoded(self, item: bytes) -> bytes:
        if json.loads(item)["metadata"].get("name") != self.name:
            return item
        return self.change(item)


# --- watches ----------------------------------------------------------------------------------


class EndAtOnce(Fault):
    """A clean end before anything was sent."""

    async def watching(self, exchange: Exchange) -> None:
        raise EndOfStream


class EndAfterEach(Fault):
    """A clean end after each event."""

    async def event(self, exchange: Exchange, line: bytes) -> None:
        await exchange.chunk(line)
        raise EndOfStream


class EndInLine(Fault):
    """A clean end in the middle of a line."""

    async def event(self, exchange: Exchange, line: bytes) -> None:
        await exchange.chunk(line[: len(line) // 2])
        raise EndOfStream


class CutInLine(Fault):
    """A reset in the middle of a line, and of a chunk."""

    async def event(self, exchange: Exchange, line: bytes) -> None:
        await exchange.write(b"%x\r\n%s" % (len(line), line[: len(line) // 2]))
        raise Abort


class HalfOpen(Fault):
    """The stream stays open, and nothing comes any more."""

    async def event(self, exchange: Exchange, line: bytes) -> None:
        await exchange.until_gone()
        raise Abort


@dataclass
class ErrorEvent(Fault):
    """An ERROR event in place of a stream."""

    error: StatusError

    async def watching(self, exchange: Exchange) -> None:
        await exchange.chunk(event_line("ERROR", json.dumps(self.error.status).encode()))
        raise EndOfStream


def expired_event() -> ErrorEvent:
    """410 as an ERROR event, which is how the real one says it."""
    return ErrorEvent(StatusError(410, "Expired", "too old resource version: 1 (1000)"))


def too_large_event() -> ErrorEvent:
    """The version asked for has not been reached: as after a restore."""
    return ErrorEvent(too_large("2000", 1000))


@dataclass
class Split(Fault):
    """Sends each line in chunks of `size` bytes."""

    size: int = 10

    async def event(self, exchange: Exchange, line: bytes) -> None:
        for start in range(0, len(line), self.size):
            await exchange.chunk(line[start : start + self.size])


class Unchunked(Fault):
    """A stream as HTTP/1.0 has it: it ends when the connection does."""

    chunked = False


class Compressed(Fault):
    """Everything comes through gzip, though nobody asked for it."""

    headers = ("Content-Encoding: gzip",)

    def __init__(self) -> None:
        self._streams: dict[Exchange, Any] = {}

    def page(self, body: bytes) -> bytes:
        return gzip.compress(body)

    async def watching(self, exchange: Exchange) -> None:
        self._streams[exchange] = zlib.compressobj(wbits=31)

    async def event(self, exchange: Exchange, line: bytes) -> None:
        stream = self._streams[exchange]
        await exchange.chunk(stream.compress(line) + stream.flush(zlib.Z_SYNC_FLUSH))


@dataclass
class Line(Fault):
    """Puts one more line in front of each event."""

    line: bytes

    async def event(self, exchange: Exchange, line: bytes) -> None:
        await exchange.chunk(self.line + b"\n" + line)


def event_line(kind: str, item: bytes) -> bytes:
    """One line of a watch."""
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), item)


def too_large(version: str, present: int) -> StatusError:
    """What the API server says to a version that it has not reached."""
    message = f"Too large resource version: {version}, current: {present}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return StatusError(504, "Timeout", message, causes=causes, retryAfterSeconds=1)
