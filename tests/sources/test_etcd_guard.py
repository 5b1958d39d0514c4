"""An etcd that has lost what it had, really: wiped, restored from a backup, the wrong prefix.

consul-template #1131, #1098 and #21: an empty but valid answer wipes the config.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.network import Network
from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewEtcd
from tests.servers.wait import eventually
from vulcanized.etcd import EtcdClient, watch
from vulcanized.guard import ACTIVATIONS, CONFIGS, Patience, Stored
from vulcanized.holds import Guarding, NoBaseline
from vulcanized.model import AppId, Document, Endpoint, Server
from vulcanized.slot import DirtyApps
from vulcanized.sources.etcd import EtcdSource

PREFIX = "/v"
APPS = [AppId("default", f"app-{number}") for number in range(4)]
SERVERS = {app: Endpoint(f"10.0.0.{number}", 80) for number, app in enumerate(APPS, 1)}


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PROGRESS", 0.2)


class Remembered(NoBaseline):
    def __init__(self, stored: Sequence[Stored]) -> None:
        self.stored = stored

    def documents(self) -> Sequence[Stored]:
        return self.stored


class Guarded:
    """A followed, guarded source. All servers answer unless `network` says otherwise."""

    def __init__(self, client: EtcdClient, prefix: str, stored: Sequence[Stored]) -> None:
        self.network = Network(endpoint.address for endpoint in SERVERS.values())
        self.known = True
        guarding = Guarding(
            0.5,
            Remembered(stored),
            self.network,
            Patience(confirm=(0.3, 0.4), longest=0.6),
            self.servers,
        )
        self.dirty = DirtyApps()
        self.source = EtcdSource(client, prefix, self.dirty, guarding=guarding)

    def servers(self, app: AppId) -> list[Server] | None:
        return [Server("s", *SERVERS[app])] if self.known else None

    def configs(self) -> set[AppId]:
        return {app for app in APPS if self.source.config(app)}

    def activations(self) -> set[AppId]:
        return {app for app in APPS if self.source.activation(app)}

    def lists(self, count: int) -> None:
        """Wait for so many lists that were made because something is held."""
        before = self.source.state().relists.get("held", 0)
        eventually(lambda: self.source.state().relists.get("held", 0) >= before + count, 20)


@contextmanager
def following(
    etcd: Etcd, *, prefix: str = PREFIX, stored: Sequence[Stored] = ()
) -> Iterator[Guarded]:
    stop = threading.Event()
    with EtcdClient([etcd.endpoint]) as client:
        made = Guarded(client, prefix, stored)
        thread = threading.Thread(target=made.source.run, args=(stop,))
        thread.start()
        try:
            eventually(lambda: made.source.spoken, 10)
            yield made
        finally:
            stop.set()
            thread.join(5)
            assert not thread.is_alive()


def fill(etcd: Etcd) -> None:
    for app in APPS:
        etcd.put(f"{PREFIX}/apps/{app}", "{}")
        etcd.put(f"{PREFIX}/active/{app}", "blue")


def remembered() -> list[Stored]:
    return [
        Stored(folder, app, Document(text, f"etcd {PREFIX}/{folder}/{app}", 5))
        for folder, text in ((CONFIGS, "{}"), (ACTIVATIONS, "blue"))
        for app in APPS
    ]


def wipe(etcd: Etcd) -> None:
    etcd.kill()
    shutil.rmtree(etcd.folder / "m1")
    etcd.start()


def test_consul_template_21_a_wiped_etcd_takes_nothing_away_while_servers_answer(
    new_etcd: NewEtcd,
) -> None:
    etcd = new_etcd()
    fill(etcd)
    with following(etcd) as it:
        wipe(etcd)
        eventually(lambda: it.source.state().held == 8, 20, lambda: f"{it.source.state()}")
        it.lists(3)
        assert it.configs() == it.activations() == set(APPS)
        assert it.source.state().held == 8
        assert "etcd /v/active/default/app-0, " in it.source.state().holding
        # What is written now is taken over, and so is its end.
        etcd.put(f"{PREFIX}/active/{APPS[0]}", "green")
        eventually(lambda: (now := it.source.activation(APPS[0])) and now.text == "green")
        assert it.source.state().held == 7
        etcd.delete(f"{PREFIX}/active/{APPS[0]}")
        eventually(lambda: it.source.activation(APPS[0]) is None)

        it.dirty.drain(0)
        assert it.source.accept() == 7
        assert it.configs() == it.activations() == set()
        drained = it.dirty.drain(0)
        assert drained is not None
        assert drained[0].keys() == set(APPS)
        assert it.source.state().holding == ""


def test_what_has_no_server_that_answers_goes_when_a_second_list_confirms_it(
    new_etcd: NewEtcd,
) -> None:
    etcd = new_etcd()
    fill(etcd)
    with following(etcd) as it:
        it.network.accepting = {SERVERS[APPS[0]].address}
        wipe(etcd)
        eventually(lambda: it.configs() == it.activations() == {APPS[0]}, 20)
        assert it.source.state().held == 2
        it.network.accepting = set()
        eventually(lambda: it.source.state().held == 0, 20)
        assert it.source.apps() == set()


def test_a_restored_backup_changes_what_it_has_and_takes_nothing_away(
    new_etcd: NewEtcd,
) -> None:
    etcd = new_etcd()
    etcd.put(f"{PREFIX}/active/{APPS[0]}", "old")
    etcd.put(f"{PREFIX}/apps/{APPS[0]}", "{}")
    etcd.stop()
    shutil.copytree(etcd.folder / "m1", etcd.folder / "backup")
    etcd.start()
    fill(etcd)
    with following(etcd) as it:
        etcd.kill()
        shutil.rmtree(etcd.folder / "m1")
        shutil.move(etcd.folder / "backup", etcd.folder / "m1")
        etcd.start()
        eventually(lambda: it.source.state().held == 6, 20, lambda: f"{it.source.state()}")
        assert it.configs() == it.activations() == set(APPS)
        assert (now := it.source.activation(APPS[0]))
        assert now.text == "old"
        # Somebody writes what was lost again.
        fill(etcd)
        eventually(lambda: it.source.state().held == 0, 20)


def test_one_app_less_in_a_list_is_believed(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    fill(etcd)
    with following(etcd, stored=[*remembered()]) as it:
        assert it.source.state().held == 0
    etcd.delete(f"{PREFIX}/apps/{APPS[0]}")
    with following(etcd, stored=remembered()) as it:
        assert it.configs() == set(APPS[1:])
        assert it.source.state().held == 0


@pytest.mark.parametrize("cause", ["wiped", "another prefix"])
def test_consul_template_1131_nothing_at_a_start_takes_nothing_away(
    new_etcd: NewEtcd, cause: str
) -> None:
    etcd = new_etcd()
    if cause == "another prefix":
        fill(etcd)
    prefix = PREFIX if cause == "wiped" else "/other"
    with following(etcd, prefix=prefix, stored=remembered()) as it:
        assert it.configs() == it.activations() == set(APPS)
        assert it.source.config(APPS[0]) == remembered()[0].document
        it.lists(2)
        assert it.source.state().held == 8


def test_nothing_is_let_go_before_it_is_known_whose_servers_to_ask(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    with following(etcd, stored=remembered()) as it:
        it.known = False
        it.network.accepting = set()
        it.lists(2)
        assert it.source.state().held == 8
        assert "not all be asked yet" in it.source.state().holding
        it.known = True
        eventually(lambda: it.source.state().held == 0, 20)


def test_deletions_that_etcd_tells_of_apply_at_once(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    fill(etcd)
    with following(etcd) as it:
        etcd.delete_prefix(f"{PREFIX}/")
        eventually(lambda: it.source.apps() == set(), 10)
        assert it.source.state().relists == {}
