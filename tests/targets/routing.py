"""Routes of all kinds, and which app must answer: the same on every proxy."""

from __future__ import annotations

from tests.targets.edge import Edge, app, exact, regex, route
from vulcanized.model import DesiredApp, Route


def served(edge: Edge, name: str, *routes: Route) -> DesiredApp:
    """An app whose one pod is named after it."""
    return app(name, [edge.pod(name)], routes=routes)


def apps_of(edge: Edge) -> list[DesiredApp]:
    """Apps with routes that compete; each one's pod is named after it."""
    return [
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
    ]


# fmt: off
CASES: list[tuple[str, str, str | int]] = [
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
]
"""Host, path, and the app that answers, or the status where none does."""
# fmt: on
