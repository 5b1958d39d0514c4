"""Nothing that could mean something to nginx reaches its config."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.hostile.cases import cases
from tests.hostile.nginxgrammar import Directive, directives
from tests.targets.edge import backend, exact, regex, route, server
from tests.targets.test_haproxy_words import HOSTILE
from vulcanized.errors import Rejected, TargetError
from vulcanized.model import (
    AppId,
    Balance,
    DesiredApp,
    Endpoint,
    PathKind,
    Pin,
    PinKind,
    Policies,
    Route,
    Server,
    ServerState,
    Share,
)
from vulcanized.targets.nginx import words
from vulcanized.targets.nginx.config import HTTP, Config
from vulcanized.targets.nginx.parts import Part
from vulcanized.targets.render import Templates

MORE = ["a$b", "$host", "${host}", "a{b", "a}b", "a;", 'a";}', "a\\", "a~b", "=a", "~a", "a\tb"]


@pytest.mark.parametrize("text", [*HOSTILE, *MORE])
@pytest.mark.parametrize(
    "made",
    [
        lambda text: words.app_key(AppId(text, "b")),
        lambda text: words.app_key(AppId("a", text)),
        lambda text: words.pool_id(AppId("a", "b"), text),
        lambda text: words.flag(AppId("a", "b"), text),
        lambda text: words.check_server(server(text)),
        lambda text: words.address(Endpoint(text, 80)),
        lambda text: words.listen(Endpoint(text, 80)),
        lambda text: words.location(route(text)),
        lambda text: words.pinned(Pin(PinKind.HEADER, text), "v"),
        lambda text: words.pinned(Pin(PinKind.COOKIE, text), "v"),
        lambda text: words.pinned(Pin(PinKind.HEADER, "x"), text),
        words.file,
    ],
    ids=[
        "namespace", "app", "version", "flag", "server", "address", "listen", "host",
        "header", "cookie", "pinned", "file",
    ],
)  # fmt: skip
def test_hostile_text_is_refused_wherever_it_stands(made: Callable[[str], str], text: str) -> None:
    with pytest.raises(Rejected):
        made(text)


@pytest.mark.parametrize("kind", PathKind)
@pytest.mark.parametrize(
    "path", ["", "a", "/a b", '/a"', "/a;b", "/a\nb", "/a\0", "/a#b", "/ä", "/<"]
)
def test_a_path_that_is_none_is_refused(kind: PathKind, path: str) -> None:
    with pytest.raises(Rejected):
        words.location(Route("a.org", kind, path))


def test_the_name_under_which_nginx_is_asked_is_nobodys() -> None:
    with pytest.raises(Rejected, match="asked what it runs"):
        words.location(route("vulcanized.invalid"))


def test_options_of_a_template_are_words() -> None:
    assert words.options(" max_fails=1\n fail_timeout=1s ") == "max_fails=1 fail_timeout=1s"
    for text in ("a; b", "a {", "a }", "a $b", 'a "b"', "a # b", "a \\"):
        with pytest.raises(Rejected):
            words.options(text)


@given(st.integers(1, 1 << 41), st.integers(0, 1 << 42))
def test_a_number_is_above_another_by_its_digits(limit: int, number: int) -> None:
    assert bool(re.search(words.above(limit), str(number))) == (number > limit)
    assert not re.search(words.above(limit), str(limit))
    assert re.search(words.above(limit), f"00{limit + 1}")
    assert not re.search(words.above(limit), "")


# --- whole files ----------------------------------------------------------------------------------

EVIL = st.sampled_from([*HOSTILE, *MORE]) | st.text(max_size=8)


class Texts(NamedTuple):
    """Where texts come from."""

    names: st.SearchStrategy[str]
    hosts: st.SearchStrategy[str]
    paths: st.SearchStrategy[str]
    regexes: st.SearchStrategy[str]
    addresses: st.SearchStrategy[str]


GOOD = Texts(
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,6}\Z"),
    st.from_regex(r"\A(?:\*\.)?[a-z0-9_-]{1,5}(?:\.[a-z0-9_-]{1,5}){0,2}\Z") | st.just("*"),
    st.from_regex(r"\A/[A-Za-z0-9/_.~%:@!$&*+,=-]{0,12}\Z"),
    st.from_regex(r"\A/[A-Za-z0-9/_.~%:@!&*+,=?^|(){}\[\]\\$-]{0,12}\Z"),
    st.ip_addresses().map(str),
)
"""The whole of each charset: all of it is written."""
ANY = Texts(*(good | EVIL for good in GOOD))


@st.composite
def desired_apps(draw: st.DrawFn, texts: Texts) -> DesiredApp:
    names, hosts, paths, regexes, addresses = texts
    cookies = st.from_regex(r"\A[A-Za-z0-9-]{1,9}\Z") if texts is GOOD else names
    servers = st.builds(
        Server,
        names,
        addresses,
        st.integers(1, 65535),
        st.sampled_from(ServerState),
        st.integers(0, 256),
        names,
    )
    versions = draw(st.lists(names | st.just("*"), unique=True, max_size=3))
    backends = [backend(v, draw(st.lists(servers, max_size=3))) for v in versions]
    split = [v for v in versions if draw(st.booleans())]
    routes = draw(
        st.lists(
            st.builds(route, hosts, paths)
            | st.builds(exact, hosts, paths)
            | st.builds(regex, hosts, regexes),
            max_size=4,
            unique=True,
        )
    )
    pins = st.none() | st.builds(Pin, st.sampled_from(PinKind), cookies)
    policies = Policies(
        balance=draw(st.sampled_from(Balance)),
        pin=draw(pins),
        max_body_size=draw(st.none() | st.integers(1, 1 << 40)),
        max_connections_app=draw(st.none() | st.integers(1, 1000)),
        max_connections_server=draw(st.none() | st.integers(1, 1000)),
        retries=draw(st.none() | st.integers(0, 10)),
    )
    return DesiredApp(
        AppId(draw(names), draw(names)),
        tuple(sorted(routes)),
        tuple(Share(v, 1 + draw(st.integers(0, 99))) for v in sorted(split)),
        tuple(sorted(backends, key=lambda b: b.version)),
        policies,
        draw(st.booleans()),
    )


def config() -> Config:
    return Config(Path("/etc/nginx/v"), [Endpoint("*", 80)], Templates("nginx"))


def read(parts: dict[AppId, Part]) -> tuple[Directive, ...]:
    """The config, with one word for its own digest."""
    files, made_of, _ = CONFIG.files(parts)
    return directives(files[HTTP].replace(made_of.digest, "DIGEST"))


CONFIG = config()
FRAME = read({})


@cases(100)
@given(desired=desired_apps(GOOD))
def test_a_config_has_exactly_the_directives_that_were_meant(
    desired: DesiredApp, part: int
) -> None:
    judge(read({desired.app: CONFIG.part(desired, None)}), desired)


@cases(300)
@given(desired=desired_apps(ANY))
def test_hostile_text_is_refused_or_means_nothing_else(desired: DesiredApp, part: int) -> None:
    try:
        found = read({desired.app: CONFIG.part(desired, None)})
    except TargetError as error:
        event(f"refused: {type(error).__name__}")
        return
    event("written")
    judge(found, desired)


def judge(found: tuple[Directive, ...], desired: DesiredApp) -> None:
    (server_block,) = (each for each in found if each.words == ("server",))
    (empty_block,) = (each for each in FRAME if each.words == ("server",))
    inside, before = server_block.block or (), empty_block.block or ()
    mine = [each for each in inside if each not in before]
    assert [each for each in inside if each in before] == list(before)

    # Pools: those with a server, and their servers with nothing but what they have.
    pools = [each for each in found if each.words[0] == "upstream"]
    full = [
        (b.version, [s for s in b.servers if s.weight and s.state is ServerState.READY])
        for b in desired.backends
    ]
    if desired.policies.pin is not None:
        ready = dict(full).get("*", [])
        more = sorted(
            {s.version for s in ready if s.version} - {b.version for b in desired.backends}
        )
        full += [(version, [s for s in ready if s.version == version]) for version in more]
    full = [(version, servers) for version, servers in full if servers]
    assert len(pools) == len(full)
    for pool, (version, servers) in zip(pools, full, strict=True):
        name = "~".join([*desired.app, *([] if version == "*" else [version])])
        assert re.fullmatch(r"[0-9a-f]{8}~" + re.escape(name), pool.words[1])
        lines = [each.words for each in pool.block or () if each.words[0] == "server"]
        assert [line[1] for line in lines] == [address(s.endpoint) for s in servers]
        for line in lines:
            rest = [word for word in line[2:] if not re.fullmatch(r"weight=\d+", word)]
            limit = desired.policies.max_connections_server
            limits = [f"max_conns={limit}"] if limit else []
            assert rest == ["max_fails=1", "fail_timeout=1s", *limits]
        known = {"server", "keepalive", "keepalive_timeout", "zone", "least_conn", "random", "hash"}
        assert {each.words[0] for each in pool.block or ()} <= known

    # Routes: a location each, in that of the host, that leads to the app and nowhere else.
    hosts = {each.host for each in desired.routes}
    to_app = Directive(("rewrite", "^", f"/:{desired.app.namespace}/{desired.app.name}?", "last"))
    scopes = [each for each in mine if each.words[1].removeprefix("/").rstrip("/") in hosts]
    assert {each.words[1] for each in scopes} == {f"/{host}/" for host in hosts}
    leading = Counter(_leading(scopes, to_app))
    assert leading == Counter(map(_location, desired.routes))
    assert all(len(inner.block or ()) == 1 for scope in scopes for inner in _locations(scope))

    # Then the choice, and where requests are passed on.
    (choice,) = (
        each
        for each in mine
        if each.words[:2] == ("location", "=") and each.words[2] == f"/:{'/'.join(desired.app)}"
    )
    names = {each.words[0] for each in choice.block or ()}
    assert names <= {"set", "if", "rewrite"}
    passing = [each for each in mine if re.match("/:(pass|tunnel)/", each.words[-1])]
    assert len(passing) == 2
    assert set(mine) == {*scopes, choice, *passing}
    hashed = {each.words[0]: each for each in found if each.words[0] == "map"}
    assert len(found) == len(FRAME) + len(pools)
    assert hashed


def _locations(scope: Directive) -> list[Directive]:
    return [each for each in scope.block or () if each.words[0] == "location"]


def _leading(scopes: list[Directive], to_app: Directive) -> list[tuple[str, ...]]:
    found = [scope.words[1:] for scope in scopes if (scope.block or ())[0] == to_app]
    inner = [each for scope in scopes for each in _locations(scope)]
    return found + [each.words[1:] for each in inner if each.block == (to_app,)]


def _location(each: Route) -> tuple[str, ...]:
    if each.kind is PathKind.EXACT:
        return ("=", f"/{each.host}{each.path}/#{each.path}")
    if each.kind is PathKind.REGEX:
        return ("~", f"(*LIMIT_MATCH=2000)^[^#]*#(?:{each.path})")
    return (f"/{each.host}{each.path.rstrip('/')}/",)


def address(endpoint: Endpoint) -> str:
    literal = str(ipaddress.ip_address(endpoint.address))
    return f"[{literal}]:{endpoint.port}" if ":" in literal else f"{literal}:{endpoint.port}"
