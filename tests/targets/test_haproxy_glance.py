"""Where there is much to look at, what runs is looked at beside the target's thread."""

from __future__ import annotations

import threading
import time

import pytest

from tests.servers.wait import eventually
from tests.targets.edge import TODO, Edge, app
from vulcanized.errors import ProxyUnreachable
from vulcanized.model import Outcome
from vulcanized.targets.haproxy import target as module
from vulcanized.targets.haproxy import words
from vulcanized.targets.haproxy.live import Live
from vulcanized.targets.haproxy.proxy import Proxy


class Reads:
    """`Proxy.read_back`, counted, and held up while `go` is not set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        self.threads: list[str] = []
        self.fail = False
        real = Proxy.read_back

        def read_back(proxy: Proxy) -> Live:
            live = real(proxy)
            self.threads.append(threading.current_thread().name)
            assert self.go.wait(10)
            if self.fail and self.threads[-1] == "glance":
                raise ProxyUnreachable("gone for a moment")
            return live

        monkeypatch.setattr(Proxy, "read_back", read_back)

    @property
    def glances(self) -> int:
        return self.threads.count("glance")

    @property
    def looks(self) -> int:
        return len(self.threads) - self.glances


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    monkeypatch.setattr(module, "MANY_BACKENDS", 0)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(module, "LOOK_SHARE", 1)
    monkeypatch.setattr(module, "GLANCE_EVERY", 0.01)
    return Reads(monkeypatch)


def test_without_a_doubt_a_glance_is_all(edge: Edge, reads: Reads) -> None:
    edge.show(app(servers=[edge.pod("a")]))
    looks = reads.looks
    edge.until(lambda: reads.glances > 3)
    assert reads.looks == looks
    assert [each.outcome for each in edge.outcomes[1:]] == [Outcome.UNCHANGED] * (
        len(edge.outcomes) - 1
    )


def test_an_event_does_not_wait_for_a_glance_and_is_no_doubt(edge: Edge, reads: Reads) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app(servers=[a]))
    reads.go.clear()
    began = reads.glances
    edge.until(lambda: reads.glances > began)
    looks = reads.looks
    # The glance has read what was before this, and compares it with what is after this.
    edge.apply(app(servers=[b]))
    assert edge.get().pod == "b"
    reads.go.set()
    edge.until(lambda: reads.glances > began + 1)
    assert reads.looks == looks


def test_what_a_glance_doubts_is_looked_at_and_put_back(edge: Edge, reads: Reads) -> None:
    edge.show(app(servers=[edge.pod("a")]))
    looks = reads.looks
    edge.command(f"set map {edge.settings.directory}/active.map {words.app_key(TODO)} nowhere")
    edge.until(lambda: edge.get().pod == "a")
    assert reads.looks == looks + 1


def test_a_glance_that_fails_is_a_doubt_and_no_more(edge: Edge, reads: Reads) -> None:
    edge.show(app(servers=[edge.pod("a")]))
    looks = reads.looks
    reads.fail = True
    edge.until(lambda: reads.looks > looks)
    reads.fail = False
    began, looks = reads.glances, reads.looks
    edge.until(lambda: reads.glances > began + 2)
    assert reads.looks <= looks + 1
    assert edge.get().pod == "a"


def test_the_end_does_not_wait_for_a_glance(edge: Edge, reads: Reads) -> None:
    edge.show(app(servers=[edge.pod("a")]))
    began = reads.glances
    reads.go.clear()
    edge.until(lambda: reads.glances > began)
    before = time.monotonic()
    edge.target.close(stop_proxy=False)
    assert time.monotonic() - before < 5
    reads.go.set()
    eventually(lambda: "glance" not in {thread.name for thread in threading.enumerate()})
