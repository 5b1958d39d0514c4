"""A server as a child process: its log, its signals, and its end with ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.wait import TooLate, eventually

# Asks the kernel to kill the server when its parent dies however that happens, then becomes it. A
# program of its own and no preexec_fn: that would run Python between fork and exec, in a process
# with other threads (gRPC's among them).
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# "Parent" is the thread that forked, to the kernel. This one lives until the interpreter ends.
_forks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fork")


class ServerFailed(AssertionError):
    """A server ended by itself or did not become ready; the message has the tail of its log."""


class ServerProcess:
    """One server process in a process group of its own, which dies with the process that made it.

    Its output is appended to `log`, over all its starts. Not started when made.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(word) for word in command]
        self._environment = {**os.environ, **(environment or {})}
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises `ServerFailed` if it was never started or was stopped."""
        if self._child is None:
            raise ServerFailed(f"{self.name} is not started")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        if self.running:
            raise ServerFailed(f"{self.name} is running already")
        self._child = _forks.submit(self._fork).result()

    def _fork(self) -> subprocess.Popen[bytes]:
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*launch, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                process_group=0,
            )

    def stop(self, grace: float = 10.0) -> None:
        """End it by SIGTERM, or by SIGKILL after `grace` seconds; nothing if it is not running."""
        if self._child is None:
            return
        if self.running:
            self.resume()  # a stopped process takes no SIGTERM
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(grace)
        self.kill()

    def kill(self) -> None:
        """End it by SIGKILL, at once. Does nothing if it is not running."""
        if self._child is None:
            return
        self._signal(signal.SIGKILL)
        self._child.wait()
        self._child = None

    def pause(self) -> None:
        """Freeze it by SIGSTOP: its connections stay open and nothing answers from now on."""
        self._signal(signal.SIGSTOP)
        # A thread that runs on another processor goes on until it comes by the kernel.
        eventually(self._frozen, 10, f"{self.name} stands still")

    def _frozen(self) -> bool:
        """Whether no thread of it can run; true for what has ended."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        try:
            states = [thread.read_text().rpartition(")")[2].split()[0] for thread in threads]
        except (FileNotFoundError, ProcessLookupError):
            return not self.running
        return all(state in "TtZX" for state in states)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def wait_until(
        self,
        ready: Callable[[], object],
        deadline: float,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = OSError,
    ) -> None:
        """Wait until `ready()` is true, for `deadline` seconds; errors in `ignore` are "not yet".

        Raises `ServerFailed` when the time is up, or as soon as the process has ended.
        """

        def ready_or_ended() -> bool:
            return not self.running or bool(ready())

        try:
            eventually(ready_or_ended, deadline, f"{self.name} is ready", ignore=ignore)
        except TooLate as late:
            raise ServerFailed(f"{late}; its log ends:\n{self.log_tail()}") from late
        if not self.running:
            code = self._child.returncode if self._child else None
            raise ServerFailed(f"{self.name} ended with {code}; its log ends:\n{self.log_tail()}")

    def log_tail(self, lines: int = 25) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: int) -> None:
        """Signal the whole group, unless it was reaped: its id may be another's by now."""
        if self._child is None or self._child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)
