"""Direct connects to real sockets: what is there, what is not, and never for long."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.servers.ports import free_port
from vulcanized.model import Endpoint
from vulcanized.probe import Answer, Prober


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def listening() -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0), backlog=500) as server:
        yield Endpoint(*server.getsockname())


@pytest.fixture
def silent() -> Iterator[Endpoint]:
    """A listener whose queue is full: Linux drops what comes then, as a lost host would."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        full = [socket.socket() for _ in range(4)]
        for each in full:
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield Endpoint(*server.getsockname())
        for each in full:
            each.close()


def test_who_accepts_who_refuses_and_who_is_silent(
    listening: Endpoint, silent: Endpoint, stop: threading.Event
) -> None:
    closed = Endpoint("127.0.0.1", free_port())
    answers = Prober(timeout=0.5).ask([listening, closed, silent], stop)
    assert answers == {
        listening: Answer.ACCEPTED,
        closed: Answer.REFUSED,
        silent: Answer.SILENT,
    }


def test_ipv6_and_what_is_no_address_of_ours(stop: threading.Event) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        here = Endpoint("::1", server.getsockname()[1])
        assert Prober().ask([here], stop) == {here: Answer.ACCEPTED}


def test_nothing_to_ask_is_no_work(stop: threading.Event) -> None:
    assert Prober().ask([], stop) == {}


def test_it_asks_no_longer_than_its_limit_and_says_what_was_left_out(
    silent: Endpoint, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.probe._room", lambda: 4)
    # The same listener under many names: all of 127/8 is this machine, but it listens on one.
    with socket.create_server(("0.0.0.0", 0), backlog=0) as server:
        port = server.getsockname()[1]
        full = [socket.socket() for _ in range(4)]
        for each in full:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        many = [Endpoint(f"127.0.1.{n}", port) for n in range(1, 60)]
        began = time.monotonic()
        answers = Prober(timeout=0.3, limit=1.0).ask(many, stop)
        assert time.monotonic() - began < 3.0
        for each in full:
            each.close()
    found = list(answers.values())
    assert set(found) == {Answer.SILENT, Answer.UNASKED}
    assert found[0] is Answer.SILENT
    assert found[-1] is Answer.UNASKED


def test_thousands_that_are_there_are_quick(listening: Endpoint, stop: threading.Event) -> None:
    closed = free_port()
    many = [Endpoint(f"127.1.{n // 250}.{n % 250 + 1}", closed) for n in range(5000)]
    answers = Prober().ask([*many, listening], stop)
    assert set(list(answers.values())[:-1]) == {Answer.REFUSED}


def test_it_ends_when_told_to(silent: Endpoint, stop: threading.Event) -> None:
    asking = threading.Thread(
        target=lambda: Prober(timeout=30, limit=60).ask([silent], stop), daemon=True
    )
    asking.start()
    stop.set()
    asking.join(5)
    assert not asking.is_alive()


def test_no_descriptor_is_left_open(silent: Endpoint, stop: threading.Event) -> None:
    closed = Endpoint("127.0.0.1", free_port())
    before = len(os.listdir("/proc/self/fd"))
    Prober(timeout=0.2).ask([silent, closed], stop)
    assert len(os.listdir("/proc/self/fd")) == before
