"""The tables of what each proxy can do."""

from __future__ import annotations

from collections import defaultdict

from tests.behaviour.front import FRONTS
from tests.behaviour.table import Row, cases, put_into, rows, tables


def shown(row: Row, **outcomes: set[str]) -> dict[Row, dict[str, set[str]]]:
    """All rows passed on every proxy, but for one row."""
    seen = {each: {front.kind: {"passed"} for front in FRONTS} for each in rows()}
    seen[row] |= outcomes
    return seen


def test_a_title_is_one_line_in_the_readme_but_for_what_differs() -> None:
    one = next(row for row in rows() if row.title == "Pods")
    made = {path.name: text for path, text in tables(shown(one, vulcand={"undeclared"})).items()}

    readme, whole = made["README.md"].splitlines(), made["proxies.md"].splitlines()

    says = [" no " if front.kind == "vulcand" else " yes " for front in FRONTS]
    line = "|".join(["", f" {one.text} ", *says, ""])
    assert line in whole
    assert [text for text in readme if one.text in text] == [line]
    assert readme[readme.index(line) - 1].startswith("| **Pods**, but for | yes |")
    assert sum(text.startswith("| **") for text in readme) == len({row.title for row in rows()})
    assert len(whole) == 2 + len(rows()) + len({row.title for row in rows()})


def test_there_is_no_table_unless_every_row_is_one_thing_on_every_proxy() -> None:
    one = rows()[0]
    for outcome in (set[str](), {"failed"}, {"skipped"}, {"passed", "undeclared"}):
        assert tables(shown(one, haproxy=outcome)) == {}
    assert tables({}) == {}


def test_a_table_is_put_between_the_marks() -> None:
    text = "above\n<!-- behaviour -->\n| old |\n<!-- /behaviour -->\nbelow\n"
    put = put_into(text, "| new \\1 |\n")
    assert put == text.replace("| old |", "| new \\1 |")
    assert put_into(put, "| new \\1 |\n") == put


def test_the_cases_of_a_row_are_for_the_same_proxies() -> None:
    for front in FRONTS:
        declared: dict[Row, set[bool]] = defaultdict(set)
        for row, case in cases():
            wanted = {
                each for mark in case.pytestmark if mark.name == "needs" for each in mark.args
            }
            assert wanted, case
            declared[row].add(wanted <= front.capabilities())
        assert {row.text for row, are in declared.items() if len(are) > 1} == set(), front.kind
