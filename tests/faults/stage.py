"""The whole daemon between servers that can be made to fail, and what it must be judged by.

Two apps: `todo`, whose pods, config and versions the tests change, and `other`, whose requests
must never fail. The API server is the fake, since most of its faults cannot be asked of a real
one; etcd, HAProxy and the pods are real.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons import PROGRAM, Vulcanized, eventually_served_by
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.etcd import Etcd
from tests.servers.load import Load
from tests.servers.localpods import LocalPods
from tests.servers.process import ServerProcess
from tests.servers.programs import find_program
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable
from vulcanized.targets.haproxy.master import Master

OTHER_HOST = "other.example.com"
TODO_HOST = "todo.example.com"

CALM = {"keep_alive": 2, "one_shot": 2, "pause": 0.01}
"""A load that leaves the machine room: about 200 requests a second."""


@dataclass(frozen=True)
class Usage:
    """What a process holds, from /proc."""

    descriptors: int
    threads: int


class Stage:
    """The servers, the pods and one daemon; made by `stage`.

    Both apps begin with two ready pods of version `blue`, which is active. The daemon reaches each
    member of etcd through one of `relays` and the API server directly; `load` asks `other` all the
    time. `haproxy` is the one that was not started by the daemon, if that is asked for.
    """

    def __init__(
        self,
        folder: Path,
        cluster: FakeKubernetes,
        etcd: Etcd,
        relays: Sequence[Relay],
        pods: LocalPods,
        more: str,
        target: str,
        etcd_more: str,
        program: Sequence[str],
    ) -> None:
        self.folder = folder
        self.cluster = cluster
        self.etcd = etcd
        self.relays = relays
        self.relay = relays[0]
        self.pods = pods
        self.prefix = "/vulcanized"
        self.haproxy: ServerProcess | None = None
        self._more = more
        self._target = target if "start" in target else "start = true"
        self._etcd_more = etcd_more
        self._fresh = 0
        kubeconfig = cluster.write_kubeconfig(folder / "kubeconfig")
        self._kubernetes = f'[kubernetes]\nkubeconfig = "{kubeconfig}"\n'
        sides = self.sides([f"http://127.0.0.1:{relay.port}" for relay in relays])
        self.daemon = Vulcanized(folder / "v", sides, more=more, target=target, program=program)
        for app in ("todo", "other"):
            for number in (1, 2):
                self.add_pod(f"{app}-blue-{number}", app)
            self.configure(app)
            self.activate("blue", app)

    def sides(self, endpoints: Sequence[str]) -> str:
        """The settings' sections of the sources, with etcd at these URLs."""
        etcd = f'endpoints = {json.dumps(list(endpoints))}\nprefix = "{self.prefix}"\n'
        return f"{self._kubernetes}\n[etcd]\n{etcd}{self._etcd_more}\n"

    # --- what people and the cluster do ---------------------------------------------------------

    def add_pod(self, name: str, app: str = "todo", version: str = "blue") -> None:
        """Serve a pod that is ready at once, and tell the API server."""
        self.pods.start(name, version)
        self.cluster.store.create("pods", self.pods.manifest(name, app))

    def remove_pod(self, name: str) -> None:
        """As kubelet does: terminating first; its server goes when its last request is answered."""
        now = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
        self.cluster.store.patch("pods", "default", name, {"metadata": now})
        self.pods.stop(name)
        self.cluster.store.delete("pods", "default", name)

    def configure(self, app: str = "todo", **fields: Any) -> None:
        """Put an app config; the app answers <app>.example.com unless `hosts` says otherwise."""
        text = json.dumps({"hosts": [f"{app}.example.com"], **fields})
        self.etcd.put(f"{self.prefix}/apps/default/{app}", text)

    def activate(self, text: str, app: str = "todo") -> None:
        """Put an activation."""
        self.etcd.put(f"{self.prefix}/active/default/{app}", text)

    # --- what is seen ---------------------------------------------------------------------------

    def served_by(self, *pods: str, deadline: float = 30.0) -> None:
        """Wait until exactly these pods answer for `todo`."""
        eventually_served_by(self.daemon.url, TODO_HOST, pods, deadline)

    def settled(self, daemon: Vulcanized | None = None, deadline: float = 60.0) -> None:
        """Wait until every source follows and the proxy has all of it in effect."""
        at = daemon or self.daemon

        def settled() -> bool:
            status = at.status()
            (target,) = status["targets"]
            synced = all(source["state"] == "synced" for source in status["sources"])
            return synced and target["generation"] == target["wanted"] and not target["error"]

        eventually(settled, deadline, at.process.log_tail, ignore=(OSError, ValueError))

    def usage(self) -> Usage:
        """What the daemon holds now."""
        process = Path(f"/proc/{self.daemon.process.pid}")
        return Usage(len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())))

    def state(self, daemon: Vulcanized | None = None) -> dict[str, Any]:
        """All that a person or a client can see of a daemon's work: apps, files, what runs."""
        at = daemon or self.daemon
        return {
            "apps": at.status()["apps"],
            "files": files_of(at),
            "running": _running(at),
        }

    def like_a_fresh_start(self, deadline: float = 60.0) -> None:
        """Wait until the daemon's state is that of one which starts now and has no past."""
        with self._fresh_start() as fresh:
            self._becomes(lambda: self.state(fresh), deadline)

    def fresh_state(self) -> dict[str, Any]:
        """The state of a daemon which starts now and has no past, for `becomes`."""
        with self._fresh_start() as fresh:
            return self.state(fresh)

    def becomes(self, state: dict[str, Any], deadline: float = 60.0) -> None:
        """Wait until the daemon's state is this one."""
        self._becomes(lambda: state, deadline)

    @contextlib.contextmanager
    def _fresh_start(self) -> Iterator[Vulcanized]:
        self._fresh += 1
        folder = self.folder / f"fresh-{self._fresh}"
        up = [member.endpoint for member in self.etcd.members if member.process.running]
        sides = self.sides(up)
        with Vulcanized(folder, sides, more=self._more, target=self._target) as fresh:
            fresh.start()
            self.settled(fresh)
            yield fresh

    def _becomes(self, state: Callable[[], dict[str, Any]], deadline: float) -> None:
        self.settled(deadline=deadline)
        # What runs is right at once, the files follow within a second.
        eventually(
            lambda: self.state() == state(),
            deadline,
            lambda: f"the state of a fresh start:\n{_different(self.state(), state())}",
            ignore=(OSError, ProxyUnreachable),  # in the midst of a reload
        )

    @contextlib.contextmanager
    def load(self, host: str = OTHER_HOST) -> Iterator[Load]:
        """Keep asking an app in a `with` block; in the end no request may have failed."""
        with Load(self.daemon.port, host, **CALM) as load:  # type: ignore[arg-type]
            load.go_on(20)
            yield load
            load.go_on(50)
        if load.report.failed:
            raise AssertionError(f"failed requests: {load.report.failed}")

    @contextlib.contextmanager
    def no_leak(self) -> Iterator[None]:
        """In a `with` block: afterwards no more threads or descriptors are held than before."""
        # Its files of the state are opened when there is something to be written down.
        self.daemon.wait_remembered("todo", "other")
        before = self.usage()

        def as_before() -> bool:
            now = self.usage()
            # gRPC's own threads and a connection in the making come and go.
            return now.descriptors <= before.descriptors + 3 and now.threads <= before.threads + 2

        yield
        eventually(as_before, 30, lambda: f"{self.usage()} as before: {before}")


@contextlib.contextmanager
def stage(
    folder: Path,
    *,
    more: str = "",
    target: str = "start = true",
    etcd: Etcd | None = None,
    etcd_more: str = "",
    program: Sequence[str] = PROGRAM,
) -> Iterator[Stage]:
    """All servers started, the daemon ready.

    `more`: settings' text; `target`, `etcd_more`: further lines of those sections. `etcd`: one that
    runs already. `program`: what the daemon is started as. A target without `start = true` gets a
    HAProxy as a service manager starts it.
    """
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(FakeKubernetes())
        etcd = etcd or stack.enter_context(Etcd())
        relays = [stack.enter_context(Relay(member.port)) for member in etcd.members]
        pods = stack.enter_context(LocalPods())
        made = Stage(folder, cluster, etcd, relays, pods, more, target, etcd_more, program)
        daemon = stack.enter_context(made.daemon)
        if "start" in target:
            daemon.start()
        else:
            daemon.start(ready=False)
            files = daemon.directory / "haproxy.cfg"
            eventually(files.exists, 30, daemon.process.log_tail)
            made.haproxy = haproxy_for(daemon)
            stack.callback(made.haproxy.kill)
            made.haproxy.start()
            daemon.wait_ready()
        yield made


def haproxy_for(daemon: Vulcanized) -> ServerProcess:
    """A HAProxy that is not the daemon's child, as a service manager would start it."""
    socket = f"{daemon.master_socket},mode,600"
    program, config = find_program("haproxy"), daemon.directory / "haproxy.cfg"
    words = ["-W", "-S", socket, "-f", str(config)]
    return ServerProcess("haproxy", [program, *words], daemon.folder / "its-haproxy.log")


class Counter:
    """Counts what grows, a second at a time, in a `with` block: `most` is the busiest second."""

    def __init__(self, count: Any) -> None:
        self._count = count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counter", daemon=True)
        self.most = 0

    def _run(self) -> None:
        before, stopped = self._count(), False
        while not stopped:
            stopped = self._stop.wait(1.0)
            now = self._count()
            self.most, before = max(self.most, now - before), now

    def __enter__(self) -> Counter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def files_of(at: Vulcanized) -> dict[str, str]:
    """The files of the target, without what must differ between two directories."""
    paths = [*at.directory.glob("haproxy.cfg"), *at.directory.glob("*.map")]
    texts = {path.name: path.read_text() for path in paths}
    return {
        # The frame's digest covers the directory and the port.
        name: re.sub(r"^(config|listen) .*\n", "", text, flags=re.MULTILINE)
        .replace(str(at.directory), "DIRECTORY")
        .replace(f":{at.port}", ":PORT")
        for name, text in sorted(texts.items())
    }


def _running(at: Vulcanized) -> dict[str, Mapping[str, Any]]:
    """The maps and servers of the running worker; backends without servers are no difference."""
    live = Master(at.master_socket, at.directory).read_back()
    return {
        "tables": {name: dict(table) for name, table in live.tables.items()},
        "servers": {id_: dict(servers) for id_, servers in live.servers.items() if servers},
    }


def _different(ours: Any, theirs: Any, path: str = "") -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys())
        parts = (_different(ours.get(key), theirs.get(key), f"{path}/{key}") for key in keys)
        return "".join(part for part in parts if part)
    return "" if ours == theirs else f"{path}:\n  ours  {ours!r}\n  fresh {theirs!r}\n"
