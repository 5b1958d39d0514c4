"""Every fault of an API server on the wire, and what the Kubernetes source makes of it."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import faults, manifests
from tests.fakes.faults import Fault
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.wait import eventually
from tests.sources.following import QUICK, add, following
from vulcanized.model import SourcePhase
from vulcanized.reflector import Timing
from vulcanized.settings import KubernetesSettings

# --- faults of watches ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.CutInLine(), "cannot watch pods in all namespaces"),
        (faults.EndInLine(), "in the middle of a line"),
        (faults.Reset(), "cannot watch pods in all namespaces"),
        (faults.Refuse(500), "an error on the server (500)"),
        (faults.Refuse(429, "TooManyRequests", "later"), "later (429)"),
        (faults.Mute(), "no answer within 0.3 s"),
        (faults.SlowHeaders(), "no answer within 0.3 s"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else "",
)
def test_a_broken_watch_keeps_state_and_place_and_is_resumed(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault, error: str
) -> None:
    with (
        server.suffering(fault, verb="watch", plural="pods", times=2),
        following(settings, limits=replace(QUICK, gap=90.0)) as running,
    ):
        running.until_spoken()
        add(server, "b")
        state = running.until_error(error)
        assert state.phase is SourcePhase.STALE
        assert "a" in running.names()

        running.until_names("a", "b")
        running.until_synced()
        assert running.state().error == ""
        assert running.state().relists == {}
    assert server.count("list", "pods") <= 3, "one list, and two small questions"


@pytest.mark.parametrize(
    "fault",
    [faults.expired(), faults.expired_event(), faults.too_large_event()],
    ids=["status", "event", "too large"],
)
def test_a_lost_place_is_listed_again(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault
) -> None:
    with (
        server.suffering(fault, verb="watch", plural="pods", times=1),
        following(settings) as running,
    ):
        eventually(lambda: running.state().relists == {"expired": 1}, 10)
        running.until_synced()
        assert server.count("list", "pods") == 2
        assert running.names() == ["a"]


def test_a_server_that_forgot_our_version_is_listed_again_and_what_is_gone_goes(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings) as running:
        eventually(lambda: server.watching() == 4)
        server.stop()
        server.store.delete("pods", "default", "a")
        add(server, "b")
        server.store.compact()
        assert running.names() == ["a"]
        server.start()

        running.until_names("b")
        assert running.state().relists == {"expired": 1}


def test_a_server_that_was_restored_from_a_backup_is_listed_again(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    for number in range(50):
        add(server, f"p{number}")
    with following(settings) as running:
        eventually(lambda: server.watching() == 4)
        server.stop()
        server.store.version = 1001
        server.start()

        eventually(lambda: running.state().relists == {"expired": 1}, 10)
        running.until_synced()


def test_a_quiet_watch_stays_synced(server: FakeKubernetes, settings: KubernetesSettings) -> None:
    with following(settings, limits=QUICK) as running:
        running.until_spoken()
        eventually(lambda: server.count("watch", "pods") >= 4, 10)

        assert running.state().phase is SourcePhase.SYNCED
        assert running.state().age < 1
        add(server, "b")
        running.until_names("a", "b")
    assert server.count() < 80, "no busy loop"


def test_a_half_open_stream_is_given_up_after_the_gap(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with (
        server.suffering(faults.HalfOpen(), verb="watch", plural="pods", times=1),
        following(settings, limits=QUICK) as running,
    ):
        running.until_spoken()
        add(server, "b")
        running.until_names("a", "b")


def test_a_frozen_server_is_noticed_and_followed_again_when_it_thaws(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings, limits=QUICK) as running:
        running.until_spoken()
        server.freeze()
        add(server, "b")
        running.until_error("no answer within 0.3 s")
        assert running.names() == ["a"]
        server.thaw()
        running.until_names("a", "b")
        running.until_synced()


@pytest.mark.parametrize(
    "fault",
    [faults.Unchunked(), faults.Split(7), faults.EndAfterEach(), faults.Compressed()],
    ids=lambda f: type(f).__name__,
)
def test_however_a_server_cuts_its_stream_every_event_arrives(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault
) -> None:
    with server.suffering(fault, verb="watch", plural="pods"), following(settings) as running:
        running.until_spoken()
        for name in "bcd":
            add(server, name)
        running.until_names("a", "b", "c", "d")
        assert running.state().relists == {}


def test_the_server_may_ask_for_a_wait(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    fault = faults.Refuse(429, "TooManyRequests", "later", retry_after="1")
    with (
        server.suffering(fault, verb="list", plural="pods", times=1),
        following(settings) as running,
    ):
        running.until_spoken()
    first, second = (r.at for r in server.requests if (r.verb, r.plural) == ("list", "pods"))
    assert second - first >= 1.0


# --- faults of lists --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.Mute(), "cannot list pods in all namespaces: no answer within 0.3 s"),
        (faults.SlowHeaders(), "cannot list pods in all namespaces: no answer within 0.3 s"),
        (faults.SlowBody(), "not complete after 0.6 s"),
        (faults.CutPage(), "no usable answer to a list"),
        (faults.Reset(), "cannot list pods in all namespaces"),
        (faults.Refuse(500), "list pods in all namespaces: an error on the server (500)"),
        (faults.Refuse(302), "(302)"),
        (faults.Answer(b"<html>log in</html>"), "no usable answer to a list"),
        (faults.Answer(b"{}"), "no usable answer to a list"),
        (faults.Answer(b'{"kind":"PodList","items":[]}'), "no resource version"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else "",
)
def test_a_failed_list_says_nothing_and_is_tried_again(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault, error: str
) -> None:
    with (
        server.suffering(fault, verb="list", plural="pods", times=3),
        following(settings, limits=QUICK) as running,
    ):
        state = running.until_error(error)
        assert (state.phase, state.records) == (SourcePhase.STARTING, 0)

        running.until_names("a")
        running.until_synced()


def test_a_list_that_cannot_be_read_takes_nothing_away(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings, limits=QUICK) as running:
        running.until_spoken()
        with (
            server.suffering(faults.expired(), verb="watch", plural="pods"),
            server.suffering(faults.Answer(b"{}"), verb="list", plural="pods"),
        ):
            server.cut()
            running.until_error("no usable answer")
            assert running.names() == ["a"]
        running.until_synced()
        assert running.names() == ["a"]


def test_a_token_that_expires_between_pages_starts_the_list_again(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    server.store.seed("pods", manifests.many_pods(600))
    page = threading.Event()

    class CompactAfterFirstPage(Fault):
        def page(self, body: bytes) -> bytes:
            if not page.is_set():
                page.set()
                add(server, "late")
                server.store.compact()
            return body

    with (
        server.suffering(CompactAfterFirstPage(), verb="list", plural="pods"),
        following(settings) as running,
    ):
        running.until_spoken()
        assert running.state().records == 602
        assert server.count("list", "pods") == 4
        assert running.state().error == ""


def test_garbage_in_one_object_costs_that_object(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    add(server, "bad")
    fault = faults.Garbage(
        "bad", lambda item: item.replace(b'"containers":[', b'"containers":7,"x":[')
    )
    with ExitStack() as stack:
        stack.enter_context(server.suffering(fault, plural="pods"))
        running = stack.enter_context(following(settings))
        running.until_spoken()
        assert running.names() == ["a"]
        add(server, "c")
        running.until_names("a", "c")
        assert running.state().skipped >= 1

        fault.change = lambda item: item

        # Each line of the watch is a chance to notice that a list is due.
        def asked_again() -> bool:
            server.bookmark()
            return running.names() == ["a", "bad", "c"]

        eventually(asked_again)
        assert running.state().relists["unreadable"] >= 1
        assert running.state().phase is SourcePhase.SYNCED


# --- no busy loop, no leak --------------------------------------------------------------------

RELENTLESS = {
    "mute": faults.Mute(),
    "slow headers": faults.SlowHeaders(),
    "reset": faults.Reset(),
    "500": faults.Refuse(500),
    "429": faults.Refuse(429, "TooManyRequests"),
    "429 with no wait": faults.Refuse(429, "TooManyRequests", retry_after="0"),
    "410": faults.expired(),
    "410 event": faults.expired_event(),
    "too large": faults.too_large_event(),
    "ends at once": faults.EndAtOnce(),
    "401": faults.Refuse(401, "Unauthorized", "Unauthorized"),
    "403": faults.Refuse(403, "Forbidden", "pods is forbidden"),
    "no list": faults.Answer(b"{}"),
    "garbage": faults.Line(b"garbage"),
    "ends after each": faults.EndAfterEach(),
    "cut in line": faults.CutInLine(),
}


@pytest.mark.parametrize("verb", ["list", "watch", ""], ids=["list", "watch", "all"])
def test_no_fault_makes_a_busy_loop(tmp_path: Path, verb: str) -> None:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(FakeKubernetes()) for name in RELENTLESS}
        for name, server in servers.items():
            path = server.write_kubeconfig(tmp_path / name)
            stack.enter_context(server.suffering(RELENTLESS[name], verb=verb, plural="pods"))
            settings = KubernetesSettings(kubeconfig=path)
            stack.enter_context(following(settings, limits=QUICK, timing=Timing(), within=5.0))
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for server in servers.values():
                add(server, f"p{server.store.version}")
            time.sleep(0.02)
        asked = {name: server.count(plural="pods") for name, server in servers.items()}

    # At most two waits end in 1.5 s; a pass between two waits is a list, a question and a watch.
    assert {name: count for name, count in asked.items() if count > 12} == {}
    assert all(count >= 1 for count in asked.values())


def test_faults_leave_no_threads_and_no_descriptors(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def once() -> None:
        timing = Timing(backoff=(0.05, 0.1), short=0.1)
        with following(settings, limits=QUICK, timing=timing) as running:
            for fault in (faults.CutInLine(), faults.Mute(), faults.Refuse(500), faults.Reset()):
                eventually(lambda: server.watching() == 4)
                asked = server.count()
                with server.suffering(fault):
                    server.cut()
                    server.store.patch("pods", "default", "a", {"metadata": {"x": asked}})
                    eventually(lambda: server.count() >= asked + 8)  # noqa: B023
            running.until_synced()

    once()
    eventually(lambda: server.connections == 0)
    before = used()
    for _ in range(2):
        once()

    eventually(lambda: server.connections == 0)
    eventually(lambda: used() <= before, 5, lambda: f"{used()} are not more than {before}")
