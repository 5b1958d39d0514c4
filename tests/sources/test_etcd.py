"""The etcd source on a real etcd: equal to what etcd has, whatever happens in between."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewEtcd
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from vulcanized.activation import parse_activation
from vulcanized.appconfig import parse_app_config
from vulcanized.errors import Invalid
from vulcanized.etcd import EtcdClient, watch
from vulcanized.etcd.access import Login
from vulcanized.model import AppId, Document, SourcePhase
from vulcanized.slot import DirtyApps
from vulcanized.sources.etcd import EtcdSource

PREFIX = "/v"
TODO = AppId("default", "todo")
SHOP = AppId("default", "shop")
CONFIG = '{"hosts": ["todo.example.com"]}'


def config_key(app: AppId) -> str:
    return f"{PREFIX}/apps/{app}"


def active_key(app: AppId) -> str:
    return f"{PREFIX}/active/{app}"


@dataclass
class Following:
    """A source in its thread, and the marks that it makes."""

    source: EtcdSource
    dirty: DirtyApps
    stop: threading.Event
    thread: threading.Thread
    marked: set[AppId] = field(default_factory=set)
    whole: int = 0

    def take(self) -> set[AppId]:
        """All apps marked since the last call."""
        self._drain()
        marked, self.marked = self.marked, set()
        return marked

    def _drain(self) -> None:
        drained = self.dirty.drain(0)
        assert drained is not None
        self.marked |= drained[0].keys()
        self.whole += drained[1] is not None

    def becomes(self, phase: SourcePhase, deadline: float = 10) -> None:
        eventually(
            lambda: self.source.state().phase is phase,
            deadline,
            lambda: f"{phase}: {self.source.state()}",
        )


@contextmanager
def following(endpoint: str) -> Iterator[Following]:
    dirty, stop = DirtyApps(), threading.Event()
    with EtcdClient([endpoint]) as client:
        source = EtcdSource(client, PREFIX, dirty)
        thread = threading.Thread(target=source.run, args=(stop,))
        thread.start()
        try:
            yield Following(source, dirty, stop, thread)
        finally:
            stop.set()
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def etcd(etcd_server: Etcd) -> Iterator[Etcd]:
    """The session's etcd, without keys of ours."""
    yield etcd_server
    etcd_server.delete_prefix(f"{PREFIX}/")


@pytest.fixture
def follow() -> Iterator[Callable[[Etcd | Relay], Following]]:
    with ExitStack() as stack:

        def start(server: Etcd | Relay) -> Following:
            one = stack.enter_context(following(f"http://127.0.0.1:{server.port}"))
            one.becomes(SourcePhase.SYNCED)
            assert one.take() == set()
            assert one.whole == 1
            return one

        yield start


@pytest.fixture
def relay(etcd: Etcd) -> Iterator[Relay]:
    with Relay(etcd.port) as relay:
        yield relay


Follow = Callable[[Etcd | Relay], Following]


# --- what is there ---


def test_the_first_list_speaks_and_asks_for_a_full_pass(etcd: Etcd, follow: Follow) -> None:
    created = etcd.put(config_key(TODO), CONFIG)
    etcd.put(config_key(TODO), CONFIG)
    last = etcd.put(active_key(SHOP), "green")

    source = follow(etcd).source

    assert source.spoken
    assert source.streams == (source,)
    assert source.apps() == {TODO, SHOP}
    assert source.config(TODO) == Document(CONFIG, "etcd /v/apps/default/todo", created)
    assert source.activation(SHOP) == Document("green", "etcd /v/active/default/shop", last)
    assert source.config(SHOP) is None
    assert source.activation(TODO) is None
    assert source.revision == last
    assert source.state().records == 2


def test_a_change_marks_its_app_and_no_other(etcd: Etcd, follow: Follow) -> None:
    etcd.put(config_key(SHOP), CONFIG)
    it = follow(etcd)

    revision = etcd.put(active_key(TODO), "green")
    eventually(lambda: it.source.activation(TODO))
    assert it.take() == {TODO}
    assert it.source.revision == revision

    etcd.put(config_key(SHOP), "{}")
    eventually(lambda: it.source.config(SHOP) != Document(CONFIG, "etcd /v/apps/default/shop"))
    eventually(lambda: it.take() == {SHOP})

    etcd.delete(active_key(TODO))
    eventually(lambda: it.source.activation(TODO) is None)
    eventually(lambda: it.take() == {TODO})
    assert it.source.apps() == {SHOP}


def test_the_same_text_again_marks_nothing_and_moves_the_revision(
    etcd: Etcd, follow: Follow
) -> None:
    etcd.put(active_key(TODO), "green")
    it = follow(etcd)

    revision = etcd.put(active_key(TODO), "green")

    eventually(lambda: it.source.revision == revision)
    assert it.take() == set()


def test_a_key_made_anew_is_another_claim(etcd: Etcd, follow: Follow) -> None:
    etcd.put(config_key(TODO), CONFIG)
    it = follow(etcd)
    etcd.delete(config_key(TODO))

    created = etcd.put(config_key(TODO), CONFIG)

    eventually(lambda: (known := it.source.config(TODO)) and known.created == created)


def test_a_mark_carries_the_time_at_which_the_change_came_in(etcd: Etcd, follow: Follow) -> None:
    it = follow(etcd)
    before = time.monotonic()
    etcd.put(active_key(TODO), "green")

    drained = it.dirty.drain(5)

    assert drained is not None
    assert before <= drained[0][TODO] <= time.monotonic()


# --- keys and values that are none ---


def test_keys_beside_ours_are_none_of_our_business(etcd: Etcd, follow: Follow) -> None:
    for key in (
        "/v/apps2/default/a",
        "/v/appsx",
        "/v/activex/default/a",
        "/v/active",
        "/v/locks/x",
    ):
        etcd.put(key, "x")
    it = follow(etcd)

    etcd.put("/v/apps", "x")
    etcd.put("/v/instances/a/b", "x")
    etcd.put(config_key(TODO), CONFIG)

    eventually(lambda: it.source.config(TODO))
    assert it.source.apps() == {TODO}
    assert it.source.state().skipped == 0


BAD = [
    "/v/apps/todo",
    "/v/apps/default/",
    "/v/apps//todo",
    "/v/apps/default/a/b",
    "/v/apps/Default/todo",
    "/v/apps/default/todo\n",
    "/v/active/default/-todo",
    "/v/active/default/" + "x" * 64,
    "/v/active/default/../../x",
]


def test_keys_that_name_no_app_are_skipped_and_counted(etcd: Etcd, follow: Follow) -> None:
    for key in BAD[:5]:
        etcd.put(key, CONFIG)
    it = follow(etcd)
    assert it.source.state().skipped == 5

    for key in BAD[4:]:
        etcd.put(key, CONFIG)
    etcd.put(active_key(TODO), "green")

    eventually(lambda: it.source.activation(TODO))
    assert it.source.state().skipped == len(BAD)
    assert it.source.apps() == {TODO}
    assert it.take() == {TODO}
    for key in BAD:
        etcd.delete(key)
    eventually(lambda: it.source.state().skipped == 0)


def test_a_value_that_is_no_text_is_a_problem_of_its_app(etcd: Etcd, follow: Follow) -> None:
    it = follow(etcd)
    etcd.put(config_key(TODO), CONFIG.encode().replace(b"todo", b"to\xffdo"))
    etcd.put(active_key(TODO), b"green\xff")
    etcd.put(active_key(SHOP), "blue")

    eventually(lambda: it.source.activation(SHOP))

    config, activation = it.source.config(TODO), it.source.activation(TODO)
    assert config is not None
    assert activation is not None
    assert (config.text, activation.text) == ("", "")
    assert config.fault == "is not UTF-8 text (byte 14): write it as UTF-8"
    assert activation.fault == "is not UTF-8 text (byte 5): write it as UTF-8"


def test_a_value_that_is_too_long_is_a_problem_of_its_app(etcd: Etcd, follow: Follow) -> None:
    large = json.dumps({"hosts": ["todo.example.com"], "x": "ä" * 500_000}, ensure_ascii=False)
    it = follow(etcd)
    etcd.put(config_key(TODO), large)
    etcd.put(active_key(TODO), large)

    eventually(lambda: it.source.activation(TODO))

    config, activation = it.source.config(TODO), it.source.activation(TODO)
    assert config is not None
    assert activation is not None
    assert len(config.text) < 300_000
    with pytest.raises(Invalid, match="larger than 256 KiB"):
        parse_app_config(config.text, config.origin)
    with pytest.raises(Invalid, match="larger than 16 KiB"):
        parse_activation(activation.text, activation.origin)


# --- when etcd is away ---


def test_a_dead_etcd_takes_nothing_away_and_its_return_lists_nothing_anew(
    new_etcd: NewEtcd, follow: Follow
) -> None:
    etcd = new_etcd()
    etcd.put(config_key(TODO), CONFIG)
    it = follow(etcd)

    etcd.kill()

    it.becomes(SourcePhase.STALE)
    assert it.source.config(TODO) is not None
    assert f"etcd at {etcd.endpoint}" in it.source.state().error
    etcd.start()
    it.becomes(SourcePhase.SYNCED)
    etcd.put(active_key(TODO), "green")
    eventually(lambda: it.source.activation(TODO))
    assert it.source.state().relists == {}
    assert it.source.state().error == ""
    assert it.take() == {TODO}
    assert it.whole == 1


def test_what_was_missed_is_told_when_the_watch_resumes(
    etcd: Etcd, relay: Relay, follow: Follow
) -> None:
    etcd.put(config_key(TODO), CONFIG)
    etcd.put(active_key(TODO), "blue")
    it = follow(relay)
    relay.refuse()
    it.becomes(SourcePhase.STALE)

    etcd.put(active_key(SHOP), "blue")
    etcd.delete(config_key(TODO))
    relay.restore()

    eventually(lambda: it.source.config(TODO) is None)
    eventually(lambda: it.source.activation(SHOP))
    eventually(lambda: it.take() == set())
    assert it.source.activation(TODO) is not None
    assert it.source.state().relists == {}


def test_compacted_history_leads_to_a_list_and_its_difference(
    new_etcd: NewEtcd, follow: Follow
) -> None:
    etcd = new_etcd()
    other = AppId("default", "other")
    for app in (TODO, SHOP, other):
        etcd.put(active_key(app), "blue")
    with Relay(etcd.port) as relay, following(f"http://127.0.0.1:{relay.port}") as it:
        it.becomes(SourcePhase.SYNCED)
        it.take()
        relay.refuse()
        it.becomes(SourcePhase.STALE)
        etcd.put(active_key(TODO), "green")
        etcd.delete(active_key(SHOP))
        etcd.compact()

        relay.restore()

        eventually(lambda: it.source.activation(SHOP) is None)
        it.becomes(SourcePhase.SYNCED)
        assert it.take() == {TODO, SHOP}
        assert it.source.state().relists == {"expired": 1}
        assert it.whole == 1


def test_an_etcd_that_was_wiped_is_listed_anew(new_etcd: NewEtcd, follow: Follow) -> None:
    etcd = new_etcd()
    for number in range(5):
        etcd.put(active_key(TODO), str(number))
    it = follow(etcd)
    etcd.kill()
    shutil.rmtree(etcd.folder / "m1")
    etcd.start()
    revision = etcd.put(active_key(SHOP), "blue")

    eventually(lambda: it.source.activation(SHOP), 20)

    assert it.source.apps() == {SHOP}
    assert it.source.revision == revision
    assert it.source.state().relists == {"rewound": 1}


def test_a_frozen_etcd_is_noticed_and_forgiven(new_etcd: NewEtcd, follow: Follow) -> None:
    etcd = new_etcd()
    etcd.put(active_key(TODO), "blue")
    it = follow(etcd)
    etcd.pause()

    it.becomes(SourcePhase.STALE, 15)

    assert it.source.state().age > 1
    assert it.source.activation(TODO) is not None
    etcd.resume()
    etcd.put(active_key(TODO), "green")
    eventually(lambda: (known := it.source.activation(TODO)) and known.text == "green")


def test_the_age_of_a_quiet_etcd_stays_low(
    etcd: Etcd, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PROGRESS", 0.2)
    it = follow(etcd)

    eventually(lambda: it.source.state().age > 0.15)

    eventually(lambda: it.source.state().age < 0.1, what="it was heard of again")
    assert it.source.state().phase is SourcePhase.SYNCED
    assert it.take() == set()


def test_an_etcd_that_hangs_up_at_once_is_not_pestered(etcd: Etcd, relay: Relay) -> None:
    relay.refuse()
    began, busy = time.monotonic(), time.process_time()
    with following(f"http://127.0.0.1:{relay.port}") as it:
        eventually(lambda: relay.accepted >= 5, 20)
        waited = time.monotonic() - began
        state = it.source.state()

    assert waited > 1.0
    assert time.process_time() - busy < 1.0
    assert state.phase is SourcePhase.STARTING
    assert "etcd at" in state.error


def test_a_prefix_that_may_not_be_read_is_told_until_it_may(new_etcd: NewEtcd) -> None:
    etcd = new_etcd(flags=["--bcrypt-cost=4"])
    etcd.put(active_key(TODO), "blue")
    for words in (
        "user add root:toor",
        "user grant-role root root",
        "user add ours:secret",
        "role add ours",
        "user grant-role ours ours",
        "role grant-permission ours --prefix=true read /v/apps/",
        "auth enable",
    ):
        etcd.ctl(*words.split())
    password = etcd.folder / "password"
    password.write_text("secret")
    dirty, stop = DirtyApps(), threading.Event()
    with EtcdClient(etcd.endpoints, login=Login("ours", password)) as client:
        source = EtcdSource(client, PREFIX, dirty)
        thread = threading.Thread(target=source.run, args=(stop,))
        thread.start()
        eventually(lambda: "reading /v/active/" in source.state().error)
        assert not source.spoken

        grant = "role grant-permission ours --prefix=true read /v/active/"
        etcd.ctl("--user=root:toor", *grant.split())

        eventually(lambda: source.activation(TODO))
        stop.set()
        thread.join(5)


# --- the end ---


@pytest.mark.parametrize("when", ["following", "away", "frozen"])
def test_it_ends_at_once_when_told_so(new_etcd: NewEtcd, when: str) -> None:
    etcd = new_etcd()
    with following(etcd.endpoint) as it:
        it.becomes(SourcePhase.SYNCED)
        if when == "away":
            etcd.kill()
            it.becomes(SourcePhase.STALE)
        elif when == "frozen":
            etcd.kill()
            it.becomes(SourcePhase.STALE)
            etcd.start()
            etcd.pause()
        began = time.monotonic()

        it.stop.set()
        it.thread.join(5)

        assert time.monotonic() - began < 1.0


# --- convergence ---


def test_after_any_faults_it_is_equal_to_what_a_fresh_start_sees(
    new_etcd: NewEtcd,
) -> None:
    etcd = new_etcd()
    dice = random.Random(7)
    apps = [AppId("default", f"app{number}") for number in range(8)]
    keys = [make(app) for app in apps for make in (config_key, active_key)]
    with Relay(etcd.port) as relay, following(f"http://127.0.0.1:{relay.port}") as it:
        it.becomes(SourcePhase.SYNCED)
        for step in range(400):
            key = dice.choice(keys)
            etcd.delete(key) if dice.random() < 0.3 else etcd.put(key, f"{step}")
            if dice.random() < 0.03:
                relay.cut()
            if dice.random() < 0.02:
                etcd.compact()
        last = etcd.put(active_key(TODO), "done")
        eventually(lambda: it.source.revision == last, 15)

        def known() -> dict[str, str]:
            documents = {}
            for app in it.source.apps():
                for key, document in (
                    (config_key(app), it.source.config(app)),
                    (active_key(app), it.source.activation(app)),
                ):
                    if document is not None:
                        documents[key] = document.text
            return documents

        there = {key: value.decode() for key, value in etcd.list(f"{PREFIX}/").items()}
        eventually(lambda: known() == there, what=lambda: f"{known()} != {there}")
