"""The etcd client on a real etcd: reading, writing, watching, and every way in which they end."""

from __future__ import annotations

import base64
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewEtcd
from tests.servers.ports import free_port
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from vulcanized.errors import Conflict, Expired, LeaseLost, Refused, Rewound, Uncertain, Unreachable
from vulcanized.etcd import Batch, Compare, Delete, EtcdClient, Event, KeyValue, Put, calls

MEGABYTE = 1024 * 1024


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Keys of this test alone on the etcd of the session."""
    return f"/{request.node.name}/"


@pytest.fixture
def client(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with EtcdClient(etcd_server.endpoints) as client:
        yield client


def timed(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


# --- reading and writing ---


def test_a_key_is_put_read_and_deleted(client: EtcdClient, prefix: str) -> None:
    key = f"{prefix}a"
    assert client.get(key) is None

    made = client.put(key, b"1")
    changed = client.put(key, b"\x00\xff")

    assert client.get(key) == KeyValue(key, b"\x00\xff", made, changed)
    assert client.delete(key) == changed + 1
    assert client.get(key) is None


def test_a_list_of_many_pages_is_whole_and_sorted(client: EtcdClient, prefix: str) -> None:
    keys = [f"{prefix}{number:05}" for number in range(2500)]
    client.put(f"{prefix[:-1]}0", b"the first key after the prefix")
    revision = client.write(Put(key, key.encode()) for key in reversed(keys))

    items, listed_at = client.list_prefix(prefix)

    assert [item.key for item in items] == keys
    assert {item.value.decode() for item in items} == set(keys)
    assert listed_at == revision
    # Others write to this etcd too.
    assert client.list_prefix(f"{prefix}none/").items == ()


def test_all_pages_of_a_list_show_one_moment(client: EtcdClient, prefix: str) -> None:
    client.write(Put(f"{prefix}{number:05}", b"0") for number in range(2500))
    first, last = f"{prefix}00000", f"{prefix}02499"
    done = threading.Event()

    def write_both() -> None:
        while not done.is_set():
            count = str(time.monotonic_ns()).encode()
            client.transact((), (Put(first, count), Put(last, count)))

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write_both)
        try:
            for _ in range(5):
                items = client.list_prefix(prefix).items
                assert items[0].value == items[-1].value
        finally:
            done.set()
        writer.result()


def test_a_list_that_a_compaction_overtakes_begins_again(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()

    class Overtaken(EtcdClient):
        pages = 0

        def _range(self, request: Any, what: str, stop: threading.Event) -> Any:
            response = super()._range(request, what, stop)
            self.pages += 1
            if self.pages == 1:
                etcd.put("/p/00000", "changed")
                etcd.compact()
            return response

    with Overtaken(etcd.endpoints) as client:
        client.write(Put(f"/p/{number:05}", b"") for number in range(1500))

        items, revision = client.list_prefix("/p/")

        assert len(items) == 1500
        assert items[0].value == b"changed"
        assert revision == etcd.revision()
        assert client.pages == 3  # one that was for nothing
        with pytest.raises(Expired, match="compacted"):
            client.list_prefix("/p/", revision - 1)


def test_values_beyond_grpcs_own_limit_are_read(client: EtcdClient, prefix: str) -> None:
    value = os.urandom(MEGABYTE)
    revision = client.put(f"{prefix}0", value)
    for number in range(1, 6):
        client.put(f"{prefix}{number}", value)

    items, _ = client.list_prefix(prefix)

    assert [item.value for item in items] == [value] * 6
    with client.watch({prefix: revision - 1}) as batches:
        seen = 0
        while seen < 6:
            seen += len(next(batches).events)
    for size in (1.7 * MEGABYTE, 3 * MEGABYTE):
        with pytest.raises(Refused, match=r"too large|larger than max"):
            client.put(f"{prefix}6", bytes(int(size)))


def test_a_key_that_is_no_text_can_be_shown(client: EtcdClient, etcd_server: Etcd) -> None:
    key = base64.b64encode(b"/no-text/\xff").decode()
    etcd_server.call("kv/put", {"key": key, "value": ""})

    (item,) = client.list_prefix("/no-text/").items

    assert item.key == "/no-text/\\xff"


# --- conditional writes ---


def test_a_compare_and_put_is_made_once(client: EtcdClient, prefix: str) -> None:
    key = f"{prefix}a"
    made = client.put_if(key, b"1", 0)
    with pytest.raises(Conflict, match=f"{key} was changed at revision {made}") as caught:
        client.put_if(key, b"2", 0)
    assert caught.value.keys == (key,)

    client.put_if(key, b"3", made)

    with pytest.raises(Conflict):
        client.put_if(key, b"4", made)
    client.delete(key)
    with pytest.raises(Conflict, match=f"{key} is gone"):
        client.put_if(key, b"5", made)
    assert client.get(key) is None


def test_a_transaction_is_made_whole_or_not_at_all(client: EtcdClient, prefix: str) -> None:
    a, b, c = (f"{prefix}{name}" for name in "abc")
    at = client.put(a, b"1")

    with pytest.raises(Conflict) as caught:
        client.transact((Compare(a, at), Compare(b, at)), (Put(c, b""), Delete(a)))

    assert caught.value.keys == (b,)
    assert client.get(c) is None
    revision = client.transact((Compare(a, at), Compare(b, 0)), (Put(c, b""), Delete(a)))
    assert [item.key for item in client.list_prefix(prefix).items] == [c]
    assert client.list_prefix(prefix).revision == revision
    with pytest.raises(Refused, match="too many operations"):
        client.transact((), [Put(f"{prefix}{number}", b"") for number in range(129)])


def test_many_writes_are_made_in_their_order(client: EtcdClient, prefix: str) -> None:
    puts = [Put(f"{prefix}{number:03}", b"1") for number in range(300)]
    before = client.put(f"{prefix}before", b"")

    revision = client.write([*puts, Delete(puts[0].key), Put(puts[1].key, b"2")])

    items = {item.key: item for item in client.list_prefix(prefix).items}
    assert puts[0].key not in items
    assert items[puts[1].key].value == b"2"
    revisions = [items[put.key].mod_revision for put in puts[2:]]
    assert revisions == sorted(revisions)
    assert revision - before == 3  # transactions: 128, 128, 46
    assert client.write([]) == 0


def test_writes_end_where_the_fence_falls(client: EtcdClient, prefix: str) -> None:
    fence = Compare(f"{prefix}leader", client.put(f"{prefix}leader", b"us"))

    def operations() -> Iterator[Put]:
        for number in range(300):
            if number == 200:
                client.put(fence.key, b"them")
            yield Put(f"{prefix}x/{number:03}", b"")

    with pytest.raises(LeaseLost, match=f"{fence.key} was changed"):
        client.write(operations(), fence)

    assert len(client.list_prefix(f"{prefix}x/").items) == 128


# --- when etcd is away ---


def test_a_write_without_an_answer_may_have_been_made(
    etcd_server: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "DEADLINE", 0.5)
    with (
        Relay(etcd_server.port) as relay,
        EtcdClient([f"http://127.0.0.1:{relay.port}"]) as client,
    ):
        at = client.put("/uncertain", b"1")
        relay.mute(answers_only=True)

        with pytest.raises(Uncertain, match=r"did not answer in time.*may have been done"):
            client.put_if("/uncertain", b"2", at)

        relay.restore()
        with pytest.raises(Conflict):
            client.put_if("/uncertain", b"2", at)
    assert etcd_server.get("/uncertain") == b"2"


def test_a_write_that_cannot_have_been_sent_is_certain() -> None:
    with (
        EtcdClient([f"http://127.0.0.1:{free_port()}"]) as client,
        pytest.raises(Unreachable, match=r"cannot be reached.*Connection refused") as caught,
    ):
        client.put("/a", b"")
    assert not isinstance(caught.value, Uncertain)


def test_a_frozen_etcd_holds_up_nobody_who_is_told_to_stop(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    stop = threading.Event()
    with EtcdClient(etcd.endpoints) as client, ThreadPoolExecutor() as pool:
        client.get("/a")
        etcd.pause()
        waiting: list[Future[Any]] = [
            pool.submit(client.get, "/a", stop=stop),
            pool.submit(client.list_prefix, "/a", stop=stop),
            pool.submit(client.watch, {"/a": 1}, stop),
            pool.submit(client.put, "/a", b"", stop=stop),
        ]

        def all_end() -> None:
            stop.set()
            for each in waiting:
                assert isinstance(each.exception(timeout=5), Unreachable)

        assert timed(all_end) < 1.0


def test_calls_on_a_closed_client_are_told_so(etcd_server: Etcd) -> None:
    client = EtcdClient(etcd_server.endpoints)
    client.get("/a")

    client.close()

    with pytest.raises(Unreachable, match="closed"):
        client.get("/a")
    with pytest.raises(Unreachable, match="closed"):
        client.watch({"/a": 1})


def test_something_else_than_etcd_is_told_so() -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its parent's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with (
            EtcdClient([f"http://127.0.0.1:{web.server_port}"]) as client,
            pytest.raises(Unreachable, match=r"check endpoints, ca, cert and key in \[etcd\]"),
        ):
            client.get("/a")
        web.shutdown()


# --- watching ---


def take(watch: Iterator[Batch], count: int) -> list[Event]:
    """The next events, however they come."""
    events = (event for batch in watch for event in batch.events)
    return list(islice(events, count))


def test_a_watch_tells_every_change_from_its_revision_on(client: EtcdClient, prefix: str) -> None:
    a, b = f"{prefix}a/1", f"{prefix}b/1"
    made = client.put(a, b"1")
    changed = client.put(a, b"2")

    with client.watch({f"{prefix}a/": made, f"{prefix}b/": changed}) as batches:
        gone = client.transact((), (Delete(a), Put(b, b"3")))
        client.put(f"{prefix}c/1", b"")

        # Of two prefixes, etcd may tell the later change first.
        assert sorted(take(batches, 3), key=lambda event: event.key) == [
            Event(a, b"2", made, changed),
            Event(a, None, 0, gone),
            Event(b, b"3", gone, gone),
        ]


def test_each_prefix_has_a_place_of_its_own_to_resume_from(client: EtcdClient, prefix: str) -> None:
    begin = client.put(f"{prefix}a", b"")
    after = {f"{prefix}a/": begin, f"{prefix}b/": begin}
    with client.watch(after) as batches:
        first = client.put(f"{prefix}a/1", b"")
        batch = next(batch for batch in batches if batch.events)
        assert (batch.prefix, batch.revision) == (f"{prefix}a/", first)
        after[batch.prefix] = batch.revision

    missed = client.put(f"{prefix}b/1", b"")

    with client.watch(after) as batches:
        assert [event.mod_revision for event in take(batches, 1)] == [missed]


def test_a_compacted_watch_is_expired(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    old = etcd.put("/a", "1")
    etcd.put("/a", "2")
    etcd.put("/a", "3")
    etcd.compact()
    with (
        EtcdClient(etcd.endpoints) as client,
        pytest.raises(Expired, match="compacted") as caught,
        client.watch({"/a": old}) as batches,
    ):
        next(batches)
    assert not isinstance(caught.value, Rewound)


def test_an_etcd_that_lost_its_data_is_noticed(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    revision = max(etcd.put("/a", str(number)) for number in range(3))
    etcd.kill()
    shutil.rmtree(etcd.folder / "m1")
    etcd.start()

    with (
        EtcdClient(etcd.endpoints) as client,
        pytest.raises(Rewound, match=f"at revision 1 and was at {revision}: it was wiped"),
    ):
        client.watch({"/a": revision})


@pytest.mark.parametrize("how", ["close", "stop"])
def test_a_watch_ends_at_once_when_told_so(client: EtcdClient, prefix: str, how: str) -> None:
    revision = client.put(f"{prefix}a", b"")
    stop = threading.Event()
    with client.watch({prefix: revision}, stop) as batches, ThreadPoolExecutor() as pool:
        waiting = pool.submit(list, batches)
        end = batches.close if how == "close" else stop.set

        def ends() -> None:
            end()
            assert waiting.result(timeout=5) == []

        assert timed(ends) < 0.5


@pytest.mark.parametrize("fault", ["cut", "refuse"])
def test_a_broken_watch_says_so_and_another_goes_on(etcd_server: Etcd, fault: str) -> None:
    with Relay(etcd_server.port) as relay:
        with EtcdClient([f"http://127.0.0.1:{relay.port}"]) as client:
            revision = client.put("/broken/a", b"1")
            with client.watch({"/broken/": revision}) as batches:
                getattr(relay, fault)()
                with pytest.raises(Unreachable, match=str(relay.port)):
                    next(batches)
            missed = etcd_server.put("/broken/a", "2")
            relay.restore()

            def again() -> list[Event]:
                with client.watch({"/broken/": revision}) as batches:
                    return take(batches, 1)

            events = eventually(again, ignore=Unreachable)
        assert [event.mod_revision for event in events] == [missed]


def test_fifty_broken_watches_leave_nothing_behind(etcd_server: Etcd) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with (
        Relay(etcd_server.port) as relay,
        EtcdClient([f"http://127.0.0.1:{relay.port}"]) as client,
    ):

        def broken() -> None:
            with eventually(lambda: client.watch({"/x/": 1}), ignore=Unreachable) as batches:
                relay.cut()
                with pytest.raises(Unreachable):
                    take(batches, 1)

        for _ in range(3):
            broken()
        threads, files = used()
        for _ in range(50):
            broken()
        eventually(
            lambda: used()[0] <= threads and used()[1] <= files,
            what=lambda: f"{used()} threads and files, {(threads, files)} before",
        )
