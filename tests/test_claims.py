"""Who owns a route, whatever the order in which the claims came."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from vulcanized.claims import Claims
from vulcanized.model import AppId, PathKind, Route

A, B, C = AppId("x", "a"), AppId("x", "b"), AppId("x", "c")


def route(path: str = "/") -> Route:
    return Route("example.com", PathKind.PREFIX, path)


def test_the_older_config_owns_the_route_in_every_order_of_arrival() -> None:
    orders = {A: (3, A), B: (1, B), C: (2, C)}
    for arrival in permutations(orders):
        claims = Claims()
        for app in arrival:
            claims.claim(app, [route()], orders[app])
        assert claims.owner(route()) == B
        assert claims.taken(A) == [(route(), B)]
        assert claims.taken(B) == []


def test_when_the_owner_goes_the_next_is_touched_and_owns() -> None:
    claims = Claims()
    claims.claim(A, [route()], (1, A))
    assert claims.claim(B, [route()], (2, B)) == set()
    assert claims.claim(A, [], (1, A)) == {B}
    assert claims.owner(route()) == B
    assert claims.claim(B, [], (2, B)) == set()
    assert claims.owner(route()) is None


def test_an_older_newcomer_touches_the_former_owner() -> None:
    claims = Claims()
    claims.claim(A, [route()], (5, A))
    assert claims.claim(B, [route()], (1, B)) == {A}


def test_the_same_claim_again_touches_nobody() -> None:
    claims = Claims()
    claims.claim(A, [route(), route("/a")], (1, A))
    claims.claim(B, [route()], (2, B))
    assert claims.claim(A, [route("/a"), route()], (1, A)) == set()


APPS = st.sampled_from([A, B, C])
STEPS = st.lists(
    st.tuples(APPS, st.integers(0, 3), st.sets(st.sampled_from(["/", "/a", "/b"]))), max_size=12
)


@given(STEPS)
def test_whoever_gains_or_loses_a_route_is_touched_and_only_the_claims_that_stand_decide(
    steps: list[tuple[AppId, int, set[str]]],
) -> None:
    claims = Claims()
    standing: dict[AppId, tuple[int, set[str]]] = {}
    for app, created, paths in steps:
        before = {each: dict(claims.taken(each)) for each in (A, B, C)}
        touched = claims.claim(app, [route(path) for path in paths], (created, app))
        standing[app] = (created, paths)
        for other in {A, B, C} - {app}:
            lost_before, lost_now = set(before[other]), set(dict(claims.taken(other)))
            assert lost_before == lost_now or other in touched
    fresh = Claims()
    for app, (created, paths) in standing.items():
        fresh.claim(app, [route(path) for path in paths], (created, app))
    for path in ("/", "/a", "/b"):
        assert fresh.owner(route(path)) == claims.owner(route(path))
