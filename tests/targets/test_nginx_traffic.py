"""What clients see of a real nginx: switches, splits, pods that come and go, policies."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.load import Load
from tests.servers.wait import eventually
from tests.targets.edge import Edge, app, backend, get, raw, route
from tests.targets.nginxedge import NginxEdge
from tests.targets.test_haproxy_run_time import pod_that_dies_of_requests, tls_pod
from vulcanized.model import (
    ANY_VERSION,
    Backend,
    Balance,
    DesiredApp,
    Outcome,
    Pin,
    PinKind,
    Policies,
    Protocol,
    Server,
    ServerState,
    Timeouts,
)
from vulcanized.targets.nginx.parts import DEFAULT_RETRIES

HOST = "todo.example.com"


def served_by(edge: Edge, requests: int = 20, host: str = HOST, **more: str) -> Counter[str]:
    answers = (edge.get(host, **more) for _ in range(requests))
    return Counter(answer.pod or str(answer.status) for answer in answers)


def colours(edge: Edge, active: str | None, **more: object) -> DesiredApp:
    """Two versions, of which one is active, or neither."""
    backends = [backend(v, [Server(v, *edge.pods.endpoint(v))]) for v in ("blue", "green")]
    split = [] if active is None else [(active, 1)]
    return app(backends=backends, split=split, **more)  # type: ignore[arg-type]


@pytest.fixture
def two(nginx: NginxEdge) -> NginxEdge:
    for version in ("blue", "green"):
        nginx.pod(version, version)
    nginx.show(colours(nginx, "blue"))
    return nginx


# --- switches ---------------------------------------------------------------------------------


def test_a_hundred_switches_under_load_fail_no_request_and_need_no_reload(two: NginxEdge) -> None:
    digest = two.digest()
    with Load(two.port, HOST) as load:
        for number in range(100):
            active = "blue" if number % 2 else "green"
            applied = two.apply(colours(two, active))
            assert (applied.outcome, applied.generation) == (Outcome.UPDATED, two.generation)
            assert two.flags() == {f"todo~{active}"}
            assert two.get().version == active
        load.go_on(100)
    assert load.report.failed == {}
    assert two.digest() == digest
    assert two.reloads == ["start"]


def test_a_switch_that_needs_a_reload_first_never_leaves_the_old_version_early(
    two: NginxEdge,
) -> None:
    blue, green = (backend(v, [two.pod(f"{v}2", v)]) for v in ("blue", "green"))
    with Load(two.port, HOST) as load:
        two.show(app(backends=[blue, backend("green")], split=[("blue", 1)]))
        two.show(app(backends=[blue, green], split=[("green", 1)]))
        eventually(lambda: two.get().pod == "green2")
        two.show(app(backends=[backend("red", [two.pod("red", "red")])], split=[("red", 1)]))
        load.go_on(50)
    assert load.report.failed == {}
    assert two.get().pod == "red"
    assert two.flags() == set()


def test_an_activation_comes_and_goes_without_a_failed_request(two: NginxEdge) -> None:
    both = backend(ANY_VERSION, [two.pod("b", "blue"), two.pod("g", "green")])
    with Load(two.port, HOST) as load:
        for _ in range(3):
            two.show(app(backends=[both], split=[(ANY_VERSION, 1)]))
            two.show(colours(two, "green"))
        load.go_on(50)
    assert load.report.failed == {}


def test_flags_that_somebody_deletes_or_adds_are_put_right(two: NginxEdge) -> None:
    two.show(colours(two, "green"))
    folder = two.settings.directory / "active"
    (green,) = folder.glob("*~green")
    green.unlink()
    (folder / green.name.replace("green", "other")).touch()
    two.until(lambda: two.flags() == {"todo~green"} and two.get().version == "green", 5)
    assert two.reloads == ["start"]


def test_versions_that_differ_in_case_only_are_two(nginx: NginxEdge) -> None:
    pods = {v: nginx.pod(f"pod-{v}", v) for v in ("rc1", "RC1")}
    backends = [backend(v, [pod]) for v, pod in pods.items()]
    for version in ("RC1", "rc1", "RC1"):
        nginx.show(app(backends=backends, split=[(version, 1)]))
        assert set(served_by(nginx, 6)) == {f"pod-{version}"}


def test_a_split_is_counted_per_request(two: NginxEdge) -> None:
    backends = colours(two, None).backends
    two.show(app(backends=backends, split=[("blue", 80), ("green", 20)]))
    report = Load(two.port, HOST, keep_alive=0, one_shot=8, pause=0)
    with report as load:
        load.go_on(4000)
    share = load.report.versions["green"] / load.report.answers
    assert 0.17 < share < 0.23
    assert load.report.failed == {}
    two.show(app(backends=backends, split=[("blue", 1), ("green", 99)]))
    assert served_by(two, 100)["green"] > 90


@pytest.mark.parametrize("kind", PinKind)
def test_a_client_that_names_a_version_gets_it(two: NginxEdge, kind: PinKind) -> None:
    two.show(colours(two, "blue", policies=Policies(pin=Pin(kind, "x-want"))))

    def asked(value: str) -> set[str]:
        if kind is PinKind.HEADER:
            return set(served_by(two, 5, X_Want=value))
        return set(served_by(two, 5, Cookie=f"a=b; x-want={value}; c=d"))

    assert asked("green") == {"green"}
    for other in ("", "greenish", "nothing", "Green", '"green"', "gree.", "$vulcanized_pool"):
        assert asked(other) == {"blue"}
    two.show(colours(two, "green", policies=Policies(pin=Pin(kind, "x-want"))))
    assert asked("blue") == {"blue"}
    assert asked("") == {"green"}
    weighed = app(
        backends=colours(two, None).backends,
        split=[("blue", 1), ("green", 1)],
        policies=Policies(pin=Pin(kind, "x-want")),
    )
    two.show(weighed)
    assert asked("blue") == {"blue"}
    assert asked("green") == {"green"}


def test_a_client_may_name_a_version_also_where_none_is_activated(nginx: NginxEdge) -> None:
    pods = [nginx.pod("b", "blue"), nginx.pod("g", "green")]
    pinned = Policies(pin=Pin(PinKind.HEADER, "x-want"))
    nginx.show(app(servers=pods, policies=pinned))
    assert set(served_by(nginx, 6)) == {"b", "g"}
    assert set(served_by(nginx, 6, X_Want="green")) == {"g"}
    assert set(served_by(nginx, 6, X_Want="red")) == {"b", "g"}


def test_the_active_version_without_a_pod_answers_503_and_no_other_one_does(
    two: NginxEdge,
) -> None:
    two.show(app(backends=[pool_of(two, "blue"), backend("green")], split=[("green", 1)]))
    assert two.get().status == 503
    two.show(app(backends=[pool_of(two, "blue"), backend("green")], split=[("blue", 1)]))
    assert two.get().pod == "blue"
    pinned = Policies(pin=Pin(PinKind.HEADER, "x-want"))
    both = [pool_of(two, "blue"), backend("green")]
    two.show(app(backends=both, split=[("green", 1)], policies=pinned))
    assert two.get().status == 503
    assert two.get(X_Want="blue").pod == "blue"


def pool_of(edge: NginxEdge, version: str) -> Backend:
    return backend(version, [Server(version, *edge.pods.endpoint(version))])


# --- pods that come and go ----------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_forty_replacements_under_load_fail_no_request(nginx: NginxEdge, early: bool) -> None:
    """`early`: a pod ends before nginx can know. What must not be sent twice and stands in the
    pod's own queue then is lost on every proxy, so that is asked only where pods do not end at once
    when they are deleted, as a preStop hook has it.
    """
    pods = [nginx.pod("p0"), nginx.pod("p1"), nginx.pod("p2")]
    nginx.show(app(servers=pods))

    def in_effect() -> bool:
        return nginx.applied is not None and nginx.applied.generation == nginx.generation

    with Load(nginx.port, HOST, pause=0.005) as load, poster(nginx.port) as posted:
        for number in range(3, 43):
            gone = pods.pop(0)
            pods.append(nginx.pod(f"p{number}"))
            nginx.apply(app(servers=pods))
            if early:
                nginx.pods.stop(gone.name)
            nginx.until(in_effect)
            if not early:
                time.sleep(0.2)
                nginx.pods.stop(gone.name)
        load.go_on(100)
    assert load.report.failed == {}
    assert early or set(posted) == {200}
    assert len(nginx.reloads) <= 41


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH"])
def test_no_request_fails_when_a_pod_is_gone_before_we_hear_of_it(
    nginx: NginxEdge, method: str
) -> None:
    nginx.show(app(servers=[nginx.pod("a"), nginx.pod("b")]))
    nginx.pods.crash("a")
    assert {nginx.get(method=method, Content_Length="0").pod for _ in range(10)} == {"b"}


@contextmanager
def poster(port: int) -> Iterator[Counter[int]]:
    """Requests that must not be sent twice, without a pause; their statuses are counted."""
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def post() -> None:
        while not ended.wait(0.002):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("POST", "/", b"body", {"Host": HOST, "Connection": "close"})
                statuses[connection.getresponse().status] += 1
            except OSError:
                statuses[0] += 1
            finally:
                connection.close()

    with ThreadPoolExecutor() as threads:
        threads.submit(post)
        try:
            yield statuses
        finally:
            ended.set()


def test_a_request_in_flight_survives_its_pods_drain_and_removal(nginx: NginxEdge) -> None:
    old, new = nginx.pod("old"), nginx.pod("new")
    nginx.show(app(servers=[old]))
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(get, nginx.port, HOST, "/slow?seconds=1.5")
        eventually(lambda: nginx.pods.in_flight("old"))
        drains = Server(old.name, old.address, old.port, ServerState.DRAIN)
        nginx.show(app(servers=[drains, new]))
        assert set(served_by(nginx)) == {"new"}
        nginx.show(app(servers=[new]))
        assert slow.result().pod == "old"


def test_an_address_that_another_app_takes_over_is_that_ones(nginx: NginxEdge) -> None:
    pod = nginx.pod("one")
    nginx.show(app("a", [pod]), app("b", [nginx.pod("two")]))
    nginx.show(app("a"), app("b", [pod]))
    assert nginx.get("a.example.com").status == 503
    assert nginx.get("b.example.com").pod == "one"


def test_servers_have_weights_of_their_own(nginx: NginxEdge) -> None:
    nginx.show(app(servers=[nginx.pod("a", weight=30), nginx.pod("b", weight=10)]))
    counted = served_by(nginx, 80)
    assert 50 <= counted["a"] <= 70
    nginx.show(app(servers=[nginx.pod("c", weight=0), nginx.pod("d", weight=256)]))
    assert set(served_by(nginx)) == {"d"}


def test_pods_may_have_ipv6_addresses(nginx: NginxEdge) -> None:
    server = socket.create_server(("::1", 0), family=socket.AF_INET6)

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Pod: six\r\nContent-Length: 0\r\n\r\n")

    with server, ThreadPoolExecutor() as threads:
        threads.submit(answer)
        nginx.show(app(servers=[Server("six", "::1", server.getsockname()[1])]))
        assert nginx.get().pod == "six"


# --- answers of our own ---------------------------------------------------------------------------


def test_maintenance_answers_503_with_a_time_to_come_back(nginx: NginxEdge) -> None:
    pod = nginx.pod("a")
    nginx.show(app(servers=[pod], maintenance=True))
    answer = nginx.get()
    assert (answer.status, answer.body) == (503, "503 in maintenance")
    assert answer.headers["retry-after"] == "60"
    assert answer.headers["cache-control"] == "no-store"
    nginx.show(app(servers=[pod]))
    assert nginx.get().pod == "a"


def test_a_known_app_without_servers_answers_503_never_404(nginx: NginxEdge) -> None:
    drains = Server("d", "127.0.0.9", 9, ServerState.DRAIN)
    nginx.show(
        app("empty"),
        app("nowhere", backends=[]),
        app("drains", [drains]),
        app("full", [nginx.pod("f")]),
    )
    for name in ("empty", "nowhere", "drains"):
        answer = nginx.get(f"{name}.example.com")
        assert (answer.status, answer.body) == (503, "503 no server is available")
        assert answer.headers["content-type"] == "text/plain"
    assert nginx.get("full.example.com").pod == "f"
    assert nginx.get("nobody.example.com").status == 404


def test_an_app_that_is_removed_and_added_again(nginx: NginxEdge) -> None:
    a, b = app("a", [nginx.pod("a")]), app("b", [nginx.pod("b")])
    nginx.show(a, b)
    nginx.show(gone=[b.app])
    assert nginx.get("b.example.com").status == 404
    assert nginx.get("a.example.com").pod == "a"
    nginx.show(b)
    assert nginx.get("b.example.com").pod == "b"


# --- bodies, tunnels, old clients -----------------------------------------------------------------


@contextmanager
def pod_that(answers: object) -> Iterator[Server]:
    """A pod whose every connection a function has to itself."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answers, args=(connection,), daemon=True).start()  # type: ignore[arg-type]

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield Server("own", "127.0.0.1", server.getsockname()[1])
    finally:
        ended.set()
        server.close()


def head_of(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
        data += more
    return data


def test_an_answer_that_streams_is_passed_on_as_it_comes_and_over_a_reload(
    nginx: NginxEdge,
) -> None:
    go_on = threading.Event()

    def streams(connection: socket.socket) -> None:
        with connection:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            go_on.wait(20)
            connection.sendall(b"3\r\ntwo\r\n0\r\n\r\n")

    with pod_that(streams) as pod:
        nginx.show(app(servers=[pod]))
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=10)
        connection.request("GET", "/", headers={"Host": HOST})
        answer = connection.getresponse()
        assert answer.read(3) == b"one"
        nginx.show(app(servers=[nginx.pod("other")]))
        assert nginx.get().pod == "other"
        go_on.set()
        assert answer.read() == b"two"
        connection.close()


def test_a_websocket_passes_and_lives_on_in_an_old_worker(nginx: NginxEdge) -> None:
    def echoes(connection: socket.socket) -> None:
        with connection:
            head = head_of(connection).lower()
            assert b"upgrade: websocket" in head
            assert b"connection: upgrade" in head
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n"
            )
            while data := connection.recv(65536):
                connection.sendall(data)

    with pod_that(echoes) as pod:
        short = Policies(timeouts=Timeouts(server=0.5))
        nginx.show(app(servers=[pod], policies=short))
        with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as client:
            client.sendall(
                f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\n\r\n".encode()
            )
            assert head_of(client).startswith(b"HTTP/1.1 101")
            for text in (b"before", b"after"):
                client.sendall(text)
                assert client.recv(100) == text
                # Longer than a pod may be silent otherwise.
                time.sleep(0.8)
                if text == b"before":
                    nginx.show(app(servers=[pod, nginx.pod("other")], policies=short))
            assert nginx.workers().leaving


def test_a_pod_that_is_silent_for_too_long_is_answered_for(nginx: NginxEdge) -> None:
    policies = Policies(timeouts=Timeouts(server=0.3), retries=0)
    nginx.show(app(servers=[nginx.pod("a")], policies=policies))
    assert nginx.get(path="/slow?seconds=3").status == 504
    assert nginx.get(path="/slow?seconds=0").status == 200


def test_a_connection_that_does_not_come_about_is_given_up(nginx: NginxEdge) -> None:
    """TEST-NET-1 (RFC 5737): nobody answers there, or nobody can be reached."""
    policies = Policies(timeouts=Timeouts(connect=0.3))
    lost = Server("lost", "192.0.2.1", 80)
    nginx.show(app(servers=[lost, nginx.pod("a")], policies=policies))
    began = time.monotonic()
    assert set(served_by(nginx, 6)) == {"a"}
    assert time.monotonic() - began < 10
    assert "proxy_connect_timeout 300ms;" in nginx.file("http.conf")


def test_large_bodies_pass_both_ways(nginx: NginxEdge) -> None:
    nginx.show(app(servers=[nginx.pod("a")]))
    body = b"x" * (5 << 20)
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=30)
    connection.request("POST", "/echo", body, {"Host": HOST})
    answer = connection.getresponse()
    assert answer.status == 200
    assert len(answer.read()) > 1 << 15
    connection.close()


@pytest.mark.parametrize("limit", [1, 9, 10, 99, 1234, 1048576])
def test_a_body_over_the_limit_is_refused(nginx: NginxEdge, limit: int) -> None:
    nginx.show(app(servers=[nginx.pod("a")], policies=Policies(max_body_size=limit)))

    def posted(size: int, *, chunked: bool = False) -> int:
        body = b"x" * size
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=10)
        try:
            if chunked:
                connection.request("POST", "/", iter([body]), {"Host": HOST})
            else:
                connection.request("POST", "/", body, {"Host": HOST})
            return connection.getresponse().status
        finally:
            connection.close()

    assert posted(limit) == 200
    assert posted(limit + 1) == 413
    assert posted(limit, chunked=True) == 200
    assert posted(limit + 1, chunked=True) == 413
    assert posted(limit * 10) == 413


def test_http_1_0_clients_are_answered(nginx: NginxEdge) -> None:
    nginx.show(app(servers=[nginx.pod("a")]))
    answer = raw(nginx.port, f"GET /echo HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-pod: a" in answer.lower()


def test_the_pods_answer_passes_unchanged(nginx: NginxEdge) -> None:
    def answers(connection: socket.socket) -> None:
        with connection:
            head_of(connection)
            connection.sendall(
                b"HTTP/1.1 207 Odd\r\nServer: pod/1\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                b"X-Accel-Redirect: /:default/other\r\nLocation: http://todo.example.com/x\r\n"
                b"Content-Type: text/html\r\nContent-Length: 300\r\nConnection: close\r\n\r\n"
                + b"y"
                * 300
            )

    with pod_that(answers) as pod:
        nginx.show(app(servers=[pod]), app("other", [nginx.pod("other")]))
        answer = nginx.get(Accept_Encoding="gzip")
    assert (answer.status, answer.body) == (207, "y" * 300)
    assert answer.headers["server"] == "pod/1"
    assert answer.headers["date"].startswith("Thu, 01 Jan 1970")
    assert answer.headers["location"] == "http://todo.example.com/x"
    assert answer.headers["content-type"] == "text/html"


# --- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", Balance)
def test_every_balance_is_taken_and_serves(nginx: NginxEdge, balance: Balance) -> None:
    pods = [nginx.pod(f"p{n}", weight=100 + n) for n in range(3)]
    nginx.show(app(servers=pods, policies=Policies(balance=balance)))
    if balance is Balance.SOURCE:
        assert len(served_by(nginx, 12)) == 1
    elif balance is Balance.URI:
        by_path = [{nginx.get(path=f"/{n}?{q}").pod for q in "abc"} for n in range(8)]
        assert all(len(pods) == 1 for pods in by_path)
        assert len(set().union(*by_path)) > 1
    else:
        assert len(served_by(nginx, 40)) == 3


def test_a_hash_that_leads_to_a_pod_that_is_gone_leads_on_at_once(nginx: NginxEdge) -> None:
    pods = [nginx.pod("a"), nginx.pod("b")]
    nginx.show(app(servers=pods, policies=Policies(balance=Balance.SOURCE)))
    (chosen,) = served_by(nginx, 5)
    nginx.pods.crash(chosen)
    other = "b" if chosen == "a" else "a"
    assert set(served_by(nginx, 10)) == {other}


def test_the_number_of_retries_is_the_apps(nginx: NginxEdge) -> None:
    dead = [Server(f"dead{n}", "127.77.255.9", 9 + n) for n in range(3)]
    pod = nginx.pod("a")
    nginx.show(app(servers=[*dead, pod], policies=Policies(retries=0)))
    assert "502" in served_by(nginx, 8)
    nginx.show(app(servers=[*dead, pod], policies=Policies(retries=DEFAULT_RETRIES)))
    assert set(served_by(nginx, 8)) == {"a"}


def test_when_all_pods_of_an_app_failed_they_are_asked_again_within_a_second_or_so(
    nginx: NginxEdge,
) -> None:
    nginx.show(app(servers=[nginx.pod("a"), nginx.pod("b")]))
    for pod in ("a", "b"):
        nginx.pods.crash(pod)
    assert set(served_by(nginx, 4)) == {"502"}
    for pod in ("a", "b"):
        nginx.pods.revive(pod)
    eventually(lambda: set(served_by(nginx, 6)) == {"a", "b"}, 10)


def test_a_limit_per_app_holds_over_its_versions_and_refuses_at_once(two: NginxEdge) -> None:
    limited = Policies(max_connections_app=2)
    two.show(
        app(
            backends=colours(two, None).backends,
            split=[("blue", 1), ("green", 1)],
            policies=limited,
        ),
        app("other", [two.pod("other")], policies=limited),
    )
    with ThreadPoolExecutor() as threads:
        slow = [threads.submit(get, two.port, HOST, "/slow?seconds=2") for _ in range(2)]
        eventually(lambda: two.pods.in_flight("blue") + two.pods.in_flight("green") == 2)
        answer = two.get()
        assert (answer.status, answer.body) == (429, "429 too many requests at once")
        assert answer.headers["retry-after"] == "1"
        assert two.get("other.example.com").pod == "other"
        assert {each.result().status for each in slow} == {200}
    assert two.get().status == 200


def test_a_limit_per_server_holds_over_all_workers(nginx: NginxEdge) -> None:
    limited = Policies(max_connections_server=2)
    nginx.show(app(servers=[nginx.pod("a")], policies=limited))
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(get, nginx.port, HOST, "/slow?seconds=1") for _ in range(12)]
        most = 0
        while not all(each.done() for each in asked):
            most = max(most, nginx.pods.in_flight("a"))
            time.sleep(0.005)
        statuses = Counter(each.result().status for each in asked)
    assert most == 2
    assert statuses.keys() <= {200, 502}
    assert statuses[200] >= 2


def test_connections_to_pods_are_kept(nginx: NginxEdge) -> None:
    seen: list[bytes] = []

    def stays(connection: socket.socket) -> None:
        seen.append(b"opened")
        with connection:
            while head := head_of(connection):
                seen.append(head)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with pod_that(stays) as pod:
        nginx.show(app(servers=[pod]))
        for _ in range(20):
            assert nginx.get().status == 200
    assert seen.count(b"opened") < 10


def test_idle_connections_of_clients_stay_only_if_that_is_wanted(nginx: NginxEdge) -> None:
    nginx.show(app(servers=[nginx.pod("a")]))

    def connection_header() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=5)
        connection.request("GET", "/", headers={"Host": HOST})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.headers.get("Connection", "")

    assert connection_header() == "close"
    nginx.target.close(stop_proxy=True)
    nginx.settings = nginx.with_settings(keep_alive=5)
    nginx.target = nginx.new_target()
    nginx.generation = 0
    nginx.show(app(servers=[nginx.pod("b")], routes=[route(HOST)]))
    assert connection_header() == "keep-alive"


def test_an_app_may_speak_https_to_its_pods(nginx: NginxEdge, tmp_path: Path) -> None:
    with tls_pod(tmp_path) as endpoint:
        policies = Policies(protocol=Protocol.HTTPS)
        nginx.show(app(servers=[Server("a", *endpoint)], policies=policies))
        assert nginx.get().pod == "tls"
        assert nginx.get().pod == "tls"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "POST", "PATCH"])
def test_a_request_that_a_pod_took_to_its_grave_is_sent_again_if_it_may_be(
    nginx: NginxEdge, method: str
) -> None:
    with pod_that_dies_of_requests() as (grave, taken):
        nginx.show(app(servers=[Server("a-dying", *grave), nginx.pod("b-living")]))
        answers = set()
        while not taken:
            answer = nginx.get(method=method, Content_Length="0")
            answers.add(answer.pod or answer.status)
        assert answers == {"b-living"} if method not in {"POST", "PATCH"} else 502 in answers
