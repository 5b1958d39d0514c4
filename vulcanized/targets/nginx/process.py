"""nginx as processes: its own check, its master and workers, the child that we start."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from vulcanized.errors import NotWritten, ProxyUnreachable, Rejected, ReloadFailed
from vulcanized.model import AppId
from vulcanized.targets import judge, programs
from vulcanized.targets.nginx.config import HTTP, MAIN, Rendered
from vulcanized.targets.quarantine import Verdict

log = structlog.get_logger(__name__)

LOG_FILE: Final = "nginx.log"
PID_FILE: Final = "nginx.pid"
ROOT: Final = "root"
_USER: Final = "www-data"

_MASTER: Final = b"nginx: master process"
_WORKER: Final = b"nginx: worker process"
_LEAVING: Final = b"nginx: worker process is shutting down"
_FAULT: Final = re.compile(r"\[(?:emerg|alert|crit)\] (?:\d+#\d+: )?(?:\*\d+ )?(.*)")
_PLACE: Final = re.compile(rf" in (\S*/{re.escape(HTTP)}):(\d+)$")
_UNTITLED: Final = 1.0
"""Seconds that a worker may need to give itself its title; a new master keeps its own."""
_GENTLY: Final = ((signal.SIGQUIT, 1.5), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0))


def find_program() -> str | None:
    """The path of `nginx`, None where there is none."""
    return programs.find("nginx")


def required_program() -> str:
    """The path of `nginx`. Raises ProxyUnreachable."""
    program = find_program()
    if program is None:
        raise ProxyUnreachable("nginx is not installed here: install it (apt install nginx)")
    return program


def check(program: str, directory: Path, rendered: Rendered) -> Verdict:
    """What nginx says of the files that stand in `directory`.

    Raises Rejected when it does not end, ProxyUnreachable when it cannot be run.
    """
    command = [program, "-e", "stderr", "-t", "-q", "-c", str(directory / MAIN)]
    return programs.check("nginx", command, {1}, lambda output: verdict(output, rendered))


def verdict(output: str, rendered: Rendered) -> Verdict:
    """nginx's refusal of some files in its own words."""
    return Verdict(passed=False, said=faults(output), named=_named(output, rendered))


def rejected(refused: Verdict) -> Rejected:
    """nginx's refusal as an error, with the app that its words point to first."""
    return judge.rejected("nginx", refused)


def faults(output: str) -> str:
    """What of some lines of its log matters, in one line."""
    found = dict.fromkeys(said[1].strip() for said in _FAULT.finditer(output))
    said = "; ".join(found) or " ".join(output.split()) or "it says nothing"
    return said if len(said) <= 500 else f"{said[:500]}..."


def _named(output: str, rendered: Rendered) -> dict[AppId, str]:
    """The apps whose lines nginx complains of."""
    found: dict[AppId, str] = {}
    for said in _FAULT.finditer(output):
        place = _PLACE.search(said[1].strip())
        app = rendered.owner(int(place[2])) if place else None
        if app is not None and place is not None:
            found.setdefault(app, said[1][: place.start()])
    return found


# --- processes ----------------------------------------------------------------------------------


class Master(NamedTuple):
    """A master that runs. `born` tells it from a later process with the same number."""

    pid: int
    born: str


def master_of(pid: int) -> Master | None:
    """The master with this number, None where the number is nobody's or somebody else's."""
    title, status = _title(pid), _status(pid)
    if not title.startswith(_MASTER) or len(status) < 20 or status[0] == "Z":
        return None
    return Master(pid, status[19])


def by_pid_file(path: Path) -> Master | None:
    """The master that a pid file names."""
    noted = pid_in(path)
    return None if noted is None else master_of(noted)


def pid_in(path: Path) -> int | None:
    """The number in a pid file, None where there is none."""
    try:
        noted = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return noted if noted > 1 else None


def child_of(directory: Path) -> Master | None:
    """The master that a child of ours in this directory runs as."""
    config = os.fsencode(directory / MAIN)
    noted = by_pid_file(directory / PID_FILE)
    if noted is not None and _has_word(noted.pid, config):
        return noted
    found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    ours = (master_of(pid) for pid in sorted(found) if _has_word(pid, config))
    return next((master for master in ours if master is not None), None)


def _has_word(pid: int, word: bytes) -> bool:
    # nginx writes its title and its words as one text.
    title = _title(pid)
    return title.startswith(_MASTER) and word in title.replace(b"\0", b" ").split(b" ")


class Workers(NamedTuple):
    """The children of a master that take connections, and those that only finish."""

    active: frozenset[int]
    leaving: frozenset[int]


def workers(master: Master) -> Workers:
    """The workers of a master; none where they cannot be seen.

    One that was just forked has its master's title still, and counts as active.
    """
    titles = {pid: _title(pid) for pid in _children(master)}
    leaving = frozenset(pid for pid, title in titles.items() if title.startswith(_LEAVING))
    active = frozenset(
        pid
        for pid, title in titles.items()
        if title.startswith(_WORKER) or (title.startswith(_MASTER) and age_of(pid) < _UNTITLED)
    )
    return Workers(active - leaving, leaving)


def _children(master: Master) -> frozenset[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{master.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            found |= {int(pid) for pid in path.read_text().split()}
    return frozenset(found)


def age_of(pid: int) -> float:
    """Seconds since a process was started, 0 for one that is gone."""
    try:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - int(_status(pid)[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def orphans(group: int) -> frozenset[int]:
    """The workers of a child of ours whose master is gone: they serve on, and keep the port."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        status = _status(path.name)
        if len(status) > 2 and status[2] == str(group) and _title(path.name).startswith(_WORKER):
            found.add(int(path.name))
    return frozenset(found)


def quit_worker(pid: int) -> None:
    """Have a worker finish what it answers and accept no more."""
    if _title(pid).startswith(_WORKER):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGQUIT)


def signal_to(master: Master, number: signal.Signals) -> None:
    """Signal a master if it is still the same process. Raises ProxyUnreachable."""
    if master_of(master.pid) != master:
        raise ProxyUnreachable(f"the nginx with pid {master.pid} is gone; start it")
    try:
        os.kill(master.pid, number)
    except ProcessLookupError:
        raise ProxyUnreachable(f"the nginx with pid {master.pid} is gone; start it") from None
    except PermissionError:
        raise ProxyUnreachable(
            f"the nginx with pid {master.pid} may not be signalled; run vulcanized as its user or "
            "as root, or set reload_command"
        ) from None


def _title(pid: int | str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(pid: int | str) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# --- the child ----------------------------------------------------------------------------------


def is_root() -> bool:
    """Whether a child of ours begins as root."""
    return os.geteuid() == 0


def user_for(directory: Path) -> str:
    """Whom the workers of a child of root should be, "" for whom we are if that is not root.

    They look for flags in the directory, so they must be able to reach it. Root where nobody else
    can: without a word of ours nginx would take a user that it was built with.
    """
    if not is_root():
        return ""
    with contextlib.suppress(KeyError, OSError):
        pwd.getpwnam(_USER)
        if all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents)):
            return _USER
    return ROOT


class Child:
    """An nginx that we started. It has a session of its own and outlives us."""

    def __init__(self, program: str, directory: Path) -> None:
        self._path = directory / LOG_FILE
        try:
            with self._path.open("ab") as log_file:
                self._from = log_file.seek(0, os.SEEK_END)
                self._process = subprocess.Popen(
                    [program, "-e", "stderr", "-c", str(directory / MAIN)],
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    cwd="/",
                    start_new_session=True,
                    env={k: v for k, v in os.environ.items() if k != "NGINX"},
                )
        except OSError as error:
            if error.filename == str(self._path):
                raise NotWritten(
                    f"{self._path}: {error.strerror}; it must be ours to write"
                ) from error
            raise ProxyUnreachable(f"cannot run {program}: {error.strerror}; install it") from error
        self.pid = self._process.pid
        log.info("nginx started", pid=self.pid, log=str(self._path))
        threading.Thread(target=self._reap, name="nginx reaper", daemon=True).start()

    def _reap(self) -> None:
        code = self._process.wait()
        log.info("nginx ended", pid=self.pid, code=code)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    def output(self) -> str:
        """What it has written since it was started (its last 20 kB)."""
        return programs.log_since(self._path, self._from)


def stop(pids: Iterable[int]) -> None:
    """End processes: what they answer may end within a second and a half."""
    for pid in pids:
        if not programs.end(pid, _GENTLY):
            log.warning("nginx does not end", pid=pid)


def run(command: tuple[str, ...], environment: Mapping[str, str], seconds: float) -> None:
    """Run `reload_command`. Raises ReloadFailed with what it says, ProxyUnreachable without it."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        why = f"reload_command has not ended within {seconds:g} s"
        raise ReloadFailed(why, restored=False) from None
    except OSError as error:
        raise ProxyUnreachable(
            f"reload_command {command[0]!r}: {error.strerror}; mend it"
        ) from error
    if done.returncode:
        said = done.stdout.decode(errors="replace")
        why = f"reload_command ends with {done.returncode}: {' '.join(said.split())[:300]}"
        raise ReloadFailed(why, restored=False, said=said or "nothing")
