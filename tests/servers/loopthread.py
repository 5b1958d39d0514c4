"""An asyncio loop in a thread of its own, for tests that wait for nothing in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class LoopThread:
    """A context manager; who has something in the loop to end does so in `_end`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def _run(self, work: Coroutine[Any, Any, None], deadline: float = 15.0) -> None:
        """Have it done in the loop, and wait for that."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(deadline)

    def _end(self) -> None:
        """Called before the loop ends."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._run(asyncio.sleep(0.02))  # what was cut has still to be told of it
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
