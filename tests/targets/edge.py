"""A HAProxy target with a real HAProxy behind it, driven as the daemon's runner drives it."""

from __future__ import annotations

import http.client
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.localpods import LocalPods
from tests.servers.ports import free_port
from tests.servers.wait import eventually
from vulcanized.errors import TargetError
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Applied,
    Backend,
    Change,
    DesiredApp,
    PathKind,
    Policies,
    Route,
    Server,
    ServerState,
    Share,
)
from vulcanized.settings import HaproxySettings
from vulcanized.targets.haproxy import HaproxyTarget, process
from vulcanized.targets.haproxy.live import Live
from vulcanized.targets.haproxy.master import Master

TODO = AppId("default", "todo")
PLAIN = Policies()


def route(host: str, path: str = "/", kind: PathKind = PathKind.PREFIX) -> Route:
    return Route(host, kind, path)


def exact(host: str, path: str) -> Route:
    return Route(host, PathKind.EXACT, path)


def regex(host: str, path: str) -> Route:
    return Route(host, PathKind.REGEX, path)


def app(
    name: str = "todo",
    servers: Sequence[Server] = (),
    *,
    routes: Sequence[Route] | None = None,
    split: Sequence[tuple[str, int]] | None = None,
    backends: Sequence[Backend] | None = None,
    policies: Policies = PLAIN,
    maintenance: bool = False,
) -> DesiredApp:
    """An app at `<name>.example.com`, with one backend of every version unless told otherwise."""
    default_split = () if backends is not None else ((ANY_VERSION, 1),)
    return DesiredApp(
        AppId("default", name),
        tuple(sorted(routes if routes is not None else (route(f"{name}.example.com"),))),
        tuple(sorted(Share(*share) for share in (default_split if split is None else split))),
        tuple(sorted(backends, key=lambda b: b.version))
        if backends is not None
        else (backend(ANY_VERSION, servers),),
        policies,
        maintenance,
    )


def backend(version: str, servers: Iterable[Server] = ()) -> Backend:
    return Backend(version, tuple(sorted(servers)))


def server(
    name: str,
    address: str = "127.9.9.9",
    port: int = 9,
    state: ServerState = ServerState.READY,
    weight: int = 100,
) -> Server:
    return Server(name, address, port, state, weight)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def pod(self) -> str:
        return self.headers.get("x-pod", "")

    @property
    def version(self) -> str:
        return self.headers.get("x-version", "")


def get(
    port: int, host: str | None, path: str = "/", *, method: str = "GET", **headers: str
) -> Answer:
    """One request on a connection of its own; `host` None: HTTP/1.1 without that header."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Connection", "close")
        connection.endheaders()
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read().decode())
    finally:
        connection.close()


def raw(port: int, data: bytes) -> bytes:
    """Send bytes, read until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


class Edge:
    """A target over a HAProxy that it starts, and pods. A context manager that ends them all."""

    def __init__(self, *, hold_off: float = 0.05, ceiling: float = 0.5, **settings: Any) -> None:
        # Not pytest's tmp_path: a Unix socket's path has to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="vt-", dir="/tmp"))
        self.port = free_port()
        self.stop = threading.Event()
        self.hold_off, self.ceiling = hold_off, ceiling
        self.pods = LocalPods()
        self.settings = self.with_settings(**settings)
        self.target = self.new_target()
        self.generation = 0
        self.applied: Applied | None = None
        self.outcomes: list[Applied] = []

    def with_settings(self, **changes: Any) -> HaproxySettings:
        values: dict[str, Any] = {
            "directory": self.folder / "d",
            "listen": (f"127.0.0.1:{self.port}",),
            "master_socket": self.folder / "m.sock",
            "start": True,
            **changes,
        }
        return HaproxySettings(**values)

    def new_target(self) -> HaproxyTarget:
        return HaproxyTarget(
            self.settings, hold_off=self.hold_off, ceiling=self.ceiling, stop=self.stop
        )

    def __enter__(self) -> Self:
        self.pods.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop.set()
        self.target.close(stop_proxy=True)
        # A target that a test has closed before does not end what it was to leave running.
        if (pid := process.pid_of(self.settings.directory)) is not None:
            process.stop(pid)
        self.pods.__exit__(kind, error, trace)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- pods and apps -----------------------------------------------------------------------

    def pod(
        self,
        name: str,
        version: str = "blue",
        state: ServerState = ServerState.READY,
        weight: int = 100,
    ) -> Server:
        """A running pod as a server."""
        return Server(name, *self.pods.start(name, version), state, weight, version)

    # --- driving -----------------------------------------------------------------------------

    def apply(
        self, *apps: DesiredApp, gone: Iterable[AppId] = (), complete: bool = False
    ) -> Applied:
        """Hand in one change; what is due later is not waited for."""
        self.generation += 1
        values: dict[AppId, DesiredApp | None] = {each.app: each for each in apps}
        values |= dict.fromkeys(gone)
        change = Change(self.generation, values, complete or self.generation == 1, time.monotonic())
        return self._call(change)

    def turn(self) -> Applied:
        """One call for what is due."""
        return self._call(None)

    def _call(self, change: Change | None) -> Applied:
        applied = self.target.apply(change, time.monotonic())
        self.applied = applied
        self.outcomes.append(applied)
        return applied

    def show(self, *apps: DesiredApp, gone: Iterable[AppId] = (), complete: bool = False) -> None:
        """Hand in one change and wait until it is in effect."""
        self.apply(*apps, gone=gone, complete=complete)
        self.until(lambda: self.applied is not None and self.applied.generation == self.generation)

    def until(self, condition: Any, deadline: float = 10.0, what: str = "") -> None:
        """Call the target whenever it is due, until the condition holds. Errors are "not yet"."""

        def due_or_done() -> bool:
            if condition():
                return True
            due = self.applied.due if self.applied is not None else 0.0
            if due is not None and due <= time.monotonic():
                try:
                    self.turn()
                except TargetError:
                    self.applied = None
            return bool(condition())

        eventually(due_or_done, deadline, what, interval=0.01)

    @property
    def held(self) -> dict[str, str]:
        """The apps that are quarantined, by name, each with the message."""
        return {problem.app.name: problem.message for problem in self.target.problems()}

    # --- what runs ---------------------------------------------------------------------------

    def get(self, host: str | None = "todo.example.com", path: str = "/", **more: Any) -> Answer:
        return get(self.port, host, path, **more)

    @property
    def master(self) -> Master:
        return Master(self.settings.master_socket, self.settings.directory)

    def live(self) -> Live:
        return self.master.read_back()

    def worker(self) -> int:
        return self.master.processes().worker

    def command(self, text: str) -> str:
        """A command to the worker, as an operator would type it."""
        return self.master.ask(f"@1 {text}\n")

    def file(self, name: str) -> str:
        return (self.settings.directory / name).read_text()

    @property
    def reloads(self) -> list[str]:
        """The causes of the reloads (and starts) that were done."""
        return [applied.cause for applied in self.outcomes if applied.cause]
