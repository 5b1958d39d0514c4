"""Logs: console lines for people, or one JSON object a line for Logstash and its kin."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor


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
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        final = [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), timestamp_key="@timestamp", pad_event_to=22
            )
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
