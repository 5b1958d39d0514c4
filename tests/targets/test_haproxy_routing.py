"""Which app answers a request, asked of a real HAProxy."""

from __future__ import annotations

import pytest

from tests.targets.edge import Edge, raw
from tests.targets.routing import CASES, apps_of


@pytest.fixture(scope="module")
def table(module_edge: Edge) -> Edge:
    module_edge.show(*apps_of(module_edge))
    return module_edge


@pytest.mark.parametrize(("host", "path", "who"), CASES)
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
