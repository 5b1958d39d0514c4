"""Tells that files below a directory may have changed, through watchdog.

An event is a doorbell: it says where to look, never what is there. Bells may be missed (a full
queue, a directory that inotify could not take on), so whoever waits here looks at everything now
and then all the same.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from vulcanized.slot import Clock

log = structlog.get_logger(__name__)

# watchdog 7.1 says so of itself when a watched folder is renamed away and back; it goes on well.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, r"watchdog\.")

_COMINGS_AND_GOINGS: Final[list[type[FileSystemEvent]]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
]
# Without the opened and read ones, which our own reading causes.
_CHANGES: Final = [*_COMINGS_AND_GOINGS, FileClosedEvent, FileModifiedEvent]
_MOST_PATHS: Final = 1000
"""Single files that are told apart. With more, looking at everything is no dearer."""


class Ring(NamedTuple):
    """Where to look. `files`: paths relative to the directory; None: look at everything.

    A file's value is True when its writer is known to be done with it: closed, or renamed into its
    place. `since`: monotonic time of the first event.
    """

    files: dict[str, bool] | None
    since: float


class Doorbell:
    """Rings for changes below `root`, a directory that may be missing, swapped or made again.

    A context manager: its threads end with it. `wait` is for one thread.
    """

    def __init__(self, root: Path, clock: Clock = time.monotonic) -> None:
        self.works = False
        self._root = root
        self._clock = clock
        self._condition = threading.Condition()
        self._files: dict[str, bool] | None = {}
        self._since: float | None = None
        self._observer: BaseObserver | None = None
        self._watched: tuple[object, ...] | None = None
        self._complained = ""

    def __enter__(self) -> Doorbell:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def arm(self) -> bool:
        """Watch what is at `root` now; True when that is new: look at everything then.

        Where the system does not let us watch (inotify's limits), `works` is False.
        """
        here = (identity(self._root), identity(self._root.parent))
        if here == self._watched and (self._observer is None or self._lives(self._observer)):
            return False
        self._watched = here
        self._end()
        try:
            self._start()
        except OSError as error:
            self._end()
            self._complain(error)
        else:
            self.works = True
        return True

    def distrust(self) -> None:
        """Something changed and the bell did not ring: `arm` starts anew."""
        self._watched = None

    def wait(self, timeout: float) -> Ring | None:
        """Wait up to `timeout` seconds for the bell; None: it did not ring."""
        with self._condition:
            if self._since is None and timeout > 0:
                self._condition.wait(timeout)
            if self._since is None:
                return None
            ring = Ring(self._files, self._since)
            self._files, self._since = {}, None
            return ring

    def _start(self) -> None:
        self._observer = observer = Observer()
        # The directory itself may be swapped (a symlink), removed or made again: its parent tells.
        parent = self._root.parent
        if parent.is_dir():
            beside = _Handler(self, str(parent), self._root.name)
            observer.schedule(beside, str(parent), event_filter=_COMINGS_AND_GOINGS)
        if self._root.is_dir():
            real = os.path.realpath(self._root)
            inside = _Handler(self, real, None)
            observer.schedule(inside, real, recursive=True, event_filter=_CHANGES)
        observer.start()

    @staticmethod
    def _lives(observer: BaseObserver) -> bool:
        return observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)

    def _end(self) -> None:
        self.works = False
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.is_alive():
                observer.join(1.0)

    def _complain(self, error: OSError) -> None:
        if str(error) != self._complained:
            self._complained = str(error)
            log.warning(
                "cannot watch; looking at the files over and over instead",
                directory=str(self._root),
                error=str(error),
                hint="raise fs.inotify.max_user_watches and max_user_instances with sysctl",
            )

    def ring(self, file: str | None, *, done: bool = False) -> None:
        """Something happened to one file (relative path), or to we do not know what (None)."""
        with self._condition:
            if self._since is None:
                self._since = self._clock()
            if self._files is not None and file is not None and len(self._files) < _MOST_PATHS:
                self._files[file] = done
            else:
                self._files = None
            self._condition.notify()


class _Handler(FileSystemEventHandler):
    """Rings for one watched directory; `only`: for this entry of it and no other."""

    def __init__(self, bell: Doorbell, directory: str, only: str | None) -> None:
        self._bell = bell
        self._below = directory.rstrip("/") + "/"
        self._only = only

    def dispatch(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent)
        for path, done in (
            (os.fsdecode(event.src_path), isinstance(event, FileClosedEvent)),
            (os.fsdecode(event.dest_path), moved),
        ):
            if not path.startswith(self._below):
                continue
            relative = path.removeprefix(self._below)
            if self._only is None:
                # To inotify a link to a directory is a file; a swapped one has other files below.
                whole = event.is_directory or os.path.isdir(path)
                self._bell.ring(None if whole else relative, done=done)
            elif relative == self._only:
                self._bell.ring(None)


def identity(path: Path) -> tuple[int, int] | None:
    """Which directory there is now, whatever its name; None: none that can be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
