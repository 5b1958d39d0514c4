"""Every payload in every place where somebody may write a text, one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

import pytest
from pydantic import ValidationError

from tests.hostile.cases import IS_NIGHTLY
from tests.hostile.documents import Json, Place, at, changed, places
from tests.hostile.judge import carried_through, judge
from tests.hostile.payloads import ALL
from tests.hostile.test_app_configs import TODO, texts_of, written
from tests.hostile.test_objects import CONFIG as PLAIN
from tests.hostile.test_objects import LABELS, apps_of
from vulcanized.appconfig import AppConfig
from vulcanized.errors import Invalid
from vulcanized.manifests import parse
from vulcanized.model import Controller, Pod
from vulcanized.objects import Manifests

SEEN: Final[Json] = {
    "hosts": ["todo.example.com", "*.example.com"],
    "paths": ["/a", {"prefix": "/b"}, {"exact": "/c"}, {"regex": "/d[0-9]+"}],
    "port": "http",
    "protocol": "https",
    "balance": "first",
    "sticky": {"cookie": "who", "max_age": "1h"},
    "timeouts": {"connect": "5s"},
    "max_connections": {"server": 5},
    "health_check": {"path": "/health", "expect": "200-299", "interval": "2s"},
    "max_body_size": "10M",
    "canary_match": {"header": "X-Version"},
}
BY_COOKIE: Final[Json] = {"hosts": ["todo.example.com"], "canary_match": {"cookie": "version"}}
UNSEEN: Final[Json] = {
    "hosts": ["todo.example.com"],
    "tls": {"certificate": "todo", "minimum_version": "1.2"},
    "redirects": [{"path": "/a", "to": "https://example.com/b?c=d"}],
    "rewrite": {"strip_prefix": "/a", "add_prefix": "/b"},
    "request_headers": {"set": {"X-A": "b"}, "add": {"X-B": "c"}, "remove": ["X-C"]},
    "compression": {"types": ["text/html"]},
    "cors": {"origins": ["https://example.com"], "methods": ["GET"], "headers": ["X-A"]},
    "basic_auth": {"realm": "here", "users": {"me": "$5$salt$hashhashhash"}},
    "allow": ["10.0.0.0/8", "fd00::/8"],
    "deny": ["10.0.0.1"],
    "rate_limit": {"requests": 5, "period": "1s", "by": "X-Client"},
    "error_pages": {"503": "<h1>gone</h1>"},
    "template": "special",
}
POD: Final[Json] = {
    "kind": "Pod",
    "metadata": {
        "name": "todo-1",
        "namespace": "default",
        "uid": "u-1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": "todo", "version": "blue", "pod-template-hash": "abc"},
        "ownerReferences": [{"name": "todo-rc", "controller": True}],
    },
    "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}]},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
CONTROLLER: Final[Json] = {
    "kind": "ReplicaSet",
    "metadata": {
        "name": "todo-rs",
        "namespace": "default",
        "uid": "u-2",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": "todo"},
        "annotations": {"vulcanized.io/config": '{"hosts": ["todo.example.com"]}'},
    },
    "spec": {"replicas": 1, "template": {"metadata": {"labels": {"version": "blue"}}}},
}


def named(document: Json) -> pytest.MarkDecorator:
    """The places of a document that hold a text, as parameters."""
    found = [place for place in places(document) if isinstance(at(document, place), str)]
    return pytest.mark.parametrize("place", found, ids=[".".join(map(str, each)) for each in found])


def hostile_at(document: Json, place: Place) -> Iterator[Json]:
    """The document with each payload at the place and behind what is there.

    At night also before it, in the midst of it, and in its name.
    """
    old = at(document, place)
    half = len(old) // 2
    for payload in ALL:
        yield changed(document, place, payload)
        yield changed(document, place, old + payload)
        if IS_NIGHTLY:
            yield changed(document, place, payload + old)
            yield changed(document, place, old[:half] + payload + old[half:])
            if isinstance(place[-1], str):
                yield changed(document, place, old, place[-1] + payload)


@named(SEEN)
def test_of_an_app_config_that_haproxy_sees(place: Place) -> None:
    judge_config(SEEN, place)


@named(BY_COOKIE)
def test_of_an_app_config_that_pins_by_cookie(place: Place) -> None:
    judge_config(BY_COOKIE, place)


def judge_config(config: Json, place: Place) -> None:
    for document in hostile_at(config, place):
        outcome = carried_through([written(json.dumps(document))])
        if outcome.built[TODO].quarantined:
            assert [problem.code for problem in outcome.built[TODO].problems] == ["config_invalid"]
        else:
            judge(outcome)


@named(UNSEEN)
def test_of_an_app_config_that_no_proxy_sees_yet(place: Place) -> None:
    for document in hostile_at(UNSEEN, place):
        try:
            config = AppConfig.model_validate_json(json.dumps(document))
        except ValidationError:
            continue
        for field, text in texts_of(config.model_dump(mode="json", exclude={"error_pages"})):
            assert re.fullmatch(r"[\x20-\x7e]*", text), (field, text)
            assert not set(text) & set("\"'`\\{}"), (field, text)


@named(POD)
def test_of_a_pod(place: Place) -> None:
    for document in hostile_at(POD, place):
        judge_manifest(document)


@named(CONTROLLER)
def test_of_a_controller(place: Place) -> None:
    for document in hostile_at(CONTROLLER, place):
        judge_manifest(document)


def judge_manifest(document: Json) -> None:
    content = json.dumps(document).encode()
    try:
        parsed = parse(content, "a.json", Manifests(LABELS))
    except Invalid:
        return
    assert all(reason.isprintable() for reason in parsed.invalid.values())
    for record in parsed.records.values():
        for text in (record.uid, record.namespace, record.name, record.app, record.version):
            assert re.fullmatch(r"[A-Za-z0-9._/-]*", text)
        if isinstance(record, Controller):
            assert re.fullmatch(r"[0-9TZ:.-]*", record.created)
    pods = [record for record in parsed.records.values() if isinstance(record, Pod)]
    config = PLAIN if pods else None
    judge(carried_through(apps_of(parsed.records.values(), config)))
