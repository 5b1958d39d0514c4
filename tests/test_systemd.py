"""sd_notify: what a service manager hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vulcanized.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(tmp_path / "notify"))
    channel.settimeout(5)
    return channel


def test_states_reach_the_manager(manager: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.reloading()
    notifier.ready("in step; 3 apps")
    notifier.alive()
    notifier.stopping()
    heard = [manager.recv(1000).decode().split("\n") for _ in range(4)]
    assert heard[0][0] == "RELOADING=1"
    assert heard[0][1].startswith("MONOTONIC_USEC=")
    assert heard[1] == ["READY=1", "STATUS=in step; 3 apps"]
    assert heard[2:] == [["WATCHDOG=1"], ["STOPPING=1"]]
    manager.close()


def test_an_abstract_socket_is_reached() -> None:
    name = f"vulcanized-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name)
        channel.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).status("here")
        assert channel.recv(100) == b"STATUS=here"


def test_without_a_manager_nothing_happens_and_a_deaf_one_is_no_fault(tmp_path: Path) -> None:
    Notifier({}).ready("fine")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("fine")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_it_names_us(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environ).watchdog == seconds
