"""Trees that take many transactions: what may overtake what, and what is known when one fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import pytest

from tests.servers.fixtures import NewEtcd
from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable, Unreachable
from vulcanized.etcd import EtcdClient, Event, connect
from vulcanized.model import (
    AppId,
    Backend,
    Change,
    DesiredApp,
    PathKind,
    Route,
    Server,
    Share,
)
from vulcanized.settings import EtcdSettings, VulcandSettings
from vulcanized.targets.vulcand import VulcandTarget
from vulcanized.targets.vulcand.keys import Keys, Place
from vulcanized.targets.vulcand.tree import Tree

SERVERS = 700


def app(name: str) -> DesiredApp:
    servers = tuple(
        Server(f"pod-{n}-0123abcd", f"10.0.{n >> 8}.{n & 255}", 80) for n in range(SERVERS)
    )
    return DesiredApp(
        AppId("default", name),
        (Route(f"{name}.example", PathKind.PREFIX, "/"),),
        (Share("1", 1),),
        (Backend("1", servers),),
    )


APPS: Mapping[AppId, DesiredApp | None] = {one.app: one for one in map(app, ("one", "two"))}


class Written:
    """A target that leads on an etcd of its own."""

    def __init__(self, endpoint: str) -> None:
        self.client = connect(EtcdSettings(endpoints=(endpoint,)))
        self.target = VulcandTarget(
            VulcandSettings(),
            self.client,
            etcd_prefix="/vulcanized",
            instance="one",
            wake=lambda: None,
        )
        eventually(lambda: self._apply(1, {}) and self.target.standing().leading)

    def _apply(self, generation: int, apps: Mapping[AppId, DesiredApp | None]) -> bool:
        change = Change(generation, apps, complete=True, since=0.0)
        return self.target.apply(change, 0.0).generation == generation

    def bring(self) -> bool:
        """Hand it both apps."""
        return self._apply(2, APPS)

    def close(self) -> None:
        self.target.close(stop_proxy=False)
        self.client.close()


@pytest.fixture
def written(new_etcd: NewEtcd) -> Iterator[Written]:
    made = Written(new_etcd().endpoint)
    yield made
    made.close()


def revisions(client: EtcdClient) -> dict[str, list[int]]:
    """When the keys of each kind were written."""
    found: dict[str, list[int]] = {}
    for item in client.list_prefix("vulcand/").items:
        if "default__" in item.key or "frontends" in item.key:
            kind = item.key.split("/")[3]
            found.setdefault(kind, []).append(item.mod_revision)
    return found


def test_servers_come_after_their_backends_and_before_the_frontends(written: Written) -> None:
    assert written.bring()

    seen = revisions(written.client)
    assert len(seen["servers"]) == 2 * SERVERS
    assert max(seen["backend"]) <= min(seen["servers"])
    assert max(seen["servers"]) <= min(seen["frontend"])
    assert len(set(seen["servers"])) > 5


def test_a_transaction_that_fails_among_others_is_made_good(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact, lock, count = EtcdClient.transact, threading.Lock(), [0]

    def broken(client: EtcdClient, *arguments: object) -> int:
        with lock:
            count[0] += 1
            if count[0] == 4:
                raise Unreachable("a member is gone")
        return transact(client, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(EtcdClient, "transact", broken)
    with pytest.raises(ProxyUnreachable):
        written.bring()
    before = revisions(written.client)
    assert "frontend" not in before
    assert len(before["servers"]) < 2 * SERVERS

    eventually(written.bring)
    after = revisions(written.client)
    assert len(after["servers"]) == 2 * SERVERS
    assert set(before["servers"]) <= set(after["servers"]), "what was made is not made again"


def test_servers_of_another_fleet_are_no_news() -> None:
    tree = Tree(Keys("vulcand", "east"))
    west = Keys("vulcand", "west")
    backend = west.backend_id(AppId("default", "one"), "1")

    server = west.server(backend, "s")
    told: list[bool] = []
    for key, value in (
        (west.backend(backend), b'{"Type":"http"}'),
        (server, b'{"URL":"http://10.0.0.1:80"}'),
        (server, None),
        (west.backend(backend), None),
    ):
        tree.event(Event(key, value, 5, 5 + len(told)))
        told.append(tree.dirty)
        tree.foreign_changed = False

    assert told == [True, False, False, True]


def test_the_place_of_a_key() -> None:
    keys = Keys("a/vulcand", "fleet")

    def place(rest: str) -> Place | None:
        return keys.place(f"a/vulcand{rest}")

    assert place("/backends/b/backend") == ("backends", "b", "")
    assert place("/backends/b/servers/s.1") == ("backends", "b", "s.1")
    assert place("/frontends/f/frontend") == ("frontends", "f", "")
    assert place("/frontends/f/middlewares/m\n") == ("frontends", "f", "m\n")
    for rest in (
        "",
        "/",
        "/backends",
        "/backends/b",
        "/backends//backend",
        "/backends/b/frontend",
        "/backends/b/servers",
        "/backends/b/servers/",
        "/backends/b/servers/s/x",
        "/backends/b/middlewares/m",
        "/frontends/f/servers/s",
        "/listeners/l",
        "-staging/backends/b/backend",
    ):
        assert place(rest) is None, rest
    assert keys.place("vulcand/backends/b/backend") is None
    assert keys.free(keys.server("b", "s")) == "server"
    assert keys.free(keys.backend("servers")) == "backend"
    assert keys.free(keys.middleware("servers", "servers")) == ""
