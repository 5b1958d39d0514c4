"""Which app answers a request, asked of a real HAProxy."""

from __future__ import annotations

import pytest

from tests.targets.edge import Edge, app, exact, raw, regex, route
from vulcanized.model import DesiredApp, Route


def served(edge: Edge, name: str, *routes: Route) -> DesiredApp:
    """An app whose one pod is named after it."""
    return app(name, [edge.pod(name)], routes=routes)


@pytest.fixture(scope="module")
def table(module_edge: Edge) -> Edge:
    edge = module_edge
    edge.show(
        served(edge, "exact-host", route("a.example.com"), exact("a.example.com", "/only")),
        served(edge, "exact-path", exact("a.example.com", "/a/b")),
        served(edge, "short", route("a.example.com", "/a")),
        served(edge, "long", route("a.example.com", "/a/c")),
        served(edge, "regex", regex("a.example.com", "/a/[a-z]+/x$")),
        served(edge, "long-regex", regex("a.example.com", "/a/[a-z]+/[0-9]+/x")),
        served(edge, "case", route("a.example.com", "/Case")),
        served(edge, "wildcard", route("*.example.com")),
        served(edge, "below", route("b.example.com", "/api")),
        served(
            edge, "deep", route("*.deep.example.com", "/d"), regex("*.deep.example.com", "/[0-9]")
        ),
        served(edge, "any", route("*", "/any"), exact("*", "/exact")),
        served(edge, "odd", route("odd.example.com", "/~u/a,b=c@d:e!f$g&h*i+j%20k")),
    )
    return edge


@pytest.mark.parametrize(
    ("host", "path", "who"),
    [
        ("a.example.com", "/", "exact-host"),
        ("a.example.com", "/x", "exact-host"),
        ("a.example.com", "/only", "exact-host"),
        # The host's case, port and trailing dot do not matter; the path's case does.
        ("A.Example.COM", "/", "exact-host"),
        ("a.example.com:8080", "/", "exact-host"),
        ("a.example.com.", "/", "exact-host"),
        ("a.example.com", "/Case", "case"),
        ("a.example.com", "/case", "exact-host"),
        # Whole path elements, the longest prefix; not the query.
        ("a.example.com", "/a", "short"),
        ("a.example.com", "/a/", "short"),
        ("a.example.com", "/a/z", "short"),
        ("a.example.com", "/a?x=/a/b", "short"),
        ("a.example.com", "/ab", "exact-host"),
        ("a.example.com", "/a/c", "long"),
        ("a.example.com", "/a/c/d", "long"),
        ("a.example.com", "/a/cd", "short"),
        # Exact beats regex beats prefix.
        ("a.example.com", "/a/b", "exact-path"),
        ("a.example.com", "/a/b?q", "exact-path"),
        ("a.example.com", "/a/b/", "short"),
        ("a.example.com", "/a/c/x", "regex"),
        ("a.example.com", "/a/c/x/y", "long"),
        ("a.example.com", "/a/c/1/x", "long-regex"),
        ("a.example.com", "/a/c/1/xyz", "long-regex"),
        ("a.example.com", "/A/c/x", "exact-host"),
        # A wildcard is one label more, and loses against the name itself, whatever the path.
        ("c.example.com", "/", "wildcard"),
        ("b.example.com", "/api/v1", "below"),
        ("b.example.com", "/", 404),
        ("x.y.example.com", "/", 404),
        ("example.com", "/", 404),
        ("x.deep.example.com", "/d", "deep"),
        ("x.deep.example.com", "/7", "deep"),
        ("x.deep.example.com", "/any", 404),
        # Any other host.
        ("elsewhere.org", "/any", "any"),
        ("elsewhere.org", "/exact", "any"),
        ("elsewhere.org", "/", 404),
        ("10.1.2.3:80", "/any/thing", "any"),
        ("[2001:db8::1]:80", "/any", "any"),
        ("localhost", "/any", "any"),
        ("odd.example.com", "/~u/a,b=c@d:e!f$g&h*i+j%20k/l", "odd"),
    ],
)  # fmt: skip
def test_a_request_goes_to_the_app_that_its_host_and_path_name(
    table: Edge, host: str, path: str, who: str | int
) -> None:
    answer = table.get(host, path)
    assert (answer.pod or answer.status) == who


def test_http_1_0_without_a_host_gets_the_app_of_any_host(table: Edge) -> None:
    assert b"x-pod: any" in raw(table.port, b"GET /any HTTP/1.0\r\n\r\n")
    assert raw(table.port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 404")


def test_requests_for_the_server_itself_are_for_no_app(table: Edge) -> None:
    asked = b"OPTIONS * HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n"
    assert raw(table.port, asked).startswith(b"HTTP/1.1 404")


def test_the_absolute_form_of_a_request_names_its_host(table: Edge) -> None:
    asked = (
        b"GET http://a.example.com/a/c HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n"
    )
    assert b"x-pod: long" in raw(table.port, asked)


def test_what_a_client_says_of_itself_is_not_passed_on(table: Edge) -> None:
    answer = table.get(
        "a.example.com:99",
        "/echo",
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Host="evil",
        X_Forwarded_Proto="https",
        Forwarded="for=6.6.6.6",
        Proxy="http://evil",
        X_Real_IP="6.6.6.6",
        X_Forwarded_Server="evil",
    )
    for told in ('["X-Forwarded-For", "127.0.0.1"]', '["X-Forwarded-Proto", "http"]'):
        assert told.lower() in answer.body.lower()
    assert '["x-forwarded-host", "a.example.com:99"]' in answer.body.lower()
    assert "6.6.6.6" not in answer.body
    assert "evil" not in answer.body


def test_an_answer_of_our_own_is_not_kept_by_caches(table: Edge) -> None:
    assert table.get("nobody.org").headers["cache-control"] == "no-store"
