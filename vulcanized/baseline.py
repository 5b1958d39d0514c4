"""What the sources said last, kept over a restart: by it the first list of a start is judged.

Without it, an API server that answers with nothing, an etcd that was wiped or a directory that is
not mounted would, at a start, take away what the proxy still serves.

`observed.db` in the state directory holds for each app what is worth holding: the pods that take
traffic, the controllers, the config and the activation. It may be a second or two behind, and it
may be lost: then the first list is believed as it is.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from vulcanized.guard import ACTIVATIONS, CONFIGS, Stored, takes_traffic
from vulcanized.model import AppId, Controller, Document, Observed, Pod
from vulcanized.statefile import open_state

log = structlog.get_logger(__name__)

BATCH: Final = 200
"""Apps written in one go: some milliseconds."""

LAZY: Final = 1.0
"""Seconds from a change until it is written; also before another try when that failed."""

PAUSE: Final = 0.1
"""Seconds between two batches: it takes no more than a tenth of a processor, whatever happens."""

LAST: Final = 2.0
"""Seconds at the end for what is not written yet."""

_TABLE = """
CREATE TABLE IF NOT EXISTS observed (
  namespace TEXT NOT NULL,
  app TEXT NOT NULL,
  pods BLOB,
  controllers BLOB,
  config BLOB,
  activation BLOB,
  PRIMARY KEY (namespace, app)
)
"""

Value = TypeVar("Value")

_Row = tuple[str, str, bytes | None, bytes | None, bytes | None, bytes | None]

_encode = msgspec.json.Encoder().encode


class StoredBaseline:
    """Reads what `Recorder` wrote; for any thread. A fault is logged and means: nothing known."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "observed.db"
        self._complained = False

    def pods(self, namespace: str) -> Iterator[Pod]:
        """The pods that took traffic, of one namespace or (for "") of all."""
        for _, pods in self._rows("pods", list[Pod], namespace):
            yield from pods

    def controllers(self, namespace: str) -> Iterator[Controller]:
        """The controllers of one namespace or (for "") of all."""
        for _, controllers in self._rows("controllers", list[Controller], namespace):
            yield from controllers

    def documents(self) -> Iterator[Stored]:
        """The configs and activations."""
        for column, folder in (("config", CONFIGS), ("activation", ACTIVATIONS)):
            for app, document in self._rows(column, Document):
                yield Stored(folder, app, document)

    def _rows(
        self, column: str, wire: type[Value], namespace: str = ""
    ) -> Iterator[tuple[AppId, Value]]:
        decode = msgspec.json.Decoder(wire).decode
        query = f"SELECT namespace, app, {column} FROM observed WHERE {column} IS NOT NULL"  # noqa: S608
        connection = None
        try:
            connection = open_state(self._path, read_only=True)
            if connection is None:
                return
            for row_namespace, app, blob in connection.execute(query):
                if namespace not in ("", row_namespace):
                    continue
                try:
                    value = decode(blob)
                except (msgspec.MsgspecError, TypeError) as error:
                    self._failed(error)
                    continue
                yield AppId(row_namespace, app), value
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        finally:
            if connection is not None:
                connection.close()

    def _failed(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "memory unusable",
                path=str(self._path),
                reason=f"it cannot be read ({error}); the first lists may remove what it had: "
                "mend or delete the file",
            )


class Recorder:
    """Writes down what the sources say, app by app, in a thread of its own: never in the way.

    `note` is for any thread and costs nothing; `run` is the thread. `observe` reads one app.
    """

    def __init__(self, directory: Path, observe: Callable[[AppId], Observed]) -> None:
        self._path = directory / "observed.db"
        self._observe = observe
        self._lock = threading.Lock()
        self._pending: set[AppId] = set()
        self._connection: sqlite3.Connection | None = None
        self._pruned = False
        self.error = ""

    def note(self, apps: Iterable[AppId]) -> None:
        """Something may have changed for these apps. The first call names all there are."""
        with self._lock:
            self._pending.update(apps)

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set, then what is left."""
        try:
            # To be woken would cost what changes a moment of a processor, when it needs it most.
            while not stop.wait(LAZY):
                with self._lock:
                    if not self._pending:
                        continue
                # Whoever changes again and again is written once.
                stop.wait(LAZY)
                self._write_pending(lambda: stop.wait(PAUSE))
            end = time.monotonic() + LAST
            self._write_pending(lambda: time.monotonic() > end)
        finally:
            self._close()

    def _write_pending(self, enough: Callable[[], bool]) -> None:
        """Write what is pending now, in batches; `enough` is asked after each."""
        with self._lock:
            apps, self._pending = list(self._pending), set()
        while apps:
            batch, apps = apps[:BATCH], apps[BATCH:]
            try:
                apps += self._write(batch) - {*batch, *apps}
                self.error = ""
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                apps += batch
                break
            if enough():
                break
        with self._lock:
            self._pending.update(apps)

    def _write(self, apps: Iterable[AppId]) -> set[AppId]:
        """Write these; more that are to be written."""
        if self._connection is None:
            self._connection = open_state(self._path, (_TABLE,))
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is made where it is missing
        rows = list(self._rows(apps))
        with connection:
            connection.executemany(
                "INSERT OR REPLACE INTO observed VALUES (?, ?, ?, ?, ?, ?)",
                [row for row in rows if any(row[2:])],
            )
            connection.executemany(
                "DELETE FROM observed WHERE namespace = ? AND app = ?",
                [row[:2] for row in rows if not any(row[2:])],
            )
        return self._unpruned(connection)

    def _rows(self, apps: Iterable[AppId]) -> Iterator[_Row]:
        for app in apps:
            try:
                yield _row(self._observe(app))
            except ValueError as error:
                # A text that is none, such as a file's name that is not UTF-8.
                log.debug("not remembered", app=str(app), reason=str(error))

    def _unpruned(self, connection: sqlite3.Connection) -> set[AppId]:
        """Once: all apps in the file, since some may be no source's any more."""
        if self._pruned:
            return set()
        self._pruned = True
        return {AppId(*row) for row in connection.execute("SELECT namespace, app FROM observed")}

    def _failed(self, error: Exception) -> None:
        self._close()
        if not self.error:
            log.warning(
                "memory unusable",
                path=str(self._path),
                reason=f"it cannot be written ({error}); after a restart the first lists would be "
                "believed as they are: mend or delete the file",
            )
        self.error = str(error)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _row(observed: Observed) -> _Row:
    pods = [pod for pod in observed.pods if takes_traffic(pod)]
    return (
        observed.app.namespace,
        observed.app.name,
        _encode(pods) if pods else None,
        _encode(observed.controllers) if observed.controllers else None,
        _encode(observed.config) if observed.config else None,
        _encode(observed.activation) if observed.activation else None,
    )
