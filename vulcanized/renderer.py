"""Renders templates in a process of its own, whose time and memory are bounded.

A template is a program of its author: it may loop for ever or ask for more memory than there is,
also in one step that no thread of ours could interrupt. So the operator's own templates are
rendered by a child that the kernel ends in time; the daemon loses that one text and no more.

One line of JSON asks (`{"template": ..., "values": ...}`), one answers (`{"text": ...}` or
`{"failed": ...}`).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vulcanized.errors import TemplateFailed
from vulcanized.templating import Library, View, path_of, plain

CPU_SECONDS: Final = 0.5
"""Of computing for one text: what ships takes a ten-thousandth of that."""

ANSWER_SECONDS: Final = 10.0
"""Until a text is there, however busy the machine."""

MEMORY: Final = 256 << 20
_SLICE: Final = 0.1
_LONGEST_ANSWER: Final = 16 << 20


class Broken(TemplateFailed):
    """The template took the child down with it."""


class Renderer:
    """The templates of some folders, as they were at the first text; for one thread.

    `stop`: what is waited for when it is set is left.
    """

    def __init__(self, folders: Sequence[Path], stop: threading.Event) -> None:
        self._folders = folders
        self._stop = stop
        self._child: subprocess.Popen[bytes] | None = None
        self._wire: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None

    def render(self, template: str, values: Mapping[str, object]) -> str:
        """The text of a template. Raises TemplateFailed; Broken when the child is gone by it."""
        question = {"template": template, "values": {n: plain(v) for n, v in values.items()}}
        if self._wire is None:
            self._start()
        try:
            answer = self._ask(json.dumps(question).encode() + b"\n")
        except OSError as error:
            path = path_of(template, self._folders)
            raise Broken(f"{path}: {self._why(error)}; mend the template") from None
        if "failed" in answer:
            raise TemplateFailed(answer["failed"])
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """End the child. Another text starts another one."""
        self._child = self._wire = None
        self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # By the paths of this process: it may run from a checkout or an archive.
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__, *map(str, self._folders)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # what is typed at our terminal is not for it
                )
            except OSError as error:
                ours.close()
                raise TemplateFailed(
                    f"cannot start a process to render templates in: {error.strerror}; it is tried "
                    "again"
                ) from error
        self._wire = ours
        # A command that looks once, and whoever forgets `close`, leaves no child behind either.
        self._end = weakref.finalize(self, _end, self._child, ours)

    def _ask(self, question: bytes) -> dict[str, Any]:
        wire = self._wire
        assert wire is not None  # noqa: S101 - `render` started it
        deadline = time.monotonic() + ANSWER_SECONDS
        # Commands that look once render after they have stopped their sources.
        ending = self._stop.is_set()
        wire.settimeout(ANSWER_SECONDS)
        wire.sendall(question)
        wire.settimeout(_SLICE)
        answer = bytearray()
        while not answer.endswith(b"\n"):
            try:
                data = wire.recv(1 << 16)
            except TimeoutError:
                if (self._stop.is_set() and not ending) or time.monotonic() > deadline:
                    raise
                continue
            if not data:
                raise ConnectionResetError
            answer += data
            if len(answer) > _LONGEST_ANSWER:
                raise ConnectionResetError
        document: dict[str, Any] = json.loads(answer)
        return document

    def _why(self, error: OSError) -> str:
        """What became of the child, which is gone afterwards."""
        child = self._child
        code = None
        if child is not None and not isinstance(error, TimeoutError):
            try:
                code = child.wait(1.0)
            except subprocess.TimeoutExpired:
                code = None
        self.close()
        if code == -signal.SIGPROF:
            return f"has not ended after {CPU_SECONDS:g} s of computing, as if it looped for ever"
        if code is None and self._stop.is_set():
            return "was left, since vulcanized ends"
        if code is None:
            return f"has not ended after {ANSWER_SECONDS:g} s"
        return f"broke the process that rendered it (exit code {code})"


def _end(child: subprocess.Popen[bytes], wire: socket.socket) -> None:
    wire.close()
    child.kill()
    child.wait()


# --- the child ------------------------------------------------------------------------------------


def serve(folders: Sequence[Path]) -> None:
    """Answer on standard output what is asked on standard input, until that ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = Library(folders)
    for line in sys.stdin.buffer:
        question = json.loads(line, object_hook=View)
        # The default action of its signal ends us, whatever we are in the midst of.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            answer = {"text": library.render(question.template, vars(question.values))}
        except TemplateFailed as error:
            answer = {"failed": str(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve([Path(argument) for argument in sys.argv[1:]])
