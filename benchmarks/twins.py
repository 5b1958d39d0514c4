"""What a proxy takes for a change when it stands alone: the floor of `benchmarks.proxies`.

The twin of an HAProxy or nginx is started from a copy of the files that the daemon made for its
own, and changed by hand. Of vulcand the same process is used, through keys that are nobody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.bare import Bare
from benchmarks.crowd import host
from benchmarks.pods import NoEffect
from tests.behaviour.front import Child, Front, Vulcan
from tests.servers.ports import free_port
from tests.servers.programs import find_program
from tests.servers.wait import eventually
from vulcanized.model import ANY_VERSION, AppId
from vulcanized.targets.haproxy.parts import ACTIVE
from vulcanized.targets.haproxy.words import backend_id
from vulcanized.targets.nginx.words import flag

EFFECT = 20.0
PAIR = "pair"
"""An app with both VERSIONS, of which the first is active."""
ALONE = "app-0"
"""One without an activation."""
VERSIONS = ("blue", "green")

_STEADY = 0.25
"""So long nothing old has answered, when the last of it is believed to have been the last."""
_EVERY = 0.001
_TIMEOUT = 5.0
_READY = 30.0
_WORD = "no such host or path"


class Said(NamedTuple):
    """An answer on a connection of its own, and when all of it was in."""

    status: int
    pod: str
    body: str
    at: float


def ask(port: int, name: str) -> Said:
    """One question on a connection of its own, so that whoever accepts now answers it."""
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as connection:
        request = f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    at = time.monotonic()
    head, _, body = data.decode("latin-1").partition("\r\n\r\n")
    lines = head.split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return Said(int(lines[0].split(" ")[1]), fields.get("x-pod", ""), body, at)


def first(port: int, name: str, new: Callable[[Said], bool]) -> float:
    """When the first new answer came."""
    until = time.monotonic() + EFFECT
    while time.monotonic() < until:
        if new(said := ask(port, name)):
            return said.at
        time.sleep(_EVERY)
    raise NoEffect(f"no new answer of {name} within {EFFECT:g} s")


def last(port: int, name: str, old: Callable[[Said], bool]) -> float:
    """When the last old answer came; now, if there is none."""
    began = seen = time.monotonic()
    while (now := time.monotonic()) < seen + _STEADY or seen == began:
        if old(said := ask(port, name)):
            seen = said.at
        elif seen == began:
            return now
        if now > began + EFFECT:
            raise NoEffect(f"old answers of {name} for {EFFECT:g} s")
        time.sleep(_EVERY)
    return seen


class Twin(Protocol):
    """Each call makes one change and returns the seconds until its effect.

    `reloads`: apps come by a reload; `reloads_for_pods`: pods come and go so too. HAProxy is asked
    to check its files before, as whoever reloads by hand does; nginx does so by itself.
    """

    reloads: bool
    reloads_for_pods: bool

    def app(self) -> float:
        """Until the last answer without it."""

    def switch(self) -> float:
        """Until the last old answer."""

    def pod(self) -> float:
        """Until the first answer of what came."""

    def gone(self) -> float:
        """Until the last answer of what goes: a pod that `pod` has brought, where one did."""


@contextmanager
def twin_of(front: Front, bare: Bare, pods: Pods) -> Iterator[Twin]:
    """The floor of this proxy, as it is now."""
    if isinstance(front, Vulcan):
        yield _Tree(front, bare, pods)
        return
    assert isinstance(front, Child)
    directory = Path(tempfile.mkdtemp(prefix="twin-"))
    try:
        directory.chmod(0o755)
        kind = _Haproxy if front.kind == "haproxy" else _Nginx
        twin = kind(front, directory, pods)
        try:
            yield twin
        finally:
            twin.end()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Pods(NamedTuple):
    """Where pods answer, all on `port`: those of PAIR by version, and addresses of no one."""

    port: int
    pair: dict[str, str]
    fresh: Callable[[], str]


class _Copy:
    """A proxy of copied files, whose one word of all 404 answers tells configs apart."""

    config: str
    reloads = True
    reloads_for_pods = False

    def __init__(self, front: Child, directory: Path, pods: Pods) -> None:
        self.directory = directory
        self.port = free_port()
        self.pods = pods
        self._number = 0
        for path in front.directory.iterdir():
            if path.is_dir():
                shutil.copytree(path, directory / path.name, dirs_exist_ok=True)
            elif path.is_file() and path.suffix not in {".pid", ".log", ".sock"}:
                text = path.read_text()
                text = text.replace(str(front.directory), str(directory))
                (directory / path.name).write_text(text.replace(f":{front.port}", f":{self.port}"))
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        nobody = "nobody.test"
        eventually(lambda: ask(self.port, nobody).status == 404, _READY, ignore=OSError)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _reload(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """End it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def app(self) -> float:
        word = self._mark()
        sent = time.monotonic()
        self._reload()
        return last(self.port, "nobody.test", lambda said: word not in said.body) - sent

    def _mark(self) -> str:
        """Have the next config answer with another word."""
        path = self.directory / self.config
        before = f"{_WORD} {self._number}" if self._number else _WORD
        self._number += 1
        word = f"{_WORD} {self._number}"
        text = path.read_text()
        if before not in text:
            raise NoEffect(f"{path} does not say {before!r}")
        path.write_text(text.replace(before, word))
        return word


class _Haproxy(_Copy):
    config = "haproxy.cfg"

    def _command(self) -> list[str]:
        self._socket = self.directory / "master.sock"
        config = str(self.directory / self.config)
        return [str(find_program("haproxy")), "-W", "-S", f"{self._socket},mode,600", "-f", config]

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(self._socket))
            connection.sendall(command.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()

    def _reload(self) -> None:
        command = [
            str(find_program("haproxy")),
            "-c",
            "-q",
            "-f",
            str(self.directory / self.config),
        ]
        subprocess.run(command, check=True, capture_output=True)
        self._say("reload")

    def switch(self) -> float:
        old, new = VERSIONS if self._switched() else VERSIONS[::-1]
        app = AppId("default", PAIR)
        map_, id_ = self.directory / ACTIVE, backend_id(app, new)
        before = self.pods.pair[old]
        sent = time.monotonic()
        self._say(f"@1 set map {map_} {app} {id_}")
        return last(self.port, host(PAIR), lambda said: said.pod == before) - sent

    def _switched(self) -> bool:
        return ask(self.port, host(PAIR)).pod == self.pods.pair[VERSIONS[0]]

    def pod(self) -> float:
        address = self.pods.fresh()
        server = self._server(address)
        weight = "weight 100"  # as the others have
        sent = time.monotonic()
        self._say(f"@1 add server {server} {address}:{self.pods.port} {weight}")
        self._say(f"@1 enable server {server}")
        self._came = address
        return first(self.port, host(ALONE), lambda said: said.pod == address) - sent

    def gone(self) -> float:
        self.pod()
        sent = time.monotonic()
        self._say(f"@1 set server {self._server(self._came)} state maint")
        return last(self.port, host(ALONE), lambda said: said.pod == self._came) - sent

    def _server(self, address: str) -> str:
        return f"{backend_id(AppId('default', ALONE), ANY_VERSION)}/twin-{address}"


class _Nginx(_Copy):
    config = "http.conf"
    reloads_for_pods = True

    def _command(self) -> list[str]:
        config = str(self.directory / "nginx.conf")
        return [str(find_program("nginx")), "-e", "stderr", "-c", config]

    def _reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def switch(self) -> float:
        # The first version needs no flag.
        path = self.directory / "active" / flag(AppId("default", PAIR), VERSIONS[1])
        old = self.pods.pair[VERSIONS[1] if path.exists() else VERSIONS[0]]
        sent = time.monotonic()
        if path.exists():
            path.unlink()
        else:
            path.touch()
        return last(self.port, host(PAIR), lambda said: said.pod == old) - sent

    def pod(self) -> float:
        word = self._mark()
        sent = time.monotonic()
        self._reload()
        return first(self.port, "nobody.test", lambda said: word in said.body) - sent

    def gone(self) -> float:
        return self.app()


class _Tree:
    """vulcand by hand: a frontend, two backends with a server each."""

    reloads = reloads_for_pods = False

    def __init__(self, front: Vulcan, bare: Bare, pods: Pods) -> None:
        self.port = front.port
        self.pods = pods
        self._bare = bare
        self._prefix = front.vulcand.prefix
        self._number = 0
        self._lead = self._name()
        self._routed(self._lead, self.pods.pair[VERSIONS[0]])

    def _name(self) -> str:
        self._number += 1
        return f"floor{self._number}-of-nobody"

    def app(self) -> float:
        name = self._name()
        sent = time.monotonic()
        self._routed(name, self.pods.pair[VERSIONS[0]])
        return last(self.port, host(name), lambda said: said.status != 200) - sent

    def _routed(self, name: str, address: str) -> None:
        self._put(f"backends/{name}/backend", {"Type": "http"})
        self._put(f"backends/{name}/servers/s", self._server(address))
        self._frontend(name, name)

    def _frontend(self, name: str, backend: str) -> None:
        route = f'Host("{host(name)}")'
        self._put(
            f"frontends/{name}/frontend", {"Type": "http", "BackendId": backend, "Route": route}
        )

    def switch(self) -> float:
        old, new = self.pods.pair[VERSIONS[0]], self.pods.pair[VERSIONS[1]]
        name, other = self._name(), self._name()
        self._routed(name, old)
        self._put(f"backends/{other}/backend", {"Type": "http"})
        self._put(f"backends/{other}/servers/s", self._server(new))
        first(self.port, host(name), lambda said: said.pod == old)
        sent = time.monotonic()
        self._frontend(name, other)
        return last(self.port, host(name), lambda said: said.pod == old) - sent

    def pod(self) -> float:
        address = self.pods.fresh()
        sent = time.monotonic()
        self._put(f"backends/{self._lead}/servers/{address}", self._server(address))
        self._came = address
        return first(self.port, host(self._lead), lambda said: said.pod == address) - sent

    def gone(self) -> float:
        self.pod()
        sent = time.monotonic()
        self._bare.delete(f"{self._prefix}/backends/{self._lead}/servers/{self._came}")
        return last(self.port, host(self._lead), lambda said: said.pod == self._came) - sent

    def _server(self, address: str) -> dict[str, str]:
        return {"URL": f"http://{address}:{self.pods.port}"}

    def _put(self, key: str, value: dict[str, str]) -> None:
        self._bare.put(f"{self._prefix}/{key}", json.dumps(value).encode())
