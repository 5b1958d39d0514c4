"""A scripted API server for the reflector, with time in our hand: no threads, no sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.fakes import manifests
from vulcanized.errors import SourceError, Unreachable
from vulcanized.listwatch import Codec
from vulcanized.model import AppId, Pod
from vulcanized.objects import Labels, pods
from vulcanized.reflector import Cache, Reflector, Timing
from vulcanized.slot import DirtyApps

TODO = AppId("default", "todo")
SHOP = AppId("default", "shop")


def wire(name: str, app: str = "todo", uid: str = "", at: int = 7, **more: Any) -> dict[str, Any]:
    return manifests.pod(name, app, uid=uid or f"u-{name}", resourceVersion=str(at), **more)


def record(name: str, app: str = "todo", uid: str = "") -> Pod:
    [found] = Codec(pods(Labels())).page(listed(wire(name, app, uid))).records
    return found


def listed(*items: object, version: str = "100", more: str = "") -> bytes:
    metadata = {"resourceVersion": version, "continue": more}
    return json.dumps({"kind": "PodList", "metadata": metadata, "items": items}).encode()


def line(kind: str, thing: object) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


class Server:
    """A transport that plays a script, and the stop event and the clock that go with it.

    A step is a page's body, what a watch sends (bytes, errors to raise, seconds that pass), or an
    error. When the script is at its end, everything stops. `asked` has every request, `waits`
    every wait.
    """

    def __init__(self, *script: bytes | SourceError | list[bytes | float | SourceError]) -> None:
        self.script = list(script)
        self.now = 1000.0
        self.asked: list[tuple[str, ...]] = []
        self.waits: list[float] = []
        self.checks: list[SourceError | None] = []
        self.stop = _Stop(self)
        self.dirty = DirtyApps(clock=lambda: self.now)
        self.cache: Cache[Pod] = Cache()

    def start(self, stop: threading.Event) -> None:
        assert stop is self.stop

    def page(self, more: str) -> bytes:
        step = self._next("list", more)
        assert isinstance(step, bytes)
        return step

    @contextmanager
    def watch(self, version: str, seconds: int) -> Iterator[Iterator[bytes]]:
        step = self._next("watch", version)
        self.seconds = seconds
        assert isinstance(step, list)
        yield self._chunks(step)

    def check(self, version: str) -> None:
        self.asked.append(("check", version))
        error = self.checks.pop(0) if self.checks else None
        if error is not None:
            raise error

    def _next(self, *asked: str) -> object:
        self.asked.append(asked)
        if not self.script:
            self.stop.set()
            raise Unreachable("the script is at its end")
        step = self.script.pop(0)
        if isinstance(step, SourceError):
            raise step
        return step

    def _chunks(self, steps: Sequence[bytes | float | SourceError]) -> Iterator[bytes]:
        for step in steps:
            if isinstance(step, SourceError):
                raise step
            if isinstance(step, bytes):
                yield step
            else:
                self.now += step

    def run(
        self, timing: Timing | None = None, uniform: Any = lambda low, high: low
    ) -> Reflector[Pod]:
        reflector = Reflector(
            "pods",
            self,
            Codec(pods(Labels())),
            self.cache,
            self.dirty,
            timing=timing or Timing(),
            clock=lambda: self.now,
            uniform=uniform,
        )
        reflector.run(self.stop)
        return reflector

    def marked(self) -> tuple[set[AppId], bool]:
        """The apps marked, and whether a full pass was asked for."""
        taken = self.dirty.drain(0)
        assert taken is not None
        return set(taken[0]), taken[1] is not None

    def requests(self) -> list[str]:
        return [" ".join(asked).strip() for asked in self.asked]


class _Stop(threading.Event):
    """Waits by moving the server's clock."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "every wait has a limit"
        if timeout:
            self._server.waits.append(timeout)
            self._server.now += timeout
        return self.is_set()
