"""What file targets have in common: their directory, and the memory of what a proxy refused.

One daemon manages one directory (a lock). Files come into place by write, fsync and rename, so
that a crash leaves a whole old one or a whole new one. A candidate for the proxy's own check is
written beside them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from vulcanized.errors import DirectoryLocked, NotWritten, TargetError

FIRST_SECOND_TRY: Final = 30.0
LAST_SECOND_TRY: Final = 600.0
"""Seconds between tries of the same refused candidate. Its files may say the same and yet pass the
next time: the address was taken, a certificate that a template names was missing."""

_CANDIDATE: Final = "candidate"


class _Written(NamedTuple):
    """What we wrote, and by what to know that it is still there."""

    digest: int
    inode: int
    size: int
    mtime_ns: int


class Folder:
    """The directory of one target. Not thread-safe but for `read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._written: dict[str, _Written] = {}

    def lock(self) -> None:
        """Make it and take it for this process, also when it was taken away and made anew since.

        The directory itself is locked, whatever path leads to it: nothing in it can be deleted so
        that another daemon could take it too. Raises DirectoryLocked, NotWritten.
        """
        while not self.locked:
            self.close()
            with _named(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    raise DirectoryLocked(
                        f"{self.path} is managed by another vulcanized: stop it, or give this "
                        "target a directory of its own"
                    ) from None
                except OSError:
                    os.close(descriptor)
                    raise
            self._lock = descriptor

    @property
    def locked(self) -> bool:
        """Whether what stands at the path now is ours."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self.path))
        except OSError:
            return False

    def close(self) -> None:
        """Let another daemon have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """The text of those files that are there."""
        found = {}
        with _named(self.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found[name] = (self.path / name).read_text(errors="replace")
        return found

    def write(self, files: Mapping[str, str]) -> bool:
        """Put files in place, in this order, those that differ from what is there.

        The first names the others, so it comes last where there was none: nobody can start a proxy
        with half of them. True if there was one to put. Raises NotWritten; what was there before is
        then still whole.
        """
        changed = [name for name, text in files.items() if not self._stands(name, text)]
        with _named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if changed and not (self.path / next(iter(files))).exists():
                changed.append(changed.pop(0))
            for name in changed:
                self._put(name, files[name])
            if changed:
                _sync(self.path)
        return bool(changed)

    def untouched(self) -> bool:
        """Whether every file that we wrote is still the one that we wrote."""
        return all(self._signature(name) == known[1:] for name, known in self._written.items())

    def keep(self, name: str, copy: str) -> None:
        """Let what stands under `name` be found under `copy` too, also when `name` is replaced."""
        temporary = self.path / f"{copy}.new"
        with _named(self.path):
            temporary.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.link(self.path / name, temporary)
                temporary.replace(self.path / copy)
                # Where both are one file by now, rename leaves the two of them.
                temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def candidate(self) -> Iterator[Path]:
        """A directory beside the files for a candidate; it is gone afterwards."""
        path = self.path / _CANDIDATE
        with _named(self.path):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _stands(self, name: str, text: str) -> bool:
        known = self._written.get(name)
        if known is None:
            return self.read([name]).get(name) == text and self._remember(name, text)
        return known.digest == hash(text) and self._signature(name) == known[1:]

    def _put(self, name: str, text: str) -> None:
        temporary = self.path / f"{name}.new"
        try:
            with temporary.open("wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._remember(name, text)

    def _remember(self, name: str, text: str) -> bool:
        signature = self._signature(name)
        if signature is not None:
            # Of a text that is handed in again it is known already: megabytes cost nothing.
            self._written[name] = _Written(hash(text), *signature)
        return signature is not None

    def _signature(self, name: str) -> tuple[int, int, int] | None:
        try:
            status = (self.path / name).stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


class Refusal:
    """The newest candidate that the proxy refused, so that it is not tried over and over."""

    def __init__(self) -> None:
        self._digest = ""
        self._error: TargetError | None = None
        self._again = 0.0
        self._wait = FIRST_SECOND_TRY

    @property
    def pending(self) -> bool:
        """Whether there is one."""
        return self._error is not None

    def of(self, digest: str, now: float) -> TargetError | None:
        """Why this candidate need not be tried now; None: try it."""
        if self._error is None or digest != self._digest or now >= self._again:
            return None
        # Raised again and again, it would drag along where it was raised before.
        self._error.__cause__ = self._error.__context__ = None
        return self._error.with_traceback(None)

    def remember(self, digest: str, error: TargetError, now: float) -> None:
        """This candidate was refused at `now`; each time in a row it waits longer."""
        again = digest == self._digest
        self._wait = min(LAST_SECOND_TRY, self._wait * 2) if again else FIRST_SECOND_TRY
        self._digest, self._error, self._again = digest, error, now + self._wait

    def forget(self) -> None:
        """A candidate was accepted, or the proxy is another one by now."""
        self._digest, self._error = "", None


def write_candidate(folder: Path, files: Mapping[str, str]) -> None:
    """Files for a check only: no fsync, no rename. Raises NotWritten."""
    with _named(folder):
        for name, text in files.items():
            (folder / name).write_text(text)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritten(
            f"{error.filename or path}: {error.strerror}; give vulcanized the right to read and "
            "write there, and room"
        ) from error
