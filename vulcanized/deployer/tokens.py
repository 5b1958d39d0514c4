"""Who may ask for what: bearer tokens from a file, and how often anybody may ask.

Each line is a token, the namespaces that it is for (`a,b`, or `*` for all), and perhaps `read`.
Empty lines and those that begin with `#` say nothing. The file is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from vulcanized.errors import SettingsError

SHORTEST: Final = 16
EVERY: Final = "*"


class Grant(NamedTuple):
    """What a token allows. `name` tells it from others without showing it."""

    name: str
    digest: bytes
    namespaces: frozenset[str]
    writes: bool

    def allows(self, namespace: str, *, writing: bool) -> bool:
        """Whether it may read, or change, what is in a namespace."""
        known = EVERY in self.namespaces or namespace in self.namespaces
        return known and (self.writes or not writing)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def parse(text: str, origin: str) -> tuple[Grant, ...]:
    """The grants of a file. Raises `SettingsError` with every line that is none."""
    grants, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in (2, 3) or (len(words) == 3 and words[2] != "read"):
            problems.append(f"line {number}: write TOKEN NAMESPACE,... [read]")
        elif len(words[0]) < SHORTEST:
            problems.append(f"line {number}: a token has {SHORTEST} characters at least")
        else:
            digest = _digest(words[0])
            namespaces = frozenset(words[1].split(","))
            grants.append(Grant(digest.hex()[:8], digest, namespaces, len(words) == 2))
    if not grants and not problems:
        problems.append("holds no token: write one, such as `openssl rand -hex 24` makes")
    if problems:
        raise SettingsError(origin, tuple(problems))
    return tuple(grants)


class Tokens:
    """The file, read again when it changes; a broken one leaves the last good in effect."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._grants: tuple[Grant, ...] = ()
        self._read()

    def _read(self) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return
            if stat.st_mode & 0o007:
                raise SettingsError(str(self._path), ("others may read it: chmod 600",))
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error.reason
            problem = f"cannot be read ({why}): write TOKEN NAMESPACE,... a line, and chmod 600"
            raise SettingsError(str(self._path), (problem,)) from error
        self._grants, self._seen = parse(text, str(self._path)), seen

    def grant(self, header: str) -> Grant | None:
        """Who an Authorization header is, None for nobody."""
        with self._lock:
            try:
                self._read()
            except SettingsError:
                if not self._grants:
                    raise
            grants = self._grants
        kind, _, token = header.partition(" ")
        asked = _digest(token.strip()) if kind.lower() == "bearer" else b""
        found = None
        # All of them, so that the time does not tell which one it was nearly.
        for grant in grants:
            if hmac.compare_digest(grant.digest, asked):
                found = grant
        return found


class Bucket:
    """So many requests a second, and so many at once."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._left, self._at = burst, clock()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
