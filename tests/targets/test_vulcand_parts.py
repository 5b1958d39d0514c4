"""One app in vulcand's words: each shape of an app, and that nothing of it ends vulcand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vulcanized.errors import Rejected
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Backend,
    DesiredApp,
    Endpoint,
    KeepAlive,
    PathKind,
    Pin,
    PinKind,
    Policies,
    Protocol,
    Route,
    Server,
    ServerState,
    Share,
    Timeouts,
)
from vulcanized.targets.vulcand.keys import MIDDLEWARES, MIXED, NOTHING, Keys
from vulcanized.targets.vulcand.parts import (
    DEFAULT_RETRIES,
    IDLE_CONNECTIONS,
    Part,
    duration,
    make_part,
    not_found,
    nowhere,
    proof,
    proof_middleware,
    word_of,
)

KEYS = Keys("vulcand", "edge")
TODO = AppId("default", "todo")
ROOT = Route("todo.example", PathKind.PREFIX, "/")


def server(name: str, version: str = "blue", state: ServerState = ServerState.READY) -> Server:
    number = sum(map(ord, name)) % 200 + 1
    return Server(name, f"10.0.0.{number}", 8080, state, version=version)


BLUE = Backend("blue", (server("blue-1"), server("blue-2")))
GREEN = Backend("green", (server("green-1", "green"),))
ALL = Backend(ANY_VERSION, (*BLUE.servers, *GREEN.servers))


def app(
    backends: Iterable[Backend] = (ALL,),
    split: Iterable[tuple[str, int]] = ((ANY_VERSION, 1),),
    routes: Iterable[Route] = (ROOT,),
    policies: Policies | None = None,
    *,
    maintenance: bool = False,
) -> DesiredApp:
    shares = tuple(Share(*share) for share in split)
    some = (TODO, tuple(routes), shares, tuple(backends), policies or Policies())
    return DesiredApp(*some, maintenance=maintenance)


def made(desired: DesiredApp) -> Part:
    """Its part, each value of it an object that vulcand can read."""
    part = make_part(desired, KEYS, "/vulcanized/leader/edge")
    values = [*(each.value for each in part.backends.values())]
    values += [each.value for each in part.frontends.values()]
    for each in part.backends.values():
        values += each.servers.values()
    for found in part.frontends.values():
        values += found.middlewares.values()
        assert found.backend in part.backends
        assert json.loads(found.value)["BackendId"] == found.backend
        assert json.loads(found.value)["Route"] == found.route
    for value in values:
        assert isinstance(json.loads(value), dict)
        assert "null" not in value.decode()
    assert part.claims.keys() == part.frontends.keys()
    return part


def servers(part: Part, version: str) -> list[str]:
    return sorted(part.backends[KEYS.backend_id(TODO, version)].servers)


def leads(part: Part) -> dict[str, str]:
    """To which backend each frontend leads, by what stands behind the comment of its route."""
    prefix = KEYS.backend_id(TODO, "x").removesuffix("x__")
    return {
        each.route.partition("*/ ")[2]: each.backend.removeprefix(prefix).removesuffix("__")
        for each in part.frontends.values()
    }


def backend_settings(**fields: Any) -> dict[str, Any]:
    (each,) = made(app(policies=Policies(**fields))).backends.values()
    return dict(json.loads(each.value)["Settings"])


def frontend_settings(**fields: Any) -> dict[str, Any]:
    (each,) = made(app(policies=Policies(**fields))).frontends.values()
    return dict(json.loads(each.value)["Settings"])


# --- who takes the requests -------------------------------------------------------------------


def test_an_app_without_an_activation() -> None:
    part = made(app())
    assert leads(part) == {'Host("todo.example")': "_any"}
    assert servers(part, ANY_VERSION) == ["blue-1", "blue-2", "green-1"]
    assert part.mix is None


def test_one_version_takes_all_and_the_others_stand_ready() -> None:
    part = made(app([BLUE, GREEN], [("green", 1)]))
    assert leads(part) == {'Host("todo.example")': "green"}
    assert (servers(part, "blue"), servers(part, "green")) == (["blue-1", "blue-2"], ["green-1"])


def test_weights_are_a_backend_of_several_versions() -> None:
    part = made(app([BLUE, GREEN], [("blue", 90), ("green", 10)]))
    assert leads(part) == {'Host("todo.example")': "_mixed"}
    assert servers(part, MIXED) == ["blue-1", "blue-2", "green-1"]
    assert part.mix is not None
    assert part.mix.counts == (2, 1)


@pytest.mark.parametrize("desired", [app(maintenance=True), app(split=())])
def test_nobody_takes_requests(desired: DesiredApp) -> None:
    part = made(desired)
    assert leads(part) == {'Host("todo.example")': "_none"}
    assert servers(part, NOTHING) == []
    assert servers(part, ANY_VERSION), "they stand ready"


def test_maintenance_is_for_pinned_clients_too() -> None:
    pinned = Policies(pin=Pin(PinKind.HEADER, "X-Version"))
    part = made(app([BLUE, GREEN], [("blue", 1)], policies=pinned, maintenance=True))
    assert leads(part) == {'Host("todo.example")': "_none"}


def test_who_drains_or_rests_gets_nothing_new() -> None:
    states = [ServerState.READY, ServerState.DRAIN, ServerState.MAINT]
    some = Backend(ANY_VERSION, tuple(server(f"s{n}", "", s) for n, s in enumerate(states)))
    assert servers(made(app([some])), ANY_VERSION) == ["s0"]


def test_no_routes_stand_ready_too() -> None:
    part = made(app(routes=()))
    assert part.frontends == {}
    assert servers(part, ANY_VERSION)


@pytest.mark.parametrize(
    ("pin", "clause"),
    [
        (Pin(PinKind.HEADER, "X-Version"), r'HeaderRegexp("X-Version", "^green$")'),
        (
            Pin(PinKind.COOKIE, "v"),
            r'HeaderRegexp("Cookie", "(?:^|;) *v=green *(?:;|$)")',
        ),
    ],
)
@pytest.mark.parametrize(
    ("backends", "split", "plain"),
    [([BLUE, GREEN], [("blue", 1)], "blue"), ([ALL], [(ANY_VERSION, 1)], "_any")],
)
def test_a_pin_leads_to_its_version(
    pin: Pin, clause: str, backends: list[Backend], split: list[tuple[str, int]], plain: str
) -> None:
    part = made(app(backends, split, policies=Policies(pin=pin)))
    found = leads(part)
    assert found['Host("todo.example")'] == plain
    assert found[f'Host("todo.example") && {clause}'] == "green"
    assert len(found) == 3
    assert (servers(part, "blue"), servers(part, "green")) == (["blue-1", "blue-2"], ["green-1"])


def test_each_route_has_a_frontend() -> None:
    routes = [ROOT, Route("todo.example", PathKind.EXACT, "/x"), Route("*", PathKind.PREFIX, "/")]
    assert len(made(app(routes=routes)).frontends) == 3


def test_a_name_with_dots_and_underscores() -> None:
    odd = Backend("v1.2_3", (Server("todo-1.2_x", "10.0.0.1", 80),))
    part = made(app([odd], [("v1.2_3", 1)]))
    (id_,) = part.backends
    assert id_ == "edge__default__todo__v1_d2_u3__"
    assert list(part.backends[id_].servers) == ["todo-1-2_x"]


# --- addresses and policies -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "protocol", "url"),
    [
        (Endpoint("10.0.0.1", 80), Protocol.HTTP, "http://10.0.0.1:80"),
        (Endpoint("fd00::1", 8443), Protocol.HTTPS, "https://[fd00::1]:8443"),
    ],
)
def test_the_url_of_a_server(endpoint: Endpoint, protocol: Protocol, url: str) -> None:
    some = Backend(ANY_VERSION, (Server("s", *endpoint),))
    (each,) = made(app([some], policies=Policies(protocol=protocol))).backends.values()
    assert json.loads(each.servers["s"]) == {"URL": url}


@pytest.mark.parametrize("endpoint", [Endpoint("", 80), Endpoint("10.0.0.1", 0)])
def test_what_is_no_address_is_refused(endpoint: Endpoint) -> None:
    """A URL without a host ends every request of its frontend, from the next start on."""
    some = Backend(ANY_VERSION, (Server("s", *endpoint),))
    with pytest.raises(Rejected, match="no address of a server"):
        make_part(app([some]), KEYS, "")


def test_backends_have_only_what_was_asked_for() -> None:
    kept = {"MaxIdleConnsPerHost": IDLE_CONNECTIONS}
    assert backend_settings() == {"KeepAlive": kept}
    assert backend_settings(protocol=Protocol.HTTPS)["TLS"] == {"InsecureSkipVerify": True}
    found = backend_settings(timeouts=Timeouts(connect=1.5, server=60))
    assert found["Timeouts"] == {"Dial": "1500ms", "Read": "60000ms"}
    assert "Timeouts" not in backend_settings(timeouts=Timeouts(queue=1, tunnel=1))
    found = backend_settings(keep_alive=KeepAlive(connections=0, period=30))
    assert found["KeepAlive"] == {"MaxIdleConnsPerHost": 0, "Period": "30000ms"}


@given(st.floats(0, 1e6))
def test_a_duration_is_never_the_default(seconds: float) -> None:
    text = duration(seconds)
    assert text.endswith("ms")
    assert int(text[:-2]) >= 1
    assert abs(int(text[:-2]) - seconds * 1000) <= 1


@pytest.mark.parametrize(("retries", "tries"), [(None, DEFAULT_RETRIES), (1, 1), (3, 3)])
def test_only_what_may_be_made_twice_is_tried_again(retries: int | None, tries: int) -> None:
    found = frontend_settings(retries=retries)
    assert found["FailoverPredicate"] == (
        f"ResponseCode() == 502 && Attempts() <= {tries} && "
        '(RequestMethod() == "GET" || RequestMethod() == "HEAD")'
    )
    assert found["PassHostHeader"] is True
    assert "Stream" not in found


def test_what_is_not_tried_again_is_passed_on_at_once() -> None:
    assert frontend_settings(retries=0) == {"PassHostHeader": True, "Stream": True}
    limited = frontend_settings(retries=0, max_body_size=7)
    assert limited["Limits"] == {"MaxBodyBytes": 7}
    assert "Stream" not in limited, "it would have no limit"
    assert "Attempts() <= 0" in limited["FailoverPredicate"]


def test_a_limit_of_connections_is_a_middleware() -> None:
    assert next(iter(made(app()).frontends.values())).middlewares == {}
    (each,) = made(app(policies=Policies(max_connections_app=5))).frontends.values()
    assert {name: json.loads(value) for name, value in each.middlewares.items()} == {
        f"{MIDDLEWARES}max-connections": {
            "Type": "connlimit",
            "Priority": 1,
            "Middleware": {"Connections": 5, "Variable": "request.host"},
        }
    }


def test_everything_says_whose_it_is() -> None:
    part = made(app())
    values = [each.value for each in part.backends.values()]
    values += [each.value for each in part.frontends.values()]
    for value in values:
        found = json.loads(value)
        assert (found["Owner"], found["App"]) == ("/vulcanized/leader/edge", "default/todo")


# --- what belongs to no app -------------------------------------------------------------------


def test_nowhere_has_no_servers() -> None:
    assert json.loads(nowhere("m").value) == {"Type": "http", "Owner": "m"}
    assert nowhere("m").servers == {}


def test_a_guard_leads_nowhere() -> None:
    each = not_found(KEYS, "a.example", "m")
    assert each.backend == KEYS.nowhere_id
    assert each.route == '/*30000000 edge*/ Host("a.example")'
    (value,) = each.middlewares.values()
    assert json.loads(value)["Middleware"]["Fallback"]["Action"]["StatusCode"] == 404


def test_a_proof_shows_its_word() -> None:
    each = proof(KEYS, "p.invalid", "7-ab", "m")
    (value,) = each.middlewares.values()
    assert each.backend == KEYS.nowhere_id
    assert word_of(value) == "7-ab"
    assert word_of(proof_middleware("p.invalid", "")) == ""


@pytest.mark.parametrize(
    "value", [b"", b"null", b"[]", b"\xff", b'{"Middleware":1}', b"{" * 5000, b'{"a":' * 5000]
)
def test_a_broken_proof_has_no_word(value: bytes) -> None:
    assert word_of(value) == ""
