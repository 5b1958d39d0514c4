"""A deployer that dies: `python -m tests.deployer.mortal STEP WHEN -- ...`, by SIGKILL.

STEP is a step's name as in the journal (`create`, `switch`, `empty`, `drain`, `delete`, `finish`),
or `begin` for the first write of the record. WHEN is `unnoted` (before it is noted), `noted`
(before it is made), `made` (before that is noted), `done` (after that).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from vulcanized.deployer import cli
from vulcanized.deployer.store import Store
from vulcanized.deployer.way import Way


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    step, when = sys.argv[1:3]
    words = sys.argv[sys.argv.index("--") + 1 :]
    way: Any = Way
    store: Any = Store
    save, begin = way._save, store.begin

    def is_meant(name: str) -> bool:
        return name.split(" ", maxsplit=1)[0] == step

    def saved(self: Any, record: Any) -> None:
        newest = record.journal[-1] if record.journal else None
        known = {(e.step, e.stage) for e in self.record.journal}
        fresh = newest is not None and (newest.step, newest.stage) not in known
        before = {(e.step, e.stage): e.ended for e in self.record.journal}
        ended = [
            e.step
            for e in record.journal
            if e.ended is not None and before.get((e.step, e.stage), 0.0) is None
        ]
        name = newest.step if newest is not None else ""
        noted = fresh and is_meant(name)
        if noted and when == "unnoted":
            die()
        if when == "made" and any(map(is_meant, ended)):
            die()
        save(self, record)
        if noted and (when == "noted" or name == "finish"):
            die()
        if when == "done" and any(map(is_meant, ended)):
            die()

    def begun(self: Any, *arguments: Any) -> None:
        if step == "begin" and when == "unnoted":
            die()
        begin(self, *arguments)
        if step == "begin":
            die()

    way._save = saved
    store.begin = begun
    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main())
