"""Middlewares: limits, redirects, and answers that no pod has to give."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vulcand.stage import STATIC, Reply, Stage, breaker
from tests.vulcand.test_traffic import in_flight


def test_over_the_rate_is_429(stage: Stage) -> None:
    host = stage.app("app")
    spec = {"Requests": 1, "PeriodSeconds": 1000, "Burst": 2, "Variable": "client.ip"}
    stage.middleware("app", "m", "ratelimit", spec)
    stage.settle()

    assert [stage.ask(host).status for _ in range(4)] == [200, 200, 429, 429]
    assert stage.ask(host).body.startswith(b"max rate reached: retry-in")


def test_a_change_of_servers_sets_the_rate_back(stage: Stage) -> None:
    host = stage.app("app")
    spec = {"Requests": 1, "PeriodSeconds": 1000, "Burst": 1, "Variable": "client.ip"}
    stage.middleware("app", "m", "ratelimit", spec)
    stage.settle()
    assert [stage.ask(host).status for _ in range(2)] == [200, 429]

    stage.server("app", "x", stage.pod("other"))
    stage.settle()
    assert [stage.ask(host).status for _ in range(2)] == [200, 429]

    stage.middleware("app", "m", "ratelimit", spec)  # not a letter of it has changed
    stage.settle()
    assert [stage.ask(host).status for _ in range(2)] == [200, 429]


def test_over_the_connections_is_429(stage: Stage) -> None:
    """Requests at a time, by the variable's value; with 0 there are none."""
    host = stage.app("app")
    spec = {"Connections": 1, "Variable": "request.host"}
    stage.middleware("app", "m", "connlimit", spec)
    stage.settle()

    with in_flight(stage, host, "app"):
        assert (stage.ask(host).status, stage.ask(host).body) == (
            429,
            b"max connections reached: 1",
        )
    assert stage.ask(host).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_is_302_and_no_other(stage: Stage, method: str) -> None:
    host = stage.app("app")
    spec = {
        "Regexp": "^http://[^/]+/(.*)",
        "Replacement": "https://new.example/$1",
        "Redirect": True,
    }
    stage.middleware("app", "m", "rewrite", spec)
    stage.settle()

    reply = stage.ask(host, "/a?b=c", method=method)
    assert (reply.status, reply.headers["Location"]) == (302, "https://new.example/a?b=c")


def test_a_rewrite_changes_what_the_pod_sees(stage: Stage) -> None:
    host = stage.app("app")
    spec = {"Regexp": "^http://[^/]+/api(/.*)", "Replacement": f"http://{host}$1"}
    stage.middleware("app", "m", "rewrite", spec)
    stage.settle()

    assert stage.ask(host, "/api/echo?x=1").echo["target"] == "/echo?x=1"


def test_a_breaker_lets_the_first_request_through(stage: Stage) -> None:
    """After each rebuild: it looks at what was, so something has to have been."""
    host = stage.app("app")
    stage.middleware("app", "m", "cbreaker", breaker(503, "closed"))
    stage.settle()
    assert [stage.ask(host).status for _ in range(3)] == [200, 503, 503]

    stage.server("app", "x", stage.pod("app"))
    stage.middleware(
        "app", "m", "cbreaker", breaker(503, "closed", condition="NetworkErrorRatio() >= 0.0")
    )
    stage.settle()
    assert [stage.ask(host).status for _ in range(3)] == [200, 503, 503]


def test_a_ratio_that_is_compared_with_a_number_without_a_point_is_dropped(stage: Stage) -> None:
    host = stage.app("app")
    stage.middleware("app", "m", "cbreaker", breaker(503, "", condition="NetworkErrorRatio() >= 0"))
    stage.settle()

    assert [stage.ask(host).status for _ in range(3)] == [200, 200, 200]
    assert "ignoring event" in stage.vulcand.log_tail(100)


@pytest.mark.parametrize("status", [404, 410, 503])
def test_a_static_answer_from_the_first_request_on(stage: Stage, status: int) -> None:
    """A backend without servers answers 503; that opens the breaker, and is tried once more: what
    the client gets is the breaker's, with status, type and body as one likes."""
    stage.backend("none")
    stage.frontend("app", "none", 'Host("app.example")', FailoverPredicate=STATIC)
    stage.middleware("app", "m", "cbreaker", breaker(status, "<p>gone</p>"))
    stage.settle()

    with ThreadPoolExecutor(8) as pool:
        replies: list[Reply] = list(pool.map(lambda _: stage.ask("app.example"), range(40)))

    assert {(each.status, each.body) for each in replies} == {(status, b"<p>gone</p>")}
    assert replies[0].headers["Content-Type"] == "text/html"
    assert stage.ask("app.example", method="POST", body=b"x").status == status


def test_lower_priorities_run_first(stage: Stage) -> None:
    host = stage.app("app")
    none = {"Connections": 0, "Variable": "client.ip"}
    redirect = {"Regexp": "^.*$", "Replacement": "http://new.example/", "Redirect": True}
    stage.middleware("app", "limit", "connlimit", none, priority=1)
    stage.middleware("app", "redirect", "rewrite", redirect, priority=2)
    stage.settle()
    assert stage.ask(host).status == 429

    stage.middleware("app", "redirect", "rewrite", redirect, priority=0)
    stage.settle()
    assert stage.ask(host).status == 302
