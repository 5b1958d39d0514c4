"""A proxy as a program of this host: where it is, its check, its log, its end, what it may bind.

What targets share that start a child or reload a neighbour.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from vulcanized.errors import ProxyUnreachable, Rejected
from vulcanized.model import Endpoint
from vulcanized.targets.quarantine import Verdict

CHECK_SECONDS: Final = 30.0

_LONGEST_LOG: Final = 10 * 1024 * 1024
# Where distributions put daemons; not on the PATH of everybody.
_MORE_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find(name: str) -> str | None:
    """The path of a program, None where there is none."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS])
    return shutil.which(name, path=path)


def check(
    proxy: str, command: Sequence[str], refused: Collection[int], told: Callable[[str], Verdict]
) -> Verdict:
    """What a proxy says of files by its own check.

    `refused`: how it exits when it has found faults; `told` reads its words then. Raises Rejected
    when it does not end, ProxyUnreachable when it cannot be run.
    """
    program = command[0]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Rejected(
            f"{proxy} has not checked the config within {CHECK_SECONDS:g} s: it is not used"
        ) from error
    except OSError as error:
        raise ProxyUnreachable(f"cannot run {program}: {error.strerror}; install it") from error
    if done.returncode == 0:
        return Verdict(passed=True)
    verdict = told(done.stdout.decode(errors="replace"))
    if done.returncode not in refused:
        raise ProxyUnreachable(
            f"{program} ends with {done.returncode}: {verdict.said}; install it anew"
        )
    return verdict


def taken(addresses: Iterable[Endpoint]) -> str:
    """Why one of these cannot be bound now, and what to do; "" when all can.

    A proxy's own check does not see it. A reload that finds it out stops service for seconds; a
    start may not find it out at all, since another one is willing to share.
    """
    for address in addresses:
        literal = "0.0.0.0" if address.address == "*" else address.address  # noqa: S104
        family = socket.AF_INET6 if ":" in literal else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((literal, address.port))
                probe.listen(1)
            except PermissionError:
                continue  # a low port: the proxy may take what we may not
            except OSError as error:
                in_use = error.errno == errno.EADDRINUSE
                hint = "stop who has it" if in_use else "give an address of this host"
                return f"cannot listen on {address}: {error.strerror}; {hint}, or change `listen`"
    return ""


def bound_log(path: Path) -> None:
    """Keep the log of a child from growing for ever: what is too long is the old one."""
    if log_size(path) > _LONGEST_LOG:
        # The proxy goes on writing to the same file, wherever it is moved.
        with contextlib.suppress(OSError):
            shutil.copyfile(path, path.with_name(f"{path.name}.old"))
            os.truncate(path, 0)


def log_size(path: Path) -> int:
    """Where a log ends now."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def log_since(path: Path, start: int) -> str:
    """What was written from there on (its last 20 kB)."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        # Shorter than it was: it was rotated, so all of it is new.
        file.seek(max(start if start <= end else 0, end - 20_000))
        return file.read().decode(errors="replace")
    return ""


def end(pid: int, steps: Iterable[tuple[signal.Signals, float]]) -> bool:
    """Send signals one after the other, each with the seconds that it is given; whether it ended.

    SIGKILL goes to its whole group where it leads one.
    """
    for number, seconds in steps:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # A worker that is stopped does not notice that its master is gone, and keeps the port.
            whole = number == signal.SIGKILL and os.getpgid(pid) == pid
            os.killpg(pid, number) if whole else os.kill(pid, number)
        if _gone(pid, seconds):
            return True
    return False


def _gone(pid: int, seconds: float) -> bool:
    # The stop event is set already when this is called, so there is nothing else to wait on.
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        pause.wait(0.01)
    return False
