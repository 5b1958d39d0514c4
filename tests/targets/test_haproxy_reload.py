"""What HAProxy is reloaded for, and what happens when that fails."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.servers.load import Load
from tests.servers.ports import free_port
from tests.servers.wait import eventually
from tests.targets.conftest import NewEdge
from tests.targets.edge import TODO, Edge, app, backend, get, regex, route
from vulcanized.errors import Rejected, ReloadFailed, TargetError, TemplateFailed
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Balance,
    Change,
    DesiredApp,
    Outcome,
    Policies,
    Timeouts,
)
from vulcanized.resources import templates_directory
from vulcanized.targets.haproxy.config import CONFIG, LAST_GOOD
from vulcanized.targets.haproxy.parts import REGEX

HOST = "todo.example.com"


def two(edge: Edge) -> dict[str, Any]:
    """A version blue and a version green, blue active."""
    return {
        "backends": [backend(v, [edge.pod(v, v)]) for v in ("blue", "green")],
        "split": [("blue", 1)],
    }


# --- what needs one, and what it costs --------------------------------------------------------


def test_a_new_app_is_served_after_one_reload_at_once(edge: Edge) -> None:
    edge.show(app("a", [edge.pod("a")]))
    time_of_calm = time.monotonic() + edge.ceiling + 0.1
    edge.until(lambda: time.monotonic() > time_of_calm)
    applied = edge.apply(app("b", [edge.pod("b")]))
    assert (applied.outcome, applied.cause, applied.generation) == (
        Outcome.RELOADED,
        "new_backend",
        2,
    )
    assert edge.get("b.example.com").pod == "b"


def test_reloads_that_follow_each_other_are_gathered(edge: Edge) -> None:
    edge.show(app("first", [edge.pod("first")]))
    began = time.monotonic()
    for number in range(30):
        edge.apply(app(f"app-{number}", [edge.pod(f"pod-{number}")]))
        pause = time.monotonic() + 0.02
        edge.until(lambda pause=pause: time.monotonic() > pause)
    edge.until(lambda: edge.applied is not None and edge.applied.generation == edge.generation)
    took = time.monotonic() - began
    reloads = edge.reloads.count("new_backend")
    assert 1 <= reloads <= 2 + took / edge.ceiling
    assert [edge.get(f"app-{n}.example.com").pod for n in range(30)] == [
        f"pod-{n}" for n in range(30)
    ]
    assert edge.master.processes().reloads == reloads


def test_other_apps_do_not_wait_for_a_gathered_reload(edge: Edge) -> None:
    edge.show(app("a", [edge.pod("a")]))
    edge.apply(app("new-1", [edge.pod("new-1")]))
    held = edge.apply(app("new-2", [edge.pod("new-2")]), app("a", [edge.pod("a2")]))
    assert held.outcome is Outcome.UPDATED
    assert held.generation < edge.generation
    assert edge.get("a.example.com").pod == "a2"
    assert edge.get("new-2.example.com").status == 404
    edge.until(lambda: edge.applied is not None and edge.applied.generation == edge.generation)
    assert edge.get("new-2.example.com").pod == "new-2"


def test_twenty_reloads_under_load_fail_no_request(new_edge: NewEdge) -> None:
    edge = new_edge(hold_off=0.0, ceiling=0.0)
    todo = app(servers=[edge.pod("a"), edge.pod("b")])
    edge.show(todo)
    with Load(edge.port, HOST) as load:
        for number in range(20):
            edge.show(app(f"app-{number}", [edge.pod(f"pod-{number}")]))
            load.go_on(30)
    assert load.report.failed == {}
    assert edge.master.processes().reloads == 20


def test_a_switch_to_a_version_that_needs_a_reload_never_leaves_the_old_one_early(
    edge: Edge,
) -> None:
    blue, green = (
        backend("blue", [edge.pod("b", "blue")]),
        backend("green", [edge.pod("g", "green")]),
    )
    edge.show(app(backends=[blue], split=[("blue", 1)]))
    with Load(edge.port, HOST) as load:
        edge.show(app(backends=[blue, green], split=[("green", 1)]))
        assert edge.get().version == "green"
        load.go_on(50)
    assert load.report.failed == {}


def test_the_first_activation_of_an_app_fails_no_request(edge: Edge) -> None:
    blue, green = edge.pod("b", "blue"), edge.pod("g", "green")
    edge.show(app(backends=[backend(ANY_VERSION, [blue, green])], split=[(ANY_VERSION, 1)]))
    versions = [backend("blue", [blue]), backend("green", [green])]
    with Load(edge.port, HOST) as load:
        edge.show(app(backends=versions, split=[("green", 1)]))
        load.go_on(50)
        edge.show(app(backends=[backend(ANY_VERSION, [blue, green])], split=[(ANY_VERSION, 1)]))
        load.go_on(50)
    assert load.report.failed == {}


def test_changed_policies_cost_one_reload_and_lose_no_server(edge: Edge) -> None:
    servers = [edge.pod("a"), edge.pod("b")]
    edge.show(app(servers=servers))
    edge.show(app(servers=servers, policies=Policies(timeouts=Timeouts(server=5))))
    assert edge.reloads == ["start", "structure"]
    assert "timeout server 5000ms" in edge.file(CONFIG)
    assert set(edge.live().servers["default:todo"]) == {"a", "b"}


def test_what_happened_during_a_reload_is_made_up_for(edge: Edge) -> None:
    """Run time sent to the old worker in the midst of a reload is lost, whatever it answers."""
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app(servers=[a]))
    ask, done = edge.target._proxy.master.ask, []

    def meddled(text: str, seconds: float = 3.0) -> str:
        if text == "reload\n":
            done.append(ask(f"@1 add server default:todo/b {b.endpoint} weight 100\n"))
        return ask(text, seconds)

    edge.target._proxy.master.ask = meddled  # type: ignore[method-assign]
    edge.show(app("other", [edge.pod("other")]), app(servers=[a, b]))
    assert set(edge.live().servers["default:todo"]) == {"a", "b"}
    assert done


def failure(edge: Edge, kind: type[TargetError], *apps: DesiredApp) -> TargetError:
    """What a change ends with, at once or when what it needs is due."""
    try:
        edge.apply(*apps)
    except kind as error:
        return error

    def failed() -> TargetError | None:
        try:
            edge.turn()
        except kind as error:
            return error
        return None

    return eventually(failed, 5, f"{kind.__name__}") or pytest.fail("nothing failed")


# --- refused ----------------------------------------------------------------------------------


def overriding(edge_folder: Path, name: str, text: str) -> None:
    edge_folder.mkdir(exist_ok=True)
    partial = edge_folder / f"{name}.part"
    partial.write_text(text)
    partial.replace(edge_folder / name)


def shipped(name: str) -> str:
    return (templates_directory() / "haproxy" / name).read_text()


@pytest.fixture
def templated(new_edge: NewEdge, tmp_path: Path) -> tuple[Edge, Path]:
    """An Edge with a directory that overrides templates, empty at first."""
    folder = tmp_path / "templates"
    folder.mkdir()
    return new_edge(templates=folder), folder


def test_a_config_that_haproxy_refuses_is_told_and_what_ran_before_goes_on(
    templated: tuple[Edge, Path],
) -> None:
    edge, folder = templated
    a = edge.pod("a")
    edge.show(app("a", [a]), app("z", [edge.pod("z")]))
    worker, before = edge.worker(), edge.file(CONFIG)
    overriding(
        folder,
        "backend.j2",
        shipped("backend.j2")
        + "    http-response set-header X-New yes\n"
        + "{% if backend.app == 'default/bad' %}\n    gibberish here\n{% endif %}\n",
    )
    edge.until(lambda: "template" in edge.reloads)
    worker = edge.worker()
    edge.show(app("bad", [edge.pod("bad")]), app("a", [a, edge.pod("a2")]))
    assert set(edge.held) == {"bad"}
    assert "unknown keyword 'gibberish'" in edge.held["bad"]
    edge.until(lambda: "server a2 " in edge.file(CONFIG))
    # What needed no reload is in effect, in the process and in the files.
    assert edge.worker() == worker
    assert {edge.get("a.example.com").pod for _ in range(4)} == {"a", "a2"}
    assert "server a2 " in edge.file(CONFIG)
    assert "bad" not in edge.file(CONFIG)
    assert before
    # The same is not tried again, and run time goes on.
    reloads = edge.master.processes().reloads
    edge.show(app("a", [a]))
    assert {edge.get("a.example.com").pod for _ in range(4)} == {"a"}
    assert edge.master.processes().reloads == reloads
    # The rest goes out, and with the app its quarantine goes.
    edge.show(app("c", [edge.pod("c")]))
    assert edge.master.processes().reloads == reloads + 1
    edge.show(gone=[AppId("default", "bad")])
    assert edge.held == {}
    assert edge.get("c.example.com").pod == "c"


def test_a_template_that_does_not_render_keeps_what_is_there(
    templated: tuple[Edge, Path],
) -> None:
    edge, folder = templated
    a = edge.pod("a")
    edge.show(app("a", [a]))
    worker = edge.worker()
    for name, text, told in (
        ("backend.j2", "backend {{ backend.id }}\n{% if %}\n", "backend.j2:2"),
        ("backend.j2", "backend {{ backend.id }}\n\n    {{ nonsense }}\n", "backend.j2:3"),
        ("haproxy.cfg.j2", "{% include 'nowhere.j2' %}\n", "nowhere.j2"),
    ):
        overriding(folder, name, text)

        def fails() -> str:
            try:
                edge.turn()
            except TemplateFailed as error:
                return str(error)
            return ""

        assert told in eventually(fails, 5, f"{name} is seen")
        # Servers go on coming.
        with pytest.raises(TemplateFailed):
            edge.apply(app("a", [a, edge.pod("more")]))
        assert {edge.get("a.example.com").pod for _ in range(4)} == {"a", "more"}
        edge.pods.stop("more")
        (folder / name).unlink()
        edge.applied = None
        edge.until(lambda: edge.applied is not None, 5, "the error is over")
        edge.show(app("a", [a]))
    assert edge.worker() == worker


def test_a_changed_template_is_rendered_checked_and_put_into_effect(
    templated: tuple[Edge, Path],
) -> None:
    edge, folder = templated
    edge.show(app("a", [edge.pod("a")]))
    overriding(
        folder, "backend.j2", shipped("backend.j2") + "    http-response set-header X-New yes\n"
    )
    edge.until(lambda: edge.get("a.example.com").headers.get("x-new") == "yes", 5)
    assert edge.reloads == ["start", "template"]


def test_options_that_run_time_does_not_take_cost_a_reload_each_but_work(
    templated: tuple[Edge, Path],
) -> None:
    edge, folder = templated
    overriding(folder, "server.j2", "resolve-prefer ipv4\n")
    edge.show(app("a", [edge.pod("a")]))
    edge.show(app("a", [edge.pod("b")]))
    assert edge.get("a.example.com").pod == "b"
    assert edge.reloads == ["start", "runtime_refused"]


def test_a_server_that_a_template_adds_is_left_alone(templated: tuple[Edge, Path]) -> None:
    edge, folder = templated
    backup = edge.pod("spare")
    overriding(
        folder,
        "backend.j2",
        shipped("backend.j2") + f"    server spare {backup.endpoint} backup\n",
    )
    edge.show(app("a", [edge.pod("a")]))
    edge.show(app("a"))
    assert edge.get("a.example.com").pod == "spare"
    worker = edge.worker()
    looked = time.monotonic() + 2.5
    edge.until(lambda: time.monotonic() > looked)
    assert (edge.get("a.example.com").pod, edge.worker()) == ("spare", worker)


def test_an_address_that_is_taken_stops_no_service(new_edge: NewEdge) -> None:
    edge = new_edge()
    edge.show(app("a", [edge.pod("a")]))
    worker = edge.worker()
    edge.target.close(stop_proxy=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        edge.settings = edge.with_settings(listen=(f"127.0.0.1:{edge.port}", f"127.0.0.1:{port}"))
        edge.target, edge.generation = edge.new_target(), 0
        with Load(edge.port, "a.example.com") as load:
            with pytest.raises(ReloadFailed) as refused:
                edge.apply(app("a", [edge.pod("a2")]))
            load.go_on(20)
        assert refused.value.restored
        assert f"127.0.0.1:{port}" in str(refused.value)
        assert load.report.failed == {}
        assert edge.worker() == worker
        assert edge.get("a.example.com").pod == "a2"
        assert str(port) not in edge.file(CONFIG)
    assert edge.target.actual()["structure.map"].count("listen 127.0.0.1:") == 1


def test_a_new_address_to_listen_on_is_a_reload(edge: Edge) -> None:
    a = app("a", [edge.pod("a")])
    edge.show(a)
    edge.target.close(stop_proxy=False)
    other = free_port()
    edge.settings = edge.with_settings(listen=(f"127.0.0.1:{edge.port}", f"127.0.0.1:{other}"))
    edge.target, edge.generation, edge.outcomes = edge.new_target(), 0, []
    edge.show(a)
    assert edge.reloads == ["listen"]
    assert get(other, "a.example.com").pod == "a"


def test_a_reload_that_fails_puts_files_and_service_back(edge: Edge) -> None:
    """HAProxy's check passes, the reload does not: a file that it reads goes in between."""
    a = edge.pod("a")
    edge.show(app("a", [a]))
    worker, before = edge.worker(), edge.target.actual()
    ask = edge.target._proxy.master.ask

    def spoiled(text: str, seconds: float = 3.0) -> str:
        if text == "reload\n":
            path = edge.settings.directory / CONFIG
            path.write_text(path.read_text() + "\ngibberish\n")
        return ask(text, seconds)

    edge.target._proxy.master.ask = spoiled  # type: ignore[method-assign]
    with Load(edge.port, "a.example.com") as load:
        failed = failure(edge, ReloadFailed, app("a", [a]), app("b", [edge.pod("b")]))
        load.go_on(30)
    assert failed.restored
    assert "what ran before goes on" in str(failed)
    assert load.report.failed == {}
    assert edge.worker() == worker
    assert edge.target.actual() == before
    assert edge.file(LAST_GOOD) == before[CONFIG]
    edge.target._proxy.master.ask = ask  # type: ignore[method-assign]
    # The same is not tried again at once; with something new it is.
    with pytest.raises(ReloadFailed):
        edge.turn()
    assert edge.worker() == worker
    edge.show(app("c", [edge.pod("c")]))
    assert [edge.get(f"{name}.example.com").pod for name in "abc"] == ["a", "b", "c"]


def test_a_reload_that_brings_something_else_is_taken_back_by_another_one(edge: Edge) -> None:
    a = edge.pod("a")
    edge.show(app("a", [a]))
    before, ask = edge.target.actual(), edge.target._proxy.master.ask
    spoiled: list[int] = []

    def spoiling(text: str, seconds: float = 3.0) -> str:
        if text == "reload\n" and not spoiled:
            path = edge.settings.directory / "structure.map"
            spoiled.append(path.write_text(path.read_text() + "who:knows 0123456789abcdef:0\n"))
        return ask(text, seconds)

    edge.target._proxy.master.ask = spoiling  # type: ignore[method-assign]
    failed = failure(edge, ReloadFailed, app("b", [edge.pod("b")]))
    assert failed.restored
    assert edge.target.actual() == before
    assert "who:knows" not in edge.live().structure
    assert "default:b" not in edge.live().structure
    assert edge.get("a.example.com").pod == "a"


def test_a_regex_that_haproxy_cannot_compile_keeps_the_others(edge: Edge) -> None:
    good = regex("x.org", "/[0-9]+")
    edge.show(app("a", [edge.pod("a")], routes=[good, route("a.example.com")]))
    # Python takes it, PCRE does not.
    bad = app("b", [edge.pod("b")], routes=[regex("y.org", "/[[:nonsense:]]")])
    edge.show(bad)
    assert set(edge.held) == {"b"}
    assert edge.get("x.org", "/7").pod == "a"
    assert list(edge.live().tables[REGEX].values()) == ["default/a"]
    edge.show(app("a", [edge.pod("a2")], routes=[good, route("a.example.com")]))
    assert edge.get("a.example.com").pod == "a2"
    edge.show(gone=[AppId("default", "b")])
    assert edge.get("x.org", "/7").pod == "a2"


def test_a_name_that_cannot_be_written_holds_up_its_app_only(edge: Edge) -> None:
    evil = DesiredApp(AppId("default", "evil\n    gibberish"), (route("evil.example.com"),), (), ())
    edge.show(app("a", [edge.pod("a")]))
    edge.show(evil, app("a", [edge.pod("a2")]))
    assert "cannot be" in edge.held[evil.app.name]
    assert edge.get("a.example.com").pod == "a2"
    assert "gibberish" not in "".join(edge.target.actual().values())


def test_check_and_render_touch_nothing(edge: Edge) -> None:
    apps = {TODO: app(servers=[edge.pod("a")])}
    edge.target.verify(apps)
    assert not os.path.exists(edge.settings.directory)
    rendered = edge.target.rendered(apps)
    assert edge.target.actual() == {}
    edge.apply(*apps.values())
    assert edge.target.actual() == rendered


def test_check_says_what_haproxy_does_not_like(templated: tuple[Edge, Path]) -> None:
    edge, folder = templated
    overriding(
        folder, "backend.j2", "backend {{ backend.id }} from vulcanized-defaults\n    gibberish\n"
    )
    with pytest.raises(Rejected, match=r"app default/todo.*gibberish"):
        edge.target.verify({TODO: app(servers=[edge.pod("a")])})


def test_the_balance_of_an_app_changes_by_reload(edge: Edge) -> None:
    servers = [edge.pod("a"), edge.pod("b")]
    edge.show(app(servers=servers))
    edge.show(app(servers=servers, policies=Policies(balance=Balance.FIRST)))
    assert {edge.get().pod for _ in range(4)} == {"a"}


def test_a_change_is_handed_in_again_after_a_failure_without_harm(edge: Edge) -> None:
    a, b = app("a", [edge.pod("a")]), app("b", [edge.pod("b")])
    edge.show(a)
    change = Change(2, {b.app: b}, complete=False, since=0.0)
    for _ in range(3):
        edge.target.apply(change, time.monotonic())
    edge.generation = 2
    edge.until(lambda: edge.get("b.example.com").pod == "b")
    assert edge.master.processes().reloads == 1
