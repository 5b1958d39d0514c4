"""What was last accepted of each app, kept over a restart.

A config that is refused or an activation that is held must not lose what was good only because the
daemon was restarted in between. SQLite keeps it: one small upsert for each acceptance, readable
with `sqlite3 <state>/memory.db`.

Losing this file is harmless while nothing is refused or held.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import structlog

from vulcanized.model import AppId, Document, Remembered
from vulcanized.statefile import open_state

log = structlog.get_logger(__name__)

_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS remembered (
      namespace TEXT NOT NULL,
      app TEXT NOT NULL,
      config TEXT,
      origin TEXT,
      created INTEGER,
      activation TEXT NOT NULL,
      PRIMARY KEY (namespace, app)
    ) WITHOUT ROWID
    """,
    # Strict targets that accepted another config last.
    """
    CREATE TABLE IF NOT EXISTS elsewhere (
      namespace TEXT NOT NULL,
      app TEXT NOT NULL,
      target TEXT NOT NULL,
      config TEXT NOT NULL,
      origin TEXT NOT NULL,
      created INTEGER NOT NULL,
      PRIMARY KEY (namespace, app, target)
    ) WITHOUT ROWID
    """,
)


class SqliteMemory:
    """`load` and `save` belong to one thread. A fault is logged, never raised: the memory only
    matters in the rare case, and traffic must not wait for a full disk.

    `read_only`: for commands that look without changing anything.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._path = directory / "memory.db"
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self.error = ""

    def load(self) -> dict[AppId, Remembered]:
        """All that is remembered; empty when there is nothing or it cannot be read."""
        try:
            connection = self._open()
            if connection is None:
                return {}
            rows = connection.execute(
                "SELECT namespace, app, config, origin, created, activation FROM remembered"
            ).fetchall()
            others = connection.execute(
                "SELECT namespace, app, target, config, origin, created FROM elsewhere"
            ).fetchall()
        except (sqlite3.Error, OSError) as error:
            self._failed("read", error)
            return {}
        elsewhere: dict[AppId, list[tuple[str, Document]]] = {}
        for namespace, app, target, *document in others:
            elsewhere.setdefault(AppId(namespace, app), []).append((target, Document(*document)))
        return {
            (id_ := AppId(namespace, app)): Remembered(
                Document(config, origin or "", created or 0) if config is not None else None,
                activation,
                tuple(elsewhere.get(id_, ())),
            )
            for namespace, app, config, origin, created, activation in rows
        }

    def save(self, changed: Mapping[AppId, Remembered]) -> None:
        """Store the new value of these apps; one that remembers nothing is taken out."""
        if self._read_only:
            return
        try:
            connection = self._open()
            if connection is None:
                return
            with connection:
                for table in ("remembered", "elsewhere"):
                    connection.executemany(
                        f"DELETE FROM {table} WHERE namespace = ? AND app = ?",  # noqa: S608
                        [tuple(app) for app in changed],
                    )
                connection.executemany(
                    "INSERT INTO remembered VALUES (?, ?, ?, ?, ?, ?)",
                    [_row(app, kept) for app, kept in changed.items() if kept != Remembered()],
                )
                connection.executemany(
                    "INSERT INTO elsewhere VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (*app, target, document.text, document.origin, document.created)
                        for app, kept in changed.items()
                        for target, document in kept.elsewhere
                    ],
                )
            self.error = ""
        except (sqlite3.Error, OSError) as error:
            self._failed("written", error)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is None:
            self._connection = open_state(self._path, _TABLES, read_only=self._read_only)
        return self._connection

    def _failed(self, what: str, error: Exception) -> None:
        self.close()
        if not self.error:
            log.warning(
                "memory unusable",
                path=str(self._path),
                reason=f"it cannot be {what} ({error}); last good configs would not survive a "
                "restart: mend or delete the file",
            )
        self.error = str(error)


def _row(app: AppId, kept: Remembered) -> tuple[str, str, str | None, str | None, int, str]:
    config = kept.config
    return (
        app.namespace,
        app.name,
        config.text if config else None,
        config.origin if config else None,
        config.created if config else 0,
        kept.activation,
    )
