"""Which app answers a request, asked of a real nginx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.targets.conftest import nginx_edge
from tests.targets.edge import app, raw, regex
from tests.targets.nginxedge import NginxEdge
from tests.targets.routing import CASES, apps_of


@pytest.fixture(scope="module")
def table() -> Iterator[NginxEdge]:
    with nginx_edge() as edge:
        slow = app("slow", [edge.pod("slow")], routes=[regex("slow.org", "/a*a*a*[bc]")])
        edge.show(*apps_of(edge), slow)
        yield edge


@pytest.mark.parametrize(("host", "path", "who"), CASES)
def test_a_request_goes_to_the_app_that_its_host_and_path_name(
    table: NginxEdge, host: str, path: str, who: str | int
) -> None:
    answer = table.get(host, path)
    assert (answer.pod or answer.status) == who


@pytest.mark.parametrize(
    "path", ["/a%2Fb//c/../d?x=1&y=%20", "/%61", "/a/./b", "//", "/?", "/a?#", "/x;y=1"]
)
def test_the_path_is_compared_and_passed_on_as_it_was_sent(table: NginxEdge, path: str) -> None:
    asked = f"GET {path} HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n"
    answer = raw(table.port, asked.encode())
    assert b"x-pod: exact-host" in answer.lower() or b"x-pod: short" in answer.lower()
    echo = raw(table.port, asked.replace("GET /", "GET /echo", 1).encode())
    assert f'"target": "/echo{path[1:]}"'.encode() in echo


def test_http_1_0_without_a_host_gets_the_app_of_any_host(table: NginxEdge) -> None:
    assert b"x-pod: any" in raw(table.port, b"GET /any HTTP/1.0\r\n\r\n").lower()
    assert b" 404 " in raw(table.port, b"GET / HTTP/1.0\r\n\r\n")[:20]


def test_the_absolute_form_of_a_request_names_its_host(table: NginxEdge) -> None:
    asked = (
        b"GET http://a.example.com/a/c HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n"
    )
    assert b"x-pod: long" in raw(table.port, asked).lower()


@pytest.mark.parametrize("path", ["/:default/any", "/:pass/1", "/:generation/", "/:maintenance"])
@pytest.mark.parametrize("host", ["nobody.org", "a.example.com", ":", ":generation"])
def test_no_request_reaches_what_is_ours_inside(table: NginxEdge, host: str, path: str) -> None:
    asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    answer = raw(table.port, asked)
    assert b"x-pod: any" not in answer.lower()
    assert answer.split()[1] in {b"404", b"400"} or b"x-pod: exact-host" in answer.lower()


def test_what_a_client_says_of_itself_is_not_passed_on(table: NginxEdge) -> None:
    answer = table.get(
        "a.example.com:99",
        "/echo",
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Host="evil",
        X_Forwarded_Proto="https",
        Forwarded="for=6.6.6.6",
        Proxy="http://evil",
    )
    for told in (
        '["X-Forwarded-For", "127.0.0.1"]',
        '["X-Forwarded-Proto", "http"]',
        '["X-Forwarded-Host", "a.example.com:99"]',
        f'["X-Forwarded-Port", "{table.port}"]',
        '["Host", "a.example.com:99"]',
    ):
        assert told.lower() in answer.body.lower()
    assert "6.6.6.6" not in answer.body
    assert "evil" not in answer.body


def test_headers_with_underscores_reach_the_pod(table: NginxEdge) -> None:
    asked = b"GET /echo HTTP/1.1\r\nHost: a.example.com\r\nA_b: c\r\nConnection: close\r\n\r\n"
    assert b'["A_b", "c"]' in raw(table.port, asked)


def test_an_answer_of_our_own_is_not_kept_by_caches(table: NginxEdge) -> None:
    answer = table.get("nobody.org")
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.status, answer.body) == (404, "404 no such host or path")


def test_what_runs_is_told_to_this_host_only_and_under_its_name(table: NginxEdge) -> None:
    assert table.get("vulcanized.invalid").body == f"{table.digest()} seen"
    assert table.get("vulcanized.invalid").headers["cache-control"] == "no-store"


def test_a_regex_that_would_take_long_matches_nothing(table: NginxEdge) -> None:
    """It costs its own request: nginx answers 500."""
    assert table.get("slow.org", "/" + "a" * 5000).status == 500
    assert table.get("slow.org", "/aab").pod == "slow"
