"""A fresh start: how long until every app is served, and how much memory that takes."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks import usage
from benchmarks.pods import NoEffect
from benchmarks.probe import Probe
from benchmarks.stage import Stage
from tests.daemons import Vulcanized

_DEADLINE = 60.0
_SETTLE = 3.0
_CONNECTIONS = 8
_TRY_EVERY = 0.004  # no more often: the daemon and HAProxy need the processors
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_STEPS = ("started", "listed", "synced", "applied", "ready")


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds since the process was made, and bytes of the daemon's own memory.

    `first`: the first app's first answer; `last`: the last app's. `steps`: the lines of its log.
    """

    first: float
    last: float
    memory: int
    peak: int
    steps: tuple[tuple[str, float], ...]


def start(stage: Stage) -> Start:
    """Start a daemon that has never run before, until all apps answer; end it."""
    hosts = stage.hosts
    with stage.daemon() as daemon:
        wall, begin = time.time(), time.monotonic()
        daemon.process.start()
        first = _first_answer(daemon, hosts[0], begin + _DEADLINE)
        last = _all_answer(daemon.port, hosts, begin + _DEADLINE)
        time.sleep(_SETTLE)
        return Start(
            first - begin,
            last - begin,
            usage.memory(daemon.process.pid),
            usage.memory(daemon.process.pid, "VmHWM"),
            steps(daemon, wall),
        )


def _first_answer(daemon: Vulcanized, host: str, deadline: float) -> float:
    with Probe(daemon.port) as probe:
        while time.monotonic() < deadline:
            try:
                answer = probe.ask(host)
            except OSError:
                pass
            else:
                if answer.status == 200:
                    return answer.at
            time.sleep(_TRY_EVERY)
    raise NoEffect(f"{host} is not served; the daemon's log ends:\n{daemon.process.log_tail()}")


def _all_answer(port: int, hosts: Sequence[str], deadline: float) -> float:
    """When the last of these hosts first answered with 200."""
    waiting = list(hosts)
    at = 0.0
    while waiting:
        if time.monotonic() > deadline:
            raise NoEffect(f"{len(waiting)} of {len(hosts)} apps are not served")
        shares = [waiting[each::_CONNECTIONS] for each in range(_CONNECTIONS)]
        served = _ask_all(port, [share for share in shares if share], deadline)
        at = time.monotonic()
        waiting = [host for host in waiting if host not in served]
    return at


def _ask_all(port: int, shares: Sequence[Sequence[str]], deadline: float) -> set[str]:
    """Ask each share's hosts on a connection of its own, all at once: those that are served."""
    connections: dict[socket.socket, Sequence[str]] = {}
    seen: dict[socket.socket, bytes] = {}
    try:
        for share in shares:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5.0)
            connections[connection], seen[connection] = share, b""
            request = "".join(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n" for host in share)
            connection.sendall(request.encode())
        missing = set(connections)
        while missing and time.monotonic() < deadline:
            for ready in select.select(list(missing), [], [], 1.0)[0]:
                data = ready.recv(1 << 16)
                seen[ready] += data
                if not data or len(_STATUS.findall(seen[ready])) >= len(connections[ready]):
                    missing.discard(ready)
        return {
            host
            for connection, share in connections.items()
            for host, status in zip(share, _STATUS.findall(seen[connection]), strict=False)
            if status == b"200"
        }
    finally:
        for connection in connections:
            connection.close()


def steps(daemon: Vulcanized, wall: float) -> tuple[tuple[str, float], ...]:
    """The lines of its log, each with the seconds since `wall`."""
    lines = (
        (" ".join(filter(None, (step, line.get("source", "")))), line["@timestamp"])
        for step in _STEPS
        for line in daemon.log_lines(step)
    )
    times = ((name, datetime.fromisoformat(at).timestamp() - wall) for name, at in lines)
    return tuple(sorted(times, key=lambda item: item[1]))
