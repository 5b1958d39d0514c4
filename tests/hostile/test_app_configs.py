"""Whatever an app config says, HAProxy is told exactly what the model asks for."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.factory import pod
from tests.hostile.cases import cases
from tests.hostile.documents import activation_texts, config_texts, odd_regexes, regexes
from tests.hostile.judge import carried_through, haproxy_accepts, judge
from vulcanized.appconfig import AppConfig, parse_app_config
from vulcanized.errors import Invalid
from vulcanized.model import AppId, Document, Observed, Port, Remembered

TODO = AppId("default", "todo")
PODS = (
    pod("todo-blue", "blue", ip="10.0.0.1"),
    pod("todo-green", "green", ip="fd00::2", ports=(Port("h2c", 81), Port("http", 82))),
    pod("todo-old", "blue", ip="10.0.0.3", ready=False, terminating=True),
)


def written(text: str, activation: str | None = None) -> Observed:
    active = Document(activation, "etcd /vulcanized/active/default/todo") if activation else None
    return Observed(TODO, PODS, (), Document(text, "etcd /vulcanized/apps/default/todo", 1), active)


@cases(1000)
@given(config_texts)
def test_a_config_gives_what_the_model_asks_for_or_one_problem(part: int, text: str) -> None:
    outcome = carried_through([written(text)])
    judge(outcome)
    built = outcome.built[TODO]
    refused = [problem for problem in built.problems if problem.code == "config_invalid"]
    assert len(refused) == built.quarantined
    if built.quarantined:
        assert built.desired is None
        assert refused[0].where == "etcd /vulcanized/apps/default/todo"
    event("refused" if built.quarantined else "taken")


@cases(400)
@given(config_texts, activation_texts)
def test_what_was_accepted_before_goes_on_beside_what_is_refused(
    part: int, text: str, activation: str
) -> None:
    good = Document('{"hosts": ["good.example.com"]}', "etcd /vulcanized/apps/default/todo", 1)
    remembered = {TODO: Remembered(good, "blue")}
    outcome = carried_through([written(text, activation)], remembered)
    judge(outcome)
    built = outcome.built[TODO]
    if built.quarantined:
        assert built.desired is not None
        assert {route.host for route in built.desired.routes} == {"good.example.com"}
    if built.held:
        assert built.remember.activation == "blue"


@cases(500)
@given(activation_texts)
def test_an_activation_takes_effect_as_a_whole_or_not_at_all(part: int, text: str) -> None:
    outcome = carried_through([written('{"hosts": ["todo.example.com"]}', text)])
    judge(outcome)
    built = outcome.built[TODO]
    assert built.desired is not None
    if built.held:
        assert {problem.code for problem in built.problems} <= {
            "activation_invalid",
            "activation_held",
            "no_servers",
        }
    event("held" if built.held else "in effect")


@cases(300)
@given(config_texts)
def test_what_passes_the_schema_holds_nothing_that_a_proxy_could_read_otherwise(
    part: int, text: str
) -> None:
    try:
        config = AppConfig.model_validate_json(text)
    except ValidationError:
        return
    fields = config.model_dump(mode="json", exclude={"error_pages"})
    for place, value in texts_of(fields):
        allowed = r"[\x20-\x7e]*" if place == "regex" else r"[^\x00-\x1f\x7f-\U0010ffff\"'`\\\\{}]*"
        assert re.fullmatch(allowed, value), (place, value)
    event("taken")


def texts_of(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a document, keys included, with the field it is in."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield place, key
            yield from texts_of(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner, place)


@cases(8, shrink=False)  # each try takes a process
@given(st.lists(regexes | odd_regexes, min_size=60, max_size=60))
def test_haproxy_understands_every_regex_that_passes(part: int, tried: list[str]) -> None:
    passed = []
    for regex in tried:
        with contextlib.suppress(Invalid):
            parse_app_config(json.dumps({"hosts": ["a"], "paths": [{"regex": regex}]}), "x")
            passed.append({"regex": regex})
    config = {"hosts": ["todo.example.com"], "paths": passed or [{"prefix": "/"}]}
    haproxy_accepts(carried_through([written(json.dumps(config))]).files)
    event(f"{len(passed) // 10}0 or more regexes")
