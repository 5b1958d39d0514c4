"""What vulcand's own API and log tell, and what they do not."""

from __future__ import annotations

from typing import Any

from tests.vulcand.stage import Stage


def test_the_api_shows_etcd_and_not_what_is_applied(stage: Stage) -> None:
    stage.frontend("app", "missing", 'Host("app.example")')
    stage.settle()

    frontends = stage.vulcand.api("frontends")[1]["Frontends"]
    assert [each["Id"] for each in frontends] == ["app"]
    assert stage.ask("app.example").status == 404


def test_what_is_applied_shows_only_once_it_was_asked_for(stage: Stage) -> None:
    """`top/frontends` has the frontends that had a request since they were built last, with route,
    backend, statuses of the last 10 s, and no requests in flight. `top/servers` has none, ever."""
    host = stage.app("app")
    stage.settle()
    assert top(stage) == {}

    assert stage.ask(host).status == 200
    seen = top(stage)["app"]
    assert (seen["BackendId"], seen["Route"]) == ("app", f'Host("{host}")')
    assert seen["Stats"]["Counters"]["StatusCodes"] == [{"Code": 200, "Count": 1}]
    assert stage.vulcand.api("top/servers")[1] == {"Servers": []}


def top(stage: Stage) -> dict[str, Any]:
    frontends = stage.vulcand.api("top/frontends")[1]["Frontends"]
    return {each["Id"]: each for each in frontends if not each["Id"].startswith("settle")}


def test_its_status_is_ok_whatever_it_dropped(stage: Stage) -> None:
    stage.put("frontends/app/frontend", "{")
    stage.settle()

    assert stage.vulcand.api("status") == (200, {"Status": "ok"})


def test_its_log_tells_what_it_dropped_and_why(stage: Stage) -> None:
    stage.frontend("app", "missing", 'Host("app.example")')
    stage.put("backends/app/servers/x", "{")
    stage.settle()

    log = stage.vulcand.log_tail(200)
    assert "missing backend missing referenced by frontend app" in log
    assert "ignoring event; error: unexpected end of JSON input" in log
