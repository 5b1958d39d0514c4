"""The tables of what each proxy can do, made from a run: a pytest plugin.

`--behaviour-table` writes them: every row into docs/proxies.md, into README.md one line for each
title and the rows in which the proxies differ. A run in which every row was shown on every proxy
fails when what stands there is something else.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NOT_DECLARED = "not declared by"
"""What the reason of a skip begins with where a proxy cannot do something and says so."""

MODULES = (
    "routes",
    "ingress",
    "pods",
    "activation",
    "requests",
    "connections",
    "policies",
    "sticky",
    "changes",
)
"""The order of the table: `tests/behaviour/test_<name>.py`."""

_ROOT = Path(__file__).parents[2]
_MARKS = re.compile(r"(<!-- behaviour -->\n).*(<!-- /behaviour -->\n)", re.DOTALL)
_SAYS = {frozenset({"passed"}): "yes", frozenset({"undeclared"}): "no"}


class Row(NamedTuple):
    """A line of the table below a title."""

    title: str
    text: str


Seen = Mapping[Row, Mapping[str, set[str]]]
"""How the cases of each row ended, by the kind of the proxy."""


def cases() -> Iterator[tuple[Row, Any]]:
    """All cases there are with their rows, in the order of the files."""
    for name in MODULES:
        module: Any = importlib.import_module(f"tests.behaviour.test_{name}")
        for value in list(vars(module).values()):
            for mark in getattr(value, "pytestmark", ()):
                if mark.name == "shows":
                    yield Row(module.TITLE, mark.args[0]), value


def rows() -> list[Row]:
    """All rows there are, in that order."""
    return list(dict.fromkeys(row for row, _ in cases()))


def tables(seen: Seen) -> dict[Path, str]:
    """The tables in Markdown by their files; none if a row was not shown, or is not one thing."""
    from tests.behaviour.front import FRONTS

    said: list[tuple[Row, list[str]]] = []
    for row in rows():
        says = [_SAYS.get(frozenset(seen.get(row, {}).get(front.kind, ())), "") for front in FRONTS]
        if "" in says:
            return {}
        said.append((row, says))
    head = [_line("", *(front.title for front in FRONTS)), "|---" * (len(FRONTS) + 1) + "|"]
    whole, short = list(head), list(head)
    for title, group in groupby(said, lambda each: each[0].title):
        lines = list(group)
        whole += [_line(f"**{title}**", *[""] * len(FRONTS))]
        whole += [_line(row.text, *says) for row, says in lines]
        differing = [(row, says) for row, says in lines if "no" in says]
        but = ", but for" if differing else ""
        short += [_line(f"**{title}**{but}", *["yes"] * len(FRONTS))]
        short += [_line(row.text, *says) for row, says in differing]
    return {
        _ROOT / "docs" / "proxies.md": "\n".join(whole) + "\n",
        _ROOT / "README.md": "\n".join(short) + "\n",
    }


def _line(*cells: str) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def put_into(text: str, made: str) -> str:
    """A file's text with the table in its place. Raises ValueError if it has no place for it."""
    if not _MARKS.search(text):
        raise ValueError("no line <!-- behaviour --> and <!-- /behaviour -->")
    return _MARKS.sub(lambda found: found[1] + made + found[2], text)


# --- the plugin -------------------------------------------------------------------------------

_seen: dict[Row, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--behaviour-table",
        action="store_true",
        help="write what each proxy can do into README.md and docs/proxies.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shows(row): the row of the table that a case stands for")
    config.addinivalue_line("markers", "needs(*fields): what a proxy must declare for a case")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each case say in its report what it stands for: pytest-xdist passes that on."""
    for item in items:
        mark = item.get_closest_marker("shows")
        front = getattr(item, "callspec", None)
        if mark is not None and front is not None and "world" in front.params:
            title = item.module.TITLE  # type: ignore[attr-defined]
            shown = [title, mark.args[0], front.params["world"].kind]
            item.user_properties.append(("behaviour", shown))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    shown: Any = dict(report.user_properties).get("behaviour")
    if shown is None or (report.when != "call" and report.outcome == "passed"):
        return
    title, text, kind = shown
    outcome: str = report.outcome
    if isinstance(report.longrepr, tuple) and NOT_DECLARED in report.longrepr[2]:
        outcome = "undeclared"
    _seen[Row(title, text)][kind].add(outcome)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        return
    made = tables(_seen) if _seen else {}
    fault = ""
    if config.getoption("behaviour_table"):
        for path, table in made.items():
            path.write_text(put_into(path.read_text(), table))
        if not made:
            fault = "no table was written: not every row was shown on every proxy"
    elif stale := [path.name for path in _stale(made)]:
        fault = f"{', '.join(stale)}: other tables than those of this run: make behaviour"
    if fault:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(fault, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _stale(made: Mapping[Path, str]) -> Iterator[Path]:
    """The files in which other tables stand."""
    for path, table in made.items():
        text = path.read_text()
        if put_into(text, table) != text:
            yield path
