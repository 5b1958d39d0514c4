"""Logs: console lines for people, or one JSON object a line for Logstash and its kin."""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from vulcanized.printable import printable


def configure_logging(format_: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of ours and of the libraries to `stream` (default: standard error).

    `format_`: "auto" (console on a terminal, else JSON), "json", "console". JSON lines carry
    `@timestamp` (RFC 3339, UTC), `level`, `message`, `logger` and the keys of the line.
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
        final: list[Processor] = [
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(_json_line),
        ]
    else:
        final = [
            _printable_values,
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), timestamp_key="@timestamp", pad_event_to=22
            ),
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
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
    logging.getLogger("vulcanized").setLevel(level.upper())
    # What it warns of (each retry of a refused connection) is said once, in our own words.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _printable_values(_logger: WrappedLogger, _name: str, line: EventDict) -> EventDict:
    """Texts come from hostile places: they neither end a line nor move a terminal's cursor."""
    for key, value in line.items():
        if isinstance(value, str):
            # Of a traceback only the lines stay, each set in: it cannot pass for one of ours.
            parts = value.split("\n") if key == "exception" else [value]
            line[key] = "\n  ".join(map(printable, parts))
    return line


def _json_line(line: EventDict, **_options: object) -> str:
    """One object; half a surrogate pair, which no UTF-8 has, is replaced."""
    text = json.dumps(line, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()
