"""The answers of an API server, decoded: one bad object costs itself, a bad answer is no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import manifests
from vulcanized.errors import Expired, Invalid, Refused, SourceError, Unreachable
from vulcanized.listwatch import Codec, Event, status_error
from vulcanized.model import Pod
from vulcanized.objects import DEPLOYMENT, Labels, controllers, pods


def codec() -> Codec[Pod]:
    return Codec(pods(Labels()))


def wire_pod(name: str, **metadata: Any) -> dict[str, Any]:
    return manifests.pod(name, **({"uid": f"u-{name}", "resourceVersion": "7"} | metadata))


def page(*items: object, **changes: Any) -> bytes:
    whole = {
        "kind": "PodList",
        "metadata": {"resourceVersion": "9", "continue": "more"},
        "items": items,
    }
    return json.dumps(whole | changes).encode()


def line(kind: object, thing: object) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode()


# --- lists ------------------------------------------------------------------------------------


def test_a_page_gives_its_records_its_version_and_where_to_go_on() -> None:
    answer = codec().page(page(wire_pod("a"), wire_pod("b")))

    assert [record.name for record in answer.records] == ["a", "b"]
    assert (answer.version, answer.more, answer.unreadable) == ("9", "more", ())


def test_objects_that_are_no_apps_are_left_out() -> None:
    answer = codec().page(page(wire_pod("a", labels=None), wire_pod("b", labels={"x": "y"})))

    assert (answer.records, answer.unreadable) == ((), ())


def test_an_unreadable_object_costs_itself_and_is_named() -> None:
    broken = wire_pod("b") | {"spec": {"containers": "none"}}

    answer = codec().page(page(wire_pod("a"), broken, wire_pod("c")))

    assert [record.name for record in answer.records] == ["a", "c"]
    [unreadable] = answer.unreadable
    assert unreadable.uid == "u-b"
    assert str(unreadable.error).startswith("Pod default/b: ")


@pytest.mark.parametrize(
    "item", [None, 7, "x", [], {"metadata": 1}, {"metadata": {"name": 1, "uid": "u"}}]
)
def test_an_item_that_is_no_object_at_all_is_unreadable_without_a_uid(item: object) -> None:
    answer = codec().page(page(item, wire_pod("a")))

    assert len(answer.records) == 1
    assert [thing.uid for thing in answer.unreadable] in ([""], [])


def test_a_list_of_nothing_may_say_null() -> None:
    assert codec().page(page(items=None)).records == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>log in</html>",
        b"{}",
        b"[]",
        b"null",
        page(kind=None),
        page(kind="Status"),
        page(kind="DeploymentList"),
        page(metadata=None),
        page(metadata={}),
        page(metadata={"resourceVersion": ""}),
        page(items={}),
        page(wire_pod("a"))[:-10],
        b'{"x":' + b"[" * 100_000,
        b'\xff{"kind": "PodList"}',
    ],
)
def test_what_is_not_a_list_beyond_doubt_is_no_answer(body: bytes) -> None:
    with pytest.raises(Invalid, match="list of Pod: "):
        codec().page(body)


# --- watches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED"])
def test_an_event_carries_its_record_and_its_version(kind: str) -> None:
    event = codec().event(line(kind, wire_pod("a")))

    assert (event.action, event.uid, event.version) == (kind, "u-a", "7")
    assert event.record is not None
    assert event.record.name == "a"


def test_a_deletion_has_no_record() -> None:
    assert codec().event(line("DELETED", wire_pod("a"))) == Event("DELETED", "u-a", "7", None)


def test_an_object_that_left_its_app_has_no_record() -> None:
    event = codec().event(line("MODIFIED", wire_pod("a", labels={})))

    assert event == Event("MODIFIED", "u-a", "7", None)


def test_a_deletion_counts_though_the_object_is_broken() -> None:
    broken = wire_pod("a") | {"spec": 7, "status": []}

    assert codec().event(line("DELETED", broken)) == Event("DELETED", "u-a", "7", None)


def test_a_bookmark_is_a_version_and_nothing_else() -> None:
    bookmark = {
        "kind": "Pod",
        "metadata": {"resourceVersion": "12", "creationTimestamp": None},
        "spec": {"containers": None},
        "status": {},
    }

    assert codec().event(line("BOOKMARK", bookmark)) == Event("BOOKMARK", "", "12", None)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"garbage", "watch of Pod: "),
        (b'{"type":"ADDED","object":{"metadata":{"na', "watch of Pod: "),
        (b"[]", "watch of Pod: "),
        (b"{}", "of type None"),
        (line("ADDED", None), "of type 'ADDED' with no object"),
        (line("SHRUGGED", wire_pod("a")), "of type 'SHRUGGED'"),
        (line("ADDED", wire_pod("a") | {"spec": 7}), "Pod default/a: "),
        (line("ADDED", wire_pod("a", uid=None)), "Pod default/a: "),
        (line("DELETED", wire_pod("a", uid=None)), "Pod default/a: "),
        (line("DELETED", 7), "Pod without a name: "),
        (line(7, wire_pod("a")), "watch of Pod: "),
    ],
)
def test_a_line_that_cannot_be_used_costs_itself(bad: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        codec().event(bad)


def test_a_line_after_a_bad_one_is_read() -> None:
    reader = codec()
    with pytest.raises(Invalid):
        reader.event(b"garbage")

    assert reader.event(line("ADDED", wire_pod("a"))).uid == "u-a"


# --- refusals ---------------------------------------------------------------------------------


def status(code: int | None = None, reason: str = "", message: str = "", **details: Any) -> Any:
    return {
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


REFUSALS = [
    (status(410, "Expired", "too old resource version: 1 (9)"), Expired),
    (status(410, "Gone", "gone"), Expired),
    (status(None, "Expired"), Expired),
    (status(504, "Timeout", "Timeout: Too large resource version: 9, current: 7"), Expired),
    (status(504, "Timeout", "x", causes=[{"reason": "ResourceVersionTooLarge"}]), Expired),
    (status(504, "Timeout", "the request timed out"), Unreachable),
    (status(401, "Unauthorized", "Unauthorized"), Refused),
    (status(403, "Forbidden", "pods is forbidden"), Refused),
    (status(429, "TooManyRequests", "later"), Unreachable),
    (status(500, "InternalError", "no"), Unreachable),
    (status(), Unreachable),
    (None, Unreachable),
    ("x", Unreachable),
]


@pytest.mark.parametrize(("body", "error"), REFUSALS)
@pytest.mark.parametrize("kind", ["pods", "deployments"])
def test_an_error_event_is_raised_as_what_it_means(
    body: object, error: type[SourceError], kind: str
) -> None:
    reader = codec() if kind == "pods" else Codec(controllers(DEPLOYMENT, Labels()))

    with pytest.raises(SourceError) as raised:
        reader.event(line("ERROR", body))

    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("code", "body", "error"),
    [
        (410, b"{}", Expired),
        (401, b"", Refused),
        (403, b"forbidden", Refused),
        (429, b"<html>slow down</html>", Unreachable),
        (502, b"\xff\xfe", Unreachable),
        (302, b"", Unreachable),
    ],
)
def test_the_http_status_counts_where_the_body_is_none(
    code: int, body: bytes, error: type[SourceError]
) -> None:
    raised = status_error(body, "list pods", code)

    assert type(raised) is error
    assert str(raised).startswith("list pods: ")
    assert str(raised).endswith(f"({code})")


def test_the_wait_that_the_server_asks_for_is_the_headers_else_the_bodys() -> None:
    body = json.dumps(status(429, "TooManyRequests", "later", retryAfterSeconds=3)).encode()

    in_body, in_header = status_error(body, "x", 429), status_error(body, "x", 429, 5.0)

    assert isinstance(in_body, Unreachable)
    assert in_body.retry_after == 3
    assert isinstance(in_header, Unreachable)
    assert in_header.retry_after == 5


def test_what_the_server_says_is_one_bounded_printable_line() -> None:
    said = str(status_error(json.dumps(status(500, message="a\nb\x1b[31m" * 999)).encode(), "x"))

    assert said.isprintable()
    assert len(said) < 300
