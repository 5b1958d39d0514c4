"""`make run` as a newcomer meets it: every command that it prints does what it says."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.fixtures import missing
from tests.servers.ports import free_port
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "examples/quickstart"
NOT_YET = (OSError, http.client.HTTPException, ValueError)


class QuickStart:
    """The program behind `make run`, on free ports and with pods at addresses of its own."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.work = folder / "work"
        self.port = free_port()
        self.admin = free_port()
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None
        shutil.copytree(SOURCE, self.source, ignore=shutil.ignore_patterns("__pycache__"))
        network = f"127.{random.randint(64, 250)}.{random.randint(0, 255)}."
        for path in self.source.rglob("*.yaml"):
            path.write_text(path.read_text().replace("127.0.8.", network))
        settings = self.source / "vulcanized.toml"
        text = settings.read_text().replace(":8080", f":{self.port}")
        settings.write_text(text.replace(":9642", f":{self.admin}"))

    def start(self) -> None:
        program = [sys.executable, str(SOURCE / "quickstart.py")]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*program, "--source", str(self.source), "--work", str(self.work)],
                cwd=self.work.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        eventually(lambda: "Ctrl-C ends all of it." in self.said() or self.ended(), 40, self.said)
        assert not self.ended(), self.said()

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def end(self, number: int = signal.SIGINT) -> int:
        """End it by a signal; its exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(20)

    def do(self, what: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run what it says to run, in a shell, as it is printed."""
        line = rf"^  {re.escape(what)} +(.*?(?:\\\n.*)?)$"
        said = re.findall(line, self.said(), re.MULTILINE)[-1]
        done = subprocess.run(
            ["sh", "-ec", said], cwd=self.work.parent, capture_output=True, text=True, timeout=30
        )
        assert done.returncode in codes, done.stderr
        return done.stdout

    def ask(self, app: str = "todo") -> str:
        """Which pod answers; the status for an answer that is none of a pod's."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": f"{app}.localhost:{self.port}"})
            answer = connection.getresponse()
            body = answer.read()
        return str(json.loads(body)["pod"]) if answer.status == 200 else str(answer.status)

    def pods(self, app: str = "todo", tries: int = 12) -> set[str]:
        return {self.ask(app) for _ in range(tries)}

    def eventually_pods(self, *pods: str) -> None:
        wanted = set(pods)
        eventually(lambda: self.pods() == wanted, 10, f"answers of {pods}", ignore=NOT_YET)

    def app(self, name: str) -> dict[str, Any]:
        """One app, as `vulcanized status` tells it, which ends with 1 where there are problems."""
        status = json.loads(self.do("see what it thinks", codes=(0, 1)))
        return next(app for app in status["apps"] if app["app"] == name)

    def master_pid(self) -> int:
        return int((self.work / "edge/haproxy.pid").read_text())


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[QuickStart]:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    quickstart = QuickStart(tmp_path)
    yield quickstart
    if not quickstart.ended():
        quickstart.end(signal.SIGTERM)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_it_prints_works_as_it_is_printed(quickstart: QuickStart) -> None:
    quickstart.start()
    quickstart.wait_ready()
    assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}
    assert quickstart.pods("shop") == {"shop-1"}

    quickstart.do("switch the version")
    quickstart.eventually_pods("todo-green-1", "todo-green-2")

    quickstart.do("only 10 % of it")
    eventually(lambda: quickstart.app("default/todo")["activation"]["in_effect"] != "green", 10)
    counted = Counter(quickstart.ask().rpartition("-")[0] for _ in range(300))
    assert 5 <= counted["todo-green"] <= 70, counted

    (quickstart.work / "store/active/default/todo").write_text("blue\n")
    quickstart.eventually_pods("todo-blue-1", "todo-blue-2")
    quickstart.do("add a pod")
    quickstart.eventually_pods("todo-blue-1", "todo-blue-2", "todo-blue-3")
    quickstart.do("take it away")
    quickstart.eventually_pods("todo-blue-1", "todo-blue-2")

    quickstart.do("break a config")
    eventually(lambda: quickstart.app("default/todo")["problems"], 10)
    assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}
    assert quickstart.pods("shop") == {"shop-1"}
    assert not quickstart.app("default/shop")["problems"]
    quickstart.do("mend it")
    eventually(lambda: not quickstart.app("default/todo")["problems"], 10)

    quickstart.do("a version without pods")
    eventually(lambda: quickstart.app("default/todo")["activation"]["held"], 10)
    assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}


def test_no_request_fails_while_versions_are_switched_and_pods_come_and_go(
    quickstart: QuickStart,
) -> None:
    quickstart.start()
    quickstart.wait_ready()
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                seen[quickstart.ask().rpartition("-")[0]] += 1
            except OSError as error:
                seen[str(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in ("green", "blue", "green", "blue"):
            before = seen[f"todo-{version}"]
            (quickstart.work / "store/active/default/todo").write_text(version)
            eventually(lambda v=version, b=before: seen[f"todo-{v}"] > b + 20, 10)  # type: ignore[misc]
        quickstart.do("add a pod")
        before = seen.total()
        eventually(lambda: seen.total() > before + 100, 10)
        quickstart.do("take it away")
        before = seen.total()
        eventually(lambda: seen.total() > before + 200, 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {"todo-blue", "todo-green"}, seen


def test_ctrl_c_ends_all_of_it_and_it_starts_again(quickstart: QuickStart) -> None:
    for _ in range(2):
        quickstart.output.unlink(missing_ok=True)
        quickstart.start()
        quickstart.wait_ready()
        haproxy = quickstart.master_pid()
        assert quickstart.end(signal.SIGINT) == 0, quickstart.said()
        assert not alive(haproxy)
        assert not listening(quickstart.port)
        assert not listening(quickstart.admin)
        assert "Traceback" not in quickstart.said()


def test_what_was_changed_last_time_is_as_new(quickstart: QuickStart) -> None:
    quickstart.start()
    quickstart.wait_ready()
    quickstart.do("switch the version")
    quickstart.do("add a pod")
    quickstart.end()
    quickstart.output.unlink()
    quickstart.start()
    quickstart.wait_ready()
    assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}


def test_killed_it_takes_the_daemon_with_it(quickstart: QuickStart) -> None:
    quickstart.start()
    quickstart.wait_ready()
    haproxy = quickstart.master_pid()
    quickstart.end(signal.SIGKILL)
    eventually(
        lambda: not alive(haproxy) and not listening(quickstart.admin),
        15,
        lambda: (
            f"the end of HAProxy (alive: {alive(haproxy)}) and the daemon "
            f"(listening: {listening(quickstart.admin)}), which said:\n{quickstart.said()}"
        ),
    )


def test_an_haproxy_that_a_crash_left_is_adopted_and_ended(quickstart: QuickStart) -> None:
    quickstart.start()
    quickstart.wait_ready()
    haproxy = quickstart.master_pid()
    (daemon,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"{quickstart.work}/vulcanized.toml".encode() in read(path)
        and b"vulcanized\0run" in read(path)
    ]
    os.kill(daemon, signal.SIGKILL)
    assert quickstart.process is not None
    assert quickstart.process.wait(20) == 1
    assert "the daemon ended with code -9" in quickstart.said()
    assert alive(haproxy), "a proxy outlives the daemon that started it"
    quickstart.output.unlink()
    quickstart.start()
    quickstart.wait_ready()
    assert quickstart.master_pid() == haproxy
    assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}
    assert quickstart.end() == 0
    assert not alive(haproxy)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_started_twice_it_says_so_and_leaves_the_first_alone(quickstart: QuickStart) -> None:
    quickstart.start()
    quickstart.wait_ready()
    first = quickstart.process
    assert first is not None
    quickstart.start()
    second = quickstart.process
    assert second is not None
    assert second.wait(20) == 1
    assert f"it is running already (process {first.pid})" in quickstart.said()
    quickstart.process = first
    assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}


def test_a_taken_port_is_named_with_what_to_do(quickstart: QuickStart) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", quickstart.port))
        other.listen()
        quickstart.start()
        assert quickstart.process is not None
        assert quickstart.process.wait(20) == 1
    assert (
        f"quick start: 127.0.0.1:{quickstart.port} is taken by another program; end it, or choose "
        f"another port: VULCANIZED_TARGETS__0__LISTEN=127.0.0.1:{quickstart.port + 1} make run"
    ) in quickstart.said()


def test_a_long_path_does_not_hinder_it(tmp_path: Path) -> None:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    quickstart = QuickStart(folder)
    quickstart.start()
    try:
        quickstart.wait_ready()
        assert quickstart.pods() == {"todo-blue-1", "todo-blue-2"}
        assert not quickstart.app("default/todo")["problems"]
    finally:
        assert quickstart.end() == 0


def test_a_browser_gets_a_page_in_the_colour_of_the_version(quickstart: QuickStart) -> None:
    quickstart.start()
    quickstart.wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", quickstart.port, timeout=5)
    with contextlib.closing(connection):
        headers = {"Host": "todo.localhost", "Accept": "text/html,application/xhtml+xml"}
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        page = answer.read().decode()
    assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
    assert "#2f6fde" in page
    assert re.search(r">todo-blue-[12]<", page)
    assert "$$" not in page
