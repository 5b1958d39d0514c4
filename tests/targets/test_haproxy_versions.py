"""HAProxy in the words of its versions: recorded ones, and whichever is here."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.targets.edge import Edge, app
from tests.targets.recording import BACKEND, Recording, record, recordings
from vulcanized.errors import ReloadFailed
from vulcanized.model import ServerState
from vulcanized.targets.haproxy import live
from vulcanized.targets.haproxy.live import LiveServer
from vulcanized.targets.haproxy.master import Absent, Command, Disagreed, Master, Replacement

RECORDED = {recording.version: recording for recording in recordings()}
HERE = "the one here"


@cache
def _here() -> Recording:
    return record(str(find_program("haproxy")))


@pytest.fixture(params=[*RECORDED, HERE])
def said(request: pytest.FixtureRequest) -> dict[str, str]:
    """A version's answers by step."""
    try:
        return (RECORDED.get(request.param) or _here()).answers
    except ServerMissing as reason:
        missing(reason)


# --- a master that says what was recorded -------------------------------------------------------


@contextmanager
def replay(answers: Callable[[str], str], *, hangs: bool = False) -> Iterator[Master]:
    """A master with these answers; `hangs`: it leaves connections open after them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = Path(folder) / "m.sock"
        listener.bind(str(path))
        listener.listen()
        left_open: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    text = b""
                    while data := connection.recv(1 << 16):
                        text += data
                    connection.sendall(answers(text.decode()).encode())
                    if hangs:
                        left_open.append(connection)
                    else:
                        connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield Master(path, Path("{folder}"))
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in left_open:
                connection.close()


def batch(said: dict[str, str], *steps: str) -> Callable[[str], str]:
    """Answers to one line of commands that begins with `show proc`."""
    answer = said["calm"] + "".join(said[step] for step in steps)
    return lambda text: answer


def worker_in(said: dict[str, str], step: str = "calm") -> int:
    return live.parse_processes(said[step]).worker


# --- commands -----------------------------------------------------------------------------------

DONE = {
    "add": live.ADDED,
    "enable": live.NOTHING,
    "address": live.DONE,
    "address again": live.DONE,
    "maxconn": live.DONE,
    "weight": live.NOTHING,
    "drain": live.NOTHING,
    "maint": live.NOTHING,
    "set map": live.NOTHING,
    "add map": live.NOTHING,
    "del map": live.NOTHING,
    "commit map": live.NOTHING,
}
# In batches of their own.
GONE = {
    "delete": live.DELETED_OR_BUSY,
    "delete again": live.DELETED_OR_BUSY,
    "delete what is busy": live.DELETED_OR_BUSY,
}
REFUSED = {
    "add again": live.ADDED,
    "delete what is ready": live.DELETED_OR_BUSY,
    "weight of nobody": live.NOTHING,
    "set map without the key": live.NOTHING,
    "del map without the key": live.NOTHING,
    "unknown command": live.NOTHING,
    "unknown worker": live.NOTHING,
}


@pytest.mark.parametrize("steps", [DONE, GONE], ids=["changes", "deletions"])
def test_what_was_done_is_told_from_each_answer_of_a_batch(
    said: dict[str, str], steps: dict[str, re.Pattern[str]]
) -> None:
    commands = [Command(step, BACKEND, pattern) for step, pattern in steps.items()]
    with replay(batch(said, *steps)) as master:
        answers = master.carry_out(worker_in(said), commands)
    assert [(command.text, answer) for command, answer in answers] == [
        (step, said[step]) for step in steps
    ]


@pytest.mark.parametrize("step", REFUSED)
def test_a_refusal_between_what_was_done_is_seen(said: dict[str, str], step: str) -> None:
    commands = [
        Command("add", "a", live.ADDED),
        Command(step, "b", REFUSED[step]),
        Command("delete", "c", live.DELETED),
    ]
    with replay(batch(said, "add", step, "delete")) as master, pytest.raises(Disagreed) as caught:
        master.carry_out(worker_in(said), commands)
    assert caught.value.subject == "b"


def test_commands_for_a_worker_that_was_replaced_are_no_longer_believed(
    said: dict[str, str],
) -> None:
    gone = worker_in(said) + 1
    with replay(batch(said, "add")) as master, pytest.raises(Disagreed) as caught:
        master.carry_out(gone, [Command("add", "a", live.ADDED)])
    assert caught.value.subject == ""


def test_a_whole_map_is_replaced_only_when_all_of_it_arrived(said: dict[str, str]) -> None:
    def answer(text: str) -> str:
        for words, step in (
            ("prepare map", "prepare map"),
            ("add map @1", "put"),
            ("show map @1", "show prepared"),
            ("commit map @1", "commit map"),
        ):
            if words in text:
                sent.append(step)
                return (said["calm"] if text.startswith("show proc;") else "") + said[step]
        raise AssertionError(text)

    sent: list[str] = []
    with replay(answer) as master:
        master.carry_out(worker_in(said), [Replacement("a.map", (("x", "1"), ("y", "2")))])
        assert sent == ["prepare map", "put", "show prepared", "commit map"]
        sent.clear()
        with pytest.raises(Disagreed, match="2 entries"):
            master.carry_out(worker_in(said), [Replacement("a.map", (("x", "1"),))])
        assert "commit map" not in sent


# --- what it has in effect ------------------------------------------------------------------------


def test_maps_and_servers_are_read_back(said: dict[str, str]) -> None:
    assert live.parse_table(said["show map"]) == {"a": "2", "q": "two"}
    assert live.parse_table(said["unknown map"]) is None
    servers = live.Servers(said["servers"], {BACKEND: ""})[BACKEND]
    assert servers["new"] == LiveServer("127.0.0.2", 8, ServerState.READY, 7)
    assert servers["one"].state is ServerState.DRAIN


def test_a_worker_that_cannot_be_asked_is_told_at_once(said: dict[str, str]) -> None:
    """From 2.8 on the master may leave such a connection open."""

    def answer(text: str) -> str:
        return said["calm"] if text == "show proc\n" else said["unknown worker"]

    with replay(lambda text: said["unknown worker"], hangs=True) as master:
        assert master.ask("@!4194303 show info\n", 20) == said["unknown worker"]
    with replay(answer) as master, pytest.raises(Absent, match="cannot be asked"):
        master.read_back()


def test_a_real_master_tells_it_at_once_too(module_edge: Edge) -> None:
    module_edge.show(app())
    for _ in range(100):
        assert module_edge.master.ask("@!4194303 show info\n").startswith(live.NO_SUCH_WORKER)


# --- reloads --------------------------------------------------------------------------------------


class Reloading:
    """A master that reloads as the recorded one did.

    One that answers with nothing runs itself anew: it answers nobody for a while.
    """

    def __init__(self, said: dict[str, str], reload: str, after: str) -> None:
        self._said = said
        self._reload = reload
        self._after = after
        self._asked = False
        self._deaf = 3

    def __call__(self, text: str) -> str:
        if text == "reload\n":
            self._asked = True
            return self._said[self._reload]
        assert text == "show proc\n"
        if not self._asked:
            return self._said["calm"]
        if not self._said[self._reload] and self._deaf:
            self._deaf -= 1
            return ""
        return self._said[self._after]


def test_a_reload_ends_with_the_new_worker(said: dict[str, str]) -> None:
    with replay(Reloading(said, "reload", "reloaded")) as master:
        now = master.reload(master.processes(), 20, threading.Event())
    assert now.worker == worker_in(said, "reloaded") != worker_in(said)
    assert (now.reloads, now.failed) == (1, 0)


def test_a_failed_reload_says_why_and_the_old_worker_goes_on(said: dict[str, str]) -> None:
    with (
        replay(Reloading(said, "bad reload", "reload failed")) as master,
        pytest.raises(ReloadFailed) as caught,
    ):
        master.reload(master.processes(), 20, threading.Event())
    waits = bool(said["bad reload"])
    assert ("unknown keyword 'nonsense'" if waits else "see its log") in str(caught.value)
    now = live.parse_processes(said["reload failed"])
    assert now.worker == worker_in(said, "reloaded")
    assert now.failed == 1


def test_a_reload_that_nothing_confirms_is_given_up(said: dict[str, str]) -> None:
    with (
        replay(Reloading(said, "reload", "calm")) as master,
        pytest.raises(ReloadFailed, match=r"did not confirm a reload within 0\.2 s"),
    ):
        master.reload(master.processes(), 0.2, threading.Event())


def test_the_versions_that_debian_ships_are_among_the_recorded() -> None:
    numbers = {version[:3] for version in RECORDED}
    assert {"2.6", "3.0"} <= numbers
