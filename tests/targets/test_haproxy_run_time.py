"""What a running HAProxy is changed to without a reload."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.servers.certs import Authority
from tests.servers.load import Load
from tests.servers.wait import eventually
from tests.targets.edge import TODO, Edge, app, backend, exact, get, regex, route, server
from vulcanized.model import (
    AppId,
    Balance,
    Endpoint,
    HealthCheck,
    Outcome,
    Policies,
    Protocol,
    ServerState,
    Timeouts,
)
from vulcanized.targets.haproxy.parts import ACTIVE, HOSTS, PREFIX, REGEX

HOST = "todo.example.com"


def served_by(edge: Edge, host: str = HOST, path: str = "/", requests: int = 20) -> Counter[str]:
    return Counter(
        answer.pod or str(answer.status)
        for answer in (edge.get(host, path) for _ in range(requests))
    )


def test_the_first_change_starts_haproxy_and_needs_no_reload(edge: Edge) -> None:
    applied = edge.apply(app(servers=[edge.pod("a")]))
    assert (applied.outcome, applied.cause, applied.generation) == (Outcome.RELOADED, "start", 1)
    assert edge.get().pod == "a"
    assert edge.master.processes().reloads == 0


def test_a_change_that_is_no_change_sends_nothing(edge: Edge) -> None:
    todo = app(servers=[edge.pod("a")])
    edge.show(todo)
    again = edge.apply(todo)
    assert again.outcome is Outcome.UNCHANGED
    assert again.generation == 2
    assert edge.apply(todo, complete=True).outcome is Outcome.UNCHANGED


def test_servers_come_and_go_under_load_without_a_failed_request(edge: Edge) -> None:
    stays = edge.pod("stays")
    edge.show(app(servers=[stays]))
    worker = edge.worker()
    with Load(edge.port, HOST) as load:
        for number in range(40):
            comes = edge.pod(f"pod-{number}")
            assert edge.apply(app(servers=[stays, comes])).outcome is Outcome.UPDATED
            edge.until(partial(load.report.pods.__getitem__, comes.name), 5, "a first answer")
            edge.apply(app(servers=[stays]))
            edge.pods.stop(comes.name)
        load.go_on(50)
    assert load.report.failed == {}
    assert edge.worker() == worker
    assert edge.reloads == ["start"]


def test_a_draining_server_finishes_what_it_has_and_gets_nothing_new(edge: Edge) -> None:
    old, new = edge.pod("old"), edge.pod("new")
    edge.show(app(servers=[old]))
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(get, edge.port, HOST, "/slow?seconds=0.8")
        eventually(lambda: edge.pods.in_flight("old"), 5, "the slow request is there")
        drains = server("old", old.address, old.port, ServerState.DRAIN)
        edge.apply(app(servers=[drains, new]))
        assert set(served_by(edge)) == {"new"}
        edge.apply(app(servers=[new]))
        assert set(served_by(edge)) == {"new"}
        assert slow.result().pod == "old"
    # It could not be deleted while it was busy, and is when its last connection is gone.
    assert "old" in edge.live().servers["default:todo"]
    edge.pods.stop("old")
    edge.until(lambda: set(edge.live().servers["default:todo"]) == {"new"}, 5)


def test_a_server_that_comes_back_while_it_leaves_takes_traffic_again(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app(servers=[a, b]))
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(get, edge.port, HOST, "/slow?seconds=0.6") for _ in range(2)]
        eventually(lambda: edge.pods.in_flight("a") and edge.pods.in_flight("b"), 5)
        edge.apply(app(servers=[b]))
        assert edge.live().servers["default:todo"]["a"].state is ServerState.MAINT
        edge.apply(app(servers=[a, b]))
        assert set(served_by(edge)) == {"a", "b"}
        assert {each.result().status for each in slow} == {200}
    edge.until(lambda: edge.applied is not None and edge.applied.generation == 3)
    assert set(served_by(edge)) == {"a", "b"}


def test_a_hundred_switches_under_load_fail_no_request(edge: Edge) -> None:
    two = [backend(v, [edge.pod(f"{v}-{n}", v) for n in (1, 2)]) for v in ("blue", "green")]
    edge.show(app(backends=two, split=[("blue", 1)]))
    with Load(edge.port, HOST) as load:
        for number in range(100):
            version = ("green", "blue")[number % 2]
            assert edge.apply(app(backends=two, split=[(version, 1)])).generation == number + 2
            assert edge.get().version == version
            load.go_on(12)
    assert load.report.failed == {}
    assert edge.reloads == ["start"]
    assert min(load.report.versions["blue"], load.report.versions["green"]) > 300


def test_weights_share_the_traffic_and_change_at_run_time(edge: Edge) -> None:
    two = [backend(v, [edge.pod(v, v)]) for v in ("blue", "green")]
    edge.show(app(backends=two, split=[("blue", 95), ("green", 5)]))

    def share_of_green(requests: int = 3000) -> float:
        with Load(edge.port, HOST, keep_alive=8, one_shot=0, pause=0) as load:
            load.go_on(requests)
        assert load.report.failed == {}
        return load.report.versions["green"] / load.report.answers

    # The bounds are six standard deviations of 3,000 draws.
    assert share_of_green() == pytest.approx(0.05, abs=0.024)
    edge.show(app(backends=two, split=[("blue", 80), ("green", 20)]))
    assert share_of_green() == pytest.approx(0.20, abs=0.044)
    edge.show(app(backends=two, split=[("green", 1)]))
    assert share_of_green(300) == 1.0
    assert edge.live().tables["split.map"] == {}
    assert edge.reloads == ["start"]


def test_servers_have_weights_of_their_own(edge: Edge) -> None:
    heavy, light = edge.pod("heavy", weight=200), edge.pod("light", weight=50)
    edge.show(app(servers=[heavy, light]))
    assert served_by(edge, requests=50)["heavy"] == pytest.approx(40, abs=2)
    edge.show(app(servers=[server("heavy", heavy.address, heavy.port, weight=50), light]))
    assert served_by(edge, requests=50)["heavy"] == pytest.approx(25, abs=2)
    assert edge.reloads == ["start"]


def test_routes_are_added_moved_and_removed_at_run_time(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app("a", [a]), app("b", [b]))
    more = [route("a.example.com"), exact("new.org", "/x"), regex("new.org", "/[0-9]+$")]
    edge.show(app("a", [a], routes=more))
    assert [edge.get("new.org", path).pod for path in ("/x", "/17", "/y")] == ["a", "a", ""]
    # One change moves the host from one app to the other, another one takes it away.
    edge.show(app("a", [a]), app("b", [b], routes=[route("b.example.com"), route("new.org")]))
    assert [edge.get("new.org", path).pod for path in ("/x", "/17", "/y")] == ["b", "b", "b"]
    edge.show(app("b", [b]))
    assert edge.get("new.org", "/x").status == 404
    assert edge.get("b.example.com").pod == "b"
    assert edge.reloads == ["start"]


def test_a_host_stays_as_long_as_one_of_its_apps_is_there(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(
        app("a", [a], routes=[route("x.org", "/a"), regex("x.org", "/r/[0-9]")]),
        app("b", [b], routes=[route("x.org", "/b"), regex("x.org", "/s/[0-9]")]),
    )
    edge.show(app("b", [b], routes=[route("b.example.com")]))
    assert edge.get("x.org", "/a").pod == "a"
    assert edge.get("x.org", "/r/1").pod == "a"
    assert edge.get("x.org", "/b").status == 404
    edge.show(gone=[AppId("default", "a")])
    assert edge.live().tables[HOSTS] == {"b.example.com": "b.example.com"}


def test_the_longest_regex_stays_first_when_regexes_are_added(edge: Edge) -> None:
    short, long = regex("x.org", "/[a-z]+"), regex("x.org", "/[a-z]+/[a-z]+/[a-z]+")
    edge.show(app("a", [edge.pod("a")], routes=[short]), app("b", [edge.pod("b")], routes=[]))
    edge.show(app("b", [edge.pod("b2")], routes=[long]))
    assert edge.get("x.org", "/q/w/e").pod == "b2"
    assert edge.get("x.org", "/q/w").pod == "a"
    assert len(edge.live().tables[REGEX]) == 2
    assert edge.reloads == ["start"]


def test_maintenance_answers_503_with_a_time_to_come_back(edge: Edge) -> None:
    a = edge.pod("a")
    edge.show(app(servers=[a]))
    edge.show(app(servers=[a], maintenance=True))
    answer = edge.get()
    assert (answer.status, int(answer.headers["retry-after"]) > 0) == (503, True)
    edge.show(app(servers=[a]))
    assert edge.get().pod == "a"
    assert edge.reloads == ["start"]


def test_a_known_app_without_servers_answers_503_never_404(edge: Edge) -> None:
    a = edge.pod("a")
    edge.show(app("empty"), app("nowhere", [a], split=[]), app("none", backends=[]), app("a", [a]))
    for name in ("empty", "nowhere", "none"):
        assert edge.get(f"{name}.example.com").status == 503, name
    edge.show(app("a"))
    assert edge.get("a.example.com").status == 503
    assert edge.get("b.example.com").status == 404


def test_a_removed_app_is_gone_at_once_and_comes_back_without_a_reload(edge: Edge) -> None:
    a, b = app("a", [edge.pod("a")]), app("b", [edge.pod("b")])
    edge.show(a, b)
    edge.show(gone=[a.app])
    assert edge.get("a.example.com").status == 404
    assert edge.live().servers["default:a"] == {}
    edge.show(a)
    assert edge.get("a.example.com").pod == "a"
    assert edge.reloads == ["start"]


def test_whatever_a_complete_change_does_not_name_goes(edge: Edge) -> None:
    a, b = app("a", [edge.pod("a")]), app("b", [edge.pod("b")])
    edge.show(a, b)
    edge.show(b, complete=True)
    assert (edge.get("a.example.com").status, edge.get("b.example.com").pod) == (404, "b")


def test_maps_larger_than_haproxys_buffer_arrive_whole(edge: Edge) -> None:
    pod = edge.pod("a")
    edge.show(app("a", [pod]))
    hosts = [f"{'long-name-' * 5}{number}.example.com" for number in range(1500)]
    edge.show(app("a", [pod], routes=[route(host, f"/{'p' * 40}") for host in hosts]))
    tables = edge.live().tables
    assert (len(tables[HOSTS]), len(tables[PREFIX])) == (1500, 1500)
    assert edge.get(hosts[1234], f"/{'p' * 40}/x").pod == "a"
    edge.show(app("a", [pod]))
    assert len(edge.live().tables[PREFIX]) == 1
    assert edge.reloads == ["start"]


def test_hundreds_of_servers_come_and_go_at_once(edge: Edge) -> None:
    a = edge.pod("a")
    edge.show(app(servers=[a]))
    many = [server(f"pod-{number}", "127.9.9.9", 1000 + number) for number in range(300)]
    edge.show(app(servers=[a, *many]))
    assert len(edge.live().servers["default:todo"]) == 301
    edge.show(app(servers=[a]))
    edge.until(lambda: set(edge.live().servers["default:todo"]) == {"a"}, 5)
    assert edge.reloads == ["start"]


def stat(edge: Edge, name: str) -> dict[str, str]:
    """What HAProxy counts of a server of `todo`."""
    header, *lines = edge.command("show stat default:todo 4 -1").splitlines()
    names = header.lstrip("# ").split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines]
    return next(row for row in rows if row.get("svname") == name)


def test_a_limit_per_server_changes_at_run_time(edge: Edge) -> None:
    a = edge.pod("a")
    edge.show(app(servers=[a], policies=Policies(max_connections_server=1)))
    worker = edge.worker()
    edge.show(app(servers=[a], policies=Policies(max_connections_server=7)))

    def limit(name: str) -> str:
        return stat(edge, name)["slim"]

    assert limit("a") == "7"
    b = edge.pod("b")
    edge.show(app(servers=[a, b], policies=Policies(max_connections_server=7)))
    assert limit("b") == "7"
    edge.show(app(servers=[a, b]))
    assert limit("a") in {"", "0"}
    assert edge.worker() == worker
    assert "maxconn" not in edge.live().structure["default:todo"]


def test_a_limit_per_server_makes_requests_wait_for_a_place(edge: Edge) -> None:
    edge.show(app(servers=[edge.pod("a")], policies=Policies(max_connections_server=1)))
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(get, edge.port, HOST, "/slow?seconds=0.3") for _ in range(2)]
        assert [each.result().status for each in both] == [200, 200]


def test_a_limit_per_app_holds_over_its_versions_and_refuses_at_once(edge: Edge) -> None:
    two = [backend(v, [edge.pod(v, v)]) for v in ("blue", "green")]
    limited = Policies(max_connections_app=2)
    edge.show(app(backends=two, split=[("blue", 1), ("green", 1)], policies=limited))
    with ThreadPoolExecutor() as pool:
        busy = [pool.submit(get, edge.port, HOST, "/slow?seconds=1.5") for _ in range(2)]
        eventually(lambda: edge.pods.in_flight("blue") + edge.pods.in_flight("green") == 2, 5)
        refused = edge.get()
        assert (refused.status, "retry-after" in refused.headers) == (429, True)
        assert [each.result().status for each in busy] == [200, 200]
    assert edge.get().status == 200
    edge.show(app(backends=two, split=[("blue", 1)], policies=Policies(max_connections_app=50)))
    assert edge.get().status == 200
    assert edge.reloads == ["start"]


@pytest.mark.parametrize("balance", list(Balance))
def test_servers_come_at_run_time_however_a_backend_balances(edge: Edge, balance: Balance) -> None:
    policies = Policies(balance=balance)
    a = edge.pod("a")
    edge.show(app(servers=[a], policies=policies))
    edge.show(app(servers=[edge.pod("b")], policies=policies))
    assert set(served_by(edge, requests=4)) == {"b"}
    assert edge.reloads == ["start"]


@contextlib.contextmanager
def pod_that_dies_of_requests() -> Iterator[tuple[Endpoint, list[bytes]]]:
    """Takes each request and hangs up without a word; what it took."""
    taken: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        taken.append(connection.recv(65536))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint(*listener.getsockname()), taken
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_a_request_that_a_pod_took_to_its_grave_is_sent_again_if_it_may_be(edge: Edge) -> None:
    with pod_that_dies_of_requests() as (grave, taken):
        policies = Policies(balance=Balance.FIRST)
        dying = server("a-dying", *grave)
        edge.show(app(servers=[dying, edge.pod("b-living")], policies=policies))
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            assert edge.get(method=method).pod == "b-living", method
        assert len(taken) >= 4
        taken.clear()
        assert edge.get(method="POST").status == 502
        assert edge.get(method="PATCH").status == 502
        assert len(taken) == 2


def test_no_request_fails_when_a_pod_is_gone_before_we_hear_of_it(edge: Edge) -> None:
    a, gone = edge.pod("a"), edge.pod("gone")
    edge.show(app(servers=[a, gone]))
    with Load(edge.port, HOST) as load:
        load.go_on(50)
        edge.pods.stop("gone")
        load.go_on(200)
    assert load.report.failed == {}


def test_a_hash_that_leads_to_a_pod_that_is_gone_leads_on_at_once(edge: Edge) -> None:
    """Not after three tries of the same one, a second apart."""
    gone = edge.pod("gone")
    edge.show(app(servers=[edge.pod("a"), gone], policies=Policies(balance=Balance.URI)))
    edge.pods.stop("gone")
    assert {edge.get(path=f"/{number}").pod for number in range(20)} == {"a"}
    seen = stat(edge, "gone")
    assert int(seen["wredis"]) > 0
    assert int(seen["wretr"]) == 0


def test_a_health_check_takes_a_server_out_and_back(edge: Edge) -> None:
    check = HealthCheck("/health", None, 0.1, 0.5, 1, 1, 200, 299)
    policies = Policies(health_check=check)
    a = edge.pod("a")
    edge.show(app(servers=[a], policies=policies))
    b = edge.pod("b")
    edge.show(app(servers=[a, b], policies=policies))
    assert edge.reloads == ["start"]
    # One of them came with the file, the other at run time.
    for sick, well in (("a", "b"), ("b", "a")):
        edge.pods.be_healthy(sick, healthy=False)
        await_servers(edge, {well})
        edge.pods.be_healthy(sick, healthy=True)
        await_servers(edge, {"a", "b"})


def await_servers(edge: Edge, names: set[str]) -> None:
    eventually(lambda: set(served_by(edge, requests=4)) == names, 5, f"answers of {names}")


def test_an_apps_timeout_is_its_own(edge: Edge) -> None:
    quick = Policies(timeouts=Timeouts(server=0.2), retries=0)
    edge.show(app("a", [edge.pod("a")], policies=quick), app("b", [edge.pod("b")]))
    assert edge.get("a.example.com", "/slow?seconds=2").status == 504
    assert edge.get("b.example.com", "/slow?seconds=0.5").status == 200


def test_the_pods_answer_passes_unchanged(edge: Edge) -> None:
    edge.show(app(servers=[edge.pod("a")]))
    assert [edge.get(path=f"/status/{code}").status for code in (204, 404, 418, 500, 503)] == [
        204,
        404,
        418,
        500,
        503,
    ]
    echo = json.loads(edge.get(path="/echo/%41?x=1&y=%20").body)
    assert echo["target"] == "/echo/%41?x=1&y=%20"
    assert ["Host", HOST] in [[k.title(), v] for k, v in echo["headers"]]


@contextlib.contextmanager
def tls_pod(folder: Path) -> Iterator[Endpoint]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = Authority(folder).issue("pod")
    context.load_cert_chain(files.cert, files.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with context.wrap_socket(plain, server_side=True) as connection:
                        connection.recv(65536)
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Pod: tls\r\n"
                            b"Connection: close\r\n\r\n"
                        )

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_an_app_may_speak_https_to_its_pods(edge: Edge, tmp_path: Path) -> None:
    https = Policies(protocol=Protocol.HTTPS)
    edge.show(app(policies=https))
    with tls_pod(tmp_path) as endpoint:
        edge.show(app(servers=[server("a", *endpoint)], policies=https))
        assert edge.get().pod == "tls"
    assert edge.reloads == ["start"]


def test_files_are_behind_run_time_by_less_than_a_second(edge: Edge) -> None:
    a, b = edge.pod("a"), edge.pod("b")
    edge.show(app(servers=[a]))
    edge.apply(app(servers=[a, b]))
    assert "server b " not in edge.file("haproxy.cfg")
    edge.until(lambda: "server b " in edge.file("haproxy.cfg"), 1.0, "the file is written")
    edge.apply(app(servers=[a, server("b", b.address, b.port, ServerState.DRAIN)]))
    edge.until(lambda: "weight 0" in edge.file("haproxy.cfg"), 1.0)
    now = app(servers=[a, server("b", b.address, b.port, ServerState.DRAIN)])
    assert edge.target.rendered({TODO: now}) == edge.target.actual()
    assert edge.file(ACTIVE) == "default/todo default:todo\n"
