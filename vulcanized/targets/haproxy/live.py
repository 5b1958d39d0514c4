"""What a running HAProxy says, parsed: the one place that knows how its versions differ.

They are told apart by what they say, never by their number. Formats as 2.6, 2.8, 3.0 and 3.2 write
them (`tests/targets/recorded`); what they are: HAProxy's management guide, section 9.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from vulcanized.errors import ProxyUnreachable
from vulcanized.model import Server, ServerState
from vulcanized.targets.haproxy import words

_PROCESS: Final = re.compile(
    r"(\d+)\s+(master|worker)\s+(\d+)(?: \[failed: (\d+)\])?\s+(\S+)\s+(\S+)"
)
# Of commands, the only answers that mean that they were done.
NOTHING: Final = re.compile(r"\n")
DONE: Final = re.compile(r"[^\n]+\n\n|\n")
ADDED: Final = re.compile(r"New server registered\.\n\n")
PREPARED: Final = re.compile(r"New version created: (\d+)\n\n")
# Before 3.0 these two end with one newline, since then with two: nothing may follow them in a batch
# whose answer is one newline.
DELETED: Final = re.compile(r"Server deleted\.\n\n?|No such server\.\n\n?")
DELETED_OR_BUSY: Final = re.compile(
    rf"{DELETED.pattern}|Server still has connections attached[^\n]*\n\n?"
)
NO_SUCH_WORKER: Final = "Can't find the target "
"""Begins the answer of a master whose worker cannot be asked: it has ended, or still starts."""

_SERVER_LINE: Final = re.compile(r"^\S+ (\S+) .*\n?", re.MULTILINE)
_FORCED_OR_CONFIGURED_MAINT: Final = 0x01 | 0x04
_FORCED_DRAIN: Final = 0x08
_ALERT: Final = re.compile(r"^\[ALERT\]\s*\(\d+\) : (?:config : )?")
_NO_REASONS: Final = ("Error(s) found", "Fatal errors found")


class Processes(NamedTuple):
    """`show proc`: the master, and the one worker that takes new connections.

    `reloads` counts all tries, `failed` those that failed since the last good one.
    """

    master: int
    reloads: int
    failed: int
    worker: int
    version: str


class LiveServer(NamedTuple):
    """A server as the running worker has it. `maxconn` None: it was not asked for."""

    address: str
    port: int
    state: ServerState
    weight: int
    maxconn: int | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """What one worker has in effect.

    `structure` is what it was made of (`structure.map`; empty when it does not run our file),
    `tables` the maps that it has, `servers` those of each of our backends. Reading it took
    `seconds`.
    """

    processes: Processes
    structure: Mapping[str, str]
    tables: Mapping[str, Mapping[str, str]]
    servers: Mapping[str, Mapping[str, LiveServer]]
    seconds: float = 0.0


def is_over(answer: bytes | bytearray) -> bool:
    """Whether nothing will follow, though the connection is open.

    2.6 closes it after word that there is no such worker; from 2.8 on it may stay open for ever.
    """
    last_line = answer.rfind(b"\n", 0, -1) + 1
    return answer.endswith(b"\n") and answer.startswith(NO_SUCH_WORKER.encode(), last_line)


def parse_processes(text: str) -> Processes:
    """The answer to `show proc`. Raises ProxyUnreachable when it is none, or there is no worker.

    After a failed reload the one worker that goes on is among the old ones (from 3.1), where it is
    the one with the fewest reloads behind it.
    """
    master: re.Match[str] | None = None
    current: list[re.Match[str]] = []
    old: list[re.Match[str]] = []
    into = current
    for line in text.splitlines():
        if line.startswith("# "):
            into = current if line == "# workers" else old
            continue
        process = _PROCESS.match(line)
        if process is None:
            continue
        if process[2] == "master":
            master = process
        else:
            into.append(process)
    if master is None:
        raise ProxyUnreachable(f"no answer to `show proc`, but {text[:80]!r}: is it HAProxy's?")
    worker = min(current or old, key=lambda process: int(process[3]), default=None)
    if worker is None:
        raise ProxyUnreachable(f"HAProxy (pid {master[1]}) has no worker: see its log")
    return Processes(int(master[1]), int(master[3]), int(master[4] or 0), int(worker[1]), worker[6])


def parse_workers(text: str) -> list[int]:
    """The workers in an answer to `show proc`, the old ones included."""
    found = (_PROCESS.match(line) for line in text.splitlines())
    return [int(process[1]) for process in found if process and process[2] == "worker"]


def parse_sessions(text: str) -> dict[str, int]:
    """The sessions of each backend in answers to `show stat`, queued ones included."""
    sessions: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split(",", 5)
        if len(fields) == 6 and fields[1] == "BACKEND":
            count = int(fields[4] or 0) + int(fields[2] or 0)
            sessions[fields[0]] = sessions.get(fields[0], 0) + count
    return sessions


def parse_table(text: str) -> dict[str, str] | None:
    """The answer to `show map`, in its order; None: the worker has no such map.

    Of entries with the same key HAProxy takes the first.
    """
    if text.startswith("Unknown map"):
        return None
    table: dict[str, str] = {}
    for line in text.splitlines():
        _, _, entry = line.partition(" ")
        key, _, value = entry.partition(" ")
        if key:
            # What was read back is what we gave: the same texts, kept once.
            table.setdefault(sys.intern(key), sys.intern(value))
    return table


class Servers(Mapping[str, Mapping[str, LiveServer]]):
    """The servers of each of these backends in an answer to `show servers state`.

    Each backend's are read when they are asked for: those of all, at once, would take more memory
    than all that is kept. Raises ProxyUnreachable for another answer.
    """

    def __init__(self, text: str, backends: Iterable[str]) -> None:
        if not text.startswith("1\n#"):
            raise ProxyUnreachable(f"no answer to `show servers state`, but {text[:80]!r}")
        self._text = text
        self._spans: dict[str, tuple[int, int]] = {id_: (0, 0) for id_ in backends if ":" in id_}
        self._limits: dict[str, dict[str, int]] = {}
        for line in _SERVER_LINE.finditer(text):
            # The servers of a backend follow each other.
            if (span := self._spans.get(line[1])) is not None:
                self._spans[line[1]] = (span[0] or line.start(), line.end())

    def add_limits(self, text: str) -> None:
        """Take over the `maxconn` that some answers to `show stat` tell."""
        for line in text.splitlines():
            fields = line.split(",", 7)
            if len(fields) > 7 and fields[0] in self._spans:
                self._limits.setdefault(fields[0], {})[fields[1]] = int(fields[6] or 0)

    def __getitem__(self, id_: str) -> Mapping[str, LiveServer]:
        start, end = self._spans[id_]
        limits = self._limits.get(id_, {})
        servers = {}
        for line in self._text[start:end].splitlines():
            fields = line.split(" ", 19)
            if len(fields) > 18 and fields[1] == id_:
                servers[fields[3]] = LiveServer(
                    _canonical(fields[4]),
                    int(fields[18]),
                    _state(int(fields[6])),
                    int(fields[7]),
                    limits.get(fields[3]),
                )
        return servers

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


def _canonical(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _state(admin: int) -> ServerState:
    if admin & _FORCED_OR_CONFIGURED_MAINT:
        return ServerState.MAINT
    return ServerState.DRAIN if admin & _FORCED_DRAIN else ServerState.READY


def limited_to(live: LiveServer, maxconn: int) -> bool:
    """Whether a running server has the wanted limit, as far as was asked.

    Without one in the app's config it may have any: a template may say so.
    """
    return not maxconn or live.maxconn is None or live.maxconn == maxconn


def stands_at(live: LiveServer, server: Server) -> bool:
    """Whether a running server has the wanted address, however that is written."""
    literal = server.address
    return live.port == server.port and (
        live.address == literal or live.address == words.ip(literal)
    )


def shows(live: LiveServer, server: Server) -> bool:
    """Whether what runs is what is wanted, but for the address.

    A server that drains is one by state or, when it came from the file, by weight 0.
    """
    if server.state is ServerState.MAINT or live.state is ServerState.MAINT:
        return server.state is live.state
    if server.state is ServerState.DRAIN:
        return live.state is ServerState.DRAIN or live.weight == 0
    return live.state is ServerState.READY and live.weight == server.weight


def alerts(output: str) -> str:
    """The reasons in HAProxy's output, in one line; its last lines if none is marked as one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [_ALERT.sub("", line) for line in lines if "[ALERT]" in line]
    reasons = [line for line in marked if not line.startswith(_NO_REASONS)]
    return " / ".join((reasons or marked or lines[-3:] or ["it said nothing"])[:3])[:800]
