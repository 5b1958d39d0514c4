"""All that the tree should hold, kept up app by app: it is what it would be made from scratch."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vulcanized.model import (
    ANY_VERSION,
    Adoption,
    AppId,
    Backend,
    DesiredApp,
    PathKind,
    Pin,
    PinKind,
    Policies,
    Route,
    Server,
    Share,
)
from vulcanized.targets.vulcand.desired import Desired
from vulcanized.targets.vulcand.foreign import Foreign
from vulcanized.targets.vulcand.keys import Keys
from vulcanized.targets.vulcand.plan import Wanted
from vulcanized.targets.vulcand.routes import covering, not_found_text, route_text

KEYS = Keys("vulcand", "edge")
APPS = [AppId("default", name) for name in ("todo", "shop", "blog")]
TODO, SHOP, _ = APPS
Apps = dict[AppId, DesiredApp | None]


def app(id_: AppId, *routes: Route, port: int = 80, policies: Policies | None = None) -> DesiredApp:
    server = Server("s", "10.0.0.1", port, version="blue")
    backends = (Backend(ANY_VERSION, (server,)),)
    shares = (Share(ANY_VERSION, 1),)
    return DesiredApp(id_, tuple(sorted(routes)), shares, backends, policies or Policies())


def whole(host: str) -> Route:
    return Route(host, PathKind.PREFIX, "/")


def part(host: str, path: str = "/x") -> Route:
    return Route(host, PathKind.PREFIX, path)


def desired(apps: Mapping[AppId, DesiredApp | None]) -> Desired:
    made = Desired(KEYS, "mark")
    made.merge(apps, complete=True)
    return made


def frontend(route: Route) -> str:
    return KEYS.frontend_id(route.host, route_text(route, "edge"))


def guard(host: str) -> str:
    return KEYS.frontend_id(host, not_found_text(host, "edge"))


def differing(old: Wanted, new: Wanted) -> tuple[set[str], set[str]]:
    """The ids of what is not the same."""
    backends = old.backends.keys() | new.backends.keys()
    frontends = old.frontends.keys() | new.frontends.keys()
    return (
        {id_ for id_ in backends if old.backends.get(id_) != new.backends.get(id_)},
        {id_ for id_ in frontends if old.frontends.get(id_) != new.frontends.get(id_)},
    )


# --- in one merge or in many ------------------------------------------------------------------

hosts = st.sampled_from(["a.example", "b.example", "*.example", "*"])
routes = st.builds(Route, hosts, st.just(PathKind.PREFIX), st.sampled_from(["/", "/x"]))
pins = st.sampled_from([Policies(), Policies(pin=Pin(PinKind.HEADER, "X-V"))])


@st.composite
def states(draw: st.DrawFn) -> dict[AppId, DesiredApp]:
    """Apps of which no two have the same route."""
    owners = draw(st.dictionaries(routes, st.sampled_from(APPS), max_size=6))
    return {
        id_: app(
            id_,
            *(route for route, owner in owners.items() if owner == id_),
            port=draw(st.integers(80, 81)),
            policies=draw(pins),
        )
        for id_ in draw(st.sets(st.sampled_from(APPS)))
    }


@settings(max_examples=200)
@given(goals=st.lists(states(), min_size=2, max_size=5), complete=st.lists(st.booleans()))
def test_many_merges_are_as_one(goals: list[dict[AppId, DesiredApp]], complete: list[bool]) -> None:
    kept = Desired(KEYS, "mark")
    last: dict[AppId, DesiredApp] = {}
    for number, goal in enumerate(goals):
        whole_ = number < len(complete) and complete[number]
        change: Apps = {**goal} if whole_ else {**dict.fromkeys(last.keys() - goal.keys()), **goal}
        before = Wanted(dict(kept.wanted.backends), dict(kept.wanted.frontends))

        touched = kept.merge(change, complete=whole_)

        assert kept.wanted == desired(goal).wanted
        assert kept.parts.keys() == goal.keys()
        backends, frontends = differing(before, kept.wanted)
        assert backends <= touched[0]
        assert frontends <= touched[1]
        for id_ in kept.wanted.frontends:
            owner = kept.app_of(id_)
            claim = kept.claim(id_)
            assert (owner is None) == (claim is None)
            assert owner is None or id_ in kept.parts[owner].frontends
        last = goal


@given(goal=states())
def test_hosts_that_a_wildcard_would_take_have_a_guard(goal: dict[AppId, DesiredApp]) -> None:
    routes = [route for each in goal.values() for route in each.routes]
    named = {route.host for route in routes}
    wanted = desired(goal).wanted
    for host in named:
        needed = whole(host) not in routes and not named.isdisjoint(covering(host))
        assert (guard(host) in wanted.frontends) == needed


# --- case by case -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(TODO, SHOP), (SHOP, TODO)])
def test_a_route_moves_in_one_merge(order: tuple[AppId, ...]) -> None:
    """It is the same frontend, whoever comes first in the change."""
    moving = whole("a.example")
    kept = desired({TODO: app(TODO, moving), SHOP: app(SHOP)})
    after = {TODO: app(TODO), SHOP: app(SHOP, moving)}

    _, touched = kept.merge({id_: after[id_] for id_ in order}, complete=False)

    assert touched == {frontend(moving)}
    assert kept.app_of(frontend(moving)) == SHOP
    assert kept.wanted == desired(after).wanted


@pytest.mark.parametrize("order", [(TODO, SHOP), (SHOP, TODO)])
def test_a_route_moves_in_two_merges(order: tuple[AppId, ...]) -> None:
    """Also when who gets it is told of before who loses it."""
    moving = whole("a.example")
    kept = desired({TODO: app(TODO, moving), SHOP: app(SHOP)})
    after = {TODO: app(TODO), SHOP: app(SHOP, moving)}
    for id_ in order:
        kept.merge({id_: after[id_]}, complete=False)

    assert kept.wanted == desired(after).wanted
    assert kept.app_of(frontend(moving)) == SHOP


def test_a_guard_comes_and_goes_with_the_wildcard() -> None:
    host = "a.example"
    kept = desired({TODO: app(TODO, part(host))})
    assert guard(host) not in kept.wanted.frontends

    _, touched = kept.merge({SHOP: app(SHOP, whole("*.example"))}, complete=False)
    assert guard(host) in touched & kept.wanted.frontends.keys()

    _, touched = kept.merge({SHOP: None}, complete=False)
    assert guard(host) in touched - kept.wanted.frontends.keys()


def test_a_guard_goes_when_the_host_has_all_paths() -> None:
    kept = desired({TODO: app(TODO, part("a.example")), SHOP: app(SHOP, whole("*"))})
    assert guard("a.example") in kept.wanted.frontends
    kept.merge({TODO: app(TODO, part("a.example"), whole("a.example"))}, complete=False)
    assert guard("a.example") not in kept.wanted.frontends


def test_who_is_not_in_a_complete_change_goes() -> None:
    kept = desired({TODO: app(TODO, whole("a.example")), SHOP: app(SHOP)})
    kept.merge({SHOP: app(SHOP)}, complete=True)
    assert kept.parts.keys() == {SHOP}
    assert kept.wanted == desired({SHOP: app(SHOP)}).wanted


def test_a_refused_app_keeps_its_last_part() -> None:
    good = app(TODO, whole("a.example"))
    bad = app(TODO, whole("b.example"), port=0)
    kept = desired({TODO: good})

    for complete in (False, True):
        touched = kept.merge({TODO: bad}, complete=complete)
        assert touched == (set(), set())
        assert "no address" in kept.refused[TODO]
        assert kept.wanted == desired({TODO: good}).wanted

    kept.merge({TODO: good}, complete=False)
    assert kept.refused == {}
    kept.merge({TODO: bad}, complete=False)
    kept.merge({}, complete=True)
    assert (kept.refused, kept.parts) == ({}, {})


def test_only_what_is_in_the_way_may_be_adopted() -> None:
    adopt = Policies(adopt=Adoption(("theirs", "other", "gone"), ("b",)))
    kept = desired({TODO: app(TODO, whole("a.example"), policies=adopt)})
    routes = {"theirs": 'Host("a.example")', "other": 'Host("b.example")', "not-named": ""}
    kept.adopt(Foreign(routes))
    assert kept.wanted.adopted_frontends == {"theirs"}
    assert kept.wanted.adopted_backends == {"b"}

    kept.merge({TODO: app(TODO, whole("a.example"))}, complete=False)
    kept.adopt(Foreign({"theirs": 'Host("a.example")'}))
    assert (kept.wanted.adopted_frontends, kept.wanted.adopted_backends) == (set(), set())
