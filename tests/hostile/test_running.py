"""After hostile configs that passed, a real HAProxy shows what was wanted and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.factory import pod
from tests.hostile.cases import cases
from tests.hostile.documents import configs, versions, with_hostile_places
from tests.hostile.judge import carried_through
from tests.hostile.wanted import backend_name, backends_of, wanted
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.targets.edge import Edge
from vulcanized.model import AppId, DesiredApp, Document, Observed, Port, ServerState

pytestmark = pytest.mark.timeout(300)

documents = st.lists(with_hostile_places(configs, most=1), min_size=8, max_size=12)
hosts = st.lists(
    st.sampled_from(("a.example.com", "*.example.com", "*", "b_c.example.com", "x--1.example.com")),
    min_size=1,
    max_size=3,
)
routes = st.lists(st.fixed_dictionaries({"hosts": hosts}), min_size=12, max_size=12)
shares = st.dictionaries(versions.filter(lambda v: v != "*"), st.integers(1, 100), max_size=2)


@pytest.fixture(scope="module", autouse=True)
def _haproxy() -> None:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)


def made(written: Sequence[object], split: Mapping[str, int], first: int) -> list[DesiredApp]:
    """Apps of those configs that pass, each with two pods of each version."""
    observed = []
    activation = Document(json.dumps({"weights": split}), "x") if split else None
    for number, config in enumerate(written):
        app = AppId("default", f"app-{number}")
        pods = tuple(
            pod(
                f"{app.name}-{version}-{each}",
                version,
                app=app,
                ip=f"127.{number}.0.{first + each}",
                ports=(Port("http", 8080 + each), Port("h2c", 81)),
            )
            for version in split or ("blue",)
            for each in (1, 2)
        )
        text = json.dumps(config)
        observed.append(Observed(app, pods, (), Document(text, "x", number), activation))
    return list(carried_through(observed).desired)


def judge_running(edge: Edge, apps: Sequence[DesiredApp]) -> None:
    """What the worker shows is what the model asks for, read without our files in between."""
    expected = wanted(apps)
    live = edge.live()
    for name, entries in expected.maps.items():
        shown = live.tables[name]
        assert shown.keys() == entries.keys(), name
        for key, value in shown.items():
            one = entries[key]
            assert value in one if isinstance(one, frozenset) else value == one
    servers = {
        backend_name(desired.app, backend.version): {
            server.name: (*server.endpoint, server.state, server.weight)
            for server in backend.servers
        }
        for desired in apps
        for backend in backends_of(desired)
    }
    assert live.servers.keys() == servers.keys()
    for backend, wanted_servers in servers.items():
        shown_servers = {
            name: (one.address, one.port, one.state, one.weight)
            for name, one in live.servers[backend].items()
            if one.state is not ServerState.MAINT  # on its way out
        }
        assert shown_servers == wanted_servers


@cases(6, shrink=False)  # each try takes a reload or two
@given(documents, routes, shares)
def test_what_passed_is_shown_after_a_reload_and_at_run_time(
    part: int, written: list[object], moved: list[dict[str, object]], split: dict[str, int]
) -> None:
    # The same apps with other routes, servers and limits: all of it by commands.
    changed = [
        {**one, **two} if isinstance(one, dict) else one
        for one, two in zip(written, moved, strict=False)
    ]
    before, after = (
        {app.app: app for app in made(documents, split, first)}
        for documents, first in ((written, 1), (changed, 11))
    )
    both = [app for app in before if app in after and before[app].policies == after[app].policies]
    with Edge() as edge:
        edge.show(*(before[app] for app in both), complete=True)
        judge_running(edge, [before[app] for app in both])
        reloads = len(edge.reloads)
        edge.show(*(after[app] for app in both), complete=True)
        judge_running(edge, [after[app] for app in both])
        if all(app.policies.health_check is None for app in after.values()):  # it names a host
            assert len(edge.reloads) == reloads
            event("no reload")
        event(f"{len(both)} apps")
