"""Leases, locks and leadership: who holds a key, for how long, and what fences off the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewEtcd
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from vulcanized.errors import Conflict, LeaseLost, Unreachable
from vulcanized.etcd import EtcdClient, Leadership, Lease, Put, acquire

TTL = 2  # seconds: etcd makes a shorter one longer


@pytest.fixture
def client(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with EtcdClient(etcd_server.endpoints) as client:
        yield client


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}"


def one_that_nobody_keeps_runs_out(client: EtcdClient, key: str) -> None:
    client.put(key, b"", client.grant(TTL))
    eventually(lambda: client.get(key) is None)


def test_a_lease_lives_until_it_is_closed(client: EtcdClient, key: str) -> None:
    with Lease(client, TTL) as lease:
        client.put(key, b"1", lease.id)
        one_that_nobody_keeps_runs_out(client, f"{key}/unkept")
        assert client.get(key) is not None
        assert lease.alive

    assert client.get(key) is None
    assert not lease.alive


def test_a_lease_that_etcd_has_ended_is_lost(client: EtcdClient, key: str) -> None:
    with Lease(client, TTL) as lease:
        client.put(key, b"1", lease.id)
        client.revoke(lease.id)

        assert lease.lost.wait(TTL)

        assert not lease.alive
        assert client.get(key) is None
        with pytest.raises(LeaseLost, match="no such lease"):
            client.put(key, b"2", lease.id)
        with pytest.raises(LeaseLost, match="ran out"):
            client.keep_alive(lease.id)
        client.revoke(lease.id)


def test_a_lease_of_an_etcd_that_is_away_is_lost_in_time(etcd_server: Etcd) -> None:
    with (
        Relay(etcd_server.port) as relay,
        EtcdClient([f"http://127.0.0.1:{relay.port}"]) as client,
        Lease(client, TTL) as lease,
    ):
        relay.refuse()

        eventually(lambda: not lease.alive, TTL + 0.5)

        assert lease.lost.wait(1)


def test_a_short_outage_costs_no_lease(etcd_server: Etcd, client: EtcdClient, key: str) -> None:
    with (
        Relay(etcd_server.port) as relay,
        EtcdClient([f"http://127.0.0.1:{relay.port}"]) as cut_off,
        Lease(cut_off, TTL) as lease,
    ):
        relay.refuse()
        connections = relay.accepted
        eventually(lambda: relay.accepted > connections)  # it has tried to keep its lease
        relay.restore()

        one_that_nobody_keeps_runs_out(client, key)

        assert lease.alive


def test_a_frozen_etcd_does_not_hold_up_the_end(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    with EtcdClient(etcd.endpoints) as client:
        lease = Lease(client, 60)
        etcd.pause()
        began = time.monotonic()

        lease.close()

        assert time.monotonic() - began < 3
        etcd.resume()
        eventually(lease.lost.is_set)


def test_a_lock_is_held_by_one(client: EtcdClient, key: str) -> None:
    with acquire(client, key, b"us", TTL) as ours:
        with pytest.raises(Conflict, match=key):
            acquire(client, key, b"them", TTL)
        held = client.get(key)
        assert held is not None
        assert held.value == b"us"
        client.write([Put(f"{key}/x", b"1")], ours.fence)

    with acquire(client, key, b"them", TTL) as theirs:
        with pytest.raises(LeaseLost):
            client.write([Put(f"{key}/x", b"2")], ours.fence)
        assert theirs.alive


def test_a_lock_that_was_not_taken_leaves_no_lease(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    with EtcdClient(etcd.endpoints) as client, acquire(client, "/lock", b"us", TTL):
        with pytest.raises(Conflict):
            acquire(client, "/lock", b"them", TTL)

        assert len(etcd.call("lease/leases", {})["leases"]) == 1


@contextmanager
def campaigning(client: EtcdClient, key: str, name: str) -> Iterator[Leadership]:
    stop = threading.Event()
    leadership = Leadership(client, key, name.encode(), TTL)
    thread = threading.Thread(target=leadership.run, args=(stop,))
    thread.start()
    try:
        yield leadership
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def test_one_leads_and_the_next_takes_over_at_once(client: EtcdClient, key: str) -> None:
    with campaigning(client, key, "second") as second:
        with campaigning(client, key, "third") as third:
            eventually(lambda: second.fence or third.fence)
            assert not (second.fence and third.fence)
            leads, waits = (second, third) if second.fence else (third, second)
            assert leads.fence
            client.write([Put(f"{key}/x", b"")], leads.fence)
            assert waits.fence is None
        eventually(lambda: second.fence, TTL)


def test_a_leader_whose_key_was_deleted_leads_anew(client: EtcdClient, key: str) -> None:
    with campaigning(client, key, "us") as us:
        first = eventually(lambda: us.fence)

        client.delete(key)

        again = eventually(lambda: us.fence != first and us.fence)
        client.write([Put(f"{key}/x", b"")], again or None)


def test_a_leader_leads_again_after_an_outage(etcd_server: Etcd, key: str) -> None:
    changes: list[bool] = []
    with (
        Relay(etcd_server.port) as relay,
        EtcdClient([f"http://127.0.0.1:{relay.port}"]) as client,
    ):
        leadership = Leadership(
            client, key, b"us", TTL, changed=lambda: changes.append(leadership.fence is not None)
        )
        stop = threading.Event()
        thread = threading.Thread(target=leadership.run, args=(stop,))
        thread.start()
        first = eventually(lambda: leadership.fence)
        assert first is not None

        relay.refuse()
        eventually(lambda: leadership.fence is None, 2 * TTL)
        relay.restore()

        again = eventually(lambda: leadership.fence)
        assert again is not None
        assert again.mod_revision > first.mod_revision
        stop.set()
        thread.join(5)
        assert changes == [True, False, True, False]


_LEADER = """
import sys
from vulcanized.errors import LeaseLost
from vulcanized.etcd import EtcdClient, Put, acquire
from vulcanized.log import configure_logging

configure_logging("json", "info")
url, key, ttl = sys.argv[1:]
with EtcdClient([url]) as client, acquire(client, key, b"frozen", int(ttl)) as held:
    print("leading", flush=True)
    try:
        while True:
            client.write([Put(key + "/x", b"frozen")], held.fence)
    except LeaseLost:
        print("lost", flush=True)
"""


def test_a_leader_that_was_frozen_past_its_lease_writes_nothing(
    etcd_server: Etcd, client: EtcdClient, key: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _LEADER, etcd_server.endpoint, key, str(TTL)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    ) as frozen:
        try:
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == "leading\n"
            eventually(lambda: client.get(f"{key}/x"))
            frozen.send_signal(signal.SIGSTOP)
            with eventually(
                lambda: acquire(client, key, b"next", TTL), 10, ignore=(Conflict, Unreachable)
            ) as ours:
                client.write([Put(f"{key}/x", b"next")], ours.fence)
                frozen.send_signal(signal.SIGCONT)

                assert frozen.stdout.readline() == "lost\n"

                written = client.get(f"{key}/x")
                assert written is not None
                assert written.value == b"next"
                assert frozen.wait(10) == 0
        finally:
            frozen.kill()
