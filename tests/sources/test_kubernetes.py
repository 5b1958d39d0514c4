"""The Kubernetes source on the wire: every fault of a server, and what we make of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import faults, manifests
from tests.fakes.faults import Fault
from tests.fakes.kubernetes import FakeKubernetes, User
from tests.servers.wait import eventually
from vulcanized.errors import Refused, SettingsError
from vulcanized.model import AppId, SourcePhase, SourceState
from vulcanized.reflector import Timing
from vulcanized.settings import KubernetesSettings
from vulcanized.slot import DirtyApps
from vulcanized.sources.kubernetes import KubernetesSource, Limits

TODO = AppId("default", "todo")

QUICK = Limits(connect=1.0, headers=0.3, page=0.6, gap=0.4)
"""Short enough for a test to see them pass; most tests never do."""

# Waits a tenth of the usual ones.
BRISK = Timing(backoff=(0.08, 3.0), calm=12.0, short=0.1, mend=(0.2, 0.4))


class Running:
    """A source whose streams run in threads until the end of the test."""

    def __init__(self, settings: KubernetesSettings, **options: Any) -> None:
        self.dirty = DirtyApps()
        self.source = KubernetesSource(settings, self.dirty, **({"timing": BRISK} | options))
        self.stop = threading.Event()
        self.crashes: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._run, args=(stream,), name=stream.name, daemon=True)
            for stream in self.source.streams
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, stream: Any) -> None:
        try:
            stream.run(self.stop)
        except BaseException as error:
            self.crashes.append(error)

    def end(self) -> float:
        """Stop; the seconds until the last stream had ended."""
        began = time.monotonic()
        self.stop.set()
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.crashes == []
        return time.monotonic() - began

    def until_spoken(self) -> None:
        eventually(lambda: all(s.spoken for s in self.source.streams), 10, "all have spoken")

    def state(self, name: str = "kubernetes/pods") -> SourceState:
        return next(s.state() for s in self.source.streams if s.name == name)

    def until_error(self, text: str, name: str = "kubernetes/pods") -> SourceState:
        eventually(
            lambda: text in self.state(name).error, 10, lambda: f"{text!r} in {self.state(name)}"
        )
        return self.state(name)

    def until_synced(self) -> None:
        eventually(
            lambda: all(s.state().phase is SourcePhase.SYNCED for s in self.source.streams),
            10,
            lambda: f"synced: {[s.state() for s in self.source.streams]}",
        )

    def names(self, app: AppId = TODO) -> list[str]:
        return sorted(pod.name for pod in self.source.pods(app))

    def until_names(self, *names: str) -> None:
        eventually(lambda: self.names() == list(names), 10, lambda: f"{names}: {self.names()}")


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as server:
        server.store.create("pods", manifests.pod("a"))
        yield server


@pytest.fixture
def settings(server: FakeKubernetes, tmp_path: Path) -> KubernetesSettings:
    return KubernetesSettings(kubeconfig=server.write_kubeconfig(tmp_path / "kubeconfig"))


@contextmanager
def following(
    settings: KubernetesSettings, *, within: float = 0.5, **options: Any
) -> Iterator[Running]:
    """Run a source; at the end of the block it stops within so many seconds."""
    running = Running(settings, **options)
    try:
        yield running
    finally:
        took = running.end()
    assert took < within, f"stopping took {took:.1f} s"


def add(server: FakeKubernetes, name: str, **options: Any) -> None:
    server.store.create("pods", manifests.pod(name, **options))


# --- the whole --------------------------------------------------------------------------------


def test_pods_and_controllers_are_followed(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    for kind, plural in [
        ("ReplicationController", "replicationcontrollers"),
        ("ReplicaSet", "replicasets"),
        ("Deployment", "deployments"),
    ]:
        server.store.create(plural, manifests.controller(kind, "todo-1"))
    with following(settings) as running:
        running.until_spoken()
        assert running.dirty.drain(1) is not None
        kinds = {controller.kind for controller in running.source.controllers(TODO)}
        assert kinds == {"ReplicationController", "ReplicaSet", "Deployment"}
        assert running.names() == ["a"]

        eventually(lambda: server.watching() == 4)
        add(server, "b")
        server.store.delete("pods", "default", "a")
        running.until_names("b")
        server.store.patch("replicasets", "default", "todo-1", {"spec": {"replicas": 7}})
        eventually(lambda: 7 in [c.desired for c in running.source.controllers(TODO)])

        assert running.dirty.drain(1) is not None
        assert running.source.apps() == {TODO}
        uids = [controller.uid for controller in running.source.controllers(TODO)]
        assert uids == sorted(uids)


def test_namespaces_and_selector_are_asked_of_the_server(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    add(server, "b", namespace="blue", tier="x")
    add(server, "c", namespace="green")
    add(server, "d", namespace="other")
    server.store.patch("pods", "green", "c", {"metadata": {"labels": {"tier": "web"}}})
    settings = settings.model_copy(
        update={"namespaces": ("blue", "green", "blue"), "selector": "tier notin (db),app"}
    )

    with following(settings) as running:
        running.until_spoken()

        assert len(running.source.streams) == 8
        assert running.source.apps() == {AppId("blue", "todo"), AppId("green", "todo")}
        assert running.names(AppId("green", "todo")) == ["c"]
        assert running.names(AppId("other", "todo")) == []
        assert {stream.name for stream in running.source.streams} >= {
            "kubernetes/pods/blue",
            "kubernetes/deployments/green",
        }
    asked = {request.query.get("labelSelector") for request in server.requests}
    assert asked == {"tier notin (db),app"}
    assert {request.namespace for request in server.requests} == {"blue", "green"}


def test_labels_that_count_are_settings(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    labels = {"service": "shop", "release": "9"}
    server.store.create("pods", {**manifests.pod("b"), "metadata": {"name": "b", "labels": labels}})
    settings = settings.model_copy(update={"app_label": "service", "version_label": "release"})

    with following(settings) as running:
        running.until_spoken()

        assert running.source.apps() == {AppId("default", "shop")}
        assert running.source.pods(AppId("default", "shop"))[0].version == "9"


def test_lists_are_paged_and_their_connection_is_used_again(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    server.store.seed("pods", manifests.many_pods(1250, apps=10))
    with following(settings) as running:
        running.until_spoken()

        assert running.state().records == 1251
        assert server.count("list", "pods") == 3
        eventually(lambda: server.watching() == 4)
        assert server.connections == 4
    limits = [request.query["limit"] for request in server.requests if request.verb == "list"]
    assert set(limits) == {"500"}
    assert all("resourceVersion" not in r.query for r in server.requests if r.verb == "list")


def test_watches_ask_for_bookmarks_and_a_length_within_the_range(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings):
        eventually(lambda: server.watching() == 4)

    watches = [request.query for request in server.requests if request.verb == "watch"]
    assert all(query["allowWatchBookmarks"] == "true" for query in watches)
    assert all(300 <= int(query["timeoutSeconds"]) <= 600 for query in watches)


def test_a_bookmark_moves_the_place(server: FakeKubernetes, settings: KubernetesSettings) -> None:
    with following(settings) as running:
        eventually(lambda: server.watching("pods") == 1)
        server.store.create("deployments", manifests.controller("Deployment", "todo"))
        server.bookmark()
        eventually(lambda: running.state().age < 0.05)
        server.store.compact()
        server.cut()
        add(server, "b")
        running.until_names("a", "b")

        assert running.state().relists == {}


# --- latency ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault(), faults.Unchunked()], ids=["chunked", "unchunked"])
def test_an_event_is_marked_as_soon_as_its_bytes_are_in(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault
) -> None:
    with server.suffering(fault, verb="watch"), following(settings) as running:
        eventually(lambda: server.watching() == 4)
        assert running.dirty.drain(1) is not None
        inside: list[float] = []
        whole: list[float] = []
        for number in range(200):
            sent = time.monotonic()
            add(server, f"p{number}")
            drained = running.dirty.drain(2)
            now = time.monotonic()
            assert drained is not None
            inside.append(now - drained[0][TODO])
            whole.append(now - sent)

    # Without the first ones, which pay for what is made once; the machine may be busy.
    assert sorted(inside[20:])[90] < 0.0003, "from the bytes to the reader of the marks"
    assert sorted(whole[20:])[90] < 0.005, "from the change to the reader of the marks"


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
    [faults.Unchunked(), faults.Split(7), faults.EndAfterEach()],
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


# --- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault(), faults.Mute(), faults.SlowHeaders(), faults.SlowBody(), faults.HalfOpen()],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_stopping_is_quick_whatever_is_waited_for(
    server: FakeKubernetes, settings: KubernetesSettings, fault: Fault, verb: str
) -> None:
    with server.suffering(fault, verb=verb), following(settings):
        eventually(lambda: server.count(verb) >= 4)


def test_stopping_is_quick_while_backing_off(tmp_path: Path, server: FakeKubernetes) -> None:
    settings = KubernetesSettings(kubeconfig=server.write_kubeconfig(tmp_path / "kubeconfig"))
    server.stop()
    with following(settings, timing=Timing(backoff=(60.0, 120.0))) as running:
        running.until_error("Connection refused")


def test_a_source_may_be_stopped_and_run_again(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with following(settings) as running:
        running.until_spoken()
    [pods, *_] = running.source.streams
    stop = threading.Event()
    thread = threading.Thread(target=pods.run, args=(stop,))
    thread.start()
    try:
        add(server, "b")
        running.until_names("a", "b")
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()


# --- defaults ---------------------------------------------------------------------------------


def test_a_mute_server_is_noticed_within_half_a_minute() -> None:
    usual = Limits()

    assert usual.connect + usual.headers <= 30
    assert usual.gap == 90
    assert usual.objects == 500


# --- credentials ------------------------------------------------------------------------------


def kubeconfig(path: Path, **changes: Any) -> Path:
    whole: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(whole | changes))
    return path


def exec_user(*command: str) -> dict[str, Any]:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": command[0],
        "args": list(command[1:]),
    }
    return {"users": [{"name": "u", "user": {"exec": plugin}}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{", "not YAML"),
        ("[]", "not a kubeconfig"),
        ("7", "not a kubeconfig"),
        ("text", "not a kubeconfig"),
        ("clusters: 7", "not a kubeconfig"),
        ("{}", "current-context"),
        ("current-context: x\ncontexts: []", "name x in .*contexts"),
        ("contexts: [{}]\ncurrent-context: x", "not a kubeconfig|name"),
    ],
)
def test_a_broken_kubeconfig_is_a_settings_error_that_names_the_file(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    with pytest.raises(SettingsError, match=message) as raised:
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_kubeconfig_that_is_not_there_is_a_settings_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"

    with pytest.raises(SettingsError, match="there is no such file"):
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())


def test_an_unknown_context_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "kubeconfig")

    with pytest.raises(SettingsError, match=r"object with name production in .*contexts"):
        KubernetesSource(KubernetesSettings(kubeconfig=path, context="production"), DirtyApps())


@pytest.mark.parametrize("command", [("false",), ("no-such-program",), ("echo", "nonsense")])
def test_an_exec_plugin_that_gives_nothing_is_refused(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = kubeconfig(tmp_path / "kubeconfig", **exec_user(*command))

    with pytest.raises(Refused, match=f"exec plugin '{command[0]}' gave no credentials"):
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())


def test_an_exec_plugin_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.sources.kubernetes._PLUGIN_SECONDS", 0.2)
    path = kubeconfig(tmp_path / "kubeconfig", **exec_user("sleep", "60"))
    began = time.monotonic()

    with pytest.raises(Refused, match=r"exec plugin 'sleep' gave no credentials within 0\.2 s"):
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())
    assert time.monotonic() - began < 5


@pytest.fixture
def guarded(server: FakeKubernetes, tmp_path: Path) -> User:
    """Somebody who may follow; from now on the server wants a token."""
    resources = ["pods", "replicationcontrollers", "replicasets", "deployments"]
    rule = {"apiGroups": ["", "apps"], "resources": resources, "verbs": ["list", "watch"]}
    return server.user(tmp_path, [rule])


def users_kubeconfig(server: FakeKubernetes, path: Path, user: dict[str, Any]) -> Path:
    clusters = [{"name": "c", "cluster": {"server": server.url}}]
    return kubeconfig(path, clusters=clusters, users=[{"name": "u", "user": user}])


def test_an_exec_plugin_gives_the_token(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    version = "client.authentication.k8s.io/v1"
    credential = {
        "apiVersion": version,
        "kind": "ExecCredential",
        "status": {"token": guarded.token},
    }
    user = exec_user("echo", json.dumps(credential))["users"][0]["user"]
    path = users_kubeconfig(server, tmp_path / "kubeconfig", user)

    with following(KubernetesSettings(kubeconfig=path)) as running:
        running.until_spoken()


def test_a_token_file_may_end_in_a_newline(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{guarded.token}\n")
    path = users_kubeconfig(server, tmp_path / "kubeconfig", {"tokenFile": "token"})

    with following(KubernetesSettings(kubeconfig=path)) as running:
        running.until_spoken()


@pytest.mark.parametrize("secret", ["geheim\nheimlich", "geheim\u20ac", "geheim\x00"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(
    server: FakeKubernetes, tmp_path: Path, secret: str
) -> None:
    path = users_kubeconfig(server, tmp_path / "kubeconfig", {"token": secret})

    with following(KubernetesSettings(kubeconfig=path)) as running:
        state = running.until_error("the token is not one line of plain text")

    assert state.error.startswith(f"{path}: ")
    assert "geheim" not in state.error
    assert server.count() == 0


def test_credentials_that_were_renewed_in_their_file_are_taken_up(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("expired")
    path = users_kubeconfig(server, tmp_path / "kubeconfig", {"tokenFile": "token"})
    with following(KubernetesSettings(kubeconfig=path)) as running:
        state = running.until_error("does not accept the credentials")
        assert str(path) in state.error
        assert "(401)" in state.error

        path.write_text("{")
        running.until_error("not YAML")
        users_kubeconfig(server, path, {"tokenFile": "token"})
        (tmp_path / "token").write_text(guarded.token)
        running.until_spoken()
        running.until_synced()


def test_what_is_forbidden_names_what_must_be_granted(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}
    user = server.user(tmp_path, [rule])
    settings = KubernetesSettings(kubeconfig=user.kubeconfig)

    with following(settings) as running:
        pods = running.until_error("forbidden")
        replica_sets = running.until_error("forbidden", "kubernetes/replicasets")
        deployments = running.until_error("forbidden", "kubernetes/deployments")
    with following(settings.model_copy(update={"namespaces": ("blue",)})) as running:
        blue = running.until_error("forbidden", "kubernetes/pods/blue")

    assert pods.error.startswith(
        "list pods in all namespaces is forbidden:"
        ' grant verbs list, watch on resource "pods" (apiGroup ""); the server says: pods is'
    )
    assert 'on resource "replicasets" (apiGroup "apps")' in replica_sets.error
    assert deployments.error.startswith("watch deployments in all namespaces is forbidden")
    assert blue.error.startswith('list pods in namespace "blue" is forbidden')


def test_rights_taken_away_keep_the_state(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    forbidden = faults.Refuse(403, "Forbidden", "pods is forbidden")
    with following(settings) as running:
        running.until_spoken()
        with server.suffering(forbidden):
            server.cut()
            assert running.until_error("forbidden").phase is SourcePhase.STALE
            assert running.names() == ["a"]
        running.until_synced()


# --- where the credentials come from ----------------------------------------------------------

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}


@pytest.mark.parametrize(
    ("token", "ca", "message"),
    [(None, "x", "token file"), ("", "x", "empty"), ("t", None, "certification file")],
)
def test_an_incomplete_service_account_is_a_settings_error(
    tmp_path: Path, token: str | None, ca: str | None, message: str
) -> None:
    for name, text in (("token", token), ("ca.crt", ca)):
        if text is not None:
            (tmp_path / name).write_text(text)

    with pytest.raises(SettingsError, match=message) as raised:
        KubernetesSource(
            KubernetesSettings(), DirtyApps(), environ=IN_CLUSTER, service_account=tmp_path
        )
    assert str(tmp_path) in str(raised.value)


def test_a_kubeconfig_in_the_settings_wins_over_the_cluster_that_we_are_in(
    settings: KubernetesSettings, tmp_path: Path
) -> None:
    with following(settings, environ=IN_CLUSTER, service_account=tmp_path) as running:
        running.until_spoken()


def test_without_a_kubeconfig_in_the_settings_it_is_the_users(
    settings: KubernetesSettings, tmp_path: Path
) -> None:
    environ = {"KUBECONFIG": f"{tmp_path / 'none'}:{settings.kubeconfig}"}
    with following(KubernetesSettings(), environ=environ) as running:
        running.until_spoken()
