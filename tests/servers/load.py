"""Requests without a pause through a proxy on loopback, and what became of each of them.

Keep-alive clients send one request after the other on a connection and leave it when an answer says
`Connection: close`; one-shot clients open a connection for each request. Nothing is tried twice: a
connection that is cut between two requests counts as failed too, although a client may try again.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from tests.servers.wait import eventually

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_MARK = re.compile(rb"\r\nx-(pod|version): *([^\r\n]*)", re.IGNORECASE)


class Failure(NamedTuple):
    """A request that went wrong: from when to when, on `time.monotonic()`'s clock, and how."""

    began: float
    ended: float
    reason: str


@dataclass
class Report:
    """What was seen: answers by status, pod and version; failures by reason and one by one."""

    answers: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    pods: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    moments: list[Failure] = field(default_factory=list)
    last_seen: dict[str, float] = field(default_factory=dict)
    first_seen: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, int]:
        """Failures and answers that are not 200, by reason; empty when all went well."""
        bad = {f"status {status}": n for status, n in self.statuses.items() if status != 200}
        return {**self.failures, **bad}


class Load:
    """A context manager that keeps sending from a thread of its own until it is left.

    `pause`: seconds between two requests of one client. `last_seen` and `first_seen` are moments by
    pod on `time.monotonic()`'s clock. It ends by itself after `limit` seconds.
    """

    def __init__(
        self,
        port: int,
        host: str,
        *,
        keep_alive: int = 6,
        one_shot: int = 6,
        path: str = "/",
        pause: float = 0.002,
        timeout: float = 10.0,
        limit: float = 300.0,
    ) -> None:
        self.report = Report()
        self._port = port
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
        self._stay = f"{head}\r\n".encode()
        self._leave = f"{head}Connection: close\r\n\r\n".encode()
        self._clients = (keep_alive, one_shot)
        self._pause = pause
        self._timeout = timeout
        self._limit = limit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(self._timeout + 5)

    def go_on(self, answers: int = 200, deadline: float = 30.0) -> None:
        """Wait for so many further answers, or for a failure, which is no reason to wait longer."""
        goal = self.report.answers + answers
        eventually(
            lambda: self.report.answers >= goal or self.report.failed,
            deadline,
            f"{answers} more answers",
        )

    def _run(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        keep_alive, one_shot = self._clients
        end = time.monotonic() + self._limit
        clients = [self._keep_alive(end) for _ in range(keep_alive)]
        clients += [self._one_shot(end) for _ in range(one_shot)]
        await asyncio.gather(*clients)

    async def _keep_alive(self, end: float) -> None:
        connection: _Connection | None = None

        def leave() -> None:
            nonlocal connection
            if connection is not None:
                connection.close()
            connection = None

        while not self._stop.is_set() and time.monotonic() < end:
            began = time.monotonic()
            try:
                if connection is None:
                    connection = await _Connection.open(self._port, self._timeout)
                stays = self._note(await connection.ask(self._stay, self._timeout), began)
            except _FAILURES as error:
                leave()
                self._fail(error, began)
            else:
                if not stays:
                    leave()
            await asyncio.sleep(self._pause)
        leave()

    async def _one_shot(self, end: float) -> None:
        while not self._stop.is_set() and time.monotonic() < end:
            began = time.monotonic()
            try:
                connection = await _Connection.open(self._port, self._timeout)
                try:
                    self._note(await connection.ask(self._leave, self._timeout), began)
                finally:
                    connection.close()
            except _FAILURES as error:
                self._fail(error, began)
            await asyncio.sleep(self._pause)

    def _fail(self, error: Exception, began: float) -> None:
        between = isinstance(error, _ClosedBetween)
        reason = "closed without an answer" if between else type(error).__name__
        self.report.failures[reason] += 1
        self.report.moments.append(Failure(began, time.monotonic(), reason))

    def _note(self, head: bytes, began: float) -> bool:
        now, report = time.monotonic(), self.report
        status = int(head[9:12])
        report.statuses[status] += 1
        if status != 200:
            report.moments.append(Failure(began, now, f"status {status}"))
        marks = {kind.lower(): value.decode() for kind, value in _MARK.findall(head)}
        pod = marks.get(b"pod", "")
        report.pods[pod] += 1
        report.versions[marks.get(b"version", "")] += 1
        report.first_seen.setdefault(pod, now)
        report.last_seen[pod] = now
        report.answers += 1
        return not _CLOSE.search(head)


class _ClosedBetween(Exception):
    """The server closed the connection and sent no byte of an answer."""


_FAILURES = (_ClosedBetween, OSError, asyncio.IncompleteReadError, TimeoutError)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, timeout: float) -> _Connection:
        opening = asyncio.open_connection("127.0.0.1", port)
        return cls(*await asyncio.wait_for(opening, timeout))

    async def ask(self, request: bytes, timeout: float) -> bytes:
        """Send a request and read its answer; its head is returned."""
        async with asyncio.timeout(timeout):
            try:
                self._writer.write(request)
                await self._writer.drain()
                head = await self._reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if not error.partial:
                    raise _ClosedBetween from None
                raise
            except (ConnectionResetError, BrokenPipeError):
                raise _ClosedBetween from None
            length = _LENGTH.search(head)
            await self._reader.readexactly(int(length[1]) if length else 0)
            return head

    def close(self) -> None:
        """Close it, without a wait for the other side."""
        self._writer.close()
