"""Routes in vulcand's words: their order as strings is the wanted one, and who is in whose way."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vulcanized.errors import Rejected
from vulcanized.model import PathKind, Pin, PinKind, Route
from vulcanized.targets.vulcand.routes import (
    Clause,
    Pinned,
    clauses,
    covering,
    is_whole,
    not_found_text,
    overlaps,
    route_text,
)

EXACT, REGEX, PREFIX = PathKind.EXACT, PathKind.REGEX, PathKind.PREFIX

# --- ours -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (Route("a.example", PREFIX, "/"), '/*31000001 edge*/ Host("a.example")'),
        (
            Route("a.example", PREFIX, "/b.c"),
            r'/*31000004 edge*/ HostRegexp("^a\\.example$") && PathRegexp("^/b\\.c(?:/|$)")',
        ),
        (
            Route("a.example", EXACT, "/b"),
            r'/*33000000 edge*/ HostRegexp("^a\\.example$") && PathRegexp("^/b$")',
        ),
        (
            Route("a.example", REGEX, "/b|/c+"),
            r'/*32000006 edge*/ HostRegexp("^a\\.example$") && PathRegexp("^(?:/b|/c+)")',
        ),
        (
            Route("*.example", PREFIX, "/"),
            r'/*21000001 edge*/ HostRegexp("^[^.]+\\.example$")',
        ),
        (Route("*", PREFIX, "/"), '/*11000001 edge*/ HostRegexp("")'),
        (
            Route("*", EXACT, '/"`'),
            r'/*13000000 edge*/ HostRegexp("") && PathRegexp("^/\"`$")',
        ),
    ],
)
def test_the_text_of_a_route(route: Route, text: str) -> None:
    assert route_text(route, "edge") == text


@pytest.mark.parametrize(
    ("pin", "clause"),
    [
        (Pin(PinKind.HEADER, "X-V"), r'HeaderRegexp("X-V", "^v1\\.2$")'),
        (Pin(PinKind.COOKIE, "v.x"), r'HeaderRegexp("Cookie", "(?:^|;) *v\\.x=v1\\.2 *(?:;|$)")'),
    ],
)
def test_who_asks_for_a_version_is_tried_first(pin: Pin, clause: str) -> None:
    plain = route_text(Route("a.example", PREFIX, "/"), "edge")
    pinned = route_text(Route("a.example", PREFIX, "/"), "edge", Pinned(pin, "v1.2"))
    assert pinned == f"{plain} && {clause}"
    assert pinned > plain


@pytest.mark.parametrize("path", [r"/[a\b]", r"/x[\B]"])
def test_what_go_cannot_read_is_refused(path: str) -> None:
    with pytest.raises(Rejected, match="which vulcand does not know"):
        route_text(Route("a.example", REGEX, path), "edge")


def test_hosts_that_would_take_what_others_leave() -> None:
    assert covering("*") == ()
    assert covering("*.example") == ("*",)
    assert covering("a.b.example") == ("*.b.example", "*")
    assert covering("localhost") == ("*",)


hosts = st.sampled_from(["a.example", "b.example", "a-b.example", "*.example", "*.b.example", "*"])
paths = st.from_regex(r"(/[a-z.~<0]{1,4}){1,4}", fullmatch=True)
routes = st.one_of(
    st.builds(Route, hosts, st.sampled_from([EXACT, PREFIX, REGEX]), paths),
    st.builds(Route, hosts, st.just(PREFIX), st.just("/")),
)
owners = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)


def rank(route: Route) -> tuple[int, int, int]:
    """What is tried first has the higher one."""
    host = 1 if route.host == "*" else 2 if route.host.startswith("*.") else 3
    path = {EXACT: 3, REGEX: 2, PREFIX: 1}[route.kind]
    return host, path, 0 if route.kind is EXACT else len(route.path)


@settings(max_examples=200)
@given(st.lists(st.tuples(routes, owners), min_size=2, max_size=12, unique=True))
def test_the_order_of_strings_is_the_wanted_one_whosever_they_are(
    some: list[tuple[Route, str]],
) -> None:
    pinned = Pinned(Pin(PinKind.HEADER, "X-V"), "green")
    texts = {route_text(*each): each[0] for each in some}
    texts |= {route_text(*each, pinned): each[0] for each in some}
    assert len(texts) == 2 * len(some)
    ordered = sorted(texts, reverse=True)
    for one, other in pairwise(ordered):
        assert rank(texts[one]) >= rank(texts[other])
    for each in some:
        assert ordered.index(route_text(*each, pinned)) < ordered.index(route_text(*each))
        guard = not_found_text(each[0].host, each[1])
        assert guard < route_text(*each)
        wildcards = [t for t, r in texts.items() if r.host in covering(each[0].host)]
        assert all(guard > text for text in wildcards)


@given(routes, owners)
def test_what_we_write_can_be_read(route: Route, owner: str) -> None:
    found = clauses(route_text(route, owner))
    assert [each.name for each in found if not each.name.startswith("Host")] == (
        [] if is_whole(route) else ["PathRegexp"]
    )


# --- theirs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Host("a")', [("Host", ("a",))]),
        ("Host(`a`) && Path(`/x`)", [("Host", ("a",)), ("Path", ("/x",))]),
        ('  Host( "a" )&&Header("X" , "y\\"z") ', [("Host", ("a",)), ("Header", ("X", 'y"z'))]),
        ('/* x */ Host("a")', [("Host", ("a",))]),
        ('Host("a") || Host("b")', []),
        ('Host("a"', []),
        ("Host(a)", []),
        ("", []),
        ("&&", []),
    ],
)
def test_reading_a_route(text: str, found: list[tuple[str, tuple[str, ...]]]) -> None:
    assert list(clauses(text)) == [Clause(*each) for each in found]


WHOLE = Route("a.example", PREFIX, "/")
PART = Route("a.example", PREFIX, "/api")
PAGE = Route("a.example", EXACT, "/api/x")
DASHED = Route("a-b.example", PREFIX, "/x")
PATTERN = Route("a.example", REGEX, "/v[0-9]+/x")
WILD = Route("*.example", PREFIX, "/")
REST = Route("*", PREFIX, "/")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        # Theirs has no comment, so it is tried first.
        (WHOLE, 'Host("a.example")', True),
        (WHOLE, "Host(`a.example`) && PathRegexp(`^/.*`)", True),
        (WHOLE, 'PathRegexp(".*")', True),
        (WHOLE, 'PathRegexp("/.*")', True),
        (WHOLE, 'HostRegexp(".*")', True),
        (WHOLE, 'HostRegexp("^.*\\\\.example$")', True),
        (WHOLE, 'HostRegexp("^b\\\\.example$")', False),
        (WHOLE, 'Host("b.example")', False),
        (WHOLE, 'Host("a.example") && Path("/login")', False),
        (WHOLE, 'Host("a.example") && PathRegexp("^/admin/.*")', False),
        (WHOLE, 'Host("a.example") && Method("POST")', True),
        (WHOLE, 'Host("a.example") && Header("X-V", "2")', True),
        (WHOLE, 'Host("<any>.example")', True),
        (PART, 'Host("a.example") && Path("/api")', True),
        (PART, 'Host("a.example") && Path("/other")', False),
        (PART, 'Host("a.example") && PathRegexp("^/api/.*")', True),
        (PART, 'Host("a.example") && PathRegexp("^/apix")', False),
        (PAGE, 'Host("a.example") && PathRegexp("^/api/.*")', True),
        (PAGE, 'Path("/api/x")', True),
        (PAGE, 'Path("/api/y")', False),
        (PATTERN, 'Host("a.example") && PathRegexp("^/v.*")', True),
        (PATTERN, 'Host("a.example") && PathRegexp("^/w.*")', False),
        (WILD, 'HostRegexp("^[^.]+\\\\.example$")', True),
        (WILD, 'Host("a.example")', False),
        (WILD, 'HostRegexp("^[^.]+\\\\.test$")', False),
        (REST, 'Host("a.example")', False),
        (REST, 'PathRegexp("^/")', True),
        # Not to be read by anybody.
        (WHOLE, 'Host("a.example") || Path("/")', False),
        (WHOLE, "", False),
        # Sorted behind ours, so that ours is tried first.
        (WHOLE, '/*0*/ Host("a.example")', True),
        (WHOLE, '/*0*/ Host("b.example")', False),
        (WHOLE, '/*0*/ HostRegexp("^b\\\\.example$")', False),
        (WHOLE, '/*0*/ HostRegexp("^[^.]+\\\\.b\\\\.example$")', False),
        (WHOLE, '/*0*/ HostRegexp("")', False),
        (REST, '/*0*/ Host("b.example")', True),
        (WILD, '/*0*/ Host("b.example")', True),
        (PART, '/*0*/ Host("a.example") && Path("/api/z")', True),
        (PATTERN, '/*0*/ Host("a.example") && Path("/v12/x")', True),
        (PATTERN, '/*0*/ Host("a.example") && Path("/vx/x")', False),
    ],
)
def test_theirs_is_in_the_way(ours: Route, theirs: str, expected: bool) -> None:
    assert overlaps(ours, route_text(ours, "edge"), theirs) is expected


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (WHOLE, WHOLE, True),
        (PART, PART, True),
        (PAGE, PAGE, True),
        (DASHED, DASHED, True),
        (DASHED, PAGE, False),
        (WILD, WILD, True),
        (REST, REST, True),
        (WHOLE, PART, False),
        (WHOLE, PAGE, False),
        (PART, PAGE, False),
        (WHOLE, WILD, False),
        (WHOLE, REST, False),
        (WILD, REST, False),
        (WHOLE, Route("b.example", EXACT, "/"), False),
        (WHOLE, Route("*.b.example", PREFIX, "/x"), False),
        (PART, Route("a.example", PREFIX, "/apis"), False),
        (PAGE, Route("a.example", EXACT, "/api/y"), False),
    ],
)
@pytest.mark.parametrize(("one", "other"), [("edge", "west"), ("west", "edge")])
def test_two_fleets(ours: Route, theirs: Route, expected: bool, one: str, other: str) -> None:
    """What is more specific than the other's is beside it, whichever fleet came first."""
    texts = route_text(ours, one), route_text(theirs, other)
    assert overlaps(ours, texts[0], texts[1]) is expected
    assert overlaps(theirs, texts[1], texts[0]) is expected


@pytest.mark.parametrize(
    "theirs",
    [
        "x" * 100_000,
        "/*" * 8_000,
        "(" * 16_000,
        'Host("' * 2_700,
        'Host("a.example") && ' * 700,
        'Host("' + "\\" * 16_000,
        'Host("' + "<" * 16_000 + '")',
        'Host("' + "<a" * 8_000 + '")',
        'PathRegexp("(a+)+$' + "a" * 16_000 + '")',
        'PathRegexp("^/' + "\\\\." * 5_000 + '")',
        '/*0*/ Path("/' + "a" * 16_000 + '")',
        'Host("a") ' + " " * 16_000,
        "\ud800" * 100 + "\0",
        'PathRegexp("' + "\\\\\U0010ffff\ue000" * 10 + '")',
    ],
)
@pytest.mark.parametrize(
    "ours",
    [
        WHOLE,
        Route("a.example", REGEX, "/a*a*a*a*a*a*b"),
        Route("a.example", REGEX, "/" + "(?:aa|a|aa?)" * 30 + "b"),
        Route("a.example", REGEX, "/" + "a{0,99}" * 12 + "b"),
    ],
)
def test_a_hostile_text_costs_no_time(ours: Route, theirs: str) -> None:
    text = route_text(ours, "edge")
    begun = time.process_time()
    overlaps(ours, text, theirs)
    assert time.process_time() - begun < 0.5
