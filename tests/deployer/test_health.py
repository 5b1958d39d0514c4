"""Pods asked for their health: what counts, and that every question ends."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.servers.wait import eventually
from vulcanized.deployer.health import Checker, Unhealthy, judge
from vulcanized.deployer.words import Health, PodState
from vulcanized.errors import Unreachable


@contextmanager
def pod(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A pod on loopback; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            answer(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def says(body: bytes, status: str = "200 OK") -> Callable[[socket.socket], None]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda connection: connection.sendall(head + body)


def hangs(connection: socket.socket) -> None:
    connection.recv(1)


def trickles(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def trickles_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"A: b\r\n")
        time.sleep(0.05)


def floods(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


STATE = PodState("todo-1-x", "uid", "1", ready=True, ip="127.0.0.1")


def asked(health: Health, rounds: int = 1) -> tuple[frozenset[str], tuple[str, ...]]:
    """The verdict once a pod was asked so often."""
    checker = Checker(None)
    try:
        checker.begin(("health", 0))

        def often_enough() -> bool:
            checker.look("default", [(STATE, health)])
            known = checker._known["uid"]
            return known.row >= rounds or known.why not in ("", "was not asked yet")

        eventually(often_enough, 10, interval=0.01)
        return checker.look("default", [(STATE, health)])
    finally:
        checker.close()


@pytest.mark.parametrize(
    ("kind", "answer", "well"),
    [
        ("http", says(b""), True),
        ("http", says(b"", "204 No Content"), True),
        ("http", says(b"", "302 Found"), False),
        ("http", says(b"", "503 Service Unavailable"), False),
        ("probe", says(b'{"healthy": true}'), True),
        ("probe", says(b'{"healthy": true}', "503 No"), True),
        ("probe", says(b'{"healthy": "true"}'), False),
        ("probe", says(b"[]"), False),
        ("probe", says(b"[" * 60_000), False),
        ("tcp", hangs, True),
    ],
)
def test_what_counts_as_healthy(
    kind: str, answer: Callable[[socket.socket], None], well: bool
) -> None:
    with pod(answer) as port:
        health = Health(kind, port, interval=0.01, successes=1)  # type: ignore[arg-type]
        healthy, complaints = asked(health)
    assert healthy == (frozenset({"uid"}) if well else frozenset())
    assert bool(complaints) is not well


@pytest.mark.parametrize("answer", [hangs, trickles, trickles_headers])
def test_a_pod_that_does_not_come_to_an_end_is_not_healthy(
    answer: Callable[[socket.socket], None],
) -> None:
    with pod(answer) as port:
        healthy, complaints = asked(Health("http", port, interval=0.01, timeout=0.5, successes=1))
    assert not healthy
    assert complaints


def test_no_more_is_read_than_is_looked_at() -> None:
    with pod(floods) as port:
        healthy, _ = asked(Health("http", port, interval=0.01, timeout=5, successes=1))
    assert healthy


def test_it_counts_after_some_in_a_row() -> None:
    answers = iter([says(b""), says(b"", "500 No"), says(b""), says(b""), says(b"")])
    seen: list[int] = []
    checker = Checker(None)

    def by_turns(connection: socket.socket) -> None:
        next(answers, says(b""))(connection)

    with pod(by_turns) as port:
        health = Health("http", port, interval=0.01, successes=3)

        def healthy() -> bool:
            found, _ = checker.look("default", [(STATE, health)])
            seen.append(checker._known["uid"].row)
            return bool(found)

        eventually(healthy, 10, interval=0.005)
    checker.close()
    assert 0 in seen[seen.index(1) :]
    checker.begin(("old health", 0))
    assert not checker._known


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    healthy, (complaint,) = asked(Health("tcp", port, interval=0.01, successes=1))
    assert not healthy
    assert "refused" in complaint


def test_through_the_api_server() -> None:
    class Proxy:
        def exchange(
            self, method: str, path: str, *, more: Mapping[str, str], seconds: float, most: int
        ) -> tuple[int, bytes]:
            assert (method, seconds, more) == ("GET", 5.0, {"X-Asked-By": "tests"})
            assert path == "/api/v1/namespaces/default/pods/todo-1-x:8080/proxy/health"
            if not self.well:
                raise Unreachable("no way")
            return 200, b"ok"

        well = True

    proxy = Proxy()
    health = Health(
        "http",
        8080,
        "/health",
        headers=(("X-Asked-By", "tests"),),
        interval=0.0,
        successes=1,
        via="apiserver",
    )
    checker = Checker(proxy)
    eventually(lambda: checker.look("default", [(STATE, health)])[0], 10)
    proxy.well = False
    eventually(lambda: checker.look("default", [(STATE, health)])[1], 10)
    checker.close()


def test_the_wanted_text_must_be_there() -> None:
    health = Health("http", 80, body="all is well")
    judge(health, 200, b"... all is well")
    with pytest.raises(Unhealthy, match="without the wanted text"):
        judge(health, 200, b"no")
