"""An API server that means harm: it ends no stream, leads nowhere else, and is not believed."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import attacks, faults
from tests.fakes.faults import Fault
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.wire import Exchange
from tests.servers.wait import eventually
from tests.sources.following import BRISK, QUICK, add, following
from vulcanized.errors import Invalid
from vulcanized.listwatch import Codec
from vulcanized.model import SourcePhase
from vulcanized.objects import Labels, pods
from vulcanized.settings import KubernetesSettings
from vulcanized.sources.kubernetes import Limits

# --- nonsense ---------------------------------------------------------------------------------

DEEP = b"[" * 200_000
NUMBER = b"9" * 100_000
NONSENSE = {
    "nested": b'{"type":"ADDED","object":{"x":' + DEEP,
    "nested and closed": b'{"type":"ADDED","object":' + DEEP + b"]" * len(DEEP) + b"}",
    "a nested type": b'{"type":' + DEEP,
    "a long number": b'{"type":"ADDED","object":{"metadata":{"uid":"u","generation":%s}}}' % NUMBER,
    "a long number where one is read": (
        b'{"type":"ADDED","object":{"spec":{"containers":[{"ports":[{"containerPort":%s}]}]}}}'
        % NUMBER
    ),
    "a long float": b'{"type":"ADDED","object":{"x":%s.%se%s}}' % (NUMBER, NUMBER, NUMBER),
    "a long code": b'{"type":"ERROR","object":{"code":%s}}' % NUMBER,
    "a long wait": (
        b'{"type":"ERROR","object":{"code":429,"details":{"retryAfterSeconds":%s}}}' % NUMBER
    ),
    "not UTF-8": b'{"type":"ADDED","object":{"metadata":{"name":"\xff\xfe\xc0\x80"}}}',
    "half a surrogate": b'{"type":"ADDED","object":{"metadata":{"name":"\\ud800"}}}',
    "an error that is not UTF-8": b'{"type":"ERROR","object":{"message":"\xff"}}',
    "NUL": b"\0" * 1000,
    "an error that is a list": b'{"type":"ERROR","object":[]}',
    "an error of nothing": b'{"type":"ERROR"}',
    "a bookmark without a version": b'{"type":"BOOKMARK","object":{"metadata":{}}}',
    "a bookmark of an empty version": (
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":""}}}'
    ),
    "a version that no URL can carry": (
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1\\r\\nX: y\\u20ac"}}}'
    ),
    "a version of a megabyte": (
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%s"}}}' % (b"1" * (1 << 20))
    ),
    "a deletion of nobody": b'{"type":"DELETED","object":{"metadata":{"uid":""}}}',
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_in_a_watch_costs_itself_and_not_the_place(
    server: FakeKubernetes, settings: KubernetesSettings, name: str
) -> None:
    slow = replace(BRISK, mend=(60.0, 60.0))
    with following(settings, timing=slow) as running:
        running.until_spoken()
        eventually(lambda: server.watching() == 4)
        with server.suffering(faults.Line(NONSENSE[name]), verb="watch", plural="pods", times=1):
            server.cut()
            add(server, "b")
            running.until_names("a", "b")
        add(server, "c")
        running.until_names("a", "b", "c")
        running.until_synced()
        asked = [r for r in server.requests if (r.verb, r.plural) == ("watch", "pods")]

    assert all(request.query["resourceVersion"].isdecimal() for request in asked)


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_in_place_of_a_list_is_no_answer(name: str) -> None:
    with pytest.raises(Invalid) as raised:
        Codec(pods(Labels())).page(NONSENSE[name])

    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "wait", ["1000000000", "-1", "1e9", "9" * 5000, "Fri, 31 Dec 2999 23:59:59 GMT", "٣"]
)
def test_whatever_wait_is_asked_for_the_server_is_asked_again(
    server: FakeKubernetes, settings: KubernetesSettings, wait: str
) -> None:
    class Later(Fault):
        async def instead(self, exchange: Exchange) -> bool:
            answer = f"HTTP/1.1 429 No\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n"
            await exchange.write(answer.encode())
            return True

    with (
        server.suffering(Later(), verb="list", plural="pods", times=2),
        following(settings, timing=replace(BRISK, retry_after=0.3)) as running,
    ):
        running.until_spoken()
        running.until_synced()


def test_a_version_that_the_server_cannot_read_leads_to_a_new_list(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    class Bookmark(faults.EndAtOnce):
        async def watching(self, exchange: Exchange) -> None:
            thing = b'{"metadata":{"resourceVersion":"what"}}'
            await exchange.chunk(faults.event_line("BOOKMARK", thing))
            await super().watching(exchange)

    with (
        server.suffering(Bookmark(), verb="watch", plural="pods", times=1),
        following(settings) as running,
    ):
        eventually(lambda: running.state().relists == {"expired": 1})
        running.until_synced()
        assert [r.query["resourceVersion"] for r in server.requests if r.verb == "watch"].count(
            "what"
        ) == 1


def test_a_stream_that_is_slow_but_ends_its_lines_is_not_given_up(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    with (
        server.suffering(faults.Split(40), verb="watch", plural="pods"),
        following(settings, limits=replace(QUICK, gap=0.4)) as running,
    ):
        running.until_spoken()
        for number in range(30):
            add(server, f"p{number:02}")
            eventually(lambda: f"p{number:02}" in running.names())  # noqa: B023
        assert running.state().error == ""


def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(
    server: FakeKubernetes, settings: KubernetesSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.sources.kubernetes._LARGEST_PAGE", 1 << 20)
    for number in range(6):
        add(server, f"large-{number}", annotations={"padding": "x" * 700_000})

    with following(settings) as running:
        running.until_error("pages of 100 objects are asked for from now on")
        running.until_spoken()
        assert len(running.names()) == 7

    asked = [r.query["limit"] for r in server.requests if (r.verb, r.plural) == ("list", "pods")]
    assert asked == ["500", "100", "20", "4", *["1"] * 7]


# --- elsewhere --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_token_goes_nowhere(
    server: FakeKubernetes, tmp_path: Path, code: int
) -> None:
    with FakeKubernetes() as elsewhere:
        path = server.write_kubeconfig(tmp_path / "kubeconfig", "geheim")
        location = f"{elsewhere.url}/api/v1/pods"
        with (
            server.suffering(attacks.Redirect(lambda: location, code), plural="pods"),
            following(KubernetesSettings(kubeconfig=path)) as running,
        ):
            state = running.until_error(f"({code})")

        assert state.phase is SourcePhase.STARTING
        assert elsewhere.requests == []
        assert elsewhere.connections == 0


def test_an_address_that_is_dead_does_not_hide_the_one_that_lives(
    server: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens on the first, the second takes connections and never accepts them.
    with socket.create_server(("127.0.0.2", server.port), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        usual = socket.getaddrinfo

        def resolved(host: str, port: int, *more: object, **options: object) -> object:
            if host != "api.example.com":
                return usual(host, port, *more, **options)  # type: ignore[arg-type]
            family = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*family, (f"127.0.0.{last}", port)) for last in (3, 2, 1)]

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        path = server.write_kubeconfig(tmp_path / "kubeconfig")
        path.write_text(path.read_text().replace("127.0.0.1", "api.example.com"))
        with following(KubernetesSettings(kubeconfig=path), limits=Limits(connect=0.3)) as running:
            running.until_spoken()
            running.until_synced()
        for each in waiting:
            each.close()


# --- TLS --------------------------------------------------------------------------------------


class Dripping:
    """A port that answers a TLS handshake, and goes on with it a byte at a time."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.port = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="drip", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
                self.connections.append(connection)
            for each in list(self.connections):
                try:
                    each.sendall(b"\0")
                except OSError:
                    each.close()
                    self.connections.remove(each)

    def __enter__(self) -> Dripping:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for each in (self._listener, *self.connections):
            each.close()


def test_a_handshake_that_drips_is_given_up_and_does_not_keep_us_from_ending(
    server: FakeKubernetes, tmp_path: Path
) -> None:
    path = server.write_kubeconfig(tmp_path / "kubeconfig")
    with Dripping() as dripping:
        url = f"https://127.0.0.1:{dripping.port}"
        path.write_text(path.read_text().replace(server.url, url))
        settings = KubernetesSettings(kubeconfig=path)
        with following(settings, limits=QUICK, within=2.0) as running:
            running.until_error("no answer within 0.3 s")
            eventually(lambda: len(dripping.connections) == 4)
        eventually(lambda: not dripping.connections)
        with following(settings, limits=replace(QUICK, headers=60.0), within=2.0):
            eventually(lambda: len(dripping.connections) == 4)
