"""What others do to nginx, and what happens when it or we die: the state of a fresh start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.load import Load
from tests.servers.process import ServerProcess
from tests.servers.programs import find_program
from tests.servers.wait import eventually
from tests.targets.conftest import NewNginx
from tests.targets.edge import app, backend
from tests.targets.nginxedge import NginxEdge, restart_of_the_daemon
from vulcanized.errors import (
    DirectoryLocked,
    NotWritten,
    ProxyUnreachable,
    ReloadFailed,
    TargetError,
    TemplateFailed,
)
from vulcanized.model import DesiredApp, Outcome, Policies, Server
from vulcanized.targets.nginx import process, proxy
from vulcanized.targets.nginx.config import FLAGS, HTTP, MADE_OF, MAIN

HOST = "a.example.com"


def apps_of_all_kinds(edge: NginxEdge) -> list[DesiredApp]:
    versions = [backend(v, [edge.pod(f"split-{v}", v)]) for v in ("blue", "green")]
    return [
        app("a", [edge.pod("a")]),
        app("split", backends=versions, split=[("blue", 3), ("green", 1)]),
        app("switched", backends=versions, split=[("green", 1)]),
        app("limited", [edge.pod("l")], policies=Policies(max_connections_app=9, retries=1)),
        app("resting", [edge.pod("r")], maintenance=True),
        app("empty"),
    ]


def serves(edge: NginxEdge, pod: str, host: str = HOST) -> bool:
    with contextlib.suppress(OSError):
        return edge.get(host).pod == pod
    return False


def insist(edge: NginxEdge, *apps: DesiredApp) -> None:
    """Hand in a change, and call until it is in effect; raises what that raises."""
    edge.apply(*apps)
    while edge.applied is not None and edge.applied.generation != edge.generation:
        time.sleep(max(0.0, (edge.applied.due or 0.0) - time.monotonic()))
        edge.turn()


# --- we die -------------------------------------------------------------------------------------


def test_a_new_daemon_adopts_what_runs_without_a_reload(nginx: NginxEdge) -> None:
    apps = apps_of_all_kinds(nginx)
    nginx.show(*apps)
    workers, files, flags = nginx.workers(), nginx.target.actual(), nginx.flags()
    restart_of_the_daemon(nginx)
    applied = nginx.apply(*apps)
    assert (applied.outcome, applied.generation) == (Outcome.UNCHANGED, 1)
    assert nginx.workers() == workers
    assert nginx.target.actual() == files
    assert nginx.flags() == flags == {"switched~green"}


def test_what_happened_while_we_were_dead_is_one_reload_and_one_switch(nginx: NginxEdge) -> None:
    apps = apps_of_all_kinds(nginx)
    nginx.show(*apps)
    restart_of_the_daemon(nginx)
    changed = [
        app("switched", backends=apps[2].backends, split=[("blue", 1)]),
        app("a", [nginx.pod("a2")]),
    ]
    with Load(nginx.port, "switched.example.com") as load:
        nginx.show(*changed, *(each for each in apps if each.app.name not in {"switched", "a"}))
        load.go_on(30)
    assert load.report.failed == {}
    assert nginx.reloads == ["servers"]
    assert nginx.get("switched.example.com").version == "blue"
    assert nginx.get(HOST).pod == "a2"


def test_the_end_of_the_daemon_ends_its_nginx_and_only_then(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    pid = nginx.master.pid
    nginx.target.close(stop_proxy=False)
    assert serves(nginx, "a")
    restart_of_the_daemon(nginx)
    nginx.show(app("a", [nginx.pod("b")]))
    assert nginx.master.pid == pid
    nginx.target.close(stop_proxy=True)
    eventually(lambda: process.child_of(nginx.settings.directory) is None)
    with pytest.raises(OSError, match="refused"):
        nginx.get(HOST)


def test_a_second_daemon_does_not_get_the_directory(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    second = nginx.new_target()
    with pytest.raises(DirectoryLocked):
        second.apply(None, time.monotonic())
    second.close(stop_proxy=True)
    assert serves(nginx, "a")


@pytest.mark.parametrize("template", ["http.conf.j2", "app.j2", "pool.j2", "server.j2"])
def test_a_template_broken_while_we_were_dead_takes_nothing_away(
    nginx: NginxEdge, template: str
) -> None:
    versions = [backend(v, [nginx.pod(v, v)]) for v in ("blue", "green")]
    nginx.show(app("a", [nginx.pod("a")]), app("c", backends=versions, split=[("blue", 1)]))
    folder = nginx.folder / "templates"
    folder.mkdir()
    (folder / template).write_text("{{ nonsense }}\n")
    nginx.settings = nginx.with_settings(templates=folder)
    restart_of_the_daemon(nginx)
    switched = app("c", backends=versions, split=[("green", 1)])
    with pytest.raises(TemplateFailed, match="nonsense"):
        nginx.apply(app("a", [nginx.pod("b")]), switched)
    nginx.generation = 1
    assert serves(nginx, "green", "c.example.com")
    eventually(lambda: failing(nginx) and serves(nginx, "b"))
    (folder / template).unlink()
    nginx.until(lambda: nginx.applied is not None and nginx.applied.generation == 1, 10)
    nginx.show(app("new", [nginx.pod("new")]))
    assert serves(nginx, "new", "new.example.com")


def failing(edge: NginxEdge) -> bool:
    with contextlib.suppress(TemplateFailed):
        edge.turn()
        return False
    return True


# --- nginx dies ---------------------------------------------------------------------------------


def test_a_killed_nginx_is_started_again_with_all_that_was_shown(nginx: NginxEdge) -> None:
    nginx.show(*apps_of_all_kinds(nginx))
    pids = {nginx.master.pid, *nginx.workers().active}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    nginx.until(lambda: nginx.reloads == ["start", "start"], 10)
    assert nginx.get(HOST).pod == "a"
    assert nginx.get("switched.example.com").version == "green"
    assert not pids & {nginx.master.pid, *nginx.workers().active}


def test_workers_whose_master_is_killed_give_way_to_a_new_one(nginx: NginxEdge) -> None:
    """They serve on, and keep the port: nobody could tell them anything any more."""
    nginx.show(app("a", [nginx.pod("a")]))
    orphans = nginx.workers().active
    os.kill(nginx.master.pid, signal.SIGKILL)
    assert serves(nginx, "a")
    nginx.apply(app("a", [nginx.pod("b")]))
    nginx.until(lambda: nginx.reloads == ["start", "start"] and serves(nginx, "b"), 15)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))


def test_workers_of_a_killed_master_give_way_also_after_a_restart_of_ours(
    nginx: NginxEdge,
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    os.kill(nginx.master.pid, signal.SIGKILL)
    restart_of_the_daemon(nginx)
    nginx.apply(app("a", [nginx.pod("b")]))
    nginx.until(lambda: serves(nginx, "b"), 15)


def test_a_killed_worker_is_nginxs_own_affair(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    for pid in nginx.workers().active:
        os.kill(pid, signal.SIGKILL)
    nginx.until(lambda: serves(nginx, "a"), 10)
    nginx.show(app("a", [nginx.pod("b")]))
    assert serves(nginx, "b")
    assert nginx.reloads == ["start", "servers"]


def test_a_frozen_nginx_costs_an_error_and_no_more(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 1.0)
    nginx.show(app("a", [nginx.pod("a")]))
    before = nginx.target.actual()
    pids = {nginx.master.pid, *nginx.workers().active}
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ReloadFailed, match=r"still accept|nothing answers"):
            nginx.apply(app("a", [nginx.pod("b")]))
        assert nginx.target.actual() == before
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    nginx.show(app("a", [nginx.pod("c")]))
    assert serves(nginx, "c")


def test_an_address_that_is_taken_at_the_start_says_so(nginx: NginxEdge) -> None:
    with (
        socket.create_server(("127.0.0.1", nginx.port)),
        pytest.raises(ProxyUnreachable, match=r"cannot listen on .*nginx was not started"),
    ):
        nginx.apply(app("a", [nginx.pod("a")]))
    nginx.generation = 0
    nginx.show(app("a", [nginx.pod("a2")]))
    assert serves(nginx, "a2")


@pytest.mark.parametrize("nonsense", ["#!/bin/sh\necho nonsense\nexit 3\n", "nothing", None])
def test_an_nginx_that_is_missing_or_says_nonsense_is_told(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch, nonsense: str | None
) -> None:
    program = nginx.folder / "nginx"
    if nonsense is not None:
        program.write_text(nonsense)
        program.chmod(0o755)
    found = str(program) if nonsense is not None else None
    with monkeypatch.context() as patch:
        patch.setattr("vulcanized.targets.programs.find", lambda _: found)
        with pytest.raises(TargetError, match="nginx"):
            nginx.apply(app("a", [nginx.pod("a")]))
    nginx.generation = 0
    nginx.show(app("a", [nginx.pod("b")]))
    assert serves(nginx, "b")


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [HTTP, MAIN, MADE_OF])
@pytest.mark.parametrize("how", ["overwritten", "emptied", "deleted"])
def test_files_changed_by_hand_are_put_back_without_a_reload(
    nginx: NginxEdge, name: str, how: str
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    eventually(lambda: len(nginx.workers().active) == os.cpu_count())
    workers, before = nginx.workers(), nginx.target.actual()
    path = nginx.settings.directory / name
    if how == "deleted":
        path.unlink()
    else:
        path.write_text("" if how == "emptied" else "gibberish\n")
    nginx.until(lambda: nginx.target.actual() == before, 5)
    assert nginx.workers() == workers


def test_a_directory_deleted_by_hand_is_made_again(nginx: NginxEdge) -> None:
    apps = apps_of_all_kinds(nginx)
    nginx.show(*apps)
    before, pid = nginx.target.actual(), nginx.master.pid
    shutil.rmtree(nginx.settings.directory)

    def back() -> bool:
        with contextlib.suppress(OSError):
            return nginx.target.actual() == before and nginx.flags() == {"switched~green"}
        return False

    nginx.until(back, 10)
    assert nginx.master.pid == pid
    assert nginx.get("switched.example.com").version == "green"
    nginx.show(app("a", [nginx.pod("b")]))
    assert serves(nginx, "b")


def test_a_directory_that_is_swapped_for_another_one_is_filled(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    before, directory = nginx.target.actual(), nginx.settings.directory
    directory.rename(nginx.folder / "old")
    directory.mkdir()
    (directory / HTTP).write_text("gibberish\n")
    nginx.until(lambda: nginx.target.actual() == before, 10)
    nginx.show(app("a", [nginx.pod("b")]))
    assert serves(nginx, "b")


def test_a_directory_that_is_a_link_and_leads_elsewhere_is_filled_there(
    new_nginx: NewNginx,
) -> None:
    nginx = new_nginx()
    link = nginx.folder / "link"
    for name in ("one", "two"):
        (nginx.folder / name).mkdir()
    link.symlink_to(nginx.folder / "one")
    nginx.settings = nginx.with_settings(directory=link)
    nginx.target = nginx.new_target()
    apps = apps_of_all_kinds(nginx)
    nginx.show(*apps)
    before = nginx.target.actual()
    other = nginx.folder / "other-link"
    other.symlink_to(nginx.folder / "two")
    other.replace(link)
    nginx.until(lambda: nginx.target.actual() == before, 10)
    nginx.until(lambda: serves(nginx, "split-green", "switched.example.com"), 10)
    assert (nginx.folder / "two" / HTTP).read_text() == before[HTTP]
    nginx.show(app("a", [nginx.pod("b")]))
    assert serves(nginx, "b")
    assert set(nginx.reloads) == {"start", "servers"}


def test_a_reload_by_hand_of_other_files_is_undone(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    path = nginx.settings.directory / HTTP
    stranger = f'server {{ listen 127.0.0.1:{nginx.port}; return 200 "stranger"; }}\n'
    path.write_text(stranger)
    os.kill(nginx.master.pid, signal.SIGHUP)
    eventually(lambda: nginx.get(HOST).body == "stranger", 5, ignore=OSError)
    # An old worker may answer as if nothing had been.
    nginx.until(lambda: nginx.reloads[-1] == "other_config" and serves(nginx, "a"), 10)


def test_a_directory_that_cannot_be_written_is_told_and_traffic_goes_on(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NotWritten, match="No space left"):
            nginx.apply(app("a", [nginx.pod("b")]))
    assert serves(nginx, "a")
    nginx.until(lambda: serves(nginx, "b"), 10)


def test_a_log_that_is_missing_or_cannot_be_read_is_done_without(
    nginx: NginxEdge,
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    path = nginx.settings.directory / process.LOG_FILE
    path.unlink()
    nginx.show(app("a", [nginx.pod("b")]))
    path.mkdir()
    nginx.show(app("a", [nginx.pod("c")]))
    assert serves(nginx, "c")


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Path]:
    """A file system of 256 kB; name it before who uses it, so that it goes after that."""
    path = open_folder / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "none", path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(path: Path) -> Path:
    """Leave no room on its disk, nor in what this file has of it; the file."""
    for size in (4096, 1):
        with path.open("ab", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\n" * size)
    return path


def turn_on(nginx: NginxEdge, seconds: float) -> None:
    """What is due, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        nginx.turn()
        time.sleep(0.02)


def test_a_full_disk_is_told_stops_no_switch_and_leaves_whole_files(
    small_disk: Path, new_nginx: NewNginx
) -> None:
    """Its log is there too."""
    nginx = new_nginx(directory=small_disk / "d")
    versions = [backend(v, [nginx.pod(v, v)]) for v in ("blue", "green")]
    nginx.show(app("c", backends=versions, split=[("blue", 1)]), app("a", [nginx.pod("a")]))
    filler, before = fill(small_disk / "filler"), nginx.target.actual()
    with Load(nginx.port, HOST) as load:
        with pytest.raises(NotWritten, match="No space left"):
            nginx.apply(app("a", [nginx.pod("b")]))
        nginx.until(lambda: nginx.target.actual() == before)
        # What waits for room is tried again when it is due, which may be now.
        with contextlib.suppress(NotWritten):
            nginx.apply(app("c", backends=versions, split=[("green", 1)]))
        assert serves(nginx, "green", "c.example.com")
        with pytest.raises(NotWritten, match="No space left"):
            turn_on(nginx, 10)
        load.go_on(20)
    assert load.report.failed == {}
    filler.unlink()
    nginx.until(lambda: serves(nginx, "b"), 10)
    assert not list((small_disk / "d").glob("*.new"))


@pytest.mark.parametrize("text", ["", "nonsense", "0", "-1", "1", "99999999", "SELF", "WORKER"])
def test_a_pid_file_that_is_stale_never_has_us_signal_a_stranger(
    nginx: NginxEdge, text: str
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    worker = next(iter(nginx.workers().active))
    text = text.replace("SELF", str(os.getpid())).replace("WORKER", str(worker))
    (nginx.settings.directory / process.PID_FILE).write_text(text)
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    try:
        nginx.show(app("a", [nginx.pod("b")]))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert received == []
    assert serves(nginx, "b")
    assert nginx.reloads == ["start", "servers"]


# --- clients that stay --------------------------------------------------------------------------


def test_a_client_that_stays_holds_up_no_reload(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    with socket.create_connection(("127.0.0.1", nginx.port)) as client:
        client.sendall(b"GET /slow?seconds=5 HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
        eventually(lambda: nginx.pods.in_flight("a"))
        for number in range(3):
            nginx.show(app("a", [nginx.pod(f"b{number}")]))
            assert serves(nginx, f"b{number}")
        assert nginx.workers().leaving
        client.settimeout(20)
        assert client.recv(100).startswith(b"HTTP/1.1 200")


# --- an nginx of others -------------------------------------------------------------------------


class Others:
    """An nginx as systemd runs it, with a config of its own that includes ours."""

    def __init__(self, edge: NginxEdge, logs: str = "") -> None:
        self.folder = edge.folder / "others"
        for path in (self.folder, self.folder / logs):
            path.mkdir(exist_ok=True)
        self.pid = self.folder / "nginx.pid"
        self.log = self.folder / logs / "error.log"
        self.config = self.folder / "nginx.conf"
        paths = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.config.write_text(
            f"pid {self.pid};\nerror_log {self.log} notice;\nworker_processes 2;\n"
            f"events {{ worker_connections 256; }}\nhttp {{\naccess_log off; gzip on;\n{paths}"
            f"open_file_cache max=100;\ninclude {edge.settings.directory / HTTP};\n}}\n"
        )
        self._process = ServerProcess(
            "nginx",
            [find_program("nginx"), "-g", "daemon off;", "-c", self.config],
            self.folder / "log",
        )

    def write_access_log(self, path: Path) -> None:
        """From the next reload on."""
        text = self.config.read_text()
        self.config.write_text(text.replace("access_log off;", f"access_log {path};"))

    def start(self, *, forks: bool = False) -> None:
        """`forks`: as Debian's unit has it; else USR2 is ignored."""
        if forks:
            subprocess.run([find_program("nginx"), "-c", self.config], check=True)
        else:
            self._process.start()

    def stop(self) -> None:
        self._process.stop()


@contextlib.contextmanager
def run_by_others(
    edge: NginxEdge, *, start: bool = True, forks: bool = False, logs: str = ""
) -> Iterator[Others]:
    """The files first, then nginx. `logs`: the directory of its error log, from its own on."""
    others = Others(edge, logs)
    edge.settings = edge.with_settings(start=False, pid=others.pid, error_log=others.log)
    edge.target = edge.new_target()
    try:
        if start:
            with pytest.raises(ProxyUnreachable, match="no nginx runs with the pid file"):
                edge.apply(app("a", [edge.pod("a")]))
            others.start(forks=forks)
            edge.until(lambda: edge.applied is not None and edge.applied.generation == 1, 10)
        yield others
    finally:
        for pid in {process.pid_in(path) for path in others.folder.glob("nginx.pid*")} - {None}:
            if pid is not None and process.master_of(pid):
                os.kill(pid, signal.SIGTERM)
        others.stop()


def test_files_are_made_for_an_nginx_that_is_not_there_yet(nginx: NginxEdge) -> None:
    with run_by_others(nginx):
        assert nginx.outcomes[-1].outcome is Outcome.UNCHANGED
        assert nginx.reloads == []
        assert serves(nginx, "a")
        nginx.show(app("b", [nginx.pod("b")]))
        assert serves(nginx, "b", "b.example.com")
        versions = [backend(v, [nginx.pod(v, v)]) for v in ("blue", "green")]
        for active in ("blue", "green", "blue"):
            nginx.show(app("c", backends=versions, split=[(active, 1)]))
            assert serves(nginx, active, "c.example.com")
        assert nginx.reloads == ["new_backend", "new_backend"]


def test_an_nginx_that_was_away_comes_back_with_what_happened_meanwhile(nginx: NginxEdge) -> None:
    with run_by_others(nginx) as others:
        others.stop()
        with pytest.raises(ProxyUnreachable):
            nginx.apply(app("a", [nginx.pod("a2")]), app("b", [nginx.pod("b")]))
        others.start()
        nginx.until(lambda: nginx.applied is not None and nginx.applied.generation == 2, 10)
        assert serves(nginx, "a2")
        assert serves(nginx, "b", "b.example.com")
        assert nginx.reloads == []


def test_a_refusal_by_an_nginx_of_others_is_read_in_its_log(nginx: NginxEdge) -> None:
    """Its own config is broken: ours passes its check, and the reload fails."""
    with run_by_others(nginx) as others:
        good = others.config.read_text()
        others.config.write_text(good + "gibberish;\n")
        before = nginx.target.actual()
        with pytest.raises(ReloadFailed, match='unknown directive "gibberish"') as failed:
            nginx.apply(app("a", [nginx.pod("b")]))
        assert failed.value.restored
        assert nginx.target.actual() == before
        assert serves(nginx, "a")
        others.config.write_text(good)
        nginx.show(app("a", [nginx.pod("c")]))
        assert serves(nginx, "c")


@pytest.mark.parametrize("text", ["", "nonsense", "DEAD", "SELF", "WORKER", "MISSING"])
def test_a_pid_file_of_others_that_is_stale_is_told_and_no_stranger_signalled(
    nginx: NginxEdge, text: str
) -> None:
    with run_by_others(nginx) as others:
        good = others.pid.read_text()
        worker = next(iter(process.workers(process.Master(int(good), "")).active))
        with subprocess.Popen(["true"]) as ended:
            dead = ended.pid
        for word, number in (("DEAD", dead), ("SELF", os.getpid()), ("WORKER", worker)):
            text = text.replace(word, str(number))
        others.pid.write_text(text)
        if text == "MISSING":
            others.pid.unlink()
        received: list[int] = []
        before = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
        try:
            with pytest.raises(ProxyUnreachable, match="no nginx runs with the pid file"):
                nginx.apply(app("a", [nginx.pod("b")]))
        finally:
            signal.signal(signal.SIGHUP, before)
        assert received == []
        assert serves(nginx, "a")
        assert process._title(worker).startswith(b"nginx: worker process")
        others.pid.write_text(good)
        nginx.until(lambda: serves(nginx, "b"), 10)


def test_the_pid_file_of_another_nginx_brings_ours_no_change_and_that_one_no_harm(
    nginx: NginxEdge, new_nginx: NewNginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells two masters apart but what they run, and that shows."""
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 1.0)
    stranger = new_nginx()
    stranger.show(app("s", [stranger.pod("s")]))
    with run_by_others(nginx) as others:
        good = others.pid.read_text()
        others.pid.write_text(str(stranger.master.pid))
        with pytest.raises(ReloadFailed, match="does not run"):
            nginx.apply(app("a", [nginx.pod("b")]))
        assert serves(nginx, "a")
        assert serves(stranger, "s", "s.example.com")
        others.pid.write_text(good)
        nginx.show(app("a", [nginx.pod("c")]))
        assert serves(nginx, "c")
        assert serves(stranger, "s", "s.example.com")


@pytest.mark.parametrize("which", ["error_log", "access_log"])
def test_a_log_of_others_that_is_deleted_is_made_anew_by_nginx(
    nginx: NginxEdge, which: str
) -> None:
    with run_by_others(nginx) as others:
        path = others.folder / "access.log" if which == "access_log" else others.log
        if which == "access_log":
            others.write_access_log(path)
            nginx.show(app("a", [nginx.pod("a2")]))
        path.unlink()
        nginx.show(app("a", [nginx.pod("b")]))
        assert serves(nginx, "b")
        assert path.exists()


@pytest.mark.parametrize("which", ["error_log", "access_log"])
def test_a_log_whose_directory_is_gone_is_told_and_the_reload_made_up_for(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """nginx refuses to reload then; of its error log nobody can read why."""
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 1.0)
    with run_by_others(nginx, logs="logs") as others:
        if which == "access_log":
            others.write_access_log(others.folder / "more/access.log")
            (others.folder / "more").mkdir()
            nginx.show(app("a", [nginx.pod("a2")]))
        folder = others.folder / ("more" if which == "access_log" else "logs")
        served, before = nginx.get(HOST).pod, nginx.target.actual()
        folder.rename(others.folder / "away")
        said = {"access_log": "more/access.log.*No such file", "error_log": "cannot be read"}[which]
        with Load(nginx.port, HOST) as load:
            with pytest.raises(ReloadFailed, match=said) as failed:
                insist(nginx, app("a", [nginx.pod("b")]))
            load.go_on(20)
        assert load.report.failed == {}
        assert nginx.target.actual() == before
        assert failed.value.restored
        assert serves(nginx, served)
        (others.folder / "away").rename(folder)
        nginx.show(app("a", [nginx.pod("c")]))
        assert serves(nginx, "c")


def test_a_log_on_a_full_disk_holds_up_no_reload(
    small_disk: Path, nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 1.0)
    with run_by_others(nginx, logs=str(small_disk)) as others:
        fill(others.log)
        nginx.show(app("a", [nginx.pod("b")]))
        assert serves(nginx, "b")
        # A refusal can be read nowhere, and is found by what runs.
        good = others.config.read_text()
        others.config.write_text(good + "gibberish;\n")
        with pytest.raises(ReloadFailed, match="goes on with what it ran") as failed:
            insist(nginx, app("a", [nginx.pod("c")]))
        assert failed.value.restored
        assert serves(nginx, "b")
        others.config.write_text(good)
        nginx.show(app("a", [nginx.pod("d")]))
        assert serves(nginx, "d")


def test_an_nginx_that_does_not_include_our_file_is_told(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 1.0)
    with run_by_others(nginx, start=False) as others:
        text = others.config.read_text()
        stranger = f'server {{ listen 127.0.0.1:{nginx.port}; return 200 "stranger"; }}'
        include = f"include {nginx.settings.directory / HTTP};"
        others.config.write_text(text.replace(include, stranger))
        others.start()
        eventually(lambda: nginx.get(HOST).body == "stranger", 5, ignore=OSError)
        with pytest.raises(ReloadFailed, match="include it in its http block"):
            nginx.apply(app("a", [nginx.pod("a")]))
        assert nginx.get(HOST).body == "stranger"
        others.config.write_text(text)
        nginx.generation = 0
        nginx.show(app("a", [nginx.pod("b")]))
        assert nginx.reloads == ["other_config"]


def test_an_upgrade_of_nginx_is_followed(nginx: NginxEdge) -> None:
    """USR2, then QUIT to the old master, as its manual has it."""
    with run_by_others(nginx, forks=True) as others:
        old = process.pid_in(others.pid)
        assert old is not None
        with Load(nginx.port, HOST) as load:
            os.kill(old, signal.SIGUSR2)
            eventually(lambda: process.pid_in(others.pid) not in {None, old}, 10)
            new = process.pid_in(others.pid)
            nginx.until(lambda: nginx.target._proxy.master() is not None, 5)
            os.kill(old, signal.SIGQUIT)
            eventually(lambda: process.master_of(old) is None, 10)
            nginx.until(lambda: nginx.applied is not None)
            nginx.show(app("a", [nginx.pod("b")]))
            assert serves(nginx, "b")
            load.go_on(30)
        assert load.report.failed == {}
        assert nginx.target._proxy.master() == process.master_of(new or 0)
        assert nginx.reloads == ["servers"]


def test_a_change_in_the_midst_of_an_upgrade_reaches_the_new_master_once(
    nginx: NginxEdge,
) -> None:
    """After USR2 and before QUIT both take connections, and either may answer."""
    with run_by_others(nginx, forks=True) as others:
        old = process.pid_in(others.pid)
        assert old is not None
        os.kill(old, signal.SIGUSR2)
        eventually(lambda: process.pid_in(others.pid) not in {None, old}, 10)
        new = eventually(lambda: process.by_pid_file(others.pid))
        assert new is not None
        eventually(lambda: process.workers(new).active)
        with Load(nginx.port, HOST) as load:
            nginx.show(app("a", [nginx.pod("b")]))
            began = time.monotonic()
            nginx.until(lambda: time.monotonic() - began > 3.5, 10)
            os.kill(old, signal.SIGQUIT)
            eventually(lambda: process.master_of(old) is None, 10)
            nginx.until(lambda: nginx.applied is not None)
            load.go_on(30)
        assert load.report.failed == {}
        assert {nginx.get(HOST).pod for _ in range(20)} == {"b"}
        assert nginx.reloads == ["servers"]


def test_where_processes_cannot_be_seen_a_command_reloads_and_answers_prove_it(
    nginx: NginxEdge,
) -> None:
    """As in a sidecar that shares the network and the directory, and no more."""
    with run_by_others(nginx) as others:
        script = f"import os, signal; os.kill(int(open({str(others.pid)!r}).read()), signal.SIGHUP)"
        nginx.target.close(stop_proxy=False)
        nginx.settings = nginx.with_settings(
            start=False,
            pid=nginx.folder / "nowhere.pid",
            error_log=nginx.folder / "nowhere.log",
            reload_command=(sys.executable, "-c", script),
        )
        restart_of_the_daemon(nginx)
        with Load(nginx.port, HOST) as load:
            for number in range(5):
                nginx.show(app("a", [nginx.pod(f"b{number}")]))
                assert {nginx.get(HOST).pod for _ in range(20)} == {f"b{number}"}
            load.go_on(30)
        assert load.report.failed == {}
        assert nginx.reloads == ["servers"] * 5


@pytest.mark.parametrize("command", [("false",), ("/nowhere/reload",), ("sh", "-c", "exit 0")])
def test_a_reload_command_that_fails_is_told_and_files_are_put_back(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 1.0)
    with run_by_others(nginx):
        nginx.target.close(stop_proxy=False)
        nginx.settings = nginx.with_settings(
            start=False, pid=nginx.folder / "nowhere.pid", reload_command=command
        )
        restart_of_the_daemon(nginx)
        before = nginx.target.actual()
        with pytest.raises(TargetError, match=r"reload_command|does not run") as failed:
            nginx.apply(app("a", [nginx.pod("b")]))
        assert failed.value.restored
        assert nginx.target.actual() == before
        assert serves(nginx, "a")


def test_flags_that_workers_cannot_see_are_told(nginx: NginxEdge) -> None:
    versions = [backend(v, [nginx.pod(v, v)]) for v in ("blue", "green")]
    nginx.show(app("c", backends=versions, split=[("blue", 1)]))
    if not process.is_root():
        pytest.skip("the workers are ours, so they see what we do")
    flags = nginx.settings.directory / FLAGS
    flags.chmod(0o700)
    with pytest.raises(ProxyUnreachable, match="cannot see"):
        eventually(lambda: nginx.turn() is None, 5)
    flags.chmod(0o755)
    nginx.until(lambda: nginx.applied is not None and nginx.applied.generation == 1, 5)


def test_servers_without_a_change_cost_no_write(nginx: NginxEdge) -> None:
    pod: Server = nginx.pod("a")
    nginx.show(app("a", [pod]))
    path = nginx.settings.directory / HTTP
    before = path.stat()
    for _ in range(5):
        nginx.apply(app("a", [pod]))
    assert path.stat() == before
