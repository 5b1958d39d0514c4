"""Daemons and nginx as containers of one pod: namespaces of processes shared, or one for each."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.daemons import PROGRAM, Vulcanized, eventually_served_by
from tests.servers.fixtures import missing
from tests.servers.load import Load
from tests.servers.localpods import Files, LocalPods
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from vulcanized.targets.nginx.config import FLAGS, HTTP

HOST = "todo.example.com"
NOT_YET = (OSError, ValueError)
ALONE = (shutil.which("unshare") or "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""As a container is started: what comes after it sees no process but its own."""


class Pod:
    """Two containers that share the network and the directory; and an app with two versions."""

    def __init__(self, folder: Path, pods: LocalPods) -> None:
        self.folder = folder
        self.pods = pods
        self.files = Files(folder / "files")
        self.port = free_port()
        for name, version in (("blue-1", "blue"), ("green-1", "green")):
            pods.start(name, version)
            self.files.pod(pods.manifest(name, "todo"))
        self.files.config("todo")
        self.files.activate("blue")
        # Shared by both; the workers are another user's, and look for flags there.
        self.directory = folder / "shared"
        self.own = folder / "nginx"
        self.own.mkdir()
        self.pid, self.log = self.own / "nginx.pid", self.own / "error.log"
        self.config = self.own / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {self.own}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.config.write_text(
            f"pid {self.pid};\nerror_log {self.log} notice;\nworker_processes 2;\n"
            f"events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{temporary}"
            f"include {self.directory}/http.con[f];\n}}\n"
        )
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def container(self, name: str, command: Sequence[str | Path]) -> ServerProcess:
        """Until the test ends; the first process of a namespace need not heed SIGTERM."""
        made = ServerProcess(name, command, self.folder / f"{name}.log")
        made.start()
        self._ends.callback(made.kill)
        return made

    def daemon(self, program: Sequence[str], more: str = "") -> Vulcanized:
        target = f"""
[[targets]]
kind = "nginx"
directory = "{self.directory}"
listen = ["127.0.0.1:{self.port}"]
pid = "{self.pid}"
error_log = "{self.log}"
{more}
"""
        made = Vulcanized(
            self.folder / "v",
            self.files.sides,
            targets=target,
            port=self.port,
            program=program,
            environment={"PYTHONPATH": os.getcwd()},
        )
        made.process.start()
        self._ends.callback(made.close)
        return made

    def files_are_there(self) -> bool:
        return (self.directory / HTTP).exists() and (self.directory / FLAGS).exists()

    def follows(self, daemon: Vulcanized) -> None:
        """Pods that come, pods that go, switches, all under load: nothing fails."""
        daemon.wait_ready()
        eventually_served_by(daemon.url, HOST, ["blue-1"])
        with Load(self.port, HOST) as load:
            for version in ("green", "blue", "green"):
                self.files.activate(version)
                eventually_served_by(daemon.url, HOST, [f"{version}-1"])
            for number in (2, 3):
                name = f"green-{number}"
                self.pods.start(name, "green")
                self.files.pod(self.pods.manifest(name, "todo"))
                everyone = [f"green-{each}" for each in range(1, number + 1)]
                eventually_served_by(daemon.url, HOST, everyone, 20)
            load.go_on(30)
        assert load.report.failed == {}
        eventually(lambda: target_of(daemon)["reloads"] == {"servers": 2})


def target_of(daemon: Vulcanized) -> dict[str, Any]:
    (target,) = daemon.status()["targets"]
    assert isinstance(target, dict)
    return target


@pytest.fixture
def pod(open_folder: Path) -> Iterator[Pod]:
    try:
        find_program("nginx")
    except ServerMissing as reason:
        missing(reason)
    try:
        subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "").strip() or str(error)
        pytest.skip(f"no namespace of processes can be made here, it takes root: {why}")
    with LocalPods() as pods, Pod(open_folder, pods) as pod:
        yield pod


@pytest.mark.parametrize("first", ["nginx", "vulcanized"])
def test_in_a_namespace_of_its_own_nginx_is_reloaded_by_a_command_and_proven_by_answers(
    pod: Pod, first: str
) -> None:
    """nginx's container listens at a pipe in the shared directory; the daemon's sees no nginx."""
    pipe = pod.folder / "reload"
    os.mkfifo(pipe)
    file = pod.directory / HTTP
    script = (
        f"{'' if first == 'nginx' else f'while ! test -e {file}; do sleep 0.05; done'}\n"
        f"{find_program('nginx')} -g 'daemon off;' -c {pod.config} &\n"
        f"while :; do read word < {pipe} && kill -HUP $(cat {pod.pid}); done\n"
    )
    pod.container("nginx", [*ALONE, "sh", "-c", script])
    if first == "nginx":
        eventually(pod.pid.exists)
    command = f'reload_command = ["timeout", "5", "sh", "-c", "echo reload > {pipe}"]'
    daemon = pod.daemon([*ALONE, *PROGRAM], command)
    pod.follows(daemon)
    assert target_of(daemon)["old_workers"] is None
    # Its own config breaks: what ran before goes on.
    good = pod.config.read_text()
    pod.config.write_text(good + "gibberish;\n")
    pod.files.remove_pod("green-3")
    eventually(lambda: target_of(daemon)["error"], 40)
    eventually_served_by(daemon.url, HOST, ["green-1", "green-2", "green-3"])
    pod.config.write_text(good)
    pod.files.remove_pod("green-2")
    eventually_served_by(daemon.url, HOST, ["green-1"], 40)


def test_in_a_namespace_of_its_own_without_a_command_it_is_told_what_to_do(pod: Pod) -> None:
    script = (
        f"while ! test -e {pod.directory / HTTP}; do sleep 0.05; done\n"
        f"exec {find_program('nginx')} -g 'daemon off;' -c {pod.config}\n"
    )
    pod.container("nginx", [*ALONE, "sh", "-c", script])
    daemon = pod.daemon([*ALONE, *PROGRAM])
    eventually(lambda: "set reload_command" in target_of(daemon)["error"], 20, ignore=NOT_YET)
    # Switches need no reload, and files were there before nginx was.
    eventually_served_by(daemon.url, HOST, ["blue-1"])


def test_in_a_shared_namespace_it_is_as_on_one_host(pod: Pod) -> None:
    """`shareProcessNamespace`: the first process is neither of them."""
    pause = pod.container("pause", [*ALONE, sys.executable, "-c", "import signal; signal.pause()"])
    first = eventually(lambda: _child_of(pause.pid), ignore=(OSError, IndexError))
    enter = str(shutil.which("nsenter"))
    inside = (enter, "--target", str(first), "--pid", "--mount", "--root", "--wd")
    daemon = pod.daemon([*inside, *PROGRAM])
    eventually(pod.files_are_there, 20)
    pod.container("nginx", [*inside, find_program("nginx"), "-g", "daemon off;", "-c", pod.config])
    pod.follows(daemon)
    assert target_of(daemon)["old_workers"] is not None
    seen_by_itself = int(pod.pid.read_text())
    assert seen_by_itself < 100
    assert b"nginx: master" not in _title(seen_by_itself)


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
