"""HAProxy's files as they are written. `GOLDEN=update pytest` writes the golden ones anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.targets.edge import TODO, app, backend, exact, regex, route, server
from vulcanized.model import (
    AppId,
    Balance,
    DesiredApp,
    Endpoint,
    HealthCheck,
    Pin,
    PinKind,
    Policies,
    Protocol,
    ServerState,
    Timeouts,
)
from vulcanized.targets.haproxy import plan
from vulcanized.targets.haproxy.config import CONFIG, Config
from vulcanized.targets.haproxy.parts import TABLES
from vulcanized.targets.render import Templates

GOLDEN = Path(__file__).parent / "golden"

A, B = server("a-1", "10.0.0.1", 8080), server("b-2", "10.0.0.2", 8080)
BLUE, GREEN = backend("blue", [A]), backend("green", [B])
CHECK = HealthCheck("/health?deep=1", 9000, 2.5, 1.0, 2, 3, 200, 299)

CASES: dict[str, list[DesiredApp]] = {
    "frame": [],
    "plain": [app(servers=[A, B])],
    "versions": [app(backends=[BLUE, GREEN], split=[("green", 1)])],
    "split": [app(backends=[BLUE, GREEN], split=[("blue", 2), ("green", 1)])],
    "routes": [
        app("one", [A], routes=[route("x.org"), route("x.org", "/a"), exact("*", "/e")]),
        app("two", [B], routes=[regex("*.x.org", "/[0-9]+(/.*)?$"), regex("*.x.org", "/[a-z]")]),
    ],
    "states": [
        app(
            servers=[
                A,
                server("drains", "10.0.0.3", 80, ServerState.DRAIN),
                server("rests", "10.0.0.4", 80, ServerState.MAINT),
                server("six", "fd00::6", 80, weight=7),
            ]
        )
    ],
    "without": [app("empty"), app("maintained", [A], maintenance=True), app("none", backends=[])],
    "policies": [
        app(
            servers=[A],
            policies=Policies(
                protocol=Protocol.HTTPS,
                balance=Balance.URI,
                timeouts=Timeouts(connect=0.5, server=30, queue=5, tunnel=86400),
                retries=0,
                health_check=CHECK,
                max_connections_server=50,
                max_connections_app=200,
                max_body_size=10 << 20,
            ),
        )
    ],
    "pinned": [
        app(
            name,
            backends=[BLUE, GREEN],
            split=[("blue", 1)],
            policies=Policies(pin=Pin(kind, "x-version")),
        )
        for name, kind in (("by-header", PinKind.HEADER), ("by-cookie", PinKind.COOKIE))
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_files_are_as_they_were_agreed(case: str) -> None:
    listen = [Endpoint("*", 80), Endpoint("::", 80), Endpoint("127.0.0.1", 8080)]
    config = Config(Path("/etc/haproxy/vulcanized"), listen, Templates("haproxy"))
    parts = {each.app: config.part(each, None) for each in CASES[case]}
    files = dict(config.files(parts, plan.tables_of(parts.values())))
    if parts:
        files[CONFIG] = files[CONFIG].removeprefix(config.frame.text)
    text = "".join(f"==> {name} <==\n{files[name]}" for name in sorted(files) if files[name])
    # A change of the frame changes one golden file, not all.
    text = text.replace(config.frame.digest, "DIGEST-OF-THE-FRAME")
    golden = GOLDEN / f"haproxy-{case}.txt"
    if os.environ.get("GOLDEN") == "update":
        golden.write_text(text)
    assert text == golden.read_text()


def test_apps_stand_in_the_order_of_their_names() -> None:
    config = Config(Path("/d"), [Endpoint("*", 80)], Templates("haproxy"))
    apps = [app("b", [A]), app("a", [A])]
    parts = {each.app: config.part(each, None) for each in apps}
    text = config.files(parts, plan.tables_of(parts.values()))[CONFIG]
    assert text.index("backend default:a ") < text.index("backend default:b ")


def test_a_block_is_rendered_when_its_app_changes_and_not_before() -> None:
    config = Config(Path("/d"), [Endpoint("*", 80)], Templates("haproxy"))
    one = {TODO: config.part(app(servers=[A]), None)}
    other = {**one, AppId("default", "x"): config.part(app("x", [A]), None)}
    tables = plan.tables_of(other.values())
    config.files(other, tables)
    before = list(config._blocks)
    config.files({**other, TODO: config.part(app(servers=[B]), one[TODO])}, tables)
    assert [a is b for a, b in zip(before, config._blocks, strict=True)] == [False, True]


def test_what_is_kept_of_files_is_what_they_are_made_of_now() -> None:
    config = Config(Path("/d"), [Endpoint("*", 80)], Templates("haproxy"))
    fresh = Config(Path("/d"), [Endpoint("*", 80)], Templates("haproxy"))
    tables = {name: dict[str, str]() for name in TABLES}
    for number in range(20):
        # Names that never come again, and maps that are changed in place, as run time does it.
        apps = [app(f"a{number}", [A], routes=[route(f"x{number}.org")]), app("stays", [A, B])]
        parts = {each.app: config.part(each, None) for each in apps}
        for name, table in plan.tables_of(parts.values()).items():
            tables[name].clear()
            tables[name].update(table)
        assert config.files(parts, tables) == fresh.files(dict(reversed(parts.items())), tables)
        assert len(config._blocks) == len(parts)
        fresh = Config(Path("/d"), [Endpoint("*", 80)], Templates("haproxy"))
