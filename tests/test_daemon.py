"""The daemon as a process, on files and a real HAProxy: what an operator sees of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Vulcanized, ask, eventually_served_by, served_by
from tests.servers.fixtures import NewEtcd, missing
from tests.servers.load import Load
from tests.servers.localpods import Files, LocalPods
from tests.servers.ports import free_port
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually

HOST = "todo.example.com"


@pytest.fixture(autouse=True)
def _haproxy() -> None:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)


@pytest.fixture
def pods() -> Iterator[LocalPods]:
    with LocalPods() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path, pods: LocalPods) -> Files:
    """Two blue pods and a green one of the app todo, blue active."""
    files = Files(tmp_path)
    for name, version in (("blue-1", "blue"), ("blue-2", "blue"), ("green-1", "green")):
        pods.start(name, version)
        files.pod(pods.manifest(name))
    files.config()
    files.activate("blue\n")
    return files


@pytest.fixture
def daemon(tmp_path: Path, files: Files) -> Iterator[Vulcanized]:
    with Vulcanized(tmp_path / "v", files.sides) as made:
        yield made.start()


def worker(daemon: Vulcanized) -> int:
    """The pid of HAProxy's worker."""
    with socket.socket(socket.AF_UNIX) as cli:
        cli.settimeout(5)
        cli.connect(str(daemon.master_socket))
        cli.sendall(b"show proc;quit\n")
        text = b"".join(iter(lambda: cli.recv(65536), b"")).decode()
    return next(int(line.split()[0]) for line in text.splitlines() if " worker " in line)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_ready_and_active_is_served_as_soon_as_it_says_ready(daemon: Vulcanized) -> None:
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    assert ask(daemon.url, "unknown.example.com")[0] == 404
    assert daemon.page("/healthz")[0] == 200
    assert daemon.page("/readyz")[0] == 200
    assert b"default/todo" in daemon.page("/")[1]


def test_a_switch_is_one_write_and_no_reload(daemon: Vulcanized, files: Files) -> None:
    before = worker(daemon)
    files.activate("green")
    eventually_served_by(daemon.url, HOST, ["green-1"])
    assert worker(daemon) == before
    assert daemon.app("default/todo")["activation"]["in_effect"] == "green"


def test_pods_come_and_go_without_a_reload(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    before = worker(daemon)
    pods.start("blue-3", "blue")
    files.pod(pods.manifest("blue-3", ready=False))
    eventually(lambda: daemon.metric("vulcanized_source_records", source="manifests") == 4, 5)
    files.pod(pods.manifest("blue-3"))
    eventually_served_by(daemon.url, HOST, ["blue-1", "blue-2", "blue-3"])
    files.pod(pods.manifest("blue-1", terminating=True))
    eventually_served_by(daemon.url, HOST, ["blue-2", "blue-3"])
    files.remove_pod("blue-2")
    eventually_served_by(daemon.url, HOST, ["blue-3"])
    assert worker(daemon) == before
    assert daemon.metric("vulcanized_event_to_effect_seconds_count", target="edge") > 0


def test_a_reload_that_is_wanted_no_more_keeps_nothing_busy(
    tmp_path: Path, files: Files, pods: LocalPods
) -> None:
    sync = "[sync]\nhold_off = 1.0\nceiling = 5.0"
    with Vulcanized(tmp_path / "v", files.sides, more=sync) as daemon:
        daemon.start()
        # For the first of two new versions HAProxy is reloaded at once, for the second it is held.
        pods.start("red", "red")
        files.pod(pods.manifest("red"))
        eventually(lambda: daemon.metric("vulcanized_reloads_total") == 2, 10, "a start, a reload")
        pods.start("pink", "pink")
        files.pod(pods.manifest("pink"))
        eventually(lambda: "pink" in str(daemon.app("default/todo")), 5, "the second version")
        files.remove_pod("pink")
        eventually(lambda: "pink" not in str(daemon.app("default/todo")), 5, "it to be gone")
        before = daemon.metric("vulcanized_applies_total")
        eventually(
            lambda: daemon.metric("vulcanized_applies_total") >= before + 3, 10, "a few looks"
        )
        assert daemon.metric("vulcanized_applies_total") < before + 100
        assert daemon.metric("vulcanized_reloads_total") == 2


def test_a_broken_config_leaves_its_app_as_it_was_and_the_others_free(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    files.raw_config('{"hosts": ["two words"]}')
    eventually(lambda: daemon.app("default/todo").get("quarantined"), 5, "the refusal")
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    pods.start("shop-1", "1")
    files.pod(pods.manifest("shop-1", "shop"))
    files.config("shop")
    eventually_served_by(daemon.url, "shop.example.com", ["shop-1"])
    assert daemon.metric("vulcanized_apps_quarantined") == 1
    (problem,) = daemon.app("default/todo")["problems"]
    assert "hosts.0" in problem["message"]
    assert problem["where"] == "store/apps/default/todo.json"


def test_a_host_goes_from_one_app_to_another_without_a_failed_request(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    pods.start("other-1", "1")
    files.pod(pods.manifest("other-1", "znew"))
    files.config("znew", hosts=[HOST])
    eventually(lambda: daemon.app("default/znew").get("problems"), 5, "the older one's claim")
    assert not daemon.app("default/znew")["routed"]
    eventually(lambda: daemon.metric("vulcanized_reloads_total") == 2, 5, "it to be made ready")
    with Load(daemon.port, HOST, keep_alive=2, one_shot=2, pause=0.01) as load:
        load.go_on(30)
        (files.store / "apps/default/todo.json").unlink()
        eventually_served_by(daemon.url, HOST, ["other-1"])
    assert load.report.failed == {}
    assert daemon.metric("vulcanized_reloads_total") == 2
    assert daemon.app("default/znew")["routed"]


def test_a_store_and_manifests_that_vanish_change_nothing_until_they_are_back(
    daemon: Vulcanized, files: Files, pods: LocalPods
) -> None:
    with Load(daemon.port, HOST, keep_alive=1, one_shot=1, pause=0.02) as load:
        shutil.rmtree(files.store)
        shutil.rmtree(files.manifests)
        eventually(
            lambda: all(source["error"] for source in daemon.status()["sources"]),
            5,
            "the loss to show",
        )
        load.go_on(300)  # longer than a file may be missing
        Files(daemon.folder.parent)
        for name in ("blue-1", "blue-2", "green-1"):
            files.pod(pods.manifest(name))
        files.config()
        files.activate("green")
        eventually_served_by(daemon.url, HOST, ["green-1"])
    assert load.report.failed == {}


def test_a_held_activation_shows_and_changes_nothing(daemon: Vulcanized, files: Files) -> None:
    files.activate("gren")
    eventually(lambda: daemon.app("default/todo")["activation"]["held"], 5, "it to be held")
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    assert daemon.metric("vulcanized_apps_held") == 1


def test_sigterm_ends_it_and_its_haproxy_within_five_seconds(daemon: Vulcanized) -> None:
    proxy, pid = worker(daemon), daemon.process.pid
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not daemon.process.running, 6, "the end")
    assert time.monotonic() - started < 5
    eventually(lambda: not alive(proxy), 2, "the end of HAProxy")
    with pytest.raises(OSError, match="refused"):
        ask(daemon.url, HOST)


def test_killed_it_leaves_the_proxy_serving_and_the_next_start_adopts_it(
    daemon: Vulcanized, files: Files
) -> None:
    proxy = worker(daemon)
    daemon.process.kill()
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    files.activate("green")
    daemon.start()
    eventually_served_by(daemon.url, HOST, ["green-1"])
    assert worker(daemon) == proxy
    assert daemon.metric("vulcanized_reloads_total") == 0


def test_a_pid_that_is_another_haproxys_by_now_is_left_alone(tmp_path: Path, files: Files) -> None:
    config = tmp_path / "other.cfg"
    config.write_text(f"defaults\n mode http\nlisten other\n bind 127.0.0.1:{free_port()}\n")
    command = [str(find_program("haproxy")), "-q", "-W", "-f", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as other:
        try:
            with Vulcanized(tmp_path / "v", files.sides) as daemon:
                (daemon.directory / "haproxy.pid").write_text(f"{other.pid}\n")
                daemon.start()
                assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
            assert other.poll() is None
        finally:
            other.terminate()


def test_what_was_good_stays_good_over_a_crash(daemon: Vulcanized, files: Files) -> None:
    daemon.process.kill()
    files.raw_config("{")
    files.activate("gren")
    daemon.start()
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    app = daemon.app("default/todo")
    assert app["quarantined"]
    assert app["activation"]["held"]


def test_sighup_takes_good_settings_over_and_refuses_bad_ones(daemon: Vulcanized) -> None:
    proxy = worker(daemon)
    good = daemon.config.read_text()
    daemon.config.write_text(good.replace("[admin]", "[admin]\nlisten_on = 3"))
    os.kill(daemon.process.pid, signal.SIGHUP)
    eventually(lambda: daemon.log_lines("settings refused; the old ones stay"), 5, "the refusal")
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    second = free_port()
    daemon.config.write_text(
        good.replace(
            f'"127.0.0.1:{daemon.port}"', f'"127.0.0.1:{daemon.port}", "127.0.0.1:{second}"'
        )
    )
    os.kill(daemon.process.pid, signal.SIGHUP)
    eventually(
        lambda: served_by(f"http://127.0.0.1:{second}", HOST, tries=4) <= {"blue-1", "blue-2"},
        10,
        "the new address",
        ignore=OSError,
    )
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
    # Its master answers nobody (2.6) while it runs itself anew.
    eventually(lambda: worker(daemon) != proxy, 10, "another worker", ignore=OSError)
    eventually(lambda: daemon.page("/readyz")[0] == 200, 10, "ready again")


def test_sighup_with_settings_that_cannot_work_disturbs_nothing(
    tmp_path: Path, files: Files, new_etcd: NewEtcd
) -> None:
    etcd = new_etcd(tls=True)
    assert etcd.tls is not None
    etcd.put("/vulcanized/apps/default/todo", json.dumps({"hosts": [HOST]}))
    etcd.put("/vulcanized/active/default/todo", "blue")
    certificate = tmp_path / "client.pem"
    certificate.write_bytes(etcd.tls.client.cert.read_bytes())
    sides = f"""
[directory]
manifests = "{files.manifests}"

[etcd]
endpoints = ["{etcd.endpoint}"]
ca = "{etcd.tls.ca}"
cert = "{certificate}"
key = "{etcd.tls.client.key}"
"""
    with Vulcanized(tmp_path / "v", sides) as daemon:
        daemon.start()
        proxy, good = worker(daemon), daemon.config.read_text()
        # Both the new and the old settings name it: neither could be begun with now.
        certificate.write_text("-----BEGIN CERTIFICATE-----\nhalf written")
        daemon.config.write_text(good.replace(f":{daemon.admin_port}", f":{free_port()}"))
        os.kill(daemon.process.pid, signal.SIGHUP)
        refused = "settings cannot work; the old ones stay"
        eventually(lambda: daemon.log_lines(refused), 10, "the refusal")
        assert daemon.page("/readyz")[0] == 200
        etcd.put("/vulcanized/active/default/todo", "green")
        eventually_served_by(daemon.url, HOST, ["green-1"])
        assert worker(daemon) == proxy


def test_the_service_manager_hears_ready_the_watchdog_and_the_end(
    tmp_path: Path, files: Files
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        heard: list[str] = []

        def listen() -> None:
            while "STOPPING=1" not in heard:
                heard.extend(manager.recv(4096).decode().split("\n"))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        with Vulcanized(tmp_path / "v", files.sides, environment=environment) as daemon:
            daemon.start()
            eventually(lambda: heard.count("WATCHDOG=1") > 3, 5, "the watchdog's keep-alive")
            eventually(lambda: "READY=1" in heard, 5, "ready")
            os.kill(daemon.process.pid, signal.SIGHUP)
            eventually(lambda: heard.count("READY=1") == 2, 10, "ready after a reload")
            assert heard.index("RELOADING=1") > heard.index("READY=1")
        listener.join(10)
        assert "STOPPING=1" in heard


def test_the_commands_say_what_they_find_with_their_exit_codes(
    daemon: Vulcanized, files: Files
) -> None:
    status = daemon.command("status")
    assert status.returncode == 0
    assert json.loads(status.stdout)["apps"][0]["app"] == "default/todo"
    check = daemon.command("check")
    assert (check.returncode, check.stdout) == (0, "1 apps, 1 routed, 1 targets: no problems\n")
    eventually(lambda: daemon.command("diff").returncode == 0, 10, "files behind run time")
    render = daemon.command("render")
    assert render.returncode == 0
    assert "default:todo:blue" in render.stdout
    output = daemon.command("render", "--output", str(daemon.folder / "out"))
    assert output.returncode == 0
    assert (daemon.folder / "out/edge/haproxy.cfg").is_file()

    files.raw_config("{")
    eventually(lambda: daemon.command("status").returncode == 1, 5, "the problem in status")
    check = daemon.command("check")
    assert check.returncode == 1
    assert "default/todo: config_invalid: not JSON" in check.stderr


def test_diff_shows_changes_that_a_run_would_make(tmp_path: Path, files: Files) -> None:
    daemon = Vulcanized(tmp_path / "v", files.sides)
    diff = daemon.command("diff")
    assert diff.returncode == 1
    assert "+++ edge/haproxy.cfg (wanted)" in diff.stdout
    assert not (daemon.directory / "haproxy.cfg").exists()


def test_run_once_brings_the_proxy_in_step_and_leaves_it_running(
    tmp_path: Path, files: Files
) -> None:
    with Vulcanized(tmp_path / "v", files.sides) as daemon:
        once = daemon.command("run", "--once")
        assert once.returncode == 0, once.stderr
        assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
        files.activate("green")
        assert daemon.command("run", "--once").returncode == 0
        assert served_by(daemon.url, HOST) == {"green-1"}


def test_status_without_a_daemon_says_what_to_do(tmp_path: Path, files: Files) -> None:
    status = Vulcanized(tmp_path / "v", files.sides).command("status")
    assert status.returncode == 3
    assert "start it with `vulcanized run`" in status.stderr


def test_a_second_daemon_on_the_same_directory_does_not_touch_it(
    daemon: Vulcanized, files: Files
) -> None:
    config = daemon.folder / "second.toml"
    text = daemon.config.read_text().replace(f":{daemon.admin_port}", f":{free_port()}")
    config.write_text(text)
    from tests.daemons import run_command

    second = run_command("run", "--once", "--config", str(config))
    assert second.returncode == 2
    assert str(daemon.directory) in second.stderr
    assert served_by(daemon.url, HOST) == {"blue-1", "blue-2"}
