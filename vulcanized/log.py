"""Logs: console lines for people, or one JSON object a line for Logstash and its kin.

Our own lines go straight to the stream. On the way through `logging` each cost twice as much,
which is felt where many daemons of one machine switch at once. Lines of libraries take that way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from vulcanized.printable import printable

_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str).encode


def configure_logging(format_: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of ours and of the libraries to `stream` (default: standard error).

    `format_`: "auto" (console on a terminal, else JSON), "json", "console". JSON lines carry
    `@timestamp` (RFC 3339, UTC), `level`, `message`, `logger` and the keys of the line. Called
    again, it holds for loggers that have logged before, too.
    """
    out = stream or sys.stderr
    as_json = format_ == "json" or (format_ == "auto" and not out.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="@timestamp"),
        structlog.processors.format_exc_info,
    ]
    if as_json:
        final: list[Processor] = [structlog.processors.EventRenamer("message"), _as_json]
    else:
        final = [
            _printable_values,
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), timestamp_key="@timestamp", pad_event_to=22
            ),
        ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    # What it warns of (each retry of a refused connection) is said once, in our own words.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    _Line.handler = handler
    _Logger.least = logging.getLevelNamesMapping()[level.upper()]
    # A logger keeps the list that it was made with: it is the same one for all.
    _PROCESSORS[:] = [*shared, *final]
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=_Line,
        wrapper_class=_Logger,
        cache_logger_on_first_use=True,
    )


_PROCESSORS: Final[list[Processor]] = []


class _Line:
    """Where the lines of one logger go: to the stream of `handler`, never into one of its own."""

    handler: logging.StreamHandler[TextIO] = logging.StreamHandler(sys.stderr)

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, line: str) -> None:
        handler = self.handler
        # A log that cannot be written must stop nothing, and there is nowhere else to say so.
        with contextlib.suppress(OSError, ValueError), handler.lock or contextlib.nullcontext():
            handler.stream.write(f"{line}\n")
            handler.stream.flush()

    debug = info = warning = error = write


class _Logger(structlog.BoundLoggerBase):
    """Our loggers: a line under the level costs next to nothing, and none stops its thread."""

    least = logging.INFO

    def debug(self, event: str, **keys: Any) -> None:
        if self.least <= logging.DEBUG:
            self._say("debug", event, keys)

    def info(self, event: str, **keys: Any) -> None:
        if self.least <= logging.INFO:
            self._say("info", event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        if self.least <= logging.WARNING:
            self._say("warning", event, keys)

    def error(self, event: str, **keys: Any) -> None:
        if self.least <= logging.ERROR:
            self._say("error", event, keys)

    def exception(self, event: str, **keys: Any) -> None:
        self.error(event, exc_info=True, **keys)

    def _say(self, level: str, event: str, keys: dict[str, Any]) -> None:
        try:
            self._proxy_to_logger(level, event, **keys)
        except Exception as error:  # one of the values cannot be shown
            self._proxy_to_logger(level, event, unshown=f"{type(error).__name__}: {error}")


def _printable_values(_logger: WrappedLogger, _name: str, line: EventDict) -> EventDict:
    """Texts come from hostile places: they neither end a line nor move a terminal's cursor."""
    for key, value in line.items():
        if isinstance(value, str):
            # Of a traceback only the lines stay, each set in: it cannot pass for one of ours.
            parts = value.split("\n") if key == "exception" else [value]
            line[key] = "\n  ".join(map(printable, parts))
    return line


def _as_json(_logger: WrappedLogger, _name: str, line: EventDict) -> str:
    """One object; half a surrogate pair, which no UTF-8 has, is replaced."""
    return _encode(line).encode("utf-8", "replace").decode()
