"""Connections that last: streams, websockets, slow clients, and what changes around them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import threading
from collections.abc import Iterator

import pytest

from tests.behaviour.client import Wire
from tests.behaviour.pods import bytes_of, framed
from tests.behaviour.world import App, World, needs, shows
from tests.servers.wait import eventually

TITLE = "Connections"

websockets = shows("websockets, also over changes of other apps and a switch of their own")
streams = shows("streams (server-sent events) with `retries: 0`, also over changes and a switch")
slow = shows("slow clients: uploading, reading")
kept = shows(
    "connections of clients are kept open, idle ones too, while pods and other apps come and go"
)

PIECE = 0.05
"""Seconds between two pieces of a slow client."""


def change(world: World, app: App | None = None) -> None:
    """What may reload a proxy: another app comes and goes, `app` is switched to green."""
    other = world.app("one", "two", active="one")
    world.settle()
    other.activate("two")
    world.settle()
    other.unconfigure()
    if app is not None:
        app.activate("green")
    world.settle()
    if app is not None:
        assert world.ask(app.host).header("x-version") == "green"


@contextlib.contextmanager
def websocket(world: World, host: str) -> Iterator[Wire]:
    """A websocket to a pod of an app, agreed on."""
    with Wire(world.front.port) as wire:
        wire.send(
            f"GET /websocket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
        )
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        yield wire


def echoed(wire: Wire, text: bytes) -> None:
    """What is said is said back."""
    wire.send(framed(text, mask=bytes(4)))
    assert wire.message() == text


@websockets
@needs("hosts")
@pytest.mark.parametrize("switch", [False, True], ids=["others", "switch"])
def test_a_websocket_goes_on(world: World, switch: bool) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    with websocket(world, app.host) as wire:
        echoed(wire, b"hello")
        change(world, app if switch else None)
        echoed(wire, b"still there?")
        echoed(wire, b"x" * 100_000)


@streams
@needs("retries")
@pytest.mark.parametrize("switch", [False, True], ids=["others", "switch"])
@pytest.mark.parametrize("path", ["/stream", "/lines"])
def test_a_stream_goes_on(world: World, switch: bool, path: str) -> None:
    app = world.app("blue", "green", active="blue", retries=0)
    world.settle()
    (pod, _) = app.pods
    with world.client() as client:
        client.send(app.host, path)
        pod.say(b"data: one\n\n")
        head, rest = client.begin()
        assert (head.status, head.pod) == (200, pod.name)
        assert rest.readline() == b"data: one\n"

        change(world, app if switch else None)

        for number in range(3):
            pod.say(b"data: %d\n\n" % number)
            assert rest.readline() + rest.readline() == b"\ndata: %d\n" % number
        pod.say(None)
        assert rest.read() == b"\n"


@shows("streams as a matter of course")
@needs("hosts", "streaming")
def test_an_answer_is_passed_on_while_it_is_made(world: World) -> None:
    app = world.app()
    world.settle()
    (pod,) = app.pods
    with world.client() as client:
        client.send(app.host, "/stream")
        pod.say(b"one\n")
        head, rest = client.begin()
        assert (head.pod, rest.readline()) == (pod.name, b"one\n")
        pod.say(b"two\n")
        assert rest.readline() == b"two\n"
        pod.say(None)
        assert rest.read() == b""


@shows("an answer that breaks off is seen to break off, never as whole")
@needs("retries")
def test_a_stream_that_breaks_off_is_seen_to(world: World) -> None:
    app = world.app(retries=0)
    world.settle()
    (pod,) = app.pods
    with world.client() as client:
        client.send(app.host, "/stream")
        pod.say(b"one\n")
        _, rest = client.begin()
        assert rest.readline() == b"one\n"
        world.pods.crash(pod)
        with pytest.raises((OSError, http.client.HTTPException)):
            rest.read()


@slow
@needs("hosts")
def test_a_slow_upload_arrives_whole(world: World) -> None:
    app = world.app()
    world.settle()
    never = threading.Event()
    pieces = [bytes_of(1000 + number) for number in range(30)]

    def slowly() -> object:
        for piece in pieces:
            never.wait(PIECE)
            yield piece

    with world.load(app.host):
        seen = world.ask(app.host, "/echo", method="POST", body=slowly()).echo
    assert seen["digest"] == hashlib.sha256(b"".join(pieces)).hexdigest()


@slow
@needs("hosts")
def test_a_slow_reader_gets_all_and_others_do_not_wait_for_it(world: World) -> None:
    app = world.app()
    world.settle()
    count = 16 << 20
    with world.client() as client:
        client.send(app.host, f"/bytes?count={count}")
        _, rest = client.begin()
        seen = rest.read(1000)
        with world.load(app.host):
            change(world)
        while piece := rest.read(1 << 20):
            seen += piece
    assert seen == bytes_of(count)


@slow
@needs("hosts")
def test_a_head_that_comes_in_pieces_is_read(world: World) -> None:
    app = world.app()
    world.settle()
    never = threading.Event()
    request = f"GET / HTTP/1.1\r\nHost: {app.host}\r\nConnection: close\r\n\r\n".encode()
    with Wire(world.front.port) as wire:
        for at in range(0, len(request), 5):
            wire.send(request[at : at + 5])
            never.wait(PIECE)
        assert wire.rest().startswith(b"HTTP/1.1 200 ")


@kept
@needs("idle_connections")
def test_a_connection_that_is_idle_while_others_change_is_still_good(world: World) -> None:
    app = world.app()
    world.settle()
    request = f"GET / HTTP/1.1\r\nHost: {app.host}\r\n\r\n".encode()
    with Wire(world.front.port) as wire:
        for _ in range(2):
            wire.send(request)
            assert wire.until(b'"}').endswith(b'"version": "blue"}')
            change(world)


@kept
@needs("idle_connections")
def test_one_connection_of_a_client_sees_pods_come_and_go(world: World) -> None:
    app = world.app()
    world.settle()
    request = f"GET / HTTP/1.1\r\nHost: {app.host}\r\n\r\n".encode()
    with Wire(world.front.port) as wire:
        for _ in range(4):
            wire.send(request)
            assert app.pods[-1].name.encode() in wire.until(b'"}')
            app.pod()
            world.settle()
            app.delete(app.pods[-2])
            world.settle()


@kept
@needs("idle_connections")
def test_requests_sent_one_behind_the_other_are_answered_in_order(world: World) -> None:
    app = world.app()
    world.settle()
    one = "GET /echo?{} HTTP/1.1\r\nHost: {}\r\n{}\r\n"
    with Wire(world.front.port) as wire:
        wire.send("".join(one.format(number, app.host, "") for number in range(4)).encode())
        wire.send(one.format("last", app.host, "Connection: close\r\n").encode())
        answers = re.findall(rb'"target": "/echo\?(\w+)"', wire.rest())
    assert answers == [b"0", b"1", b"2", b"3", b"last"]


@shows("many requests on one connection, many connections at once")
@needs("hosts")
def test_a_connection_is_good_for_many_requests(world: World) -> None:
    app, other = world.app(), world.app()
    world.settle()
    with world.client() as client:
        for _ in range(50):
            assert client.ask(app.host).pod == app.pods[0].name
            assert client.ask(other.host).pod == other.pods[0].name


@shows("many requests on one connection, many connections at once")
@needs("hosts")
def test_two_hundred_connections_at_once_are_served(world: World) -> None:
    app = world.app("blue", "blue")
    world.settle()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(world.client()) for _ in range(200)]
        for client in clients:
            client.send(app.host, "/hold")
        eventually(lambda: sum(pod.in_flight for pod in app.pods) == 200, 30, "all in flight")
        for pod in app.pods:
            pod.release()
        assert {client.receive().status for client in clients} == {200}
