"""SIGKILL of the daemon before every step of an apply with a reload; see test_kill_daemon."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.killing import EVERY_STEP, Change, Killer, every_step_survives_a_kill
from tests.faults.stage import Stage
from vulcanized.etcd import Delete, EtcdClient, Put
from vulcanized.resources import templates_directory

pytestmark = pytest.mark.timeout(3600 if EVERY_STEP else 600)

THIRD_HOST = "third.example.com"


def becomes(before: str, after: str) -> Callable[[Stage], object]:
    """Rename an app, in one step."""
    config = b'{"hosts": ["third.example.com"]}'

    def rename(stage: Stage) -> None:
        apps = f"{stage.prefix}/apps/default"
        with EtcdClient(stage.etcd.endpoints) as client:
            client.transact((), (Put(f"{apps}/{after}", config), Delete(f"{apps}/{before}")))

    return rename


def template(retries: int) -> Callable[[Stage], object]:
    """Override the template of the frame."""

    def write(stage: Stage) -> None:
        shipped = (templates_directory() / "haproxy/haproxy.cfg.j2").read_text()
        partial = stage.folder / "templates/new"
        partial.write_text(shipped.replace("retries 3", f"retries {retries}"))
        partial.replace(stage.folder / "templates/haproxy.cfg.j2")

    return write


def test_a_policy(mortal_stage: Stage, killer: Killer) -> None:
    stage = mortal_stage
    change = Change(
        lambda s: s.configure(timeouts={"server": 9}),
        lambda s: s.configure(timeouts={"server": 10}),
    )
    every_step_survives_a_kill(stage, killer, change)


def test_an_app_that_is_renamed(mortal_stage: Stage, killer: Killer) -> None:
    stage = mortal_stage
    for app in ("third", "fourth"):
        stage.add_pod(f"{app}-blue-1", app)
    change = Change(becomes("third", "fourth"), becomes("fourth", "third"), THIRD_HOST)
    every_step_survives_a_kill(stage, killer, change)


def test_a_template(mortal_stage: Stage, killer: Killer) -> None:
    stage = mortal_stage
    every_step_survives_a_kill(stage, killer, Change(template(4), template(5)))
