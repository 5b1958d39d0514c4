"""An etcd with users that forgets tokens, changes passwords and withdraws rights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.etcdfaults import error, is_stale, relists, unharmed
from tests.faults.stage import Stage
from tests.faults.stage import stage as made
from tests.servers.fixtures import NewEtcd, missing
from tests.servers.programs import ServerMissing, find_program
from tests.servers.wait import eventually

PASSWORD = "secret"  # of the user `ours`, until a test changes it


@pytest.fixture
def stage(tmp_path: Path, new_etcd: NewEtcd) -> Iterator[Stage]:
    """The daemon is the user `ours`, who may read configs and activations; tests are root."""
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    etcd = new_etcd(flags=["--bcrypt-cost=4"])
    for words in (
        "user add root:toor",
        "user grant-role root root",
        f"user add ours:{PASSWORD}",
        "role add ours",
        "user grant-role ours ours",
        "role grant-permission ours --prefix=true read /vulcanized/apps/",
        "role grant-permission ours --prefix=true read /vulcanized/active/",
        "auth enable",
    ):
        etcd.ctl(*words.split())
    etcd.user = ("root", "toor")
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    more = f'username = "ours"\npassword_file = "{password}"\n'
    with made(tmp_path, etcd=etcd, etcd_more=more) as started:
        started.add_pod("todo-green-1", version="green")
        yield started


def test_a_token_that_a_restart_forgot_costs_a_login(stage: Stage) -> None:
    """python-etcd3 #1227: a watch with a forgotten token hangs for ever."""
    with unharmed(stage):
        stage.etcd.restart()
        stage.activate("green")
        stage.served_by("todo-green-1")
    assert relists(stage) == 0


def test_users_that_come_and_go_do_not_disturb_us(stage: Stage) -> None:
    """Every change of users makes etcd doubt the tokens that it gave before."""
    with unharmed(stage):
        for number in range(3):
            stage.etcd.ctl("user", "add", f"another-{number}:x")
            stage.relay.cut()
            stage.activate("green" if number % 2 == 0 else "blue")
            wanted = ["todo-green-1"] if number % 2 == 0 else ["todo-blue-1", "todo-blue-2"]
            stage.served_by(*wanted)
    assert relists(stage) == 0


def test_a_changed_password_is_told_with_what_to_do_and_its_file_read_again(stage: Stage) -> None:
    password = stage.folder / "password"
    with unharmed(stage):
        stage.etcd.ctl("user", "delete", "ours")
        stage.etcd.ctl("user", "add", "ours:changed")
        stage.etcd.ctl("user", "grant-role", "ours", "ours")
        stage.etcd.restart()
        eventually(lambda: "password of user 'ours'" in is_stale(stage), 30, lambda: error(stage))
        assert "check username and password_file in [etcd]" in error(stage)
        stage.activate("green")
        stage.add_pod("todo-blue-3")
        stage.served_by("todo-blue-1", "todo-blue-2", "todo-blue-3")
        password.write_text("changed\n")
        stage.served_by("todo-green-1")
    assert relists(stage) == 0


def test_a_right_that_is_withdrawn_is_told_with_what_to_grant(stage: Stage) -> None:
    right = ("role", "grant-permission", "ours", "--prefix=true", "read", "/vulcanized/active/")
    with unharmed(stage):
        stage.etcd.ctl("role", "revoke-permission", "ours", "--prefix=true", "/vulcanized/active/")
        stage.relay.cut()
        eventually(lambda: "does not permit user 'ours'" in is_stale(stage), 30)
        assert "etcdctl role grant-permission" in error(stage)
        stage.activate("green")
        stage.etcd.ctl(*right)
        stage.served_by("todo-green-1")
    assert relists(stage) == 0
