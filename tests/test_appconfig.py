"""The app config: what it accepts and what it becomes. What it refuses: tests/badinput/."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vulcanized.activation import activation_text, parse_activation
from vulcanized.appconfig import AppConfig, app_schema, parse_app_config
from vulcanized.errors import Invalid
from vulcanized.model import (
    Adoption,
    Balance,
    HealthCheck,
    KeepAlive,
    PathKind,
    Pin,
    PinKind,
    Protocol,
    Route,
    Share,
    Timeouts,
)

FULL: dict[str, Any] = {
    "hosts": ["Shop.Example.com.", "*.example.org"],
    "paths": ["/api/", {"exact": "/login"}, {"regex": "/v[0-9]+/(?:a|b)$"}],
    "port": "http",
    "protocol": "https",
    "balance": "leastconn",
    "sticky": {"cookie": "where", "max_age": "1h"},
    "tls": {"certificate": "shop", "hsts": {"max_age": 10}, "minimum_version": "1.3"},
    "redirect_www": True,
    "redirects": [{"path": "/old", "to": "https://example.com/new", "status": 301}],
    "rewrite": {"strip_prefix": "/api"},
    "request_headers": {"set": {"X-A": "1"}, "add": {"X-B": "2"}, "remove": ["X-C"]},
    "response_headers": {"remove": ["Server"]},
    "compression": True,
    "cors": {"origins": ["https://example.com"], "methods": ["GET", "POST"]},
    "basic_auth": {"users": {"ann": "$5$salt12345$abcdefgh"}},
    "allow": ["10.0.0.0/8"],
    "deny": ["10.1.2.3"],
    "rate_limit": {"requests": 100, "period": "1m"},
    "max_connections": {"server": 10, "app": 100},
    "timeouts": {"connect": "500ms", "server": 30, "queue": "2s", "tunnel": "1h"},
    "retries": 2,
    "max_body_size": "10M",
    "health_check": {"path": "/health", "port": 9999, "interval": "5s", "expect": 200},
    "error_pages": {"503": "<h1>back soon</h1>"},
    "maintenance": True,
    "canary_match": {"header": "X-Version"},
    "keep_alive": {"connections": 64, "period": "15s"},
    "adopt": {"frontends": ["old-shop"], "backends": ["shop.blue"]},
    "template": "special",
}  # fmt: skip


def test_every_field_of_the_design_is_accepted_and_counted_as_in_use() -> None:
    assert FULL.keys() == AppConfig.model_fields.keys()
    spec = parse_app_config(json.dumps(FULL), "here")
    whole = FULL.keys() - {"protocol", "adopt", "timeouts", "max_connections", "canary_match"}
    assert spec.features == whole | {
        "protocol.https",
        "timeouts.connect",
        "timeouts.server",
        "timeouts.queue",
        "timeouts.tunnel",
        "max_connections.server",
        "max_connections.app",
        "canary_match.header",
    }
    assert spec.routes == tuple(
        sorted(
            Route(host, kind, path)
            for host in ("shop.example.com", "*.example.org")
            for kind, path in (
                (PathKind.PREFIX, "/api"),
                (PathKind.EXACT, "/login"),
                (PathKind.REGEX, "/v[0-9]+/(?:a|b)$"),
            )
        )
    )
    assert spec.port == "http"
    assert spec.maintenance
    policies = spec.policies
    assert policies.protocol is Protocol.HTTPS
    assert policies.balance is Balance.LEAST_CONNECTIONS
    assert policies.timeouts == Timeouts(0.5, 30.0, 2.0, 3600.0)
    assert policies.health_check == HealthCheck("/health", 9999, 5.0, 2.0, 2, 3, 200, 200)
    assert (policies.max_connections_server, policies.max_connections_app) == (10, 100)
    assert policies.max_body_size == 10 << 20
    assert policies.keep_alive == KeepAlive(64, 15.0)
    assert policies.pin == Pin(PinKind.HEADER, "X-Version")
    assert policies.adopt == Adoption(("old-shop",), ("shop.blue",))


def test_an_empty_config_uses_no_feature() -> None:
    spec = parse_app_config("{}", "here")
    assert spec.features == frozenset()
    assert spec.routes == ()


def test_all_faults_of_a_document_come_in_one_message() -> None:
    with pytest.raises(Invalid) as refused:
        parse_app_config('{"hosts": ["a b"], "port": 0, "unknown": 1}', "here")
    for place in ("hosts.0", "port", "unknown"):
        assert place in str(refused.value)


def test_a_password_does_not_stand_in_a_refusal() -> None:
    with pytest.raises(Invalid) as refused:
        parse_app_config('{"basic_auth": {"users": {"ann": "hunter2"}}}', "here")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("regex", ["/a+b*c", "/[a-z]+/x", r"/v\d+\.js$", "/(?:a|b)/c", "/a{2,3}"])
def test_an_ordinary_regex_is_accepted(regex: str) -> None:
    spec = parse_app_config(json.dumps({"hosts": ["a"], "paths": [{"regex": regex}]}), "here")
    assert spec.routes[0].path == regex


@given(st.text(alphabet="a(|)*+?{}1,.[]^$/\\", max_size=24))
def test_no_accepted_regex_takes_long_on_a_long_path(pattern: str) -> None:
    try:
        spec = parse_app_config(
            json.dumps({"hosts": ["a"], "paths": [{"regex": f"/{pattern}"}]}), "x"
        )
    except Invalid:
        return
    started = time.process_time()
    re.match(spec.routes[0].path, "/" + "a" * 120 + "!")
    assert time.process_time() - started < 1.0


@pytest.mark.filterwarnings("ignore")
@given(st.text(max_size=40))
def test_no_text_reaches_a_route_with_syntax_in_it(text: str) -> None:
    for fields in ({"hosts": [text]}, {"hosts": ["a"], "paths": [text]}):
        try:
            spec = parse_app_config(json.dumps(fields), "here")
        except Invalid:
            continue
        for route in spec.routes:
            assert not set(route.host + route.path) & set(" \t\n\r\0\"'`;#{}\\<>()")
            assert (route.host + route.path).isascii()


def test_the_schema_accepts_what_the_parser_accepts() -> None:
    schema = app_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(FULL, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"unknown": 1}, schema)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("green", (Share("green", 1),)),
        ("green\n", (Share("green", 1),)),
        ("42", (Share("42", 1),)),
        ('{"weights": {"42": 10, "41": 90}}', (Share("41", 90), Share("42", 10))),
        ('{"weights": {"41": 1, "42": 0}}', (Share("41", 1),)),
    ],
)
def test_an_activation_is_a_bare_version_or_weights(text: str, shares: tuple[Share, ...]) -> None:
    assert parse_activation(text, "here") == shares
    assert parse_activation(activation_text(shares), "here")[0].version == shares[0].version
