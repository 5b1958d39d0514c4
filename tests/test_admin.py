"""The admin server, the status document, its page and its table, the metrics and the logs."""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from tests.factory import TODO, built, config, controller, observed, pod
from tests.servers.wait import eventually
from vulcanized.admin import MAX_CONNECTIONS, AdminError, AdminServer, json_answer, text
from vulcanized.log import configure_logging
from vulcanized.metrics import Metrics
from vulcanized.model import (
    Applied,
    Document,
    Endpoint,
    OldWorkers,
    Outcome,
    Problem,
    Remembered,
    SourcePhase,
    SourceState,
    Standing,
)
from vulcanized.reconciler import Snapshot
from vulcanized.status import notice_of, standing_in_words, status_document, target_document
from vulcanized.statuspage import status_page
from vulcanized.statustable import print_status
from vulcanized.targets.runner import RunnerState

HOSTILE = "<script>alert(1)</script>"


class World:
    """One app in trouble, one source cut off, one target behind."""

    def __init__(self) -> None:
        parts = observed(
            pod("a", "blue"),
            pod("b", "green", ip="10.0.0.2", terminating=True),
            controllers=(controller("rc", "blue", desired=3),),
            config=Document("{", f"file {HOSTILE}"),
            activation="green",
        )
        self.built = built(parts, Remembered(config(), "blue"))

    def snapshot(self) -> Snapshot:
        return Snapshot(7, True, {TODO: self.built})

    def sources(self) -> list[SourceState]:
        return [
            SourceState(
                *("pods", SourcePhase.STALE, 12.5, 2, {"expired": 1}, 3, f"cut off {HOSTILE}"),
                held=4,
                holding=f"4 pods ({HOSTILE}) stay",
            )
        ]

    def targets(self) -> list[RunnerState]:
        return [
            RunnerState(
                *("edge", "haproxy", 7, 6, True, "", 0, {"updated": 3}, {"new_backend": 2}, 1),
                problems=(Problem(TODO, "quarantined", f"no {HOSTILE}", target="edge"),),
            )
        ]

    def document(self) -> dict[str, Any]:
        controllers = {TODO: [controller("rc", "blue", desired=3)]}
        return status_document(
            "infra-1", "0.1.0", self.snapshot(), self.sources(), self.targets(), controllers
        )


def test_status_tells_versions_servers_activation_and_problems() -> None:
    document = World().document()
    assert document["ready"] is True
    (app,) = document["apps"]
    assert app["app"] == "default/todo"
    assert app["activation"] == {"wanted": "green", "in_effect": "blue", "held": True}
    assert app["quarantined"] is True
    blue, green = app["versions"]
    assert (blue["version"], blue["active"], blue["desired"], blue["ready"]) == ("blue", True, 3, 1)
    assert (green["version"], green["active"], green["ready"]) == ("green", False, 0)
    assert green["servers"][0]["state"] == "drain"
    assert {problem["code"] for problem in app["problems"]} == {
        "config_invalid",
        "activation_held",
        "quarantined",
    }
    (source,) = document["sources"]
    assert (source["held"], source["holding"]) == (4, f"4 pods ({HOSTILE}) stay")
    (target,) = document["targets"]
    assert target["quarantined"] == [{"app": "default/todo", "reason": f"no {HOSTILE}"}]
    json.dumps(document)


@pytest.mark.parametrize(
    ("standing", "words"),
    [
        (Standing(), ""),
        (Standing(True, "infra-1"), "leads"),
        (Standing(False, "infra-2"), "waits behind infra-2"),
        (Standing(False), "nobody leads"),
        (Standing(True, "infra-1", 3, "nothing answers"), "leads, unproven: nothing answers"),
        (Standing(old_workers=OldWorkers()), ""),
        (
            Standing(old_workers=OldWorkers(1, 4711, 59.4)),
            "1 old worker, the oldest (4711) for 59 s",
        ),
        (
            Standing(old_workers=OldWorkers(12, 4711, 3725.0)),
            "12 old workers, the oldest (4711) for 1 h 2 min",
        ),
    ],
)
def test_who_leads_and_what_is_proven_is_told(standing: Standing, words: str) -> None:
    state = RunnerState(
        *("tree", "vulcand", 7, 6, True, "", 0, {"updated": 3}, {}, 0), standing=standing
    )
    document = target_document(state)
    assert document["leading"] == standing.leading
    assert document["proven"] == standing.proven
    assert standing_in_words(document) == words


def test_a_daemon_that_says_nothing_of_old_workers_is_no_fault() -> None:
    assert standing_in_words({}) == ""
    assert notice_of({}) == notice_of({"old_workers": None}) == ""


def test_pages_escape_what_comes_from_hostile_places() -> None:
    page = status_page(World().document())
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "default/todo" in page
    assert "held: 4" in page


def test_the_table_shows_every_part_and_takes_no_markup() -> None:
    out = io.StringIO()
    document = World().document()
    document["instance"] = "[red]infra[/red]"
    print_status(document, Console(file=out, width=200))
    shown = out.getvalue()
    for words in ("[red]infra[/red]", "pods", "stale", "edge (haproxy)", "6 of 7", "held: green"):
        assert words in shown
    assert "1 apps quarantined" in shown
    assert "pods: held: 4 pods (" in shown


def test_metrics_parse_and_carry_no_label_of_an_app() -> None:
    world = World()
    metrics = Metrics(lambda: world)
    metrics.applied("edge", Applied(Outcome.RELOADED, 7, cause="new_backend"), 0.2)
    metrics.took_effect("edge", 0.004)
    metrics.failed("edge", "Rejected")
    families = {
        family.name: family
        for family in text_string_to_metric_families(metrics.exposition().decode())
    }
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["vulcanized_generation",] == 7
    assert samples["vulcanized_apps_held",] == 1
    assert samples["vulcanized_apps_quarantined",] == 1
    assert samples["vulcanized_servers", ("state", "drain")] == 1
    assert samples["vulcanized_problems", ("code", "config_invalid")] == 1
    assert samples["vulcanized_problems", ("code", "quarantined")] == 1
    assert samples["vulcanized_target_quarantined_apps", ("target", "edge")] == 1
    assert samples["vulcanized_source_age_seconds", ("source", "pods")] == 12.5
    assert samples["vulcanized_source_held_objects", ("source", "pods")] == 4
    assert samples["vulcanized_source_state", ("source", "pods"), ("state", "stale")] == 1
    assert samples["vulcanized_source_relists_total", ("cause", "expired"), ("source", "pods")] == 1
    assert samples["vulcanized_target_generation", ("target", "edge")] == 6
    assert samples["vulcanized_reloads_total", ("cause", "new_backend"), ("target", "edge")] == 1
    assert samples["vulcanized_event_to_effect_seconds_count", ("target", "edge")] == 1
    assert (
        samples["vulcanized_apply_failures_total", ("error", "Rejected"), ("target", "edge")] == 1
    )
    assert "todo" not in metrics.exposition().decode()
    for name in families:
        assert name.startswith(("vulcanized_", "process_", "python_"))


@pytest.fixture
def server() -> Iterator[AdminServer]:
    def broken() -> object:
        raise RuntimeError("a page of ours failed")

    admin = AdminServer(
        Endpoint("127.0.0.1", 0),
        {
            "/healthz": lambda: text(HTTPStatus.OK, "ok"),
            "/status": lambda: json_answer({"a": 1}),
            "/broken": broken,  # type: ignore[dict-item]
        },
    )
    yield admin
    admin.close()


def ask(server: AdminServer, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_pages_are_answered_and_others_named(server: AdminServer) -> None:
    assert ask(server, "GET", "/healthz?x=1") == (200, b"ok\n")
    assert json.loads(ask(server, "GET", "/status")[1]) == {"a": 1}
    assert ask(server, "HEAD", "/status") == (200, b"")
    status, body = ask(server, "GET", "/nothing")
    assert status == 404
    assert b"/healthz" in body
    assert ask(server, "POST", "/status")[0] == 501
    assert ask(server, "GET", "/broken")[0] == 500


def test_connections_beyond_the_bound_are_dropped_and_others_served_again(
    server: AdminServer,
) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)]
    try:

        def dropped() -> bool:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as extra:
                try:
                    extra.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                    return extra.recv(100) == b""
                except ConnectionError:
                    return True

        eventually(dropped, 5, "a connection over the bound to be dropped")
    finally:
        for connection in held:
            connection.close()

    def served() -> bool:
        try:
            return ask(server, "GET", "/healthz")[0] == 200
        except (http.client.HTTPException, OSError):
            return False

    eventually(served, 5, "room again")


def test_a_taken_address_is_told_with_what_to_do(server: AdminServer) -> None:
    with pytest.raises(AdminError, match=r"admin\.listen: cannot listen on 127\.0\.0\.1:") as error:
        AdminServer(Endpoint("127.0.0.1", server.port), {})
    assert error.value.exit_code == 2


@pytest.fixture
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging")
def test_a_log_line_in_a_pipe_is_one_json_object() -> None:
    out = io.StringIO()
    configure_logging("auto", "info", out)
    structlog.get_logger("vulcanized.test").info("applied", target="edge", text="two\nlines")
    logging.getLogger("vulcanized.test").warning("of a library: %s", "x")
    structlog.get_logger("vulcanized.test").debug("not at this level")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["message"] == "applied"
    assert first["target"] == "edge"
    assert first["level"] == "info"
    assert first["@timestamp"].endswith("Z")
    assert second["message"] == "of a library: x"


@pytest.mark.usefixtures("_logging")
def test_a_log_line_for_people_is_one_line() -> None:
    out = io.StringIO()
    configure_logging("console", "info", out)
    structlog.get_logger("vulcanized.test").info("applied", target="edge")
    assert out.getvalue().count("\n") == 1
    assert "target=edge" in out.getvalue()


@pytest.mark.usefixtures("_logging")
def test_a_logger_that_has_logged_follows_another_level_format_and_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("json", "warning", first)
    log = structlog.get_logger("vulcanized.test")
    log.info("not at this level")
    log.warning("at this one")
    configure_logging("console", "info", second)
    log.info("at this level")
    assert [json.loads(line)["message"] for line in first.getvalue().splitlines()] == [
        "at this one"
    ]
    assert "at this level" in second.getvalue()
    assert not second.getvalue().startswith("{")


@pytest.mark.usefixtures("_logging")
def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    log = structlog.get_logger("vulcanized.test")
    full = Path("/dev/full").open("w")  # noqa: SIM115 - its end fails too
    closed, out = io.StringIO(), io.StringIO()
    closed.close()
    for stream in (full, closed, out):
        configure_logging("json", "info", stream)
        log.info("said")
    assert json.loads(out.getvalue())["message"] == "said"
    with pytest.raises(OSError, match="No space left"):
        full.close()


@pytest.mark.usefixtures("_logging")
def test_a_value_that_cannot_be_shown_costs_itself() -> None:
    out = io.StringIO()
    configure_logging("json", "info", out)
    structlog.get_logger("vulcanized.test").info("said", odd={("a", "b"): 1}, other=2)
    line = json.loads(out.getvalue())
    assert line["message"] == "said"
    assert line["unshown"].startswith("TypeError: ")


@pytest.mark.usefixtures("_logging")
def test_an_exception_is_told_with_its_traceback() -> None:
    out = io.StringIO()
    configure_logging("json", "info", out)
    try:
        raise ValueError("as expected")
    except ValueError:
        structlog.get_logger("vulcanized.test").exception("failed", thread="x")
    line = json.loads(out.getvalue())
    assert (line["level"], line["message"], line["thread"]) == ("error", "failed", "x")
    assert "Traceback" in line["exception"]
    assert "ValueError: as expected" in line["exception"]
