"""Of thousands of other people's frontends, those in the way of a route are found by its host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vulcanized.model import PathKind, Route
from vulcanized.targets.vulcand.foreign import Foreign
from vulcanized.targets.vulcand.routes import overlaps, route_text

_HOSTS = ["a.example", "any.example", "b.a.example", "example", "any.invalid"]
_routes = st.builds(
    Route,
    st.sampled_from([*_HOSTS, "*.example", "*.a.example", "*"]),
    st.sampled_from(list(PathKind)),
    st.sampled_from(["/", "/a", "/a/b"]),
)
_by_hand = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "/*0*/ ", "/*9*/ "]),
    st.sampled_from(
        [
            *(f'Host("{host}")' for host in (*_HOSTS, "A.Example", "<sub>.example", "<x>", "")),
            r'HostRegexp("^[^.]+\\.example$")',
            'HostRegexp(".*")',
            'Method("GET")',
            'Host("a.example") || Host("b.example")',
        ]
    ),
    st.sampled_from(["", ' && Path("/a")', ' && PathRegexp("^/a.*")']),
)
_theirs = st.one_of(_by_hand, st.builds(route_text, _routes, st.just("west")))


@given(_routes, st.lists(_theirs, max_size=20))
def test_those_that_are_found_are_all_there_are(route: Route, theirs: list[str]) -> None:
    foreign = Foreign({f"f{number:02}": text for number, text in enumerate(theirs)})
    text = route_text(route, "east")

    every = [id_ for id_, their in foreign.items() if overlaps(route, text, their)]

    assert foreign.overlapping(route, text) == every
