"""Nothing that could mean something to HAProxy reaches a file or a command."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.targets.edge import backend, exact, regex, route, server
from vulcanized.errors import Rejected, TargetError
from vulcanized.model import (
    AppId,
    DesiredApp,
    Endpoint,
    HealthCheck,
    PathKind,
    Pin,
    PinKind,
    Policies,
    Route,
    Server,
    Share,
)
from vulcanized.targets.haproxy import plan, words
from vulcanized.targets.haproxy.config import CONFIG, Config
from vulcanized.targets.haproxy.live import LiveServer
from vulcanized.targets.haproxy.master import Command
from vulcanized.targets.render import Templates

HOSTILE = [
    "",
    "a b",
    "a\nb",
    "a\n    server evil 6.6.6.6:80",
    "a\r\nb",
    "a\0b",
    'a"b',
    "a'b",
    "a;b",
    "a;@1 shutdown sessions",
    "a#b",
    "a\\b",
    "${HOME}",
    "a<<b",
    "%[env(HOME)]",
    "a`id`",
    "ä",
    "\u202e",
    "{{ 7 * 7 }}",
    "a:b",
    "a/b/c",
    "../../etc/passwd",
    "*a",
    "-" * 300,
    " ",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "made",
    [
        lambda text: words.app_key(AppId(text, "b")),
        lambda text: words.app_key(AppId("a", text)),
        lambda text: words.backend_id(AppId("a", "b"), text),
        lambda text: words.check_server(server(text)),
        lambda text: words.address(Endpoint(text, 80)),
        lambda text: words.listen(Endpoint(text, 80)),
        lambda text: words.route_key(route(text)),
        words.file,
        lambda text: words.pinned_key(AppId("a", "b"), text),
        lambda text: words.pin(Pin(PinKind.COOKIE, text)),
    ],
    ids=[
        "namespace",
        "app",
        "version",
        "server",
        "address",
        "listen",
        "host",
        "file",
        "pinned",
        "cookie",
    ],
)
def test_hostile_text_is_refused_wherever_it_stands(made: Callable[[str], str], text: str) -> None:
    with pytest.raises(Rejected):
        made(text)


@pytest.mark.parametrize("name", [text for text in HOSTILE if text not in {"a#b", "*a"}])
def test_hostile_names_of_headers_are_refused(name: str) -> None:
    with pytest.raises(Rejected):
        words.pin(Pin(PinKind.HEADER, name))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "/a b",
        "/a\nb",
        '/"',
        "/'",
        "/a;b",
        "/a#b",
        "/\\",
        "/(",
        "/ä",
        "/\0",
        "/" + "a" * 2000,
    ],
)
@pytest.mark.parametrize("kind", [PathKind.EXACT, PathKind.PREFIX])
def test_hostile_paths_are_refused(kind: PathKind, path: str) -> None:
    with pytest.raises(Rejected):
        words.route_key(Route("x.org", kind, path))


@pytest.mark.parametrize(
    "pattern", ["", "a", "/a b", "/a\nb", '/"', "/'", "/a;b", "/a#b", "/\0", "/ä"]
)
def test_hostile_regexes_are_refused(pattern: str) -> None:
    with pytest.raises(Rejected):
        words.route_key(regex("x.org", pattern))


@pytest.mark.parametrize(
    ("given_", "written"),
    [
        (route("x.org"), "x.org/"),
        (route("*", "/a"), "*/a/"),
        (route("*.x.org", "/a/"), "*.x.org/a/"),
        (exact("x.org", "/a"), "x.org/a"),
        (regex("*.x.org", "/a|b"), "(*LIMIT_MATCH=2000)^\\*\\.x\\.org(?:/a|b)"),
    ],
)
def test_routes_are_written_so_that_they_are_found(given_: Route, written: str) -> None:
    assert words.route_key(given_) == written


@pytest.mark.parametrize("number", [0, -1, 65536, 10**9])
def test_ports_that_are_none_are_refused(number: int) -> None:
    with pytest.raises(Rejected):
        words.address(Endpoint("10.0.0.1", number))


@pytest.mark.parametrize("weight", [-1, 257])
def test_weights_that_haproxy_does_not_know_are_refused(weight: int) -> None:
    with pytest.raises(Rejected, match="weight"):
        words.check_server(server("a", weight=weight))


def test_a_duration_never_becomes_for_ever() -> None:
    assert words.milliseconds(0.0001) == "1ms"
    assert words.milliseconds(86400) == "86400000ms"


# --- whole apps ---------------------------------------------------------------------------------

ANYTHING = st.text(max_size=40) | st.sampled_from(HOSTILE)
USUAL = {
    "namespace": "default",
    "name": "todo",
    "version": "blue",
    "server": "a",
    "address": "10.0.0.1",
    "health": "/health",
    "host": "x.org",
    "path": "/a",
    "pin": "x-version",
}


@st.composite
def strange_apps(draw: st.DrawFn) -> DesiredApp:
    """An app with anything in one or two places."""
    strange = draw(st.lists(st.sampled_from(list(USUAL)), min_size=1, max_size=2))
    values = {**USUAL, **{place: draw(near(USUAL[place]) | ANYTHING) for place in strange}}
    check = HealthCheck(values["health"], None, 1, 1, 1, 1, 200, 299)
    one = Server(values["server"], values["address"], 80)
    return DesiredApp(
        AppId(values["namespace"], values["name"]),
        (Route(values["host"], draw(st.sampled_from(PathKind)), values["path"]),),
        (Share(values["version"], 1),),
        (backend(values["version"], [one]),),
        Policies(
            health_check=check,
            max_body_size=draw(st.integers(1, 1 << 40)),
            pin=Pin(draw(st.sampled_from(PinKind)), values["pin"]),
        ),
    )


def near(usual: str) -> st.SearchStrategy[str]:
    """The usual value with something in or around it."""
    harmless = st.text("ab19-._~%$", max_size=3)
    more = harmless | st.text(max_size=2) | st.sampled_from(" \n\r\t;#'\"\\*:/<>{}()[]")
    at = st.integers(0, len(usual))
    return st.builds(lambda where, text: usual[:where] + text + usual[where:], at, more)


@given(strange_apps())
def test_whatever_is_not_refused_adds_only_lines_of_the_known_kinds(strange: DesiredApp) -> None:
    config = Config(Path("/d"), [Endpoint("127.0.0.1", 80)], TEMPLATES)
    try:
        part = config.part(strange, None)
    except TargetError:
        return
    files = config.files({strange.app: part}, plan.tables_of([part]))
    event("written")
    added = files[CONFIG].removeprefix(config.frame.text).splitlines()
    word = r"[A-Za-z0-9_.:/~%@!$&*+,=?\[\]-]+"
    known = re.compile(
        rf"|# {word} [0-9a-f]{{16}}( check[a-z0-9 ]+)?|backend {word} from vulcanized-defaults"
        rf"|    balance roundrobin|    option httpchk|    timeout check 1000ms"
        rf"|    http-check send meth GET uri {word} ver HTTP/1.1 hdr Host {word}"
        rf"|    http-check expect status 200-299"
        rf"|    server {word} {word} weight 100( check inter 1000ms rise 1 fall 1)?"
    )
    assert [line for line in added if not known.fullmatch(line)] == []
    entries = "".join(text for name, text in files.items() if name != CONFIG).splitlines()
    assert [line for line in entries if not re.fullmatch(r"[!-~]+ [!-~]*", line)] == []
    assert len(entries) <= 11
    tables = plan.tables_of([part])
    empty: dict[str, dict[str, str]] = {name: {} for name in tables}
    for step in plan.plan_tables(plan.all_table_changes(empty, tables), empty):
        if isinstance(step, Command):
            assert re.fullmatch(rf"add map \{{map\}} {word} {word}", step.text), step.text
    servers = plan.ServerPlan()
    for pool in part.pools:
        plan.plan_servers(servers, pool, pool.structure, dict[str, LiveServer]())
    for command in (*servers.enter, *servers.leave, *servers.delete):
        assert re.fullmatch(rf"({word} ?)+", command.text), command.text


TEMPLATES = Templates("haproxy")


@given(st.ip_addresses(v=4).map(str) | st.from_regex(r"[0-9a-fx.: ]{1,16}") | st.text(max_size=12))
def test_an_address_is_read_as_pythons_own_reader_does(text: str) -> None:
    try:
        expected = str(ipaddress.ip_address(text))
    except ValueError:
        expected = None
    if expected is None or "%" in text:
        with pytest.raises(Rejected):
            words.ip(text)
    else:
        assert words.ip(text) == expected
