"""Which of several versions is the active one: a file for each, looked for at each request.

A switch first makes the new flag, then takes the old one away: at no moment there is none, and
whatever a request sees in between is one of the two.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from vulcanized.errors import NotWritten

SEEN: Final = "seen"
"""A file that is always there: by it the workers tell whether they can see the others."""
_MODE: Final = 0o755


class Flags:
    """The flags in one directory, which holds nothing else. `there`: those that stand there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.there: set[str] = set()

    def look(self) -> None:
        """See which stand there now: others may make and delete some too. Raises NotWritten."""
        try:
            self.there = {*os.listdir(self._path)} - {SEEN}
        except FileNotFoundError:
            self.there = set()
        except OSError as error:
            raise _not_written(self._path, error) from error

    def can_be_seen(self) -> bool:
        """Whether there is anything to be seen yet."""
        return (self._path / SEEN).exists()

    def make(self, flags: Collection[str]) -> None:
        """Make these, and their directory. Raises NotWritten."""
        try:
            if not self._path.is_dir():
                self._path.mkdir(parents=True, exist_ok=True)
                # Whatever our umask is: workers of another user look for them.
                self._path.chmod(_MODE)
            for flag in sorted({*flags, SEEN}):
                (self._path / flag).touch(mode=0o644)
            self.there |= {*flags} - {SEEN}
        except OSError as error:
            raise _not_written(self._path, error) from error

    def remove(self, flags: Iterable[str]) -> None:
        """Take these away. Raises NotWritten."""
        try:
            for flag in sorted(flags):
                (self._path / flag).unlink(missing_ok=True)
                self.there.discard(flag)
        except OSError as error:
            raise _not_written(self._path, error) from error


def _not_written(path: Path, error: OSError) -> NotWritten:
    return NotWritten(
        f"{error.filename or path}: {error.strerror}; give vulcanized the right to read and "
        "write there, and room"
    )
