"""What a pod's HTTP server answers, byte by byte where it matters."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.servers.podserver import PodServer
from tests.servers.ports import free_port


def served(*messages: bytes, until: bytes = b"", healthy: bool = True) -> bytes:
    """All that comes back on one connection for these messages, up to its end or `until`."""

    async def run() -> bytes:
        port = free_port()
        server = PodServer("web-1", "7")
        server.healthy = healthy
        await server.listen("127.0.0.1", [port])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for message in messages:
                writer.write(message)
                await writer.drain()
            return await asyncio.wait_for(reader.readuntil(until) if until else reader.read(), 5)
        finally:
            writer.close()
            server.abort()

    return asyncio.run(run())


def get(target: str, *headers: str, protocol: str = "HTTP/1.1", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} {protocol}", "Host: x", *headers, "", ""]).encode()


def body(answer: bytes) -> object:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


CLOSE = "Connection: close"


def test_an_answer_names_the_pod_and_its_version() -> None:
    answer = served(get("/", CLOSE))

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Pod: web-1\r\nX-Version: 7\r\n" in answer
    assert body(answer) == {"pod": "web-1", "version": "7"}


def test_a_connection_is_kept_for_further_requests_even_sent_at_once() -> None:
    answers = served(get("/a") + get("/b") + get("/echo", CLOSE))

    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b"Connection: close") == 1


def test_the_old_protocol_gets_one_answer() -> None:
    answer = served(get("/", protocol="HTTP/1.0"))

    assert body(answer) == {"pod": "web-1", "version": "7"}


def test_a_head_request_gets_no_body() -> None:
    answer = served(get("/", CLOSE, method="HEAD"))

    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 32\r\n" in answer


@pytest.mark.parametrize(("healthy", "status"), [(True, b"200 OK"), (False, b"503 ")])
def test_health_is_what_it_was_told(healthy: bool, status: bytes) -> None:
    answer = served(get("/health", CLOSE), healthy=healthy)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert body(answer) == {"healthy": healthy}


@pytest.mark.parametrize(
    "message",
    [
        get("/echo/x?y=1", "Content-Length: 5", CLOSE, method="POST") + b"hello",
        get("/echo/x?y=1", "Transfer-Encoding: chunked", CLOSE, method="POST")
        + b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n",
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_a_request_is_understood_however_it_is_cut(message: bytes, piece: int) -> None:
    pieces = [message[start : start + piece] for start in range(0, len(message), piece)]

    echo = body(served(*pieces))

    assert isinstance(echo, dict)
    assert (echo["method"], echo["target"], echo["body"]) == ("POST", "/echo/x?y=1", "hello")
    assert ["Host", "x"] in echo["headers"]


def test_a_client_that_waits_for_leave_to_send_is_given_it() -> None:
    head = get("/", "Expect: 100-continue", "Content-Length: 5", method="POST")

    assert served(head, until=b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_any_status_is_to_be_had() -> None:
    assert served(get("/status/404", CLOSE)).startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_nonsense_is_refused() -> None:
    assert served(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_closing_finishes_what_is_in_flight_and_counts_it() -> None:
    async def run() -> tuple[bytes, bytes, int, float]:
        port = free_port()
        server = PodServer("web-1", "7")
        await server.listen("127.0.0.1", [port])
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
        busy_writer.write(get("/slow?seconds=0.2"))
        async with asyncio.timeout(5):
            while server.in_flight != 1:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        await server.close(5)
        took = time.monotonic() - began
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        answers = await idle.read(), await busy.read()
        idle_writer.close()
        busy_writer.close()
        return *answers, server.served, took

    nothing, answer, served_count, took = asyncio.run(run())

    assert nothing == b""
    assert body(answer) == {"pod": "web-1", "version": "7"}
    assert b"Connection: close" in answer
    assert served_count == 1
    assert 0.1 < took < 4


def test_closing_cuts_what_takes_too_long() -> None:
    async def run() -> bytes:
        port = free_port()
        server = PodServer("web-1", "7")
        await server.listen("127.0.0.1", [port])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/slow?seconds=60"))
        async with asyncio.timeout(5):
            while server.in_flight != 1:
                await asyncio.sleep(0.01)
        await server.close(0.05)
        answer = await reader.read()
        writer.close()
        async with asyncio.timeout(5):
            while server.in_flight:
                await asyncio.sleep(0.01)
        return answer

    assert asyncio.run(run()) == b""


def test_a_port_that_is_taken_leaves_no_port_open() -> None:
    async def run() -> None:
        first, second = free_port(), free_port()
        holder = PodServer("web-1", "7")
        await holder.listen("127.0.0.1", [second])
        with pytest.raises(OSError, match="in use"):
            await PodServer("web-2", "7").listen("127.0.0.1", [first, second])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", first)
        holder.abort()

    asyncio.run(run())
