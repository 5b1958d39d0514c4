"""`vulcanized run` as a process of its own, as an operator would start it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.wait import eventually
from vulcanized.baseline import StoredBaseline

PROGRAM = (sys.executable, "-m", "vulcanized")

_NOT_YET = (OSError, http.client.HTTPException, ValueError)


def sides_of(cluster: ControlPlane, etcd: Etcd, namespace: str, prefix: str) -> str:
    """The sections of the settings for one namespace of a cluster and our keys in an etcd."""
    return f"""
[kubernetes]
kubeconfig = "{cluster.kubeconfig}"
namespaces = ["{namespace}"]

[etcd]
endpoints = ["{etcd.endpoint}"]
prefix = "{prefix}"
"""


class Vulcanized:
    """A daemon with its settings in `folder`: HAProxy as its child on a free port.

    `sides` are the TOML sections of the cluster and the store, such as `[kubernetes]` and `[etcd]`;
    `target` are further lines of the target, `targets` other `[[targets]]` in its place; `program`
    is what is started in place of `vulcanized`.
    Whoever uses it ends it: it is a context manager.
    """

    def __init__(
        self,
        folder: Path,
        sides: str,
        *,
        target: str = "start = true",
        targets: str = "",
        port: int | None = None,
        more: str = "",
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.admin_port = free_port()
        self.directory = folder / "haproxy"
        # A Unix socket's path is short, and pytest's folders are long: the user's name is in them.
        # A HAProxy that a killed test run left behind may have the one of the same port.
        socket = f"vulcanized-{os.getpid()}-{self.admin_port}.sock"
        self.master_socket = Path(tempfile.gettempdir()) / socket
        self.config = folder / "vulcanized.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(exist_ok=True)
        edge = f"""
[[targets]]
kind = "haproxy"
name = "edge"
directory = "{self.directory}"
listen = ["127.0.0.1:{self.port}"]
master_socket = "{self.master_socket}"
{target}
"""
        self.config.write_text(
            f"""{sides}

{targets or edge}

[admin]
listen = "127.0.0.1:{self.admin_port}"

[log]
format = "json"
level = "debug"

{more}
"""
        )
        self.environment = dict(environment or {})
        command = [*program, "run", "--config", str(self.config)]
        self.process = ServerProcess(
            "vulcanized", command, folder / "vulcanized.log", environment=environment
        )

    @property
    def url(self) -> str:
        """The proxy, from outside."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = True) -> Self:
        """Start it; with `ready`, return when it says that it is in step."""
        self.process.start()
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, deadline: float = 30.0) -> None:
        """Wait until `/readyz` says yes; the log's tail is in the error if it does not."""
        self.process.wait_until(lambda: self.page("/readyz")[0] == 200, deadline, _NOT_YET)

    def wait_remembered(self, *apps: str, deadline: float = 30.0) -> None:
        """Wait until it has written down pods and config of these apps, which it does lazily."""

        def known() -> set[str]:
            state = StoredBaseline(self.directory / "state")
            configured = {each.app.name for each in state.documents()}
            return configured & {pod.app for pod in state.pods("")}

        eventually(lambda: known() >= {*apps}, deadline, lambda: f"{apps} remembered: {known()}")

    def page(self, path: str) -> tuple[int, bytes]:
        """An admin page: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """`/status`."""
        document: dict[str, Any] = json.loads(self.page("/status")[1])
        return document

    def app(self, app: str) -> dict[str, Any]:
        """One app of `/status`, empty if it is not there."""
        return next((each for each in self.status()["apps"] if each["app"] == app), {})

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = self.page("/metrics")[1].decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another `vulcanized` command on the same settings."""
        return run_command(*words, "--config", str(self.config), environment=self.environment)

    def log_lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        lines = self.process.log.read_text().splitlines()
        decoded = (json.loads(line) for line in lines if line.startswith("{"))
        return [line for line in decoded if line.get("message") == message]

    def close(self) -> None:
        """End it as an operator would, so that its HAProxy ends too."""
        self.process.stop()
        self.master_socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.process.running:
            # It was killed: its HAProxy outlives it by design, and goes with the next one's end.
            self.process.start()
            self.process.wait_until(lambda: self.page("/healthz")[0] == 200, 30, _NOT_YET)
        self.close()


def run_command(
    *words: str, environment: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`vulcanized` with these words, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "vulcanized", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
    )


def ask(url: str, host: str, path: str = "/", timeout: float = 5.0) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own: status, and the body if it is JSON."""
    request = urllib.request.Request(url + path, headers={"Host": host, "Connection": "close"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AnyStatus())
    with opener.open(request, timeout=timeout) as answer:
        body = answer.read()
        try:
            document = json.loads(body)
        except ValueError:
            document = {}
        return answer.status, document if isinstance(document, dict) else {}


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response


def served_by(url: str, host: str, path: str = "/", tries: int = 20) -> set[str]:
    """The pods that answer, of some requests; "503" and the like for answers by the proxy."""
    answers = (ask(url, host, path) for _ in range(tries))
    return {str(body.get("pod", status)) for status, body in answers}


def eventually_served_by(url: str, host: str, pods: Sequence[str], deadline: float = 10.0) -> None:
    """Wait until exactly these pods answer."""
    wanted = set(pods)
    eventually(
        lambda: served_by(url, host, tries=max(6, 4 * len(wanted))) == wanted,
        deadline,
        f"answers from {sorted(wanted)}",
        ignore=_NOT_YET,
    )
