"""One daemon and one proxy of each kind for the whole session; a case gets each in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.behaviour.front import FRONTS, Front
from tests.behaviour.pods import Pods
from tests.behaviour.table import NOT_DECLARED
from tests.behaviour.world import World
from tests.servers.etcd import Etcd
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing

Worlds = Callable[[type[Front]], World]


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory, etcd_server: Etcd) -> Iterator[Worlds]:
    """The world of each kind of proxy, started when it is first asked for."""
    running: dict[type[Front], World] = {}
    with ExitStack() as stack:
        pods = stack.enter_context(Pods())

        def world_of(kind: type[Front]) -> World:
            if kind not in running:
                folder = tmp_path_factory.mktemp(kind.kind)
                try:
                    front = kind(folder, etcd_server)
                except ServerMissing as reason:
                    missing(reason)
                world = World(folder, etcd_server, pods, [front])
                stack.callback(world.close)
                world.start()
                running[kind] = world
            return running[kind]

        yield world_of


@pytest.fixture(params=FRONTS, ids=lambda front: front.kind)
def world(request: pytest.FixtureRequest, worlds: Worlds) -> Iterator[World]:
    """The world of one kind of proxy, without any app, if it declares what the case needs."""
    kind: type[Front] = request.param
    wanted = {each for mark in request.node.iter_markers("needs") for each in mark.args}
    if lacking := sorted(wanted - kind.capabilities()):
        pytest.skip(f"{NOT_DECLARED} {kind.title}: {', '.join(lacking)}")
    world = worlds(kind)
    yield world
    world.clear()
    assert world.daemon.process.running, world.daemon.process.log_tail()
