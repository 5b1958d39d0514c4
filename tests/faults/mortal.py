"""`vulcanized` that can be killed before any step of an apply: `python -m tests.faults.mortal DIR`.

A step is whatever others get to see: a file opened, written, flushed, renamed, linked or removed, a
program started, commands sent to HAProxy that change something, a commit to the memory. Once
`DIR/kill` holds a number, steps are counted and named in `DIR/steps`; before the one with that
number the process is killed, which is to say after the one before it.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import socket
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

_BY_AUDIT = {
    "os.rename": "rename",
    "os.link": "link",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "subprocess.Popen": "start",
}
_WRITES = os.O_WRONLY | os.O_RDWR
_LOOKS = re.compile(rb"(?:(?:@!?\d+ )?show [^;]*)(?:;(?:@!?\d+ )?show [^;]*)*\Z")


class Countdown:
    """Counts the steps of the threads that apply."""

    def __init__(self, folder: Path) -> None:
        self._kill = folder / "kill"
        self._steps = folder / "steps"
        self._lock = threading.Lock()
        self._count = 0

    def step(self, name: str) -> None:
        """This is about to be done."""
        thread = threading.current_thread().name
        if not (thread == "reconciler" or thread.startswith("target ")):
            return
        with self._lock:
            try:
                limit = int(self._kill.read_text())
            except FileNotFoundError:
                self._count = 0
                return
            self._count += 1
            with self._steps.open("a") as steps:
                steps.write(f"{name}\n")
            if self._count >= limit:
                os.kill(os.getpid(), signal.SIGKILL)

    def audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What the interpreter tells of by itself."""
        if event in _BY_AUDIT:
            what = arguments[1] if event in {"os.rename", "os.link"} else arguments[0]
            self.step(f"{_BY_AUDIT[event]} {Path(os.fsdecode(what)).name}")
        elif event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = Path(os.fsdecode(arguments[0]))
            if arguments[2] & _WRITES and not path.is_relative_to(self._steps.parent):
                self.step(f"open {path.name}")


def mortal(folder: Path) -> None:
    """Make this process one that dies as `folder` says."""
    countdown = Countdown(folder)
    sys.addaudithook(countdown.audited)

    def sendall(connection: socket.socket, data: bytes, *flags: int) -> None:
        if connection.family is socket.AF_UNIX and not _LOOKS.match(data.strip()):
            last = data.partition(b"\n")[0].rpartition(b";")[2].decode()
            countdown.step(f"send {' '.join(re.sub(r'^@!?[0-9]+ ', '', last).split()[:2])}")
        socket.SocketType.sendall(connection, data, *flags)

    really_open = Path.open

    def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = really_open(path, mode, *rest, **more)
        if set(mode) & set("wax+") and not path.is_relative_to(folder):
            countdown.step(f"write {path.name}")
        return file

    really = os.fsync

    def fsync(descriptor: Any) -> None:
        countdown.step(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        really(descriptor)

    class Connection(sqlite3.Connection):
        def __exit__(self, *error: Any) -> Any:
            countdown.step("commit")
            return super().__exit__(*error)

    socket.socket.sendall = sendall  # type: ignore[method-assign, assignment]
    Path.open = opened  # type: ignore[method-assign, assignment]
    os.fsync = fsync  # type: ignore[assignment]
    sqlite3.connect = partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]


if __name__ == "__main__":
    mortal(Path(sys.argv.pop(1)))
    runpy.run_module("vulcanized", run_name="__main__", alter_sys=True)
