"""The commands with a vulcand target, refused settings, users of etcd, HAProxy beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import eventually_served_by, run_command
from tests.servers.fixtures import NewEtcd, NewVulcand, missing
from tests.servers.localpods import LocalPods
from tests.servers.ports import free_port
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually
from tests.vulcand.fleet import HOST, NOT_YET, Fleet, target_of


def test_render_says_the_keys_that_run_writes(fleet: Fleet, tmp_path: Path) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon(start=False)

    shown = daemon.command("render")
    assert shown.returncode == 0, shown.stderr
    written = daemon.command("render", "--output", str(tmp_path / "out"))
    assert written.returncode == 0
    assert fleet.tree() == {}

    daemon.start()
    fleet.served_by("blue-1")
    tree = fleet.tree()
    assert all(
        f"# --- vulcand: {key}\n{value.decode()}\n" in shown.stdout for key, value in tree.items()
    )
    found = {
        str(path.relative_to(tmp_path / "out/vulcand")): path.read_bytes().rstrip(b"\n")
        for path in (tmp_path / "out/vulcand").rglob("*")
        if path.is_file()
    }
    assert found == tree


def test_diff_is_1_with_changes_and_0_without_also_beside_a_daemon(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon(probes=[fleet.vulcand], start=False)

    assert daemon.command("diff").returncode == 1
    daemon.start()
    fleet.settled(daemon)
    same = daemon.command("diff")
    assert (same.returncode, same.stdout) == (0, "")
    daemon.process.kill()
    fleet.activate("green")
    changed = daemon.command("diff")
    assert changed.returncode == 1
    assert f"--- vulcand/{fleet.frontend_key} (now)" in changed.stdout
    assert '+{"Type":"http","BackendId":"vulcanized__default__todo__green__"' in changed.stdout


def test_check_is_0_without_problems_and_1_with_what_vulcand_cannot_do(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    daemon = fleet.daemon(start=False)
    assert daemon.command("check").returncode == 0

    fleet.configure(compression=True)
    assert daemon.command("check").returncode == 1
    fleet.configure(paths=[{"regex": "/[a\\b]"}])
    checked = daemon.command("check")

    assert checked.returncode == 1
    assert "app default/todo: the regex /[a\\b] has" in checked.stderr
    assert fleet.tree() == {}


def test_run_once_brings_it_in_step_and_leaves_it(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon(start=False)

    assert daemon.command("run", "--once").returncode == 0
    fleet.served_by("blue-1")
    assert fleet.etcd.get(fleet.leader_key) is None
    before = fleet.written()
    assert daemon.command("run", "--once").returncode == 0
    assert fleet.written() == before


def test_run_once_beside_a_daemon_is_0_when_that_one_brings_it_in_step(fleet: Fleet) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    beside = fleet.daemon("beside", start=False)

    fleet.activate("green")

    assert beside.command("run", "--once").returncode == 0
    assert target_of(daemon)["leader"] == "one"
    fleet.served_by("green-1")


# Settings.

ETCD = '[etcd]\nendpoints = ["http://127.0.0.1:1"]\n'
REFUSED = {
    "no etcd": ("", '[[targets]]\nkind = "vulcand"\n', "add [etcd]"),
    "its prefix in vulcand's": (
        ETCD + 'prefix = "/vulcanized"\n',
        '[[targets]]\nkind = "vulcand"\nprefix = "/vulcan"\n',
        "begins with '/vulcan'",
    ),
    "one leader for two": (
        ETCD,
        '[[targets]]\nkind = "vulcand"\n[[targets]]\nkind = "vulcand"\nname = "b"\nprefix = "b"\n',
        "have the leader 'vulcanized'; give each its own",
    ),
}


@pytest.mark.parametrize("which", REFUSED)
def test_settings_that_cannot_be_are_refused_with_one_line(tmp_path: Path, which: str) -> None:
    etcd, targets, words = REFUSED[which]
    folder = tmp_path / "empty"
    (folder / "manifests").mkdir(parents=True)
    (folder / "store").mkdir()
    store = "" if etcd else f'store = "{folder}/store"\n'
    config = tmp_path / "vulcanized.toml"
    config.write_text(f'[directory]\nmanifests = "{folder}/manifests"\n{store}{etcd}{targets}')

    for command in ("check", "run"):
        refused = run_command(command, "--config", str(config))
        assert refused.returncode == 2
        (line,) = [line for line in refused.stderr.splitlines() if words in line]
        assert "Traceback" not in refused.stderr, line


# Users.


@pytest.fixture
def permitted(
    tmp_path: Path, new_etcd: NewEtcd, new_vulcand: NewVulcand, pods: LocalPods
) -> Iterator[Fleet]:
    """The daemon is the user `ours` with the rights that it needs; root does the rest."""
    etcd = new_etcd(flags=["--bcrypt-cost=4"])
    fleet = Fleet(tmp_path, etcd, new_vulcand(etcd.endpoint), pods)
    store = fleet.store
    for words in (
        "user add root:toor",
        "user grant-role root root",
        "user add ours:secret",
        "role add ours",
        "user grant-role ours ours",
        f"role grant-permission ours --prefix=true read {store}/apps/",
        f"role grant-permission ours --prefix=true read {store}/active/",
        f"role grant-permission ours readwrite {fleet.leader_key}",
        "role grant-permission ours --prefix=true readwrite vulcand",
    ):
        etcd.ctl(*words.split())
    fleet.todo("blue-1", "green-1")
    etcd.ctl("auth", "enable")
    etcd.user = ("root", "toor")
    (tmp_path / "password").write_text("secret\n")
    yield fleet
    fleet.close()


RIGHTS = {
    "to read and write vulcand's keys": ("vulcand", "--prefix=true", "readwrite"),
    "to lead": ("", "", "readwrite"),
}


@pytest.mark.parametrize("right", RIGHTS)
def test_a_missing_right_is_told_once_and_what_to_grant(permitted: Fleet, right: str) -> None:
    key, option, kind = RIGHTS[right]
    words = [*([option] if option else []), key or permitted.leader_key]
    more = f'username = "ours"\npassword_file = "{permitted.folder}/password"\n'
    permitted.etcd.ctl("role", "revoke-permission", "ours", *words)
    daemon = permitted.daemon(etcd_more=more, start=False).start(ready=False)

    def error() -> str:
        return str(target_of(daemon)["error"])

    eventually(lambda: "does not permit user 'ours'" in error(), 20, ignore=NOT_YET)
    assert "etcdctl role grant-permission" in error()
    failures = target_of(daemon)["failures"]
    eventually(lambda: target_of(daemon)["failures"] >= failures + 2, 20, "more tries")
    assert len(daemon.log_lines("apply failed")) <= 2
    assert len(daemon.log_lines("target recovered")) == 0
    if not option:
        assert daemon.command("check").returncode == 0
    else:
        checked = daemon.command("check")
        assert checked.returncode == 3, checked.stderr
        assert "does not permit user 'ours'" in checked.stderr
    permitted.etcd.ctl("role", "grant-permission", "ours", *words[:-1], kind, *words[-1:])
    # vulcand itself has no user here.
    eventually(lambda: permitted.frontend_key in permitted.tree(), 30, daemon.process.log_tail)


def test_without_the_right_to_write_it_is_told_once(permitted: Fleet) -> None:
    permitted.etcd.ctl("role", "revoke-permission", "ours", "--prefix=true", "vulcand")
    permitted.etcd.ctl("role", "grant-permission", "ours", "--prefix=true", "read", "vulcand")
    more = f'username = "ours"\npassword_file = "{permitted.folder}/password"\n'
    daemon = permitted.daemon(etcd_more=more, start=False).start(ready=False)

    eventually(
        lambda: "does not permit user 'ours'" in target_of(daemon)["error"], 20, ignore=NOT_YET
    )
    failures = target_of(daemon)["failures"]
    eventually(lambda: target_of(daemon)["failures"] >= failures + 2, 20, "more tries")

    assert len(daemon.log_lines("apply failed")) == 1
    permitted.etcd.ctl("role", "grant-permission", "ours", "--prefix=true", "readwrite", "vulcand")
    # vulcand itself has no user here.
    eventually(lambda: permitted.frontend_key in permitted.tree(), 30, daemon.process.log_tail)


# Beside HAProxy.


def test_haproxy_and_vulcand_are_kept_in_step_by_one_daemon(fleet: Fleet, tmp_path: Path) -> None:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    port = free_port()
    directory = tmp_path / "haproxy"
    directory.mkdir()
    haproxy = f"""[[targets]]
kind = "haproxy"
directory = "{directory}"
listen = ["127.0.0.1:{port}"]
master_socket = "/tmp/v-{port}.sock"
start = true
"""
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon(targets=haproxy)
    url = f"http://127.0.0.1:{port}"
    fleet.served_by("blue-1")
    eventually_served_by(url, HOST, ["blue-1"])

    fleet.activate("green")

    fleet.served_by("green-1")
    eventually_served_by(url, HOST, ["green-1"])
    fleet.settled(daemon)
    assert [each["kind"] for each in daemon.status()["targets"]] == ["vulcand", "haproxy"]
    assert json.loads(daemon.command("status").stdout)["ready"]
