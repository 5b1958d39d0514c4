"""Processes of ours beside the one that measures: each line in is a question, each line out its
answer as JSON.

What a child does costs its caller no processor time, and its moments are on `time.monotonic()`'s
clock, which the processes of a machine share. It ends with its standard input.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

_ROOT = Path(__file__).parents[1]
_START = 60.0


class ChildError(Exception):
    """The child ended or does not answer; its own words are on standard error."""


class Child:
    """A module of ours as a process, from `with` on; `config` is its only word."""

    def __init__(self, module: str, config: msgspec.Struct) -> None:
        self._command = [sys.executable, "-m", module, msgspec.json.encode(config).decode()]
        self._name = module

    def __enter__(self) -> Self:
        # A group of its own: Ctrl-C is ours to handle, it ends with its input.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            process_group=0,
        )
        try:
            self.answer(_START)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def ask(self, question: str) -> None:
        """Ask; do not wait for the answer. Raises `ChildError`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(question.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildError(f"{self._name} ended: {error}") from error

    def answer(self, within: float) -> Any:
        """The next answer. Raises `ChildError`."""
        assert self._process.stdout is not None
        output, lines = self._process.stdout, queue.SimpleQueue[bytes]()
        threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=within)
        except queue.Empty:
            line = b""
        if not line:
            raise ChildError(f"{self._name} ended or has not answered within {within:g} s")
        return msgspec.json.decode(line)

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve(answer: Callable[[str], Any]) -> None:
    """Be such a child: say that it is ready, then answer line by line until the input ends."""
    _say("ready")
    for line in sys.stdin:
        _say(answer(line.rstrip("\n")))


def _say(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()
