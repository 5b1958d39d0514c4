"""HAProxy as a program: its own check, the child that we start, and what it can bind."""

from __future__ import annotations

import bisect
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from vulcanized.errors import NotWritten, ProxyUnreachable, Rejected
from vulcanized.model import AppId
from vulcanized.targets import judge, programs
from vulcanized.targets.haproxy.config import CONFIG
from vulcanized.targets.haproxy.live import alerts
from vulcanized.targets.haproxy.parts import app_of_mark
from vulcanized.targets.quarantine import Verdict

log = structlog.get_logger(__name__)

LOG_FILE: Final = "haproxy.log"
PID_FILE: Final = "haproxy.pid"
SOFT_STOP_SECONDS: Final = 1.5
HARD_STOP_SECONDS: Final = 1.0

_PLACE: Final = re.compile(rf"\[[^\]]*/{re.escape(CONFIG)}:(\d+)\]")
_MAP_PLACE: Final = re.compile(r"line (\d+) of file '[^']*/([a-z-]+\.map)'")
_PLACED: Final = re.compile(r"^(?:[Pp]arsing )?\[[^\]]*\] ?: ")


def find_program() -> str | None:
    """The path of `haproxy`, None where there is none."""
    return programs.find("haproxy")


def required_program() -> str:
    """The path of `haproxy`. Raises ProxyUnreachable."""
    program = find_program()
    if program is None:
        raise ProxyUnreachable("haproxy is not installed here: install it (apt install haproxy)")
    return program


def check(program: str, directory: Path, files: Mapping[str, str]) -> Verdict:
    """What HAProxy says of the files that stand in `directory`.

    Raises Rejected when it does not end, ProxyUnreachable when it cannot be run.
    """
    command = [program, "-c", "-f", str(directory / CONFIG)]
    # 1: it found faults. 2: it found none, but nothing to listen on.
    return programs.check("HAProxy", command, {1, 2}, lambda output: verdict(output, files))


def rejected(verdict: Verdict) -> Rejected:
    """HAProxy's refusal as an error, with the app that its words point to first."""
    return judge.rejected("HAProxy", verdict)


def verdict(output: str, files: Mapping[str, str]) -> Verdict:
    """HAProxy's refusal of `files` in its own words."""
    return Verdict(passed=False, said=alerts(output), named=_named(output, files))


def _named(output: str, files: Mapping[str, str]) -> dict[AppId, str]:
    """The apps whose lines HAProxy complains of."""
    lines = files[CONFIG].splitlines()
    marks = [(number, app) for number, line in enumerate(lines, 1) if (app := app_of_mark(line))]
    found: dict[AppId, str] = {}
    for line in output.splitlines():
        if "[ALERT]" not in line:
            continue
        place, entry = _PLACE.search(line), _MAP_PLACE.search(line)
        app = None
        if entry is not None:
            table = files.get(entry[2], "").splitlines()
            app = _app_of_entry("".join(table[int(entry[1]) - 1 :][:1]))
        elif place is not None and int(place[1]) <= len(lines):
            index = bisect.bisect_right(marks, int(place[1]), key=lambda mark: mark[0])
            app = marks[index - 1][1] if index else None
        if app is not None:
            found.setdefault(app, _PLACED.sub("", alerts(line)))
    return found


def _app_of_entry(line: str) -> AppId | None:
    """The app that an entry of a map is about: its value, or its key."""
    key, _, value = line.rpartition(" ")
    namespace, slash, name = (value if "/" in value else key.partition(":")[0]).partition("/")
    return AppId(namespace, name) if slash else None


class Child:
    """An HAProxy that we started. It has a session of its own and outlives us."""

    def __init__(self, program: str, directory: Path, master_socket: Path) -> None:
        self._directory = directory
        path = directory / LOG_FILE
        files = ("-p", str(directory / PID_FILE), "-f", str(directory / CONFIG))
        try:
            with path.open("ab") as log_file:
                self._from = log_file.seek(0, os.SEEK_END)
                self._process = subprocess.Popen(
                    [program, "-W", "-S", f"{master_socket},mode,600", *files],
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            if error.filename == str(path):
                raise NotWritten(f"{path}: {error.strerror}; it must be ours to write") from error
            raise ProxyUnreachable(f"cannot run {program}: {error.strerror}; install it") from error
        self.pid = self._process.pid
        log.info("haproxy started", pid=self.pid, log=str(path))
        threading.Thread(target=self._reap, name="haproxy reaper", daemon=True).start()

    def _reap(self) -> None:
        code = self._process.wait()
        log.info("haproxy ended", pid=self.pid, code=code)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    def output(self) -> str:
        """What it has written since it was started (its last 20 kB)."""
        return log_since(self._directory, self._from)


def bound_log(directory: Path) -> None:
    """Keep the log of a child of ours from growing for ever: what is too long is the old one."""
    programs.bound_log(directory / LOG_FILE)


def log_size(directory: Path) -> int:
    """Where the log of a child of ours ends now."""
    return programs.log_size(directory / LOG_FILE)


def log_since(directory: Path, start: int) -> str:
    """What a child of ours has written from there on (its last 20 kB)."""
    return programs.log_since(directory / LOG_FILE, start)


def pid_of(directory: Path, known: int | None = None) -> int | None:
    """The master that a child of ours in this directory runs as, None when there is none.

    Its file tells, else `known`, else the list of all processes.
    """
    try:
        noted = int((directory / PID_FILE).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        noted = None
    for pid in (noted, known):
        if pid is not None and _runs(pid, directory):
            return pid
    found = {int(path.name) for path in Path("/proc").glob("[0-9]*") if _runs(path.name, directory)}
    # Its workers have the same words.
    return next((pid for pid in sorted(found) if _parent(pid) not in found), None)


def _runs(pid: int | str, directory: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # The number may be another HAProxy's by now: after a boot, in a new container.
    return b"-W" in words and os.fsencode(directory / CONFIG) in words


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def stop(pid: int, *, at_once: bool = False) -> None:
    """End a master and its workers: what they answer may end within SOFT_STOP_SECONDS.

    `at_once`: nothing is answered any more.
    """
    gently = ((signal.SIGUSR1, SOFT_STOP_SECONDS), (signal.SIGTERM, HARD_STOP_SECONDS))
    steps = (*(() if at_once else gently), (signal.SIGKILL, HARD_STOP_SECONDS))
    if not programs.end(pid, steps):
        log.warning("haproxy does not end", pid=pid)
