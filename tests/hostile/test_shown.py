"""What people see: the page, the table, the log, metrics and JSON show hostile text as text."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from tests.factory import TODO
from tests.hostile.cases import cases
from tests.hostile.payloads import ALL, hostile
from vulcanized.admin import json_answer
from vulcanized.log import configure_logging
from vulcanized.metrics import Metrics
from vulcanized.model import (
    Backend,
    Built,
    DesiredApp,
    PathKind,
    Problem,
    Route,
    Server,
    Share,
    SourcePhase,
    SourceState,
)
from vulcanized.reconciler import Snapshot
from vulcanized.status import status_document
from vulcanized.statuspage import status_page
from vulcanized.statustable import print_status
from vulcanized.targets.runner import RunnerState


class View:
    """All that is shown, with one text in every place that could hold somebody's text.

    Most places are checked long before; what is shown must not depend on that.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        server = Server(text, text, 80, version=text)
        routes = (Route(text, PathKind.REGEX, text),)
        desired = DesiredApp(TODO, routes, (Share(text, 1),), (Backend(text, (server,)),))
        problem = Problem(TODO, "config_invalid", text, text)
        self._built = Built(TODO, desired, (problem,), wanted=text, held=True, versions=(text,))

    def snapshot(self) -> Snapshot:
        return Snapshot(1, True, {TODO: self._built})

    def sources(self) -> list[SourceState]:
        return [SourceState("pods", SourcePhase.STALE, 1.0, 1, {"expired": 1}, 1, self._text)]

    def targets(self) -> list[RunnerState]:
        return [
            RunnerState(
                "edge", "haproxy", wanted=1, in_effect=1, applied_once=True, error=self._text,
                exit_code=1, outcomes={}, reloads={}, failures=1,
            )
        ]  # fmt: skip

    def document(self) -> dict[str, Any]:
        return status_document("edge", "1", self.snapshot(), self.sources(), self.targets(), {})


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, without any text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[Any] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append(data)


HARMLESS = View("harmless")


@cases(150)
@given(hostile)
def test_the_page_has_the_same_tags_whatever_the_text(part: int, text: str) -> None:
    if not text:
        return
    page = status_page(View(text).document())
    assert Structure(page).tags == Structure(status_page(HARMLESS.document())).tags


@cases(150)
@given(hostile)
def test_the_table_sends_no_control_character_to_a_terminal(part: int, text: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=False, legacy_windows=False)
    print_status(View(text).document(), console)
    odd = {char for char in out.getvalue() if not char.isprintable()} - {"\n"}
    assert not odd
    # Whatever was in it can be written to a terminal that knows UTF-8.
    out.getvalue().encode()


@cases(150)
@given(hostile)
def test_status_is_one_json_document_that_says_the_same(part: int, text: str) -> None:
    document = View(text).document()
    shown = json.loads(json_answer(document).body)
    said = text.encode("utf-8", "replace").decode()
    assert shown["apps"][0]["problems"][0]["message"] == said


@cases(50)
@given(hostile)
def test_no_metric_has_a_label_that_somebody_else_wrote(part: int, text: str) -> None:
    assert _labels(View(text)) == _labels(HARMLESS)


def _labels(view: View) -> set[str]:
    families = text_string_to_metric_families(Metrics(lambda: view).exposition().decode())
    return {
        value
        for family in families
        for sample in family.samples
        if sample.name.startswith("vulcanized_")
        for value in sample.labels.values()
    }


@pytest.fixture(scope="module")
def logged() -> Iterator[Any]:
    """A function that logs a text in both formats and returns what was written."""
    root = logging.getLogger()
    before = list(root.handlers), root.level

    def log(format_: str, text: str, *, terminal: bool) -> str:
        out = io.StringIO()
        out.isatty = lambda: terminal  # type: ignore[method-assign]
        configure_logging(format_, "debug", out)
        logger = structlog.stdlib.get_logger("vulcanized.hostile")
        logger.warning("file skipped", file=text, reason=[text], error=ValueError(text))
        logger.warning(text or "-")
        logging.getLogger("vulcanized.other").warning("plain %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("thread failed", thread=text)
        return out.getvalue()

    yield log
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in before[0]:
        root.addHandler(handler)
    root.setLevel(before[1])
    structlog.reset_defaults()


@cases(100)
@given(hostile | st.sampled_from(ALL))
def test_the_log_for_people_has_no_control_characters(part: int, logged: Any, text: str) -> None:
    written = logged("console", text, terminal=False)
    assert {char for char in written if not char.isprintable()} <= {"\n"}
    # Three lines, and one with its traceback below it, indented or in a frame.
    dated = [line for line in written.split("\n") if line[:4].isdigit()]
    assert len(dated) == 4


@cases(100)
@given(hostile | st.sampled_from(ALL))
def test_the_log_for_machines_is_one_object_a_line(part: int, logged: Any, text: str) -> None:
    lines = logged("json", text, terminal=False).split("\n")
    assert lines.pop() == ""
    said = [json.loads(line) for line in lines]
    assert len(said) == 4
    assert all(isinstance(each, dict) and "@timestamp" in each for each in said)
    assert "".join(lines).encode()
