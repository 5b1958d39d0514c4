"""The socket of HAProxy's master process: the one way to its workers, under one permission.

Each exchange has a connection of its own, and the answer ends where the connection does: no text
in an answer can be taken for its end. Commands go to a worker by its process id, after a `show
proc` in the same exchange, so that one that was replaced meanwhile is noticed. A kept connection
would save 0.05 ms a command and would need a prompt as a mark between answers.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vulcanized.errors import ProxyUnreachable, ReloadFailed
from vulcanized.targets.haproxy.live import (
    NO_SUCH_WORKER,
    NOTHING,
    PREPARED,
    Live,
    Processes,
    Servers,
    alerts,
    is_over,
    parse_processes,
    parse_sessions,
    parse_table,
    parse_workers,
)
from vulcanized.targets.haproxy.parts import STRUCTURE, TABLES

ANSWER_SECONDS: Final = 2.0
_MOST_BYTES: Final = 8000
"""Of one line, and of one payload: HAProxy drops silently what is over its buffer of 16 KiB."""
_LONGEST_ANSWER: Final = 256 << 20
_MOST_COMMANDS: Final = 100
_LIMITS_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class Command:
    """One command to a worker, and the only answer that means that it was done.

    `subject` is what it is about: a backend or a map. `{map}` in `text` stands for the latter.
    """

    text: str
    subject: str
    answer: re.Pattern[str] = NOTHING


@dataclass(frozen=True, slots=True)
class Replacement:
    """A whole map in a new order or with many changes: prepared aside, counted, then committed."""

    subject: str
    entries: tuple[tuple[str, str], ...]


class Absent(ProxyUnreachable):
    """Nobody there to be asked: no HAProxy runs, or it is in the midst of a reload."""


class Starting(Absent):
    """A master answers, but its worker cannot be asked: it has ended, or still starts (3.2)."""


class Disagreed(Exception):
    """A worker answered something else than expected. Read back what it has in effect.

    `subject` is that of the first such command, "" when the worker is not the expected one.
    """

    def __init__(self, subject: str, text: str, answer: str) -> None:
        super().__init__(f"HAProxy answered {answer[:300].strip()!r} to {text[:300]!r}")
        self.subject = subject


class Master:
    """Talks to the master at `path`. `directory`: where the maps are, as their names say."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._turn = 0
        self._directory = directory

    def ask(self, text: str, seconds: float = ANSWER_SECONDS) -> str:
        """One exchange. Raises ProxyUnreachable when it has not ended after `seconds`."""
        deadline = time.monotonic() + seconds
        answer = bytearray()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(seconds)
                connection.connect(str(self._path))
                connection.sendall(text.encode())
                # Without it the master waits for more (2.6).
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(1 << 16):
                    answer += data
                    if is_over(answer):
                        break
                    if len(answer) > _LONGEST_ANSWER or time.monotonic() > deadline:
                        # Whoever goes on talking never runs into a time-out.
                        raise ProxyUnreachable(
                            f"the answer at {self._path} does not end: is it HAProxy's?"
                        )
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Absent(
                f"no HAProxy listens at {self._path}: start one with -W -S {self._path}, or set "
                "start = true"
            ) from error
        except TimeoutError as error:
            raise ProxyUnreachable(
                f"HAProxy does not answer at {self._path} within {seconds:g} s: is it stopped?"
            ) from error
        except OSError as error:
            raise ProxyUnreachable(
                f"cannot talk to HAProxy at {self._path}: {error.strerror or error}; see that it "
                "runs and that we may use its socket"
            ) from error
        return answer.decode(errors="replace")

    def processes(self, seconds: float = ANSWER_SECONDS) -> Processes:
        """Which processes there are now."""
        return parse_processes(self.ask("show proc\n", seconds))

    def answering(self, seconds: float) -> Processes:
        """Which processes there are, if master and worker answer within so many seconds each."""
        processes = self.processes(seconds)
        self.ask(f"@!{processes.worker} show version\n", seconds)
        return processes

    def sessions(self, backends: Sequence[str]) -> dict[str, int]:
        """The sessions of backends, those in workers that only finish old ones included.

        Raises ProxyUnreachable when a worker cannot be asked, unless it has ended meanwhile.
        """
        counts = dict.fromkeys(backends, 0)
        for worker in parse_workers(self.ask("show proc\n")):
            for start in range(0, len(backends), _LIMITS_AT_ONCE):
                some = backends[start : start + _LIMITS_AT_ONCE]
                asked = ";".join(f"@!{worker} show stat {id_} 2 -1" for id_ in some)
                for id_, sessions in parse_sessions(self.ask(f"{asked}\n")).items():
                    if id_ in counts:
                        counts[id_] += sessions
        return counts

    def read_back(self) -> Live:
        """All that the current worker has in effect."""
        began = time.monotonic()
        processes = self.processes()
        structure = self._table(processes.worker, STRUCTURE)
        if structure is None:
            return Live(processes, {}, {}, {})
        read = ((name, self._table(processes.worker, name)) for name in TABLES)
        tables = {name: table for name, table in read if table is not None}
        servers = Servers(self.ask(f"@!{processes.worker} show servers state\n"), structure)
        if some := self._take_turns(structure):
            asked = ";".join(f"@!{processes.worker} show stat {id_} 4 -1" for id_ in some)
            servers.add_limits(self.ask(f"{asked}\n"))
        return Live(processes, structure, tables, servers, time.monotonic() - began)

    def _take_turns(self, structure: Mapping[str, str]) -> list[str]:
        """The backends whose limits are looked at this time: what HAProxy tells of them is long."""
        limited = [id_ for id_, value in structure.items() if ":" in id_ and value[-2:] != ":0"]
        if not limited:
            return []
        start = self._turn % len(limited)
        self._turn = start + _LIMITS_AT_ONCE
        return limited[start : start + _LIMITS_AT_ONCE]

    def _table(self, worker: int, name: str) -> dict[str, str] | None:
        answer = self.ask(f"@!{worker} show map {self._directory / name}\n")
        if answer.startswith(NO_SUCH_WORKER):
            raise Starting(
                f"HAProxy's worker {worker} cannot be asked: it has ended or still starts"
            )
        return parse_table(answer)

    def reload(self, before: Processes, seconds: float, stop: threading.Event) -> Processes:
        """Let HAProxy read its files again; the processes once the new worker serves.

        Judged by `show proc`: 2.6 answers `reload` at once and with nothing, and is not to be
        talked to until it runs itself anew; later ones answer with their verdict when it is done.
        Raises ReloadFailed; whether the old worker goes on is to be seen then.
        """
        deadline = time.monotonic() + seconds
        verdict = ""
        with contextlib.suppress(ProxyUnreachable):  # cut off by what we asked for
            verdict = self.ask("reload\n", seconds)
        while True:
            try:
                now = self.processes()
            except ProxyUnreachable as error:
                seen = str(error)
            else:
                seen = f"its worker is still {now.worker}"
                if now.failed and now.reloads > before.reloads:
                    said = alerts(verdict) if verdict else "see its log for why"
                    raise ReloadFailed(
                        f"HAProxy failed to reload: {said}", restored=False, said=verdict
                    )
                if now.worker != before.worker:
                    return now
            if time.monotonic() > deadline or stop.wait(0.003):
                raise ReloadFailed(
                    f"HAProxy did not confirm a reload within {seconds:g} s: {seen}",
                    restored=False,
                )

    def carry_out(
        self, worker: int, steps: Iterable[Command | Replacement]
    ) -> tuple[tuple[Command, str], ...]:
        """Send them in order; the answers to the commands. Raises Disagreed, ProxyUnreachable.

        After either, some of them may have been done.
        """
        answers: list[tuple[Command, str]] = []
        batch: list[Command] = []
        for step in steps:
            if isinstance(step, Replacement):
                answers += self._send(worker, batch)
                batch = []
                self._replace(worker, step)
            else:
                batch.append(step)
        return tuple(answers + self._send(worker, batch))

    def _send(self, worker: int, commands: Sequence[Command]) -> list[tuple[Command, str]]:
        answers: list[tuple[Command, str]] = []
        start = size = 0
        for index, command in enumerate(commands):
            size += len(command.text) + 16
            if size > _MOST_BYTES or index - start == _MOST_COMMANDS:
                answers += self._exchange(worker, commands[start:index])
                start, size = index, len(command.text) + 16
        return answers + self._exchange(worker, commands[start:])

    def _exchange(self, worker: int, commands: Sequence[Command]) -> list[tuple[Command, str]]:
        if not commands:
            return []
        line = ";".join(f"@!{worker} {self._worded(command)}" for command in commands)
        answer = self._ask_worker(worker, line + "\n")
        answers = []
        position = 0
        for command in commands:
            match = command.answer.match(answer, position)
            if match is None:
                raise Disagreed(command.subject, command.text, answer[position:])
            answers.append((command, match[0]))
            position = match.end()
        if position != len(answer):
            raise Disagreed("", commands[-1].text, answer[position:])
        return answers

    def _worded(self, command: Command) -> str:
        return command.text.replace("{map}", str(self._directory / command.subject), 1)

    def _ask_worker(self, worker: int, text: str) -> str:
        """The answer to `text`, if `worker` is still the current one. Raises Disagreed if not."""
        answer = self.ask(f"show proc;{text}")
        processes, _, rest = answer.partition("\n\n")
        if parse_processes(processes).worker != worker:
            raise Disagreed("", text, processes)
        return rest

    def _replace(self, worker: int, new: Replacement) -> None:
        """A whole map at once. Raises Disagreed with nothing changed, or ProxyUnreachable."""
        name = new.subject
        map_ = self._directory / name
        answer = self._ask_worker(worker, f"@!{worker} prepare map {map_}\n")
        created = PREPARED.fullmatch(answer)
        if created is None:
            raise Disagreed(name, f"prepare map {map_}", answer)
        version = created[1]
        for payload in _payloads(new.entries):
            answer = self.ask(f"@!{worker} add map @{version} {map_} <<\n{payload}\n")
            if answer != "\n":
                raise Disagreed(name, f"add map @{version} {map_}", answer)
        # A payload that was dropped would leave the map short or empty.
        shown = parse_table(self.ask(f"@!{worker} show map @{version} {map_}\n"))
        if tuple((shown or {}).items()) != new.entries:
            raise Disagreed(name, f"show map @{version} {map_}", f"{len(shown or {})} entries")
        self._exchange(worker, [Command(f"commit map @{version} {{map}}", name)])


def _payloads(entries: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Lines of entries, in portions that HAProxy takes."""
    lines: list[str] = []
    size = 0
    for key, value in entries:
        line = f"{key} {value}\n"
        if lines and size + len(line) > _MOST_BYTES:
            yield "".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield "".join(lines)
