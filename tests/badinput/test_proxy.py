"""A HAProxy that is missing, or a socket that is missing, mute, refusing or talks nonsense."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.badinput.golden import agrees, without
from tests.badinput.stage import Stage, target
from tests.daemons import run_command

pytestmark = pytest.mark.usefixtures("haproxy")

Talk = Callable[[socket.socket], None]


def mute(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while peer.recv(4096):
            pass
        time.sleep(30)


def hangs_up(peer: socket.socket) -> None:
    peer.close()


def garbage(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.recv(4096)
        peer.sendall(b"\xff\xfe{}<html>\0\n\n")


def another_program(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def endless(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer.sendall(b"x" * 65536)


@contextlib.contextmanager
def listening(path: Path, talk: Talk) -> Iterator[None]:
    """A server at that socket which does not talk as HAProxy does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=_talk, args=(peer,), daemon=True).start()

        def _talk(peer: socket.socket) -> None:
            with peer:
                talk(peer)

        threading.Thread(target=serve, daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        yield


@contextlib.contextmanager
def a_file(path: Path) -> Iterator[None]:
    path.write_text("")
    yield


@contextlib.contextmanager
def a_directory(path: Path) -> Iterator[None]:
    path.mkdir()
    yield


SOCKETS: tuple[tuple[str, Callable[[Path], contextlib.AbstractContextManager[None]]], ...] = (
    ("a socket that is missing", lambda _: contextlib.nullcontext()),
    ("a file for a socket", a_file),
    ("a directory for a socket", a_directory),
    ("a socket that refuses", refusing),
    ("a socket that is mute", lambda path: listening(path, mute)),
    ("a socket that hangs up", lambda path: listening(path, hangs_up)),
    ("a socket that talks nonsense", lambda path: listening(path, garbage)),
    ("a socket of another program", lambda path: listening(path, another_program)),
    ("a socket that never stops talking", lambda path: listening(path, endless)),
)


def test_a_socket_that_is_no_haproxys_is_told_and_the_files_are_ready(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="vb-"))

    def run(number: int) -> tuple[list[str], int, bool]:
        _, make = SOCKETS[number]
        stage = Stage(tmp_path / str(number))
        stage.config("todo")
        stage.pod_of("todo")
        path = folder / f"{number}.sock"
        text = target("edge", stage.target)
        lines = [line for line in text.splitlines() if not line.startswith("master_socket")]
        lines.append(f'master_socket = "{path}"')
        stage.settings.write_text(stage.sides + "\n" + "\n".join(lines) + "\n")
        with make(path):
            once = stage.command("run", "--once", timeout=90)
        said = [
            # Who is hung up on hears of it in one way or the other.
            without(line, {str(path): "SOCKET", "Connection reset by peer": "Broken pipe"})
            for line in once.stderr.splitlines()
            if line.startswith("vulcanized: ")
        ]
        return said, once.returncode, "todo-1" in _read(stage.target / "haproxy.cfg")

    try:
        with ThreadPoolExecutor(len(SOCKETS)) as pool:
            results = list(pool.map(run, range(len(SOCKETS))))
    finally:
        shutil.rmtree(folder)
    agrees(
        "sockets",
        [(title, "", said) for (title, _), (said, _, _) in zip(SOCKETS, results, strict=True)],
    )
    assert [code for _, code, _ in results] == [3] * len(SOCKETS)
    assert all(ready for _, _, ready in results)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


# Title, the program, the exit code.
PROGRAMS: tuple[tuple[str, str, int], ...] = (
    (
        "a program that fails",
        "#!/bin/sh\necho 'cannot open shared object file' >&2\nexit 127\n",
        3,
    ),
    ("a program that says nothing", "#!/bin/sh\nexit 1\n", 1),
    ("a program that is none", "\x7fELF nonsense", 3),
    ("a program whose interpreter is missing", "#!/nowhere/sh\n", 3),
    ("a program that does nothing and ends well", "#!/bin/sh\nexit 0\n", 3),
    ("a program that hangs", "#!/bin/sh\nexec sleep 60\n", 1),
)


def test_a_haproxy_that_is_none_is_told(tmp_path: Path) -> None:
    def run(number: int) -> tuple[list[str], int]:
        _, text, _ = PROGRAMS[number]
        stage = Stage(tmp_path / str(number))
        stage.config("todo")
        stage.pod_of("todo")
        program = tmp_path / str(number) / "bin/haproxy"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o755)
        with stage.settings.open("a") as settings:
            settings.write("start = true\n")
        path = f"{program.parent}:{os.environ['PATH']}"
        once = stage.command("run", "--once", environment={"PATH": path}, timeout=90)
        said = [
            without(line, {str(program): "PROGRAM"})
            for line in once.stderr.splitlines()
            if line.startswith("vulcanized: ")
        ]
        return said, once.returncode

    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        results = list(pool.map(run, range(len(PROGRAMS))))
    agrees(
        "programs",
        [
            (title, text, said)
            for (title, text, _), (said, _) in zip(PROGRAMS, results, strict=True)
        ],
    )
    assert [code for _, code in results] == [code for _, _, code in PROGRAMS]


def test_a_machine_without_haproxy_is_told_what_to_install(stage: Stage) -> None:
    """In a mount namespace where no folder of programs has it."""
    stage.config("todo")
    stage.pod_of("todo")
    with stage.settings.open("a") as settings:
        settings.write("start = true\n")
    found = shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin:" + os.environ["PATH"])
    assert found is not None
    hide = f'mount --bind /dev/null {Path(found).resolve()} && exec "$@"'
    words = [sys.executable, "-m", "vulcanized", "check", "--config", str(stage.settings)]
    check = subprocess.run(
        ["unshare", "-m", "sh", "-c", hide, "sh", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in check.stderr or "mount" in check.stderr:
        pytest.skip(f"no mount namespace here: {check.stderr.strip()}")
    assert check.returncode == 3
    (line,) = check.stderr.splitlines()
    assert line == (
        "vulcanized: target edge: haproxy is not installed here: install it (apt install haproxy)"
    )


def test_status_without_a_daemon_says_what_to_start(stage: Stage) -> None:
    status = run_command("status", "--config", str(stage.settings))
    assert status.returncode == 3
    (line,) = status.stderr.splitlines()
    assert "no daemon answers at 127.0.0.1:9642" in line
    assert "start it with `vulcanized run`" in line
