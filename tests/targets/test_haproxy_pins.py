"""Clients pinned to a version, and bodies bounded by size, on a real HAProxy."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.servers.load import Load
from tests.servers.wait import eventually
from tests.targets.edge import Edge, app, backend, get, raw, regex, route
from tests.targets.test_haproxy_faults import restart_of_the_daemon
from tests.targets.test_haproxy_reload import overriding, shipped, templated
from tests.targets.test_haproxy_restart import starts_with_a_broken_template
from vulcanized.errors import ProxyUnreachable, TemplateFailed
from vulcanized.model import (
    AppId,
    DesiredApp,
    HealthCheck,
    Pin,
    PinKind,
    Policies,
    Route,
    Server,
    ServerState,
)
from vulcanized.targets.haproxy.parts import PINNED, PINS, PINS_REGEX, SIZES

__all__ = ["templated"]

HOST = "todo.example.com"
BY_HEADER = Pin(PinKind.HEADER, "X-Wanted")
BY_COOKIE = Pin(PinKind.COOKIE, "v")


def todo(
    pods: Iterable[Server],
    *active: str,
    pin: Pin | None = BY_HEADER,
    name: str = "todo",
    routes: Iterable[Route] = (),
    check: HealthCheck | None = None,
    maintenance: bool = False,
) -> DesiredApp:
    """An app with a backend for each version of these pods; without `active` there is only one."""
    policies = Policies(pin=pin, health_check=check)
    servers = list(pods)
    if not active:
        return app(name, servers, policies=policies, routes=list(routes) or None)
    versions = sorted({server.version for server in servers} | set(active))
    return app(
        name,
        backends=[backend(v, [each for each in servers if each.version == v]) for v in versions],
        split=[(version, 1) for version in active],
        policies=policies,
        maintenance=maintenance,
        routes=list(routes) or None,
    )


@pytest.fixture
def pods(edge: Edge) -> list[Server]:
    """A pod of each of two versions, named after it."""
    return [edge.pod(version, version) for version in ("blue", "green")]


def head(edge: Edge, *lines: str, host: str = HOST) -> str:
    """The version that answers to a head of these lines, exactly as they are written; else the
    status, or "none" where HAProxy closes, as it does when idle connections to a dead pod were all
    that it tried."""
    text = "".join(f"{line}\r\n" for line in ("GET / HTTP/1.1", f"Host: {host}", *lines))
    answer = raw(edge.port, f"{text}Connection: close\r\n\r\n".encode()).decode()
    status = answer.split(" ", 2)[1] if answer else "none"
    found = [line for line in answer.splitlines() if line.lower().startswith("x-version: ")]
    return found[0].split(": ")[1] if found else status


# --- which version ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["X-Wanted: green"], "green"),
        (["x-WANTED:green"], "green"),
        (["X-Wanted: \t green \t"], "green"),
        (["A: b", "X-Wanted: green", "C: d"], "green"),
        (["X-Wanted: green", "X-Wanted: blue"], "green"),
        (["X-Wanted: green2"], "blue"),
        (["X-Wanted: Green"], "blue"),
        (["X-Wanted: gree"], "blue"),
        (["X-Wanted:"], "blue"),
        (["X-Wanted: green, blue"], "blue"),
        (["X-Wanted: green blue"], "blue"),
        (["X-Wanted: .*"], "blue"),
        (["X-Wanted: green|red"], "blue"),
        (["X-Wanted: %[str(green)]"], "blue"),
        (["X-Wanted: \\1"], "blue"),
        (["X-Wanted: *"], "blue"),
        (["X-Wanted: " + "g" * 8000], "blue"),
        (["X-Wanted-Not: green"], "blue"),
        (["Not-X-Wanted: green"], "blue"),
        (["XaWanted: green"], "blue"),
        (["A: x-wanted: green"], "blue"),
        (["A: header:x-wanted:x-wanted: green"], "blue"),
        (["A: b", *(f"H{n}: {'h' * 100}" for n in range(90)), "X-Wanted: green"], "green"),
        ([*(f"X-Wanted: {'g' * 130}!" for _ in range(90)), "X-Wanted: green"], "green"),
    ],
)
def test_a_header_names_a_version_or_nothing(pinning: Edge, lines: list[str], version: str) -> None:
    assert head(pinning, *lines, host="by-header.example.com") == version


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["Cookie: v=green"], "green"),
        (["cookie:v=green"], "green"),
        (["Cookie: a=b; v=green; c=d"], "green"),
        (["Cookie: a=b;v=green;c=d"], "green"),
        (["Cookie: a=b", "Cookie: v=green"], "green"),
        (["Cookie: v=greener; v=green"], "blue"),
        (["Cookie: xv=green"], "blue"),
        (["Cookie: V=green"], "blue"),
        (["Cookie: v=greener"], "blue"),
        (["Cookie: v=gree"], "blue"),
        (['Cookie: v="green"'], "blue"),
        (["Cookie: a=v=green"], "blue"),
        (["Cookie: a=b, v=green"], "blue"),
        (["Not-Cookie: v=green"], "blue"),
        (["A: cookie:v=green"], "blue"),
        (["v: green"], "blue"),
        (["Cookie: " + ";".join(f"c{n}=d" for n in range(200)) + "; v=green"], "green"),
        (["Cookie: " + "a;" * 7000], "blue"),
    ],
)
def test_a_cookie_names_a_version_or_nothing(pinning: Edge, lines: list[str], version: str) -> None:
    assert head(pinning, *lines, host="by-cookie.example.com") == version


@pytest.fixture(scope="module")
def pinning(module_edge: Edge) -> Edge:
    """Apps that pin by header and by cookie, `blue` being active in both."""
    pods = [module_edge.pod(version, version) for version in ("blue", "green")]
    module_edge.show(
        todo(pods, "blue", name="by-header", pin=BY_HEADER),
        todo(pods, "blue", name="by-cookie", pin=BY_COOKIE),
        complete=True,
    )
    return module_edge


def test_a_head_that_just_fits_is_looked_through(pinning: Edge) -> None:
    for filling in range(14000, 16000, 97):
        lines = ["A: " + "a" * filling, "X-Wanted: green"]
        # The largest are 400: they do not fit. All that is answered, is answered right.
        assert head(pinning, *lines, host="by-header.example.com") in {"green", "400"}


def test_every_name_of_a_header_is_taken_by_its_letters(edge: Edge, pods: list[Server]) -> None:
    names = ["a.b", "a+b", "a|b", "a*b", "a$b", "^ab", "a#b", "#ab", "!a", "a~b", "a_b", "&", "."]
    edge.show(*(todo(pods, "blue", name=f"app-{n}") for n in range(len(names))))
    # All of it by commands: HAProxy has its own ideas of some of these signs there.
    edge.show(
        *(
            todo(pods, "blue", name=f"app-{n}", pin=Pin(PinKind.HEADER, name))
            for n, name in enumerate(names)
        )
    )
    assert edge.reloads == ["start"]
    for again in ("at run time", "from the files"):
        for n, name in enumerate(names):
            host = f"app-{n}.example.com"
            assert head(edge, f"{name}: green", host=host) == "green", (name, again)
            for other in ("axb", "aab", "ab", "b", "x", "a", "X-Wanted"):
                assert head(edge, f"{other}: green", host=host) == "blue", (name, other)
        edge.until(lambda: "header:a#b" in edge.file(PINS) and "a\\|b" in edge.file(PINS_REGEX))
        worker = edge.worker()
        edge.master.ask("reload\n")
        eventually(lambda: edge.worker() != worker, 10, "a reload", ignore=(ProxyUnreachable,))  # noqa: B023


def test_a_client_never_gets_to_another_app(edge: Edge, pods: list[Server]) -> None:
    secret = edge.pod("secret", "secret")
    other = edge.pod("other", "green")
    edge.show(todo(pods[:1], "blue"), todo([secret, other], "green", name="other"))
    for wanted in ("secret", "default:other:green", "other:green", "green", ":", "/", "../other"):
        assert head(edge, f"X-Wanted: {wanted}") == "blue"
    assert head(edge, "X-Wanted: secret", host="other.example.com") == "secret"


# --- whether it has a server --------------------------------------------------------------------


def test_a_pin_beats_weights_and_yields_to_maintenance(edge: Edge, pods: list[Server]) -> None:
    edge.show(todo(pods, "blue", "green"))
    for version in ("blue", "green"):
        assert {head(edge, f"X-Wanted: {version}") for _ in range(12)} == {version}
    edge.show(todo(pods, "blue", "green", maintenance=True))
    assert head(edge, "X-Wanted: green") == "503"
    edge.show(todo(pods, "green"))
    assert head(edge, "X-Wanted: blue") == "blue"
    assert edge.reloads == ["start"]


def test_a_pin_to_a_version_without_a_server_is_none(edge: Edge, pods: list[Server]) -> None:
    blue, green = pods
    edge.show(todo(pods, "blue"))
    for state, version in (
        (ServerState.DRAIN, "blue"),
        (ServerState.READY, "green"),
        (ServerState.MAINT, "blue"),
        (ServerState.READY, "green"),
    ):
        turned = Server(green.name, green.address, green.port, state, version="green")
        edge.show(todo([blue, turned], "blue"))
        assert head(edge, "X-Wanted: green") == version
    edge.show(todo([blue], "blue"))
    assert head(edge, "X-Wanted: green") == "blue"
    assert edge.reloads == ["start"]


def test_a_pin_to_a_version_that_fails_its_checks_is_none(edge: Edge, pods: list[Server]) -> None:
    check = HealthCheck("/health", None, 0.1, 1, 1, 1, 200, 299)
    blue, green = pods
    edge.show(todo([blue, green], "blue", check=check))
    edge.until(lambda: head(edge, "X-Wanted: green") == "green")
    edge.pods.stop("green")
    edge.until(lambda: head(edge, "X-Wanted: green") == "blue")


# --- changes ------------------------------------------------------------------------------------


def test_pins_change_at_run_time_and_fail_no_request(edge: Edge, pods: list[Server]) -> None:
    edge.show(todo(pods, "blue", pin=None), app("other", [edge.pod("o")]))
    with Load(edge.port, HOST) as load, Load(edge.port, "other.example.com") as other:
        load.go_on(10)
        for pin, by_header, by_cookie in (
            (BY_HEADER, "green", "blue"),
            (BY_COOKIE, "blue", "green"),
            (Pin(PinKind.HEADER, "X-Other"), "blue", "blue"),
            (None, "blue", "blue"),
            (BY_HEADER, "green", "blue"),
        ):
            edge.show(todo(pods, "blue", pin=pin))
            assert head(edge, "X-Wanted: green") == by_header
            assert head(edge, "Cookie: v=green") == by_cookie
            load.go_on(10)
        edge.show(todo(pods, "blue", pin=None))
        other.go_on(10)
    assert (load.report.failed, other.report.failed) == ({}, {})
    assert load.report.versions.keys() == {"blue"}
    assert edge.reloads == ["start"]
    live = edge.live()
    assert not any(live.tables[name] for name in (PINS, PINS_REGEX, PINNED))


def test_of_two_apps_with_one_name_each_keeps_its_own(edge: Edge, pods: list[Server]) -> None:
    edge.show(todo(pods, "blue"), todo(pods, "blue", name="two"))
    assert len(edge.live().tables[PINS_REGEX]) == 1
    edge.show(gone=[AppId("default", "two")])
    assert head(edge, "X-Wanted: green") == "green"
    edge.show(gone=[AppId("default", "todo")])
    assert edge.live().tables[PINS_REGEX] == {}


def test_without_an_activation_a_new_version_costs_a_reload_for_its_pin_only(
    edge: Edge, pods: list[Server]
) -> None:
    blue, green = pods
    edge.show(todo([blue]))
    with Load(edge.port, HOST) as load:
        edge.apply(todo([blue, green]))
        # Before the reload it takes its share of the traffic, and its pin is none.
        edge.until(lambda: {head(edge) for _ in range(8)} == {"blue", "green"})
        edge.show(todo([blue, green]))
        for version in ("blue", "green"):
            assert {head(edge, f"X-Wanted: {version}") for _ in range(8)} == {version}
        load.go_on(10)
        edge.show(todo([green]))
        assert {head(edge, "X-Wanted: blue") for _ in range(4)} == {"green"}
        edge.show(todo([blue, green], "green"))
        assert {head(edge) for _ in range(8)} == {"green"}
        assert head(edge, "X-Wanted: blue") == "blue"
        load.go_on(10)
    assert load.report.failed == {}
    assert edge.reloads == ["start", "new_backend"]


def test_a_restart_of_the_daemon_finds_all_as_it_was(edge: Edge, pods: list[Server]) -> None:
    wanted = [todo(pods), todo(pods, "blue", name="two", pin=BY_COOKIE)]
    edge.show(*wanted)
    worker = edge.worker()
    restart_of_the_daemon(edge)
    edge.apply(*wanted)
    assert edge.worker() == worker
    assert head(edge, "X-Wanted: green") == "green"
    edge.command(f"clear map {edge.settings.directory}/{PINNED}")
    edge.until(lambda: head(edge, "X-Wanted: green") == "green", what="drift is mended")


def test_a_renamed_app_keeps_pins_and_limit_while_the_new_one_is_refused(
    edge: Edge, pods: list[Server]
) -> None:
    old = todo(pods, "blue", name="old", routes=[route(HOST)])
    old = replace(old, policies=Policies(pin=BY_HEADER, max_body_size=1000))
    edge.show(old, todo(pods, "blue", name="other"))
    new = replace(old, app=AppId("default", "new"), routes=(route(HOST), regex(HOST, "/(")))
    edge.show(new, gone=[old.app])
    assert set(edge.held) == {"new"}
    for again in ("as it was", "as it is read back"):
        assert head(edge, "X-Wanted: green") == "green", again
        assert posted(edge, b"b" * 1001, length=1001) == 413
        edge.target._running = None
        edge.turn()
    edge.show(replace(new, routes=(route(HOST),)))
    assert head(edge, "X-Wanted: green") == "green"
    assert "default/old" not in edge.live().tables[PINS]


def test_a_daemon_without_a_template_keeps_the_pins_that_were_rendered(
    edge: Edge, pods: list[Server]
) -> None:
    edge.show(todo(pods))
    red = edge.pod("red", "red")
    answering = starts_with_a_broken_template(edge, todo([*pods, red]))
    assert "red" in {*answering, *(head(edge) for _ in range(12))}
    assert {head(edge, "X-Wanted: green") for _ in range(6)} == {"green"}
    assert {head(edge, "X-Wanted: red") for _ in range(30)} == {"blue", "green", "red"}


def test_a_template_that_breaks_keeps_the_pins_that_were_rendered(
    templated: tuple[Edge, Path],
) -> None:
    edge, folder = templated
    blue, green, red = (edge.pod(version, version) for version in ("blue", "green", "red"))
    edge.show(todo([blue, green]))
    overriding(folder, "backend.j2", "{{ nonsense }}\n")

    def fails() -> bool:
        try:
            edge.turn()
        except TemplateFailed:
            return True
        return False

    eventually(fails, 5, "the template is seen")
    with pytest.raises(TemplateFailed):
        edge.apply(todo([green, red]))
    assert {head(edge) for _ in range(8)} == {"green", "red"}
    assert {head(edge, "X-Wanted: green") for _ in range(4)} == {"green"}
    assert {head(edge, "X-Wanted: blue") for _ in range(8)} == {"green", "red"}


def test_a_frame_without_the_maps_is_told_and_reloads_nothing(
    templated: tuple[Edge, Path],
) -> None:
    edge, folder = templated
    lines = shipped("haproxy.cfg.j2").splitlines(keepends=True)
    without = [
        line for line in lines if not any(f"maps.{m}" in line for m in ("pin", "pins_", "sizes"))
    ]
    overriding(folder, "haproxy.cfg.j2", "".join(without))
    pods = [edge.pod(version, version) for version in ("blue", "green")]
    edge.show(todo(pods, "blue", pin=None))
    edge.show(todo(pods, "green"))
    for _ in range(3):
        edge.show(todo(pods, "blue"))
        assert head(edge, "X-Wanted: green") == "blue"
    assert edge.reloads == ["start"]


# --- bodies -------------------------------------------------------------------------------------


def limited(pods: list[Server], size: int | None) -> DesiredApp:
    return app("todo", pods, policies=Policies(max_body_size=size))


def posted(edge: Edge, *pieces: bytes, length: int | None = None, more: str = "") -> int:
    """The status for a body in chunks, or in one piece with this length."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    begin = f"POST / HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n{more}\r\n".encode()
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as connection:
        connection.sendall(begin)
        with contextlib.suppress(ConnectionError):  # an answer does not wait for the end
            for piece in pieces:
                size = b"%x\r\n" % len(piece)
                connection.sendall(piece if length is not None else size + piece + b"\r\n")
            if length is None:
                connection.sendall(b"0\r\n\r\n")
        return int(connection.recv(4096).split(b" ", 2)[1])


def test_a_limit_of_bodies_changes_at_run_time(edge: Edge, pods: list[Server]) -> None:
    for size, at_it, over_it in ((1000, 200, 413), (1001, 200, 200), (None, 200, 200)):
        edge.show(limited(pods, size))
        assert posted(edge, b"b" * 1000, length=1000) == at_it
        assert posted(edge, b"b" * 1001, length=1001) == over_it
        assert posted(edge, b"b" * 1000) == at_it
        assert posted(edge, *[b"b" * 7] * 143) == over_it
        assert get(edge.port, HOST).status == 200
    assert edge.reloads == ["start"]
    assert edge.live().tables[SIZES] == {}


def test_a_length_over_the_limit_is_refused_before_the_body_comes(
    edge: Edge, pods: list[Server]
) -> None:
    edge.show(limited(pods, 1 << 40))
    assert posted(edge, length=(1 << 40) + 1) == 413
    assert posted(edge, length=(1 << 40) + 1, more="Expect: 100-continue\r\n") == 413


def test_chunks_are_judged_as_far_as_the_buffer_goes(edge: Edge, pods: list[Server]) -> None:
    edge.show(limited(pods, 15000))
    assert posted(edge, *[b"b" * 1000] * 15) == 200
    assert posted(edge, *[b"b" * 1000] * 15, b"b") == 413
    # One chunk says its length before it comes.
    edge.show(limited(pods, 100_000))
    assert posted(edge, b"b" * 100_000) == 200
    assert posted(edge, b"b" * 100_001) == 413
    # What docs/haproxy.md tells of more than that.
    assert posted(edge, *[b"b" * 1000] * 101) == 200
