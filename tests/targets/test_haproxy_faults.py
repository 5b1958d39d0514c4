"""What others do to HAProxy, and what happens when we or it die: the state of a fresh start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.load import Load
from tests.servers.process import ServerProcess
from tests.servers.programs import find_program
from tests.servers.wait import eventually
from tests.targets.conftest import NewEdge
from tests.targets.edge import Edge, app, backend, exact, regex, route, server
from vulcanized.errors import (
    DirectoryLocked,
    NotWritten,
    ProxyUnreachable,
    ReloadFailed,
    TemplateFailed,
)
from vulcanized.model import AppId, DesiredApp, HealthCheck, Outcome, Policies, ServerState
from vulcanized.targets.haproxy import process
from vulcanized.targets.haproxy.config import CONFIG, FILES
from vulcanized.targets.haproxy.live import Live, LiveServer
from vulcanized.targets.haproxy.process import find_program as our_find_program


def apps_of_all_kinds(edge: Edge) -> list[DesiredApp]:
    """Something in every map, two versions, every state of a server."""
    versions = [backend(v, [edge.pod(f"split-{v}", v)]) for v in ("blue", "green")]
    check = HealthCheck("/health", None, 1, 1, 2, 3, 200, 399)
    states = [
        edge.pod("ready", weight=7),
        edge.pod("drains", state=ServerState.DRAIN),
        edge.pod("rests", state=ServerState.MAINT),
    ]
    return [
        app("plain", [edge.pod("plain-1"), edge.pod("plain-2")]),
        app("split", backends=versions, split=[("blue", 3), ("green", 1)]),
        app(
            "paths",
            [edge.pod("paths")],
            routes=[exact("x.org", "/e"), regex("x.org", "/[0-9]+"), route("*.x.org", "/p")],
        ),
        app("limited", [edge.pod("l")], policies=Policies(max_connections_app=9, retries=1)),
        app("small", [edge.pod("s")], policies=Policies(max_connections_server=3)),
        app("checked", [edge.pod("c")], policies=Policies(health_check=check)),
        app("resting", [edge.pod("r")], maintenance=True),
        app("states", states),
    ]


def restart_of_the_daemon(edge: Edge) -> None:
    """As after a SIGKILL: nothing is closed in order, only the lock goes with the process."""
    edge.target._folder.close()
    edge.target = edge.new_target()
    edge.generation, edge.outcomes, edge.applied = 0, [], None


# --- adopted ----------------------------------------------------------------------------------


def test_a_new_daemon_adopts_what_runs_without_a_reload_or_a_command(edge: Edge) -> None:
    apps = apps_of_all_kinds(edge)
    edge.show(*apps)
    worker, files = edge.worker(), edge.target.actual()
    restart_of_the_daemon(edge)
    assert edge.apply(*apps).outcome is Outcome.UNCHANGED
    assert edge.applied is not None
    assert edge.applied.generation == 1
    assert edge.worker() == worker
    assert edge.target.actual() == files


def test_what_was_shown_at_run_time_is_adopted_too_and_what_is_missing_made_up_for(
    edge: Edge,
) -> None:
    a = edge.pod("a")
    edge.show(app("a", [a]))
    edge.apply(app("a", [a, edge.pod("b")]))  # never reaches the files
    worker = edge.worker()
    restart_of_the_daemon(edge)
    c = edge.pod("c")
    with Load(edge.port, "a.example.com") as load:
        assert edge.apply(app("a", [a, c])).outcome is Outcome.UPDATED
        load.go_on(30)
    assert load.report.failed == {}
    servers = edge.live().servers["default:a"]
    assert {n for n, each in servers.items() if each.state is ServerState.READY} == {"a", "c"}
    assert edge.worker() == worker
    assert "server c " in edge.file(CONFIG)
    assert "server b " not in edge.file(CONFIG)


def test_an_app_that_changed_its_structure_while_we_were_dead_goes_on_until_it_is_reloaded(
    edge: Edge,
) -> None:
    blue = backend("blue", [edge.pod("b", "blue")])
    edge.show(app(backends=[blue], split=[("blue", 1)]))
    restart_of_the_daemon(edge)
    green = backend("green", [edge.pod("g", "green")])
    with Load(edge.port, "todo.example.com") as load:
        edge.show(app(backends=[blue, green], split=[("green", 1)]))
        load.go_on(30)
    assert load.report.failed == {}
    assert edge.reloads == ["new_backend"]
    assert edge.get().version == "green"


def test_the_last_good_files_come_back_after_a_crash_in_the_midst_of_a_bad_reload(
    edge: Edge,
) -> None:
    """Killed between the swap and the verdict: the next daemon finds bad files, good traffic."""
    a = edge.pod("a")
    policies = Policies(retries=1)
    edge.show(app("a", [a], policies=policies))
    good = edge.target.actual()
    proxy = edge.target._proxy

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    proxy.master.reload = killed  # type: ignore[assignment]
    with pytest.raises(Killed):
        edge.show(app("a", [a], policies=Policies(retries=2)))
    assert edge.target.actual() != good
    restart_of_the_daemon(edge)

    def spoiled(text: str, seconds: float = 3.0, ask: Callable[..., str] = proxy.master.ask) -> str:
        if text == "reload\n":
            path = edge.settings.directory / CONFIG
            path.write_text(path.read_text() + "\ngibberish\n")
        return ask(text, seconds)

    edge.target._proxy.master.ask = spoiled  # type: ignore[method-assign]
    with pytest.raises(ReloadFailed) as failed:
        edge.apply(app("a", [a], policies=Policies(retries=3)))
    assert failed.value.restored
    assert edge.target.actual() == good
    assert edge.get("a.example.com").pod == "a"


@pytest.mark.parametrize("template", ["haproxy.cfg.j2", "backend.j2", "server.j2"])
def test_a_template_broken_while_we_were_dead_takes_nothing_away(edge: Edge, template: str) -> None:
    a = edge.pod("a")
    edge.show(app("a", [a]))
    worker = edge.worker()
    folder = edge.folder / "templates"
    folder.mkdir()
    (folder / template).write_text("{{ nonsense }}\n")
    edge.settings = edge.with_settings(templates=folder)
    restart_of_the_daemon(edge)
    with pytest.raises(TemplateFailed, match="nonsense"):
        edge.apply(app("a", [a, edge.pod("b")]), app("new", [edge.pod("new")]))
    assert {edge.get("a.example.com").pod for _ in range(4)} == {"a", "b"}
    assert edge.worker() == worker or template == "haproxy.cfg.j2"
    (folder / template).unlink()
    edge.until(lambda: edge.applied is not None and edge.applied.generation == 1, 5)
    assert edge.get("new.example.com").pod == "new"


# --- HAProxy dies, starts again ----------------------------------------------------------------


def test_a_killed_haproxy_is_started_again_with_all_that_was_shown(edge: Edge) -> None:
    apps = apps_of_all_kinds(edge)
    edge.show(*apps)
    more = app("plain", [edge.pod("late")])
    edge.apply(more)  # not in the files yet
    processes = edge.master.processes()
    os.kill(processes.master, signal.SIGKILL)
    os.kill(processes.worker, signal.SIGKILL)
    edge.until(lambda: len(edge.reloads) == 2, 10, "it is started again")
    assert edge.reloads == ["start", "start"]
    assert edge.get("plain.example.com").pod == "late"
    assert {edge.get("states.example.com").pod for _ in range(5)} == {"ready"}
    assert edge.get("x.org", "/17").pod == "paths"


def test_a_haproxy_whose_worker_is_killed_is_started_again(edge: Edge) -> None:
    edge.show(app("a", [edge.pod("a")]))
    os.kill(edge.worker(), signal.SIGKILL)

    def served() -> bool:
        with contextlib.suppress(OSError):
            return edge.get("a.example.com").pod == "a"
        return False

    edge.until(served, 10, "it serves again")


def test_a_directory_deleted_by_hand_with_the_socket_in_it_is_made_again(
    new_edge: NewEdge,
) -> None:
    """HAProxy serves on, but nobody could talk to it any more."""
    edge = new_edge()
    edge.settings = edge.with_settings(master_socket=edge.folder / "d" / "m.sock")
    edge.target = edge.new_target()
    edge.show(app("a", [edge.pod("a")]))
    pid = edge.master.processes().master
    for number in range(2):
        with Load(edge.port, "a.example.com") as load:
            shutil.rmtree(edge.settings.directory)
            if number:
                # Neither this daemon nor the directory knows of it any more.
                restart_of_the_daemon(edge)
            pod = edge.pod(f"a{number}")
            edge.apply(app("a", [pod]))
            edge.until(lambda pod=pod: edge.get("a.example.com").pod == pod.name)
            load.go_on(30)
        assert load.report.failed == {}
        assert edge.master.processes().master == pid
        assert f"server a{number} " in edge.file(CONFIG)
        edge.until(lambda: edge.applied is not None)
    assert process_ids(edge) == {pid, edge.worker()}


def process_ids(edge: Edge) -> set[int]:
    """All HAProxys on the config of this directory."""
    config = str(edge.settings.directory / CONFIG).encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if config in (path / "cmdline").read_bytes().split(b"\0"):
                found.add(int(path.name))
    return found


def test_one_that_cannot_be_reached_any_more_is_replaced(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.targets.haproxy.proxy.RELOAD_SECONDS", 0.3)
    edge.show(app("a", [edge.pod("a")]))
    pid = edge.master.processes().master
    edge.settings.master_socket.unlink()
    os.kill(pid, signal.SIGSTOP)
    edge.apply(app("a", [edge.pod("b")]))
    edge.until(lambda: edge.applied is not None)
    assert edge.get("a.example.com").pod == "b"
    assert pid not in process_ids(edge)


def test_a_start_that_haproxy_refuses_falls_back_on_the_last_good_files(edge: Edge) -> None:
    a = app("a", [edge.pod("a")])
    edge.show(a)
    edge.target.close(stop_proxy=True)
    folder = edge.folder / "templates"
    folder.mkdir()
    (folder / "server.j2").write_text("{% if backend.app == 'default/b' %}gibberish{% endif %}\n")
    edge.settings = edge.with_settings(templates=folder)
    restart_of_the_daemon(edge)
    edge.apply(a, app("b", [edge.pod("b")]))
    assert edge.get("a.example.com").pod == "a"
    edge.until(lambda: "gibberish" in edge.held.get("b", ""))
    assert "default:b" not in edge.file(CONFIG)


def test_a_first_start_that_haproxy_refuses_leaves_out_whom_it_refuses(new_edge: NewEdge) -> None:
    edge = new_edge()
    folder = edge.folder / "templates"
    folder.mkdir()
    (folder / "server.j2").write_text("gibberish\n")
    edge.settings = edge.with_settings(templates=folder)
    edge.target = edge.new_target()
    assert edge.apply(app("b", [edge.pod("b")])).generation == 1
    assert "gibberish" in edge.held["b"]
    assert edge.get("b.example.com").status == 404


@pytest.mark.parametrize("shared", [False, True])
def test_an_address_that_is_taken_at_the_start_says_so(edge: Edge, shared: bool) -> None:
    """HAProxy itself would share it with anybody who shares, another HAProxy for one."""
    with (
        socket.create_server(("127.0.0.1", edge.port), reuse_port=shared),
        pytest.raises(ProxyUnreachable, match=r"cannot listen on .*HAProxy was not started"),
    ):
        edge.apply(app("a", [edge.pod("a")]))
    edge.generation = 0
    edge.show(app("a", [edge.pod("a2")]))
    assert edge.get("a.example.com").pod == "a2"


def test_the_end_of_the_daemon_ends_its_haproxy_and_leaves_whole_files(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app("a", [a]))
    edge.apply(app("a", [a, b]))
    pid = edge.master.processes().master
    began = time.monotonic()
    edge.target.close(stop_proxy=True)
    assert time.monotonic() - began < 4
    assert not Path(f"/proc/{pid}").exists()
    assert "server b " in edge.file(CONFIG)


def test_a_daemon_that_ends_for_a_new_one_leaves_haproxy_running(edge: Edge) -> None:
    edge.show(app("a", [edge.pod("a")]))
    worker = edge.worker()
    edge.target.close(stop_proxy=False)
    assert edge.worker() == worker


@pytest.mark.usefixtures("new_edge")
def test_the_stage_of_a_test_leaves_no_haproxy_behind() -> None:
    with Edge() as edge:
        edge.show(app("a", [edge.pod("a")]))
        edge.target.close(stop_proxy=False)
        assert process.pid_of(edge.settings.directory) is not None
    assert process.pid_of(edge.settings.directory) is None


# --- drift ------------------------------------------------------------------------------------


MEDDLING = {
    "a server in maintenance": "set server default:plain/plain-1 state maint",
    "a server that drains": "set server default:plain/plain-1 state drain",
    "a server disabled": "disable server default:plain/plain-2",
    "a weight": "set server default:plain/plain-1 weight 3",
    "an address": "set server default:plain/plain-1 addr 127.0.0.9 port 99",
    "a drained server made ready": "set server default:states/drains state ready",
    "a resting server made ready": "set server default:states/rests state ready",
    "a foreign server": "add server default:plain/alien 127.0.0.9:99;@1 enable server"
    " default:plain/alien",
    "a deleted server": "set server default:plain/plain-1 state maint;@1 del server"
    " default:plain/plain-1",
    "a switch": "set map {d}/active.map default/plain default:states",
    "a foreign route": "add map {d}/hosts.map evil.org evil.org",
    "a deleted route": "del map {d}/routes-prefix.map plain.example.com/",
    "a cleared map of routes": "clear map {d}/routes-prefix.map",
    "a cleared map of hosts": "clear map {d}/hosts.map",
    "cleared regexes": "clear map {d}/routes-regex.map",
    "a slot": "set map {d}/split.map default/split:0 default:split:green",
    "a limit of a server": "set maxconn server default:small/s 7",
    "a limit": "set map {d}/limits.map default/limited 1",
}


@pytest.fixture(scope="module")
def kinds(module_edge: Edge) -> list[DesiredApp]:
    return apps_of_all_kinds(module_edge)


@pytest.fixture(scope="module", params=[500, 0], ids=["few", "many"])
def whole(
    module_edge: Edge, kinds: list[DesiredApp], request: pytest.FixtureRequest
) -> Iterator[Edge]:
    """All kinds of apps on a target that looks at what runs more often than it would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vulcanized.targets.haproxy.target.MANY_BACKENDS", request.param)
        patch.setattr("vulcanized.targets.haproxy.target.LOOK_EVERY", 0.1)
        patch.setattr("vulcanized.targets.haproxy.target.LOOK_SHARE", 1)
        module_edge.show(*kinds)
        yield module_edge


@pytest.mark.parametrize("what", MEDDLING)
def test_what_others_change_at_run_time_is_changed_back(whole: Edge, what: str) -> None:
    edge = whole
    before = edge.live()
    answer = edge.command(MEDDLING[what].format(d=edge.settings.directory))
    assert "No such" not in answer
    assert "Unknown" not in answer
    assert edge.live() != before or what == "a drained server made ready"
    edge.until(lambda: same(edge.live(), before), 5, "it is as it was")
    assert edge.live().processes.worker == before.processes.worker
    assert edge.reloads == ["start"]


def same(one: Live, other: Live) -> bool:
    shown = [
        {id_: {n: seen(s) for n, s in servers.items()} for id_, servers in live.servers.items()}
        for live in (one, other)
    ]
    return shown[0] == shown[1] and (one.tables, one.structure) == (other.tables, other.structure)


def seen(server: LiveServer) -> tuple[object, ...]:
    """A server that drains does so by its state or by its weight."""
    drains = server.state is ServerState.DRAIN or server.weight == 0
    rests = server.state is ServerState.MAINT
    weight = 0 if drains or rests else server.weight
    return (server.address, server.port, drains, rests, weight, server.maxconn)


def reading(edge: Edge, condition: Callable[[Live], bool]) -> Callable[[], bool]:
    """Whether that holds of what runs; not while it cannot be asked."""

    def holds() -> bool:
        with contextlib.suppress(ProxyUnreachable):
            return condition(edge.live())
        return False

    return holds


def test_a_reload_by_someone_else_is_noticed_and_loses_nothing(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app("a", [a]))
    edge.apply(app("a", [b]))  # not in the files yet: the reload brings back what was
    os.kill(edge.master.processes().master, signal.SIGUSR2)
    edge.until(
        reading(edge, lambda live: set(live.servers["default:a"]) == {"b"}), 5, "it is as it was"
    )
    assert edge.get("a.example.com").pod == "b"
    assert edge.reloads == ["start"]


def test_commands_are_not_lost_to_a_worker_that_was_replaced(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app("a", [a]))
    old = edge.worker()
    os.kill(edge.master.processes().master, signal.SIGUSR2)
    eventually(lambda: edge.worker() != old, 5, ignore=ProxyUnreachable)
    edge.apply(app("a", [a, b]))
    assert set(edge.live().servers["default:a"]) == {"a", "b"}


def test_files_changed_by_hand_are_written_again(whole: Edge) -> None:
    before = whole.target.actual()
    assert set(before) == set(FILES)
    for name in FILES:
        (whole.settings.directory / name).write_text("# by hand\n")
    whole.until(lambda: whole.target.actual() == before, 5, "they are as they were")
    for name in FILES:
        (whole.settings.directory / name).unlink()
    whole.until(lambda: whole.target.actual() == before, 5, "they are there again")


# --- one that others run ----------------------------------------------------------------------


@contextlib.contextmanager
def run_by_others(edge: Edge) -> Iterator[ServerProcess]:
    """HAProxy as systemd runs it, on our file."""
    socket_ = f"{edge.settings.master_socket},mode,600"
    command: list[str | Path] = [find_program("haproxy"), "-W", "-S", socket_]
    process = ServerProcess(
        "haproxy", [*command, "-f", edge.settings.directory / CONFIG], edge.folder / "log"
    )
    try:
        yield process
    finally:
        process.stop()


def test_files_are_made_for_a_haproxy_that_is_not_there_yet(new_edge: NewEdge) -> None:
    edge = new_edge(start=False)
    a = app("a", [edge.pod("a")])
    with pytest.raises(ProxyUnreachable, match="-S"):
        edge.apply(a)
    assert "default:a" in edge.file(CONFIG)
    with run_by_others(edge) as process:
        process.start()
        edge.until(lambda: edge.applied is not None and edge.applied.generation == 1, 5)
        assert edge.outcomes[-1].outcome is Outcome.UNCHANGED
        assert edge.get("a.example.com").pod == "a"
        edge.show(app("b", [edge.pod("b")]))
        assert edge.get("b.example.com").pod == "b"


def test_a_haproxy_that_was_away_comes_back_with_what_happened_meanwhile(
    new_edge: NewEdge,
) -> None:
    edge = new_edge(start=False)
    with pytest.raises(ProxyUnreachable):
        edge.apply(app("a", [edge.pod("a")]))
    with run_by_others(edge) as process:
        process.start()
        edge.until(lambda: edge.applied is not None, 5)
        process.stop()
        with pytest.raises(ProxyUnreachable):
            edge.apply(app("a", [edge.pod("a2")]), app("b", [edge.pod("b")]))
        process.start()
        edge.until(lambda: edge.applied is not None and edge.applied.generation == 2, 5)
        assert edge.get("a.example.com").pod == "a2"
        assert edge.get("b.example.com").pod == "b"
        assert edge.reloads == []


def test_without_a_haproxy_program_of_our_own_the_reload_is_the_check(
    new_edge: NewEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sidecar that shares the directory and the socket, and no more."""
    folder = Path(tempfile.mkdtemp(prefix="vt-"))
    (folder / "server.j2").write_text("{% if backend.app == 'default/b' %}gibberish{% endif %}\n")
    edge = new_edge(start=False, templates=folder)
    with run_by_others(edge) as process:
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(ProxyUnreachable):
            edge.apply(app("a", [edge.pod("a")]))
        process.start()
        edge.until(lambda: edge.applied is not None, 5)
        with pytest.raises(ReloadFailed) as failed:
            edge.apply(app("b", [edge.pod("b")]))
        assert failed.value.restored
        assert edge.get("a.example.com").pod == "a"
        assert "default:b" not in edge.file(CONFIG)
        edge.show(app("c", [edge.pod("c")]), gone=[AppId("default", "b")])
        assert edge.get("c.example.com").pod == "c"
    shutil.rmtree(folder)


def test_a_frozen_haproxy_costs_an_error_and_no_more(new_edge: NewEdge) -> None:
    edge = new_edge(start=False)
    with pytest.raises(ProxyUnreachable):
        edge.apply(app("a", [edge.pod("a")]))
    with run_by_others(edge) as process:
        process.start()
        edge.until(lambda: edge.applied is not None, 5)
        process.pause()
        began = time.monotonic()
        with pytest.raises(ProxyUnreachable, match="does not answer"):
            edge.apply(app("a", [edge.pod("a2")]))
        assert time.monotonic() - began < 10
        process.resume()
        edge.until(lambda: edge.applied is not None and edge.applied.generation == 2, 5)
        assert edge.get("a.example.com").pod == "a2"


def test_a_haproxy_with_another_config_is_told_apart(new_edge: NewEdge) -> None:
    edge = new_edge(start=False)
    other = edge.folder / "other.cfg"
    other.write_text(
        "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n"
        f"frontend f\n bind 127.0.0.1:{edge.port}\n"
    )
    command: list[str | Path] = [
        find_program("haproxy"),
        "-W",
        "-S",
        edge.settings.master_socket,
        "-f",
        other,
    ]
    process = ServerProcess("haproxy", command, edge.folder / "log")
    process.start()
    try:
        eventually(edge.worker, 5, ignore=ProxyUnreachable)
        with pytest.raises(ReloadFailed, match=r"does not run.*haproxy\.cfg"):
            edge.apply(app("a", [edge.pod("a")]))
        worker = edge.worker()
        with pytest.raises(ReloadFailed):
            edge.turn()
        assert edge.worker() == worker
    finally:
        process.stop()


# --- the directory ----------------------------------------------------------------------------


def test_two_daemons_never_manage_one_directory(edge: Edge) -> None:
    edge.show(app("a", [edge.pod("a")]))
    second = edge.new_target()
    with pytest.raises(DirectoryLocked, match=str(edge.settings.directory)):
        second.apply(None, time.monotonic())
    edge.target.close(stop_proxy=False)
    second.apply(None, time.monotonic())
    second.close(stop_proxy=False)


def test_a_directory_that_cannot_be_made_is_said_so(new_edge: NewEdge) -> None:
    edge = new_edge()
    (edge.folder / "file").write_text("")
    edge.settings = edge.with_settings(directory=edge.folder / "file" / "d")
    edge.target = edge.new_target()
    with pytest.raises(NotWritten, match="file/d"):
        edge.apply(app("a", [edge.pod("a")]))


def test_a_full_disk_stops_no_pod(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    a = edge.pod("a")
    edge.show(app("a", [a]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        edge.apply(app("a", [edge.pod("b")]))
        assert edge.get("a.example.com").pod == "b"
        due = time.monotonic() + 1
        with pytest.raises(NotWritten, match="No space left"):
            eventually(lambda: edge.turn() and time.monotonic() > due, 3)
        whole = edge.file(CONFIG)
        assert "server a " in whole
    edge.until(lambda: "server b " in edge.file(CONFIG), 5)


def test_a_directory_with_a_name_that_no_config_can_hold_is_refused(new_edge: NewEdge) -> None:
    edge = new_edge()
    for name in ("with space", 'quo"te', "new\nline", "da$h{}"):
        with pytest.raises(ValueError, match="directory"):
            edge.with_settings(directory=edge.folder / name)
    edge.settings = edge.with_settings()


def test_haproxy_missing_is_named_with_what_to_install(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert our_find_program() is None
    with pytest.raises(ProxyUnreachable, match="apt install haproxy"):
        edge.apply(app("a", [server("a")]))


def test_the_config_is_without_warnings(edge: Edge) -> None:
    edge.show(*apps_of_all_kinds(edge))
    command: list[str | Path] = [
        find_program("haproxy"),
        "-c",
        "-dW",
        "-f",
        edge.settings.directory / CONFIG,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
