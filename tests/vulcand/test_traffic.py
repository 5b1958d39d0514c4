"""What becomes of requests: what a pod sees of them, bodies, pods that fail, changes under way."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewVulcand
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually
from tests.vulcand.rawserver import RawServer, exchange, read_head
from tests.vulcand.stage import Reply, Stage

SLOW = "/slow?seconds=0.3"


def serve(stage: Stage, url: str, name: str = "app", **settings: object) -> str:
    """A frontend for one server; its host."""
    stage.backend(name)
    stage.server(name, "s", url)
    stage.frontend(name, name, f'Host("{name}.example")', **settings)
    stage.settle()
    return f"{name}.example"


@contextlib.contextmanager
def in_flight(stage: Stage, host: str, pod: str, path: str = SLOW) -> Iterator[Future[Reply]]:
    """A slow request that the pod is busy with."""
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(stage.ask, host, path)
        eventually(lambda: stage.pods.in_flight(pod), interval=0.002)
        yield reply


# What a pod sees.


def test_the_host_is_the_servers_unless_it_is_passed_on(stage: Stage) -> None:
    host = stage.app("app")
    passed = stage.app("passed", PassHostHeader=True)
    stage.settle()

    assert stage.ask(host, "/echo").echo["headers"]["host"] == stage.pod("app")[len("http://") :]
    assert stage.ask(passed, "/echo").echo["headers"]["host"] == passed


def test_forwarding_headers_of_the_client_are_replaced_unless_trusted(stage: Stage) -> None:
    host = stage.app("app")
    trusting = stage.app("trusting", TrustForwardHeader=True, Hostname="lb1")
    stage.settle()
    forged = {
        "X-Forwarded-For": "1.2.3.4",
        "X-Forwarded-Host": "evil",
        "X-Forwarded-Proto": "https",
    }

    seen = stage.ask(host, "/echo", headers=forged).echo["headers"]
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == "127.0.0.1"
    assert (seen["x-forwarded-host"], seen["x-forwarded-proto"]) == (host, "http")
    assert "x-forwarded-server" not in seen

    seen = stage.ask(trusting, "/echo", headers=forged).echo["headers"]
    assert seen["x-forwarded-for"] == "1.2.3.4, 127.0.0.1"
    assert (seen["x-forwarded-host"], seen["x-forwarded-proto"]) == ("evil", "https")
    assert seen["x-forwarded-server"] == "lb1"


def test_path_and_query_arrive_as_they_were_sent_and_a_servers_path_counts_for_nothing(
    stage: Stage,
) -> None:
    host = serve(stage, f"{stage.pod('app')}/base")

    target = "/echo/a%20b//..?x=%41&y"
    assert stage.ask(host, target).echo["target"] == target


def test_old_clients_head_and_expectations(stage: Stage) -> None:
    host = stage.app("app").encode()
    stage.settle()
    port = stage.vulcand.port

    old = exchange(port, b"GET / HTTP/1.0\r\nHost: " + host + b"\r\n\r\n")
    assert old.startswith(b"HTTP/1.0 200 OK\r\n")
    head = exchange(port, b"HEAD / HTTP/1.0\r\nHost: " + host + b"\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 32" in head
    expecting = b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\nHost: "
    expecting += host + b"\r\nConnection: close\r\n\r\nabc"
    assert exchange(port, expecting).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_nobodys_requests_are_404_with_a_body_of_its_own(stage: Stage) -> None:
    stage.app("app")
    stage.settle()

    reply = stage.ask("nobody.example")
    assert (reply.status, reply.body) == (404, b'{"error":"not found"}')
    assert exchange(stage.vulcand.port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 404 ")
    hostless = exchange(stage.vulcand.port, b"GET / HTTP/1.1\r\n\r\n")
    assert hostless.startswith(b"HTTP/1.1 400 Bad Request")


def test_a_backend_without_servers_is_503(stage: Stage) -> None:
    stage.backend("app")
    stage.frontend("app", "app", 'Host("app.example")')
    stage.settle()

    reply = stage.ask("app.example")
    assert (reply.status, reply.body) == (503, b"Service Unavailable")


# Bodies.


def test_a_body_over_the_limit_is_413(stage: Stage) -> None:
    host = stage.app("app", Limits={"MaxBodyBytes": 10})
    stage.settle()

    assert stage.ask(host, method="POST", body=b"x" * 10).status == 200
    assert stage.ask(host, method="POST", body=b"x" * 11).status == 413
    chunked = b"POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n"
    chunked += b"Connection: close\r\n\r\nb\r\nxxxxxxxxxxx\r\n0\r\n\r\n"
    assert exchange(stage.vulcand.port, chunked).startswith(b"HTTP/1.1 413 ")


def test_without_a_limit_bodies_are_taken_whole_and_get_a_length(stage: Stage) -> None:
    host = stage.app("app")
    stage.settle()

    assert stage.ask(host, method="POST", body=b"x" * 5_000_000).status == 200
    chunked = b"POST /echo HTTP/1.0\r\nHost: app.example\r\nContent-Length: 2\r\n\r\nhi"
    assert b'"Content-Length", "2"' in exchange(stage.vulcand.port, chunked)


def in_two_parts(second: threading.Event) -> RawServer:
    def answer(connection: socket.socket, head: bytes) -> None:
        start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        connection.sendall(start + b"5\r\nfirst\r\n")
        second.wait(5)
        connection.sendall(b"6\r\nsecond\r\n0\r\n\r\n")

    return RawServer(answer)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_held_until_they_are_whole_unless_streamed(stage: Stage, stream: bool) -> None:
    """Server-sent events and long polls need `Stream`, which has no retries and no limits."""
    second = threading.Event()
    with in_two_parts(second) as server:
        host = serve(stage, server.url, Stream=stream)
        with socket.create_connection(("127.0.0.1", stage.vulcand.port), 0.3) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            try:
                early = read_head(client)
            except TimeoutError:
                early = b""
            second.set()
            client.settimeout(5)
            late = client.recv(65536)

    assert (b"first" in early, b"second" in late) == (stream, True)
    assert (b"Content-Length: 11" in late) != stream


def test_a_limit_is_not_kept_where_answers_are_streamed(stage: Stage) -> None:
    host = stage.app("app", Limits={"MaxBodyBytes": 10}, Stream=True)
    stage.settle()

    assert stage.ask(host, method="POST", body=b"x" * 11).status == 200


def test_an_answer_that_breaks_off_is_no_answer(stage: Stage) -> None:
    """The connection is closed, without a status and without another try, also for GET."""

    def half(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with RawServer(half) as server:
        host = serve(stage, server.url)
        with pytest.raises(http.client.RemoteDisconnected):
            stage.ask(host)
        assert server.accepted == 1


# Pods that fail.


def dead(stage: Stage, name: str) -> str:
    """The URL of a pod that refuses."""
    url = stage.pod(name)
    stage.pods.crash(name)
    return url


def test_a_dead_server_alone_is_502(stage: Stage) -> None:
    host = serve(stage, dead(stage, "dead-alone"))

    assert stage.ask(host).status == 502
    assert stage.ask(host, method="POST", body=b"x").status == 502


def test_by_default_get_tries_the_next_server_and_nothing_else_does(stage: Stage) -> None:
    """And a dead server stays in the rotation. After 10 s of errors its weight is lowered, step by
    step, never to nothing; the next change of the backend or the frontend forgets that."""
    host = serve(stage, dead(stage, "dead"))
    stage.server("app", "alive", stage.pod("alive"))
    stage.settle()

    assert {stage.ask(host).status for _ in range(6)} == {200}
    posts = [stage.ask(host, method="POST", body=b"x").status for _ in range(6)]
    assert sorted(posts) == [200] * 3 + [502] * 3
    heads = [stage.ask(host, method="HEAD").status for _ in range(6)]
    assert sorted(heads) == [200] * 3 + [502] * 3


def test_a_predicate_without_a_method_sends_bodies_again(stage: Stage) -> None:
    host = serve(
        stage, dead(stage, "dead2"), FailoverPredicate="IsNetworkError() && Attempts() <= 2"
    )
    stage.server("app", "alive", stage.pod("alive"))
    stage.settle()

    for _ in range(4):
        reply = stage.ask(host, "/echo", method="POST", body=b"all of it")
        assert (reply.status, reply.echo["body"]) == (200, "all of it")


@pytest.mark.parametrize(
    ("predicate", "method", "status", "times"),
    [
        ("", "GET", 502, 11),
        ("", "GET", 504, 11),
        ("", "GET", 503, 1),
        ("", "POST", 502, 1),
        ("IsNetworkError() && Attempts() <= 2", "POST", 502, 3),
        ('IsNetworkError() && RequestMethod() == "GET" && Attempts() <= 2', "POST", 504, 1),
        ('IsNetworkError() && RequestMethod() == "GET" && Attempts() <= 2', "GET", 504, 3),
        ("ResponseCode() == 503 && Attempts() <= 1", "POST", 503, 2),
        ("Attempts() < 1", "GET", 502, 1),
    ],
)
def test_a_network_error_is_any_502_or_504_also_one_that_a_pod_answers(
    stage: Stage, predicate: str, method: str, status: int, times: int
) -> None:
    """So an app that says 502 or 504 is asked 11 times by default; `Attempts()` counts what was
    tried, and 10 more tries are the end in any case."""
    count = 0

    def refuse(connection: socket.socket, head: bytes) -> None:
        nonlocal count
        count += 1
        answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(answer.encode())

    with RawServer(refuse) as server:
        host = serve(stage, server.url, FailoverPredicate=predicate)
        body = b"x" if method == "POST" else None
        assert stage.ask(host, method=method, body=body).status == status
        assert count == times


def test_a_pod_slower_than_the_read_timeout_is_504_after_all_tries(stage: Stage) -> None:
    """`Read` is the time to the head of the answer; a GET waits for it once for each try."""
    stage.backend("app", Timeouts={"Read": "50ms"})
    stage.server("app", "s", stage.pod("slow"))
    stage.frontend("app", "app", 'Host("app.example")', FailoverPredicate="Attempts() < 1")
    stage.settle()

    assert stage.ask("app.example", SLOW).status == 504
    assert stage.ask("app.example").status == 200


def test_an_answer_that_comes_after_the_write_timeout_is_thrown_away(
    etcd_server: Etcd, new_vulcand: NewVulcand, pods: LocalPods
) -> None:
    """A minute by default, for the whole request. The pod goes on and the client waits for it, then
    the connection is closed without an answer."""
    vulcand = new_vulcand(etcd_server.endpoint, "hasty", flags=["-serverWriteTimeout=100ms"])
    stage = Stage(etcd_server, vulcand, pods)
    host = stage.app("app")
    stage.settle()

    with pytest.raises(http.client.RemoteDisconnected):
        stage.ask(host, SLOW)
    stage.clear()


def test_a_url_twice_in_a_backend_is_one_server(stage: Stage) -> None:
    stage.backend("app")
    for name, pod in (("1", "one"), ("2", "one"), ("3", "two")):
        stage.server("app", name, stage.pod(pod))
    stage.frontend("app", "app", 'Host("app.example")')
    stage.settle()
    assert stage.pods_of("app.example", requests=12) == {"one": 6, "two": 6}

    stage.delete("backends/app/servers/1")
    stage.settle()
    assert stage.pods_of("app.example", requests=12) == {"one": 6, "two": 6}


# Changes under way.


def test_a_request_in_flight_outlives_the_switch_and_all_that_it_came_by(stage: Stage) -> None:
    host = stage.app("app", "blue")
    stage.backend("next")
    stage.server("next", "s", stage.pod("green"))
    stage.settle()

    with in_flight(stage, host, "blue") as reply:
        stage.frontend("app", "next", f'Host("{host}")')
        stage.settle()
        assert stage.ask(host).pod == "green"
        stage.delete("frontends/app/frontend")
        stage.delete("backends/app/servers/blue")
        stage.delete("backends/app/backend")
        stage.settle()
        assert stage.ask(host).status == 404
        assert not reply.done()
    assert (reply.result().status, reply.result().pod) == (200, "blue")


def test_a_request_in_flight_outlives_new_settings_of_its_backend(stage: Stage) -> None:
    host = stage.app("app")
    stage.settle()

    with in_flight(stage, host, "app") as reply:
        stage.backend("app", Timeouts={"Read": "10ms"})
        stage.settle()
    assert reply.result().status == 200
    assert stage.ask(host, SLOW, method="POST", body=b"x").status == 504


def test_sigterm_waits_for_requests_in_flight(fragile: Stage) -> None:
    host = fragile.app("app")
    fragile.settle()

    with in_flight(fragile, host, "app") as reply:
        fragile.vulcand.stop()
    assert reply.result().status == 200


def slow_to_compile(stage: Stage) -> None:
    """A route that makes every change of any route take its time."""
    clause = "PathRegexp(`^/(?:[a-z0-9]{1,90}x){1,9}$`)"
    stage.backend("heavy")
    stage.frontend("heavy", "heavy", " && ".join([clause] * 40))


def test_a_route_changed_in_place_is_gone_for_a_moment(stage: Stage) -> None:
    """The old one is removed and then the new one added; both compile all routes, and requests wait
    for that: those get in between."""
    host = stage.app("app")
    slow_to_compile(stage)
    stage.settle()

    with stage.load(host) as statuses:
        for number in range(5):
            stage.frontend("app", "app", f'/*{number}*/ Host("{host}")')
        stage.settle()

    assert set(statuses) == {200, 404}


def test_a_route_moves_without_a_gap_to_another_frontend_that_spells_it_otherwise(
    stage: Stage,
) -> None:
    host = stage.app("app")
    slow_to_compile(stage)
    stage.settle()

    with stage.load(host) as statuses:
        for number in range(5):
            stage.frontend(f"app-{number + 1}", "app", f'/*{number}*/ Host("{host}")')
            stage.delete(f"frontends/app-{number}/frontend")
        stage.delete("frontends/app/frontend")
        stage.settle()

    assert set(statuses) == {200}


def test_nothing_else_that_changes_has_such_a_gap(stage: Stage) -> None:
    host = stage.app("app")
    slow_to_compile(stage)
    stage.settle()

    with stage.load(host) as statuses:
        for number in range(10):
            stage.frontend("app", "app", f'Host("{host}")', Hostname=str(number))
            stage.server("app", "x", stage.pod(("x", "y")[number % 2]))
            stage.backend("app", Timeouts={"Read": f"{number + 1}s"})
            limit = {"Connections": 1000 + number, "Variable": "client.ip"}
            stage.middleware("app", "m", "connlimit", limit)
        stage.settle()

    assert set(statuses) == {200}


def test_a_kept_connection_of_a_client_goes_through_switches(stage: Stage) -> None:
    host = stage.app("app", "blue")
    stage.backend("next")
    stage.server("next", "s", stage.pod("green"))
    stage.settle()
    client = http.client.HTTPConnection("127.0.0.1", stage.vulcand.port, timeout=5)
    seen = []
    for backend in ("app", "next", "app", "next"):
        stage.frontend("app", backend, f'Host("{host}")')
        stage.settle()
        client.request("GET", "/", headers={"Host": host})
        response = client.getresponse()
        response.read()
        seen.append(response.getheader("X-Pod"))
        assert client.sock is not None
    client.close()

    assert seen == ["blue", "green", "blue", "green"]


def test_connections_to_pods_are_kept_over_changes_of_servers_and_frontends(stage: Stage) -> None:
    """They belong to the backend: only a change of its settings closes what is idle. Of them two a
    server are kept by default."""
    opened = 0

    def keep(connection: socket.socket, head: bytes) -> None:
        nonlocal opened
        opened += 1
        while head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            head = read_head(connection)

    with RawServer(keep) as server:
        host = serve(stage, server.url)
        for number in range(4):
            stage.server("app", f"x{number}-", server.url)
            stage.frontend("app", "app", f'Host("{host}")', Hostname=str(number))
            stage.settle()
            assert stage.ask(host).status == 200
        assert opened == 1

        stage.backend("app", Timeouts={"Read": "20s"})
        stage.settle()
        assert stage.ask(host).status == 200
        assert opened == 2
        stage.backend("app", Timeouts={"Read": "21s"})  # lets go of the last
        stage.settle()


# WebSockets.


def websocket(connection: socket.socket, head: bytes) -> None:
    """Agree, then say back what is said."""
    lines = head.split(b"\r\n")
    key = next(line[19:] for line in lines if line.lower().startswith(b"sec-websocket-key: "))
    token = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    accept = b"Sec-WebSocket-Accept: " + base64.b64encode(token)
    connection.sendall(agreed + accept + b"\r\n\r\n")
    while (frame := connection.recv(4096)) and frame[0] & 15 == 1:
        mask, text = frame[2:6], frame[6:]
        said = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
        connection.sendall(bytes([0x81, len(said)]) + said)


@pytest.mark.parametrize("stream", [False, True])
def test_a_websocket_outlives_its_frontend(stage: Stage, stream: bool) -> None:
    with RawServer(websocket) as server:
        host = serve(stage, server.url, Stream=stream)
        with socket.create_connection(("127.0.0.1", stage.vulcand.port), 5) as client:
            upgrade = (
                f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
            )
            client.sendall(upgrade.encode())
            assert read_head(client).startswith(b"HTTP/1.1 101 ")
            client.sendall(b"\x81\x82\0\0\0\0hi")
            assert client.recv(10) == b"\x81\x02hi"

            stage.delete("frontends/app/frontend")
            stage.delete("backends/app/servers/s")
            stage.delete("backends/app/backend")
            stage.settle()

            client.sendall(b"\x81\x82\0\0\0\0yo")
            assert client.recv(10) == b"\x81\x02yo"
