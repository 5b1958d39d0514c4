"""The SQLite files of the state directory: how they are opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path


def open_state(
    path: Path, tables: Sequence[str] = (), *, read_only: bool = False
) -> sqlite3.Connection | None:
    """Open a file of ours, with these tables; None when it is only to be read and is not there.

    The connection may be handed to another thread, and belongs to one at a time. Raises
    sqlite3.Error and OSError.
    """
    if read_only:
        if not path.exists():
            return None
        return sqlite3.connect(
            f"file:{path}?mode=ro", uri=True, timeout=1.0, check_same_thread=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        # A lost last second costs nothing; a wait for the disk on the way to a switch would.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        # In KiB. What is written is hardly ever read again.
        connection.execute("PRAGMA cache_size = -256")
        for table in tables:
            connection.execute(table)
    except BaseException:
        connection.close()
        raise
    return connection
