"""What somebody else does to our objects is put back at once, and vulcand sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.daemons import Vulcanized
from tests.servers.etcd import Etcd
from tests.servers.localpods import LocalPods
from tests.servers.vulcand import Vulcand
from tests.servers.wait import eventually
from tests.vulcand.fleet import Fleet

Way = Callable[[Fleet], object]


@pytest.fixture(scope="module")
def healed(
    tmp_path_factory: pytest.TempPathFactory,
    etcd_server: Etcd,
    vulcand_server: Vulcand,
    pods: LocalPods,
) -> Iterator[tuple[Fleet, Vulcanized]]:
    """One daemon for all of these: it must have put back what the test before did."""
    fleet = Fleet(tmp_path_factory.mktemp("healed"), etcd_server, vulcand_server, pods)
    fleet.todo("blue-1", "green-1", max_connections={"app": 100})
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    yield fleet, daemon
    fleet.close()
    assert vulcand_server.running, vulcand_server.log_tail()


def edited(key: str, old: bytes, new: bytes) -> Way:
    """Write a key with a part of its value changed; `key` names the attribute of the fleet."""

    def edit(fleet: Fleet) -> None:
        at = getattr(fleet, key)
        value = fleet.etcd.get(at)
        assert value is not None
        assert old in value
        fleet.etcd.put(at, value.replace(old, new))

    return edit


def under(prefix: str) -> Way:
    """Delete all that stands there below vulcand's prefix."""
    return lambda fleet: fleet.etcd.delete_prefix(f"{fleet.vulcand.prefix}/{prefix}")


HANDS: dict[str, Way] = {
    "a frontend deleted": lambda f: f.etcd.delete(f.frontend_key),
    "a frontend made garbage": lambda f: f.etcd.put(f.frontend_key, "{"),
    "a frontend made an empty text": lambda f: f.etcd.put(f.frontend_key, ""),
    "a frontend led to another version": edited("frontend_key", b"__blue__", b"__green__"),
    "a frontend led to a backend that is not there": edited(
        "frontend_key", b"vulcanized__default__todo__blue__", b"missing"
    ),
    "a frontend with another route": edited("frontend_key", b"todo.example", b"other.example"),
    "a frontend without its policies": edited("frontend_key", b"FailoverPredicate", b"X"),
    "a backend deleted": lambda f: f.etcd.delete(f.backend_key()),
    "a backend made garbage": lambda f: f.etcd.put(f.backend_key(), "[]"),
    "a backend and its servers deleted": lambda f: f.etcd.delete_prefix(
        f"{f.vulcand.prefix}/backends/{f.backend()}/"
    ),
    "a server deleted": lambda f: f.etcd.delete(f.server_key),
    "a server made garbage": lambda f: f.etcd.put(f.server_key, "\0\xff"),
    "a server without a host": lambda f: f.etcd.put(f.server_key, '{"URL":"localhost:80"}'),
    "a server led elsewhere": lambda f: f.etcd.put(f.server_key, '{"URL":"http://127.0.0.1:1"}'),
    "a foreign server": lambda f: f.hand.server(f.backend(), "mine", "http://127.0.0.1:1"),
    "a foreign server in an idle backend": lambda f: f.hand.server(
        f.backend("green"), "mine", "http://127.0.0.1:1"
    ),
    "a middleware deleted": lambda f: f.etcd.delete(f.middleware_key),
    "a middleware with a bad expression": lambda f: f.hand.middleware(
        f.frontend(), "vulcanized-max-connections", "rewrite", {"Regexp": "(", "Replacement": ""}
    ),
    "a middleware of ours that is none": lambda f: f.hand.middleware(
        f.frontend(), "vulcanized-old", "connlimit", {"Connections": 1, "Variable": "client.ip"}
    ),
    "a frontend of ours that is none": lambda f: f.hand.frontend(
        "vulcanized__x__y__", f.backend(), 'Host("none.example.com")'
    ),
    "all frontends deleted": under("frontends/"),
    "all backends deleted": under("backends/"),
    "all deleted": under(""),
}


@pytest.mark.parametrize("hand", HANDS)
def test_it_is_put_back_and_changes_after_that_are_seen(
    healed: tuple[Fleet, Vulcanized], hand: str
) -> None:
    fleet, daemon = healed
    before = fleet.tree()
    told = len(daemon.log_lines("drift"))

    HANDS[hand](fleet)

    eventually(lambda: len(daemon.log_lines("drift")) > told, 5, "it to be told")
    fleet.served_by("blue-1")
    fleet.add_pod("blue-2")
    fleet.served_by("blue-1", "blue-2")
    fleet.remove_pod("blue-2")
    fleet.served_by("blue-1")
    # Where a backend was deleted its frontends stay on a copy for a while.
    eventually(lambda: fleet.tree() == before, 10, "the tree as it was")
    fleet.served_by("blue-1")
