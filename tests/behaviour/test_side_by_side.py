"""One daemon before all proxies at once: whatever befalls one of them, the others do not notice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.behaviour.front import FRONTS, Child, Front, Vulcan
from tests.behaviour.pods import Pods
from tests.behaviour.world import NOT_YET, App, World
from tests.servers.etcd import Etcd
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing
from tests.servers.wait import eventually
from vulcanized.resources import templates_directory

pytestmark = pytest.mark.timeout(240)

USUAL = 20.0
"""Seconds within which a change is in effect on a slow machine; 0.3 on a quiet one."""


@pytest.fixture(scope="module")
def beside(
    tmp_path_factory: pytest.TempPathFactory, etcd_server: Etcd, worlds: object
) -> Iterator[World]:
    """A daemon with a target of every kind; with `worlds`, vulcand is built before all tests."""
    folder = tmp_path_factory.mktemp("beside")
    try:
        fronts = [kind(folder, etcd_server) for kind in FRONTS]
    except ServerMissing as reason:
        missing(reason)
    for front in fronts:
        if isinstance(front, Child):
            front.overrides.mkdir()
    with Pods() as pods:
        world = World(folder, etcd_server, pods, fronts)
        try:
            world.start()
            yield world
        finally:
            world.close()


@pytest.fixture
def world(beside: World) -> Iterator[World]:
    """The daemon without any app."""
    yield beside
    beside.clear()
    assert beside.daemon.process.running, beside.daemon.process.log_tail()


def break_templates(front: Child) -> None:
    """Let no text be made any more."""
    for template in (templates_directory() / front.kind).iterdir():
        (front.overrides / template.name).write_text("{{ nobody knows what this is")


def mend_templates(front: Child) -> None:
    for template in front.overrides.iterdir():
        template.unlink()


def refuse(world: World, front: Front, app: App) -> None:
    """Let a target refuse what it is given."""
    if isinstance(front, Child):
        break_templates(front)
        eventually(lambda: target_of(world, front)["error"], 20, "its refusal")
    else:
        # A regex that Go does not know: the config of this one app is refused there.
        app.change(paths=["/", {"regex": "/[a\\b]"}])
        eventually(lambda: target_of(world, front)["quarantined"], 20, "its refusal")


def target_of(world: World, front: Front) -> dict[str, Any]:
    """What `/status` says of a front's target."""
    targets: list[dict[str, Any]] = world.daemon.status()["targets"]
    return next(each for each in targets if each["kind"] == front.kind)


def serves(world: World, front: Front, app: App, pods: set[str]) -> None:
    """Exactly these pods answer there."""
    eventually(
        lambda: {world.ask(app.host, front=front).pod for _ in range(3 * len(pods))} == pods,
        USUAL,
        f"{pods} on {front.kind}",
        ignore=NOT_YET,
    )


def test_all_show_the_same(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    for version in ("green", "blue", "green"):
        app.activate(version)
        world.settle()
        for front in world.fronts:
            assert world.ask(app.host, front=front).header("x-version") == version, front.kind


@pytest.mark.parametrize("trouble", ["hangs", "refuses", "is-gone"])
@pytest.mark.parametrize("kind", FRONTS, ids=lambda kind: kind.kind)
def test_one_in_trouble_is_not_noticed_by_the_others(
    world: World, kind: type[Front], trouble: str
) -> None:
    (victim,) = (front for front in world.fronts if isinstance(front, kind))
    others = [front for front in world.fronts if front is not victim]
    app, bystander = world.app("blue", "green", active="blue"), world.app()
    world.settle()
    with ExitStack() as loads:
        for front in others:
            loads.enter_context(world.load(app.host, front))
        assert list(victim.pids())
        if trouble == "hangs":
            victim.signal(signal.SIGSTOP)
        elif trouble == "refuses":
            refuse(world, victim, bystander)
        else:
            victim.signal(signal.SIGKILL)
        try:
            more = app.pod("green")
            app.activate("green")
            new = world.app()
            world.settle(USUAL, but=victim)
            for front in others:
                green = {pod.name for pod in app.pods if pod.version == "green"}
                serves(world, front, app, green)
                serves(world, front, new, new.names)
            app.activate("blue")
            app.delete(more, but=victim)
            world.settle(USUAL, but=victim)
            for front in others:
                serves(world, front, app, {app.pods[0].name})
            if trouble == "refuses":
                # It goes on with what it accepted last.
                assert world.ask(app.host, front=victim).status == 200
        finally:
            heal(victim, bystander, trouble)
    world.settle(60)
    for front in world.fronts:
        serves(world, front, app, {app.pods[0].name})
        serves(world, front, new, new.names)


def heal(front: Front, bystander: App, trouble: str) -> None:
    """What a person does when it was seen."""
    if trouble == "hangs":
        front.signal(signal.SIGCONT)
    elif isinstance(front, Child):
        mend_templates(front)
    elif trouble == "refuses":
        bystander.configure()
    elif isinstance(front, Vulcan):
        front.vulcand.kill()
        front.start()
