"""What an Ingress may expect of hosts, paths and the default backend, in the words of our config.

The scenarios are those by which Kubernetes tells whether an ingress controller conforms: a rule's
`Exact` path is `exact` here, its `Prefix` path a prefix, its default backend the app with host `*`.
"""

from __future__ import annotations

import pytest

from tests.behaviour.test_routes import ways
from tests.behaviour.world import App, World, needs, shows

TITLE = "As an Ingress"

host_rules = shows("host rules: exact, one label by wildcard, any")
path_rules = shows("path rules: Exact, Prefix, mixed, several levels")
default_backend = shows("default backend")

Rules = dict[str, list[str]]


def led(world: World, rules: Rules, asked: dict[str, str | int], host: str = "") -> None:
    """One app for each rule, all of one host: a path is answered by the app of that rule's name.

    A rule's path that begins with `=` is exact.
    """
    apps: dict[str, App] = {}
    for name, paths in rules.items():
        app = world.bare_app()
        host = host or app.host
        app.pod()
        app.configure(
            hosts=[host], paths=[{"exact": p[1:]} if p.startswith("=") else p for p in paths]
        )
        apps[name] = app
    world.settle()
    ways(
        world,
        {(host, path): apps[to] if isinstance(to, str) else to for path, to in asked.items()},
    )


# --- hosts ------------------------------------------------------------------------------------


@host_rules
@needs("hosts")
def test_a_host_rule_takes_its_host_and_no_other(world: World) -> None:
    foo, bar = world.app(), world.app()
    world.settle()

    ways(
        world,
        {
            (foo.host, "/"): foo,
            (foo.host, "/deep/path"): foo,
            (bar.host, "/"): bar,
            (f"unknown.{foo.host}", "/"): 404,
            (foo.host.partition(".")[2], "/"): 404,
        },
    )


@host_rules
@needs("hosts")
def test_a_wildcard_rule_takes_exactly_one_label(world: World) -> None:
    foo = world.app(hosts=["*.foo.test"])
    world.settle()

    ways(
        world,
        {
            ("bar.foo.test", "/"): foo,
            ("other.foo.test", "/any"): foo,
            ("baz.bar.foo.test", "/"): 404,
            ("foo.test", "/"): 404,
            ("barfoo.test", "/"): 404,
        },
    )


@host_rules
@needs("hosts", "paths")
def test_an_exact_host_goes_before_a_wildcard_for_the_same_path(world: World) -> None:
    wild = world.app(hosts=["*.foo.test"], paths=["/x"])
    exact = world.app(hosts=["bar.foo.test"], paths=["/x"])
    world.settle()

    ways(world, {("bar.foo.test", "/x"): exact, ("baz.foo.test", "/x"): wild})


@host_rules
@needs("hosts", "paths")
def test_a_rule_without_a_host_takes_what_no_other_host_does(world: World) -> None:
    anywhere = world.app(hosts=["*"], paths=["/x"])
    own = world.app(paths=["/x"])
    world.settle()

    ways(
        world,
        {(own.host, "/x"): own, ("any.test", "/x"): anywhere, ("any.test", "/y"): 404},
    )


# --- paths ------------------------------------------------------------------------------------


@path_rules
@needs("paths")
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("=/foo", {"/foo": "x", "/foo/": 404, "/": 404, "/bar": 404, "/foo/bar": 404}),
        ("=/foo/", {"/foo/": "x", "/foo": 404, "/foo/bar": 404}),
        ("/", {"/": "x", "/foo": "x", "/foo/bar": "x"}),
        ("/foo", {"/foo": "x", "/foo/": "x", "/foo/bar": "x", "/foobar": 404, "/": 404}),
        ("/foo/", {"/foo": "x", "/foo/": "x", "/foo/bar": "x", "/foobar": 404}),
        ("/aaa/bb", {"/aaa/bb": "x", "/aaa/bbb": 404, "/aaa": 404}),
        ("/aaa/bbb", {"/aaa/bbb": "x", "/aaa/bbb/": "x", "/aaa/bbb/ccc": "x", "/aaa/bbbxyz": 404}),
        ("/aaa/bbb/", {"/aaa/bbb": "x", "/aaa/bbb/": "x", "/aaa/bbb/ccc": "x"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_rule(world: World, path: str, asked: dict[str, str | int]) -> None:
    led(world, {"x": [path]}, asked)


@path_rules
@needs("paths")
@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        (
            {"all": ["/"], "aaa": ["/aaa"]},
            {"/aaa": "aaa", "/aaa/": "aaa", "/aaa/ccc": "aaa", "/ccc": "all", "/": "all"},
        ),
        (
            {"all": ["/"], "aaa": ["/aaa"], "bbb": ["/aaa/bbb"]},
            {"/aaa/bbb": "bbb", "/aaa/bbb/c": "bbb", "/aaa/ccc": "aaa", "/ccc": "all"},
        ),
        (
            {"prefix": ["/foo"], "exact": ["=/foo"]},
            {"/foo": "exact", "/foo/": "prefix", "/foo/bar": "prefix", "/bar": 404},
        ),
        (
            {"slash": ["=/foo/"], "bare": ["=/foo"]},
            {"/foo": "bare", "/foo/": "slash", "/foo/x": 404},
        ),
        (
            {"aaa": ["/aaa/bb"], "bbb": ["/aaa/bbb"]},
            {"/aaa/bb": "aaa", "/aaa/bbb": "bbb", "/aaa/bb/b": "aaa", "/aaa/bbbb": 404},
        ),
    ],
    ids=["root", "levels", "exact-first", "slash", "siblings"],
)
def test_several_rules_of_one_host(world: World, rules: Rules, asked: dict[str, str | int]) -> None:
    led(world, rules, asked)


@path_rules
@needs("paths")
def test_paths_are_compared_by_case(world: World) -> None:
    led(world, {"x": ["/Foo", "=/Bar"]}, {"/Foo": "x", "/foo": 404, "/Bar": "x", "/BAR": 404})


# --- the default backend ----------------------------------------------------------------------


@default_backend
@needs("hosts")
@pytest.mark.parametrize("path", ["/", "/any", "/any/deep?x=1"])
def test_the_default_backend_takes_whatever_no_rule_does(world: World, path: str) -> None:
    default = world.app(hosts=["*"])
    ruled = world.app()
    world.settle()

    ways(
        world,
        {("any.test", path): default, ("127.0.0.1", path): default, (ruled.host, path): ruled},
    )


@default_backend
@needs("hosts")
def test_without_a_default_backend_an_unknown_host_is_404(world: World) -> None:
    default = world.app(hosts=["*"])
    world.settle()
    ways(world, {("any.test", "/"): default})

    default.unconfigure()
    world.settle()

    ways(world, {("any.test", "/"): 404})
