"""The files below a directory, read so that a half-written one is not believed.

What was found changed is *believed*, and handed out, when
* its writer is known to be done with it (closed, or renamed into its place), or
* it was last written `quiet` seconds ago or more, or has looked the same for so long.

An empty file (the moment of the shell's `>`) and a missing one (an editor's rename, a swapped
symlink) are believed only after they stayed so for `quiet` seconds; when more than `most_gone` of
all files is missing at once, after `doubt` seconds: a volume that lost its mount looks like that.
A file that cannot be used leaves in effect what was believed before, and is a problem.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from vulcanized.errors import Invalid, Unreachable
from vulcanized.slot import Clock

_DEEPEST: Final = 8
_RACY: Final = 2.0
"""Seconds. A file's times are as coarse as the kernel's tick (and a network file system's clock is
its own): what was read so soon after a change is read again, even if its times are the same."""

_TEMPORARY: Final = ("~", ".swp", ".swx", ".tmp", ".bak", ".orig", ".part")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, and `most_gone` as a share of all files. See the head of this module."""

    quiet: float = 0.1
    doubt: float = 2.0
    most_gone: float = 0.5


class _Read(NamedTuple):
    """`content` None: there is no such file. `age`: seconds since the last change."""

    content: bytes | None
    age: float = 0.0
    signature: tuple[int, ...] = ()


class _Doubt(NamedTuple):
    digest: bytes | None
    since: float


_GONE: Final = _Read(None)


class FileTree:
    """Follows the files below `root` by being asked to look. Not for several threads at once.

    `wanted` says of a relative path whether it is one to read; it raises `Invalid` for one that is
    misnamed. `limit`: bytes; a larger file is a problem. Files whose names say that an editor or a
    tool will rename or remove them (`.x`, `x~`, `x.swp`, `x.tmp`, ...) are not looked at, nor is
    what a symlink names outside of `root`.
    """

    def __init__(
        self,
        root: Path,
        wanted: Callable[[PurePosixPath], bool],
        limit: int,
        *,
        patience: Patience = Patience(),
        clock: Clock = time.monotonic,
    ) -> None:
        self.problems: dict[str, str] = {}
        self._root = root
        self._real = ""
        self._wanted = wanted
        self._limit = limit
        self._patience = patience
        self._clock = clock
        self._believed: dict[str, bytes] = {}
        self._doubted: dict[str, _Doubt] = {}
        self._unchanged: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._believed)

    def due(self) -> float | None:
        """The monotonic time at which a doubted file should be looked at again."""
        if not self._doubted:
            return None
        return min(doubt.since + self._wait(doubt.digest) for doubt in self._doubted.values())

    def look(self, files: Mapping[str, bool] | None = None) -> dict[str, bytes | None]:
        """Look at these files and the doubted ones; None: at everything.

        `files`: relative paths, True where the writer is known to be done. Returns what is believed
        and differs from before: content by relative path, None for a file that is gone. Raises
        Unreachable when `root` is not a directory that can be read: then nothing is known.
        """
        self._real = os.path.realpath(self._root)
        if files is None:
            candidates = dict.fromkeys(self._everything(), False)
        else:
            candidates = {file: done for file, done in files.items() if self._is_wanted(file)}
        candidates = {**dict.fromkeys(self._doubted, False), **candidates}
        # All are read before any is judged: how many are missing decides how long we wait.
        readings = {file: self._read(file) for file in candidates}
        gone = any(reading is _GONE for reading in readings.values())
        if gone and not os.path.isdir(self._real):
            # Not these files are gone but the directory is: what was doubted is no news of them.
            self._doubted.clear()
            raise Unreachable(f"there is no directory {self._root}; create it")
        now = self._clock()
        for file, reading in readings.items():
            self._compare(file, reading, now)
        changes: dict[str, bytes | None] = {}
        for file, reading in readings.items():
            if reading is not None and self._settled(file, reading, now, done=candidates[file]):
                del self._doubted[file]
                self._believe(file, reading)
                changes[file] = reading.content
        return changes

    # --- believing ----------------------------------------------------------------------------

    def _compare(self, file: str, reading: _Read | None, now: float) -> None:
        """Doubt what differs from what is believed."""
        if reading is None:
            self._doubted.pop(file, None)
            return
        digest = _digest(reading.content)
        if digest == self._believed.get(file):
            self._doubted.pop(file, None)
            self._remember(file, reading)
        elif (doubt := self._doubted.get(file)) is None or doubt.digest != digest:
            self._doubted[file] = _Doubt(digest, now)

    def _settled(self, file: str, reading: _Read, now: float, *, done: bool) -> bool:
        doubt = self._doubted.get(file)
        if doubt is None:
            return False
        calm = reading.age >= self._patience.quiet
        if reading.content is not None and (calm or (done and reading.content)):
            return True
        return now - doubt.since >= self._wait(doubt.digest)

    def _wait(self, digest: bytes | None) -> float:
        if digest is not None:
            return self._patience.quiet
        gone = sum(doubt.digest is None for doubt in self._doubted.values())
        if gone > self._patience.most_gone * len(self._believed):
            return self._patience.doubt
        return self._patience.quiet

    def _believe(self, file: str, reading: _Read) -> None:
        digest = _digest(reading.content)
        if digest is None:
            self._believed.pop(file, None)
            self._unchanged.pop(file, None)
        else:
            self._believed[file] = digest
            self._remember(file, reading)

    def _remember(self, file: str, reading: _Read) -> None:
        if reading.age > _RACY:
            self._unchanged[file] = reading.signature
        else:
            self._unchanged.pop(file, None)

    # --- reading ------------------------------------------------------------------------------

    def _read(self, file: str) -> _Read | None:
        """The file as it is now; None when it cannot be used, which is noted as a problem."""
        try:
            reading = self._read_regular(file)
        except Invalid as error:
            self.problems[file] = error.reason
            return None
        self.problems.pop(file, None)
        return reading

    def _read_regular(self, file: str) -> _Read:
        path = os.path.realpath(os.path.join(self._real, file))
        if not path.startswith(self._real.rstrip("/") + "/"):
            raise Invalid(file, f"points out of {self._root}; put the file itself there")
        try:
            # Not blocking: a pipe must not hold us up.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(os.path.join(self._real, file)):
                raise Invalid(file, "is a link to nowhere; mend it or delete it") from None
            return _GONE
        except OSError as error:
            raise Invalid(
                file, f"cannot be read ({error.strerror}); make it readable for vulcanized"
            ) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Invalid(file, "is not a regular file; put one in its place")
            with open(descriptor, "rb", closefd=False) as opened:
                content = opened.read(self._limit + 1)
        except OSError as error:
            raise Invalid(file, _unreadable(error)) from None
        finally:
            os.close(descriptor)
        if len(content) > self._limit:
            raise Invalid(file, f"is larger than {self._limit >> 10} KiB; split or shorten it")
        return _Read(content, _age(status), _signature(status))

    def _everything(self) -> set[str]:
        """All files that are there and may differ from what is believed, or are not there."""
        found: set[str] = set()
        unchanged: set[str] = set()
        unseen: list[str] = []
        visited: set[tuple[int, int]] = set()
        before = self.problems
        self.problems = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = self._entries(folder, visited)
            except (FileNotFoundError, NotADirectoryError):
                if folder:
                    continue
                raise Unreachable(f"there is no directory {self._root}; create it") from None
            except OSError as error:
                if not folder:
                    raise Unreachable(f"{self._root} {_unreadable(error)}") from None
                self.problems[folder] = _unreadable(error)
                unseen.append(f"{folder}/")
                continue
            for name, is_folder, signature in entries:
                path = f"{folder}/{name}" if folder else name
                if is_folder:
                    if path.count("/") < _DEEPEST:
                        waiting.append(path)
                    if self._stands_for_a_file(path):
                        found.add(path)
                elif self._is_wanted(path):
                    found.add(path)
                    if signature == self._unchanged.get(path, ()):
                        unchanged.add(path)
        missing = {
            file
            for file in self._believed
            if file not in found and not file.startswith(tuple(unseen))
        }
        for file in before.keys() & found:
            unchanged.discard(file)
        return (found - unchanged) | missing

    def _entries(
        self, folder: str, visited: set[tuple[int, int]]
    ) -> list[tuple[str, bool, tuple[int, ...]]]:
        """Name, whether it is a folder, signature. Each folder once: symlinks may go in circles."""
        path = os.path.realpath(os.path.join(self._real, folder))
        if path != self._real and not path.startswith(self._real.rstrip("/") + "/"):
            self.problems[folder] = f"points out of {self._root}; put the files themselves there"
            return []
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in visited:
            return []
        visited.add((status.st_dev, status.st_ino))
        entries = []
        with os.scandir(path) as found:
            for entry in found:
                if _is_temporary(entry.name):
                    continue
                try:
                    entries.append((entry.name, entry.is_dir(), _signature(entry.stat())))
                except OSError:
                    if entry.is_symlink():
                        entries.append((entry.name, False, (0,)))
                    # Else it is gone since. What it was to us is looked at by its name.
        return entries

    def _stands_for_a_file(self, folder: str) -> bool:
        try:
            return self._wanted(PurePosixPath(folder))
        except Invalid:
            return False

    def _is_wanted(self, file: str) -> bool:
        path = PurePosixPath(file)
        if any(_is_temporary(part) for part in path.parts):
            return False
        try:
            return self._wanted(path)
        except Invalid as error:
            self.problems.pop(file, None)
            if os.path.lexists(os.path.join(self._real, file)):
                self.problems[file] = error.reason
            return False


def _is_temporary(name: str) -> bool:
    return name.startswith((".", "#")) or name.endswith(_TEMPORARY)


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror}); make it readable for vulcanized"


def _digest(content: bytes | None) -> bytes | None:
    return None if content is None else hashlib.blake2b(content, digest_size=16).digest()


def _signature(status: os.stat_result) -> tuple[int, ...]:
    s = status
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def _age(status: os.stat_result) -> float:
    """Seconds since the last change; negative where the file system's clock is ahead."""
    return time.time() - max(status.st_mtime, status.st_ctime)
