"""Which route vulcand takes, and that of those that we write it takes the wanted one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import pytest

from tests.vulcand.stage import STATIC, Stage, breaker
from vulcanized.model import PathKind, Pin, PinKind, Route
from vulcanized.targets.vulcand.routes import Pinned, not_found_text, route_text

EXACT, REGEX, PREFIX = PathKind.EXACT, PathKind.REGEX, PathKind.PREFIX


def set_up(stage: Stage, routes: Iterable[str]) -> list[str]:
    """A frontend for each route with a backend of its own, `r0`, `r1`, ...; the backends' pods."""
    names = []
    for number, route in enumerate(routes):
        name = f"r-{number}-"  # no name is the beginning of another
        names.append(name)
        stage.backend(name)
        stage.server(name, "s", stage.pod(name))
        stage.frontend(name, name, route)
    stage.settle()
    return names


def taken(stage: Stage, routes: list[str], host: str, path: str = "/") -> str | None:
    """The expression of the route that a request takes; None if it is answered by 404."""
    reply = stage.ask(host, path)
    assert reply.status == (200 if reply.pod else 404)
    return routes[int(reply.pod.split("-")[1])] if reply.pod else None


# How vulcand chooses.


def test_the_last_in_the_order_of_strings_wins_whatever_is_more_specific(stage: Stage) -> None:
    """`PathRegexp` > `Path` > `MethodRegexp` > `Method` > `HostRegexp` > `Host` > `HeaderRegexp` >
    `Header`, by the names alone: a catch-all beats every exact host."""
    host, wildcard = 'Host("a.example")', 'HostRegexp(".*")'
    routes = [host, wildcard]
    set_up(stage, routes)
    assert taken(stage, routes, "a.example") == wildcard

    routes.append('PathRegexp(".*")')
    set_up(stage, routes)

    assert taken(stage, routes, "a.example") == 'PathRegexp(".*")'


def test_a_comment_at_the_start_decides_the_order(stage: Stage) -> None:
    routes = ['/*1*/ PathRegexp("^/")', '/*2*/ HostRegexp("example$")', '/*3*/ Host("a.example")']
    set_up(stage, routes)

    assert taken(stage, routes, "a.example") == routes[2]
    assert taken(stage, routes, "b.example") == routes[1]
    assert taken(stage, routes, "c.test") == routes[0]


def test_a_route_without_comment_is_tried_before_those_with_one(stage: Stage) -> None:
    routes = ['/*9*/ PathRegexp("^/")', 'Host("a.example")']
    set_up(stage, routes)

    assert taken(stage, routes, "a.example") == routes[1]


def test_merged_routes_leave_the_order(stage: Stage) -> None:
    """`<path:p>` takes the rest of the path, and a trie tries it in the order of insertion:
    by strings `<` comes behind digits and before letters, so `/1/x` goes wrong and `/b/x` does not.
    """
    routes = [f'Host("a.example") && Path("{path}")' for path in ("/<path:p>", "/1/<path:p>", "/b")]
    set_up(stage, routes)

    assert taken(stage, routes, "a.example", "/b") == routes[2]
    assert taken(stage, routes, "a.example", "/1/x") == routes[0]


def test_host_with_path_and_host_with_header_are_mixed_up(stage: Stage) -> None:
    """Sequences of matchers count as equal without a look at their last: here the path is compared
    with the header."""
    routes = ['Host("a.example") && Path("/x")', 'Host("a.example") && Header("X-V", "/x")']
    names = set_up(stage, routes)

    assert stage.ask("a.example", "/x").status == 404
    assert stage.ask("a.example", "/y", headers={"X-V": "/x"}).pod == names[0]


def test_the_regexp_forms_of_the_same_are_not(stage: Stage) -> None:
    routes = [
        'Host("a.example") && PathRegexp("^/x$")',
        'Host("a.example") && PathRegexp("^/x$") && HeaderRegexp("X-V", "^canary$")',
    ]
    names = set_up(stage, routes)

    assert stage.ask("a.example", "/x").pod == names[0]
    assert stage.ask("a.example", "/x", headers={"X-V": "canary"}).pod == names[1]
    assert stage.ask("a.example", "/y").status == 404


def test_of_two_that_begin_alike_the_longer_is_tried_first(stage: Stage) -> None:
    """So a clause at the end makes a route that wins over the one without it."""
    routes = [
        'Host("a.example")',
        'Host("a.example") && Method("POST")',
        'Host("a.example") && HeaderRegexp("X-V", "^canary$")',
    ]
    names = set_up(stage, routes)

    assert stage.ask("a.example").pod == names[0]
    assert stage.ask("a.example", method="POST").pod == names[1]
    assert stage.ask("a.example", headers={"x-v": "canary"}).pod == names[2]


def test_only_and_joins_matchers(stage: Stage) -> None:
    routes = [
        'Host("or.example") || Host("b.example")',
        '!Host("not.example")',
        '(Host("parentheses.example"))',
        'Host("one.example") && (Path("/x") && Method("GET"))',
    ]
    set_up(stage, routes)

    assert taken(stage, routes, "or.example") is None
    assert taken(stage, routes, "parentheses.example") == routes[2]
    assert taken(stage, routes, "one.example", "/x") == routes[3]


# What is compared.


def test_the_host_is_compared_in_lower_case_without_its_port(stage: Stage) -> None:
    routes = ['Host("A.example")', 'HostRegexp("^B[.]example$")']
    set_up(stage, routes)

    for host in ("a.example", "A.EXAMPLE", "a.example:8080"):
        assert taken(stage, routes, host) == routes[0]
    assert taken(stage, routes, "b.EXAMPLE:80") == routes[1]
    assert taken(stage, routes, "a.example.") is None


def test_a_host_pattern_is_lowered_before_it_is_read(stage: Stage) -> None:
    r"""`\S` becomes `\s`, `\D` becomes `\d`."""
    routes = [r'HostRegexp("^\\S+[.]example$")', r'HostRegexp("^x\\D[.]test$")']
    set_up(stage, routes)

    assert taken(stage, routes, "a.example") is None
    assert taken(stage, routes, "x1.test") == routes[1]


def test_patterns_are_not_anchored(stage: Stage) -> None:
    routes = ['HostRegexp("a.example")', 'HostRegexp("^only$") && PathRegexp("/b")']
    set_up(stage, routes)

    assert taken(stage, routes, "www.aXexample.test") == routes[0]
    assert taken(stage, routes, "only", "/a/bcd") == routes[1]


def test_patterns_are_those_of_go(stage: Stage) -> None:
    """RE2: no look-around or back-references, 1,000 repeats at most; others are dropped."""
    routes = [
        f"Host(`a{number}.example`) && PathRegexp(`{pattern}`)"
        for number, pattern in enumerate(
            [
                r"^/(?:a|b)\d{2,3}\b",
                "^/(?!x)",
                r"^/(a)\1",
                "^/a{1001}",
                "^/(?i:UP)",
                "^/(a{100}){11}",
            ]
        )
    ]
    set_up(stage, routes)

    assert taken(stage, routes, "a0.example", "/b123") == routes[0]
    assert taken(stage, routes, "a1.example", "/y") is None
    assert taken(stage, routes, "a2.example", "/aa") is None
    assert taken(stage, routes, "a3.example", "/" + "a" * 1001) is None
    assert taken(stage, routes, "a4.example", "/up") == routes[4]
    assert taken(stage, routes, "a5.example", "/" + "a" * 1100) is None


def test_the_path_is_compared_as_it_was_sent_without_its_query(stage: Stage) -> None:
    routes = ['PathRegexp("^/a b$")', 'PathRegexp("^/a%20b$")', 'PathRegexp("^/[^/]+//[.][.]/c$")']
    set_up(stage, routes)

    assert taken(stage, routes, "any", "/a%20b") == routes[1]
    assert taken(stage, routes, "any", "/a%20b?q=/x") == routes[1]
    assert taken(stage, routes, "any", "/x//../c?q=%41") == routes[2]
    assert taken(stage, routes, "any", "/%78//../c") == routes[2]
    assert taken(stage, routes, "any", "/x/c") is None


def test_a_path_in_angle_brackets_is_a_placeholder(stage: Stage) -> None:
    """Within one element of the path (or label of the host), and may be empty."""
    routes = ['Host("<any>.example") && Path("/v/<id>/x")']
    set_up(stage, routes)

    assert taken(stage, routes, "a.example", "/v/1/x") == routes[0]
    assert taken(stage, routes, "a.example", "/v//x") == routes[0]
    assert taken(stage, routes, "a.b.example", "/v/1/x") is None
    assert taken(stage, routes, "a.example", "/v/1/2/x") is None


# The algorithm.


def wanted(routes: Iterable[Route], host: str, path: str) -> Route | None:
    """What the app config's page promises, in the most stupid way."""
    parent = "*." + host.partition(".")[2]
    mine = [each for name in (host, parent, "*") for each in routes if each.host == name]
    if not mine:
        return None
    mine = [each for each in mine if each.host == mine[0].host]
    by_regex = sorted((r for r in mine if r.kind is REGEX), key=lambda r: -len(r.path))
    by_prefix = sorted((r for r in mine if r.kind is PREFIX), key=lambda r: -len(r.path))
    return next(
        (
            route
            for route in [*(r for r in mine if r.kind is EXACT), *by_regex, *by_prefix]
            if (route.kind is EXACT and path == route.path)
            or (route.kind is REGEX and re.match(route.path, path))
            or (route.kind is PREFIX and f"{path}/".startswith(f"{route.path.rstrip('/')}/"))
        ),
        None,
    )


def compare(stage: Stage, routes: list[Route], requests: Iterable[tuple[str, str]]) -> None:
    """Every request takes the wanted one of these routes."""
    names = set_up(stage, [route_text(route, "edge") for route in routes])
    for host in {route.host for route in routes}:
        if not any(route[:] == (host, PREFIX, "/") for route in routes):
            answer_404(stage, host)
    stage.settle()
    for host, path in requests:
        route = wanted(routes, host, path)
        reply = stage.ask(host, path)
        expected = (200, names[routes.index(route)]) if route else (404, None)
        assert (reply.status, reply.pod) == expected, (host, path, route)


def answer_404(stage: Stage, host: str) -> None:
    """A frontend that answers as vulcand does where it has no route, without a pod."""
    name = "none-" + host.replace("*", "any").replace(".", "_")
    stage.backend(name)
    stage.frontend(name, name, not_found_text(host, "edge"), FailoverPredicate=STATIC)
    body = {"error": "not found"}
    stage.middleware(name, "m", "cbreaker", breaker(404, body, kind="application/json"))


def test_host_then_path_decide(stage: Stage) -> None:
    routes = [
        Route("*", PREFIX, "/"),
        Route("*", EXACT, "/login"),
        Route("*.example", PREFIX, "/"),
        Route("*.example", PREFIX, "/a"),
        Route("a.example", PREFIX, "/"),
        Route("a.example", PREFIX, "/a"),
        Route("a.example", PREFIX, "/a/b"),
        Route("a.example", EXACT, "/a/b"),
        Route("a.example", REGEX, "/a/[bx]"),
        Route("a.example", REGEX, "/a/[bxy]/z"),
        Route("b.example", PREFIX, "/only"),
        Route("*.deep.example", EXACT, "/x"),
    ]
    hosts = ["a.example", "b.example", "c.example", "x.deep.example", "x.y.example", "other.test"]
    paths = ["/", "/a", "/ab", "/a/", "/a/b", "/a/b/z", "/a/bc", "/a/x", "/a/y/z", "/a/c", "/login"]
    paths += ["/only", "/only/x", "/onlyx", "/x"]
    compare(stage, routes, [(host, path) for host in hosts for path in paths])


def test_texts_with_meaning_to_a_parser_are_only_texts(stage: Stage) -> None:
    odd = [
        "/<path:p>",
        '/"',
        "/`",
        "/a.b",
        "/*",
        "/*1*/Host",
        "/%22)",
        "/(a|b)",
        "/\\d",
        "/+[x]$",
        "/~",
    ]
    routes = [Route("a.example", kind, path) for path in odd for kind in (EXACT, PREFIX)]
    requests = [("a.example", path) for each in odd for path in (each, f"{each}/x", f"{each}x")]
    compare(stage, routes, [*requests, ("a.example", "/aXb"), ("a.example", "/1")])


@pytest.mark.parametrize(
    "route",
    [Route("a.example", PREFIX, "/"), Route("*.example", PREFIX, "/x"), Route("*", EXACT, "/x")],
)
def test_a_header_picks_among_the_versions_of_a_route(stage: Stage, route: Route) -> None:
    pinned = Pinned(Pin(PinKind.HEADER, "X-V"), "canary")
    names = set_up(stage, [route_text(route, "edge"), route_text(route, "edge", pinned)])

    assert stage.ask("a.example", "/x").pod == names[0]
    assert stage.ask("a.example", "/x", headers={"X-V": "canary"}).pod == names[1]
    assert stage.ask("a.example", "/x", headers={"X-V": "canary2"}).pod == names[0]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_mixture(stage: Stage, seed: int) -> None:
    """Names that begin alike and differ in what sorts before and behind letters, `/` and `<`."""
    dice = random.Random(seed)
    parts = ["a", "a1", "a-b", "a.b", "~", "0", "A", "api"]
    patterns = ["/a", "/a.*", "/[a-z]+", "/(?:a|api)/0", "/.+/a1?$", "/"]

    def path() -> str:
        return "/" + "/".join(dice.choices(parts, k=dice.randint(0, 3)))

    def host() -> str:
        return ".".join([*dice.choices(["a", "b", "a-b", "1"], k=dice.randint(0, 2)), "example"])

    routes: set[Route] = set()
    while len(routes) < 60:
        kind = dice.choice([EXACT, REGEX, PREFIX, PREFIX])
        name = dice.choice([host(), host(), f"*.{host()}", "*"])
        routes.add(Route(name, kind, dice.choice(patterns) if kind is REGEX else path()))
    # Of two regexes of one length nobody says which one wins.
    lengths = {(r.host, len(r.path)): r for r in routes if r.kind is REGEX}
    routes = {r for r in routes if r.kind is not REGEX} | set(lengths.values())
    requests = [(host(), dice.choice([path(), path() + "/", path() + "x"])) for _ in range(250)]
    compare(stage, sorted(routes), requests)
