"""What an app config asks for beside its routes."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.pods import bytes_of
from tests.behaviour.test_connections import echoed, websocket
from tests.behaviour.world import World, needs, shows
from tests.servers.certs import Authority
from tests.servers.wait import eventually

TITLE = "Policies"

retries = shows("`retries`: a pod that is gone costs a GET nothing; a POST is never sent twice")
balance = shows("`balance`")
bodies = shows("`max_body_size`: 413 beyond it")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """The certificate of a pod, which nobody knows."""
    folder: Path = tmp_path_factory.mktemp("tls")
    issued = Authority(folder).issue("pod")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.cert, issued.key)
    return context


@shows("`maintenance`: 503, and back")
@needs("maintenance")
def test_maintenance_is_503_until_it_ends(world: World) -> None:
    app, other = world.app(), world.app()
    world.settle()
    (pod,) = app.pods
    for maintenance in (True, False, True, False):
        app.change(maintenance=maintenance)
        world.settle()
        asked = len(pod.seen)
        assert world.ask(app.host).pod == ("503" if maintenance else pod.name)
        assert len(pod.seen) == asked + (not maintenance)
        assert world.ask(other.host).status == 200


@shows("`protocol: https` towards pods")
@needs("protocol.https")
def test_pods_that_speak_tls_are_spoken_to_so(world: World, tls: ssl.SSLContext) -> None:
    app = world.bare_app()
    app.pod(tls=tls)
    app.pod(tls=tls)
    app.configure(protocol="https")
    world.settle()
    assert world.answered_by(app.host, tries=12).keys() == app.names
    body = bytes_of(1 << 20)
    assert world.ask(app.host, "/echo", method="POST", body=body).echo["length"] == len(body)
    assert world.ask(app.host, "/echo").arrived["host"] == app.host


@bodies
@needs("max_body_size")
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_over_the_limit_is_413(world: World, chunked: bool) -> None:
    app = world.app(max_body_size=1000)
    other = world.app()
    world.settle()
    for host, size, status in (
        (app.host, 0, 200),
        (app.host, 1000, 200),
        (app.host, 1001, 413),
        (other.host, 9999, 200),
    ):
        body = bytes_of(size)
        assert uploaded(world, host, iter([body]) if chunked else body) == status
        # In chunks of 100.
        assert not chunked or uploaded(world, host, in_pieces(body, 100)) == status
    assert world.ask(app.host).status == 200


@bodies
@needs("max_body_size")
def test_a_large_body_with_a_length_is_judged_by_it(world: World) -> None:
    app = world.app(max_body_size=3 << 20)
    world.settle()
    body = bytes_of((3 << 20) + 1)
    (pod,) = app.pods
    with world.client() as client:
        answer = client.ask(app.host, "/echo", method="POST", body=body[:-1])
        assert answer.echo["length"] == len(body) - 1
    asked = len(pod.seen)
    assert uploaded(world, app.host, body) == 413
    assert len(pod.seen) == asked
    assert uploaded(world, app.host, in_pieces(body[:-1], 1 << 16)) == 200


@bodies
@needs("max_body_size")
def test_a_limit_of_bodies_changes_under_load(world: World) -> None:
    app = world.app()
    world.settle()
    with world.load(app.host) as load:
        for size, status in ((99, 413), (100, 200), (50, 413), (None, 200)):
            app.change(max_body_size=size)
            world.settle()
            assert uploaded(world, app.host, bytes_of(100)) == status
            load.go_on(10)


@bodies
@needs("max_body_size")
def test_a_limit_of_bodies_is_none_for_a_websocket(world: World) -> None:
    app = world.app(max_body_size=10)
    world.settle()
    with websocket(world, app.host) as socket_:
        for _ in range(3):
            echoed(socket_, b"more than ten bytes")


@shows("`max_body_size`: also for chunks that come to more than a buffer holds (16 KB)")
@needs("max_body_size", "bodies.counted")
def test_a_large_body_in_chunks_is_counted(world: World) -> None:
    app = world.app(max_body_size=1 << 20)
    world.settle()
    body = bytes_of((1 << 20) + 1)
    assert uploaded(world, app.host, in_pieces(body[:-1], 1000)) == 200
    assert uploaded(world, app.host, in_pieces(body, 1000)) == 413


def uploaded(world: World, host: str, body: bytes | Iterator[bytes]) -> int:
    """The status of an upload; one that is refused before its end may be cut off."""
    with world.client() as client:
        with contextlib.suppress(ConnectionError):
            client.send(host, "/echo", method="POST", body=body)
        return client.receive().status


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


@shows("`max_connections.app`: 429 beyond it")
@needs("max_connections.app")
def test_requests_at_once_to_an_app_are_bounded(world: World) -> None:
    app = world.app("blue", "blue", max_connections={"app": 3})
    other = world.app()
    world.settle()

    def bounded() -> bool:
        for pod in app.pods:
            pod.hold()
        with ExitStack() as stack:
            clients = [stack.enter_context(world.client()) for _ in range(3)]
            for client in clients:
                client.send(app.host, "/hold")
            eventually(lambda: sum(pod.in_flight for pod in app.pods) == 3, 10, "three in flight")
            said = [world.ask(app.host).status for _ in range(4)]
            assert world.ask(other.host).status == 200
            for pod in app.pods:
                pod.release()
            assert [client.receive().status for client in clients] == [200] * 3
        eventually(lambda: world.ask(app.host).status == 200, 5, "room again")
        return said == [429] * 4

    # Each process counts its own: just after a reload the one before may have taken the three.
    eventually(bounded, 30, "429 for the fourth")


@shows("`max_connections.app`: 429 beyond it")
@needs("max_connections.app")
@pytest.mark.parametrize("status", [429, 503])
def test_a_pod_that_answers_so_itself_is_passed_on(world: World, status: int) -> None:
    app = world.app(max_connections={"app": 9})
    world.settle()
    answer = world.ask(app.host, f"/status/{status}")
    assert (answer.status, answer.pod) == (status, app.pods[0].name)


@shows("`max_connections.server`: what is more goes to other pods")
@needs("max_connections.server")
def test_requests_at_once_to_a_pod_are_bounded(world: World) -> None:
    app = world.app("blue", "blue", "blue", max_connections=2)
    world.settle()
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(world.ask, app.host, "/hold") for _ in range(6)]
        eventually(lambda: sum(pod.in_flight for pod in app.pods) == 6, 10, "all in flight")
        assert [pod.in_flight for pod in app.pods] == [2, 2, 2]
        for pod in app.pods:
            pod.release()
        assert [answer.result().status for answer in answers] == [200] * 6


@shows("`max_connections.server`: what is more than all can take waits its turn")
@needs("max_connections.server", "timeouts.queue")
def test_requests_beyond_what_all_pods_can_take_wait(world: World) -> None:
    app = world.app(max_connections=2)
    world.settle()
    (pod,) = app.pods
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(world.ask, app.host, "/hold") for _ in range(6)]
        eventually(lambda: pod.in_flight == 2, 10, "two in flight")
        pod.release()
        assert [answer.result().status for answer in answers] == [200] * 6
    assert pod.most_in_flight == 2


@shows("`timeouts.server`: 504 for a pod that is silent")
@needs("timeouts.server")
def test_a_pod_that_is_silent_for_too_long_is_504(world: World) -> None:
    app = world.app(timeouts={"server": "2s"}, retries=0)
    patient = world.app()
    world.settle()
    with world.in_flight(patient) as (pod, waiting):
        assert world.ask(app.host, "/hold").status == 504
        assert world.ask(app.host).status == 200
        assert not waiting.done()
        pod.release()
        assert waiting.result().status == 200


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address at which connections are neither taken nor refused: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.79.255.1", 0))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


@shows("`timeouts.connect`")
@needs("timeouts.connect")
def test_a_pod_that_takes_no_connection_is_given_up(world: World, deaf: tuple[str, int]) -> None:
    app = world.bare_app()
    pod = app.pod()
    world.pods.crash(pod)
    pod.address, pod.ports["http"] = deaf
    app.tell(pod)
    app.configure(timeouts={"connect": "500ms"}, retries=0)
    world.settle()
    with world.client(timeout=15) as client:
        assert client.ask(app.host).status in {502, 503, 504}


@shows("`timeouts.queue`: 503 for who waits for a free pod too long")
@needs("timeouts.queue", "max_connections.server")
def test_who_waits_too_long_for_a_free_pod_is_503(world: World) -> None:
    app = world.app(timeouts={"queue": "2s"}, max_connections=1)
    world.settle()
    with world.in_flight(app) as (pod, first):
        assert world.ask(app.host).status == 503
        pod.release()
        assert first.result().status == 200


@shows("`timeouts.tunnel`: the longest silence of a websocket")
@needs("timeouts.tunnel")
def test_a_websocket_that_is_silent_for_too_long_is_closed(world: World) -> None:
    app = world.app(timeouts={"tunnel": "2s"})
    patient = world.app()
    world.settle()
    with websocket(world, app.host) as short, websocket(world, patient.host) as long:
        assert short.rest() == b""
        echoed(long, b"still there?")


@retries
@needs("retries")
def test_a_pod_that_refuses_connections_costs_nothing(world: World) -> None:
    app = world.app("blue", "blue", retries=5)
    world.settle()
    dead, alive = app.pods
    world.pods.crash(dead)
    with world.client() as client:
        assert {client.ask(app.host).pod for _ in range(20)} == {alive.name}


@retries
@needs("retries")
def test_a_pod_that_crashes_under_load_fails_no_get(world: World) -> None:
    app = world.app("blue", "blue", "blue")
    world.settle()
    with world.load(app.host) as load:
        for crashed in app.pods[:2]:
            world.pods.crash(crashed)
            load.go_on(60)
            app.tell(crashed, ready=False)
            world.settle()
            load.go_on(20)


@retries
@needs("retries")
def test_a_get_that_a_pod_cuts_off_is_asked_of_another(world: World) -> None:
    app = world.app("blue", "blue", retries=5)
    world.settle()
    broken, sound = app.pods
    broken.sound = False
    assert world.answered_by(app.host, tries=20).keys() == {sound.name}


@retries
@needs("retries")
def test_a_post_that_a_pod_has_taken_is_never_sent_again(world: World) -> None:
    app = world.app("blue", "blue", retries=5)
    world.settle()
    for pod in app.pods:
        pod.sound = False
    # A proxy may stop asking pods that fail: less is no fault.
    for number in range(1, 5):
        assert world.ask(app.host, method="POST", body=b"once").status in {502, 503}
        assert 1 <= sum(len(pod.seen) for pod in app.pods) <= number


@retries
@needs("retries")
def test_without_retries_a_get_is_sent_once(world: World) -> None:
    app = world.app("blue", "blue", retries=0)
    world.settle()
    for pod in app.pods:
        pod.sound = False
    for number in range(1, 5):
        assert world.ask(app.host).status in {502, 503}
        assert 1 <= sum(len(pod.seen) for pod in app.pods) <= number


@shows("`health_check`: the proxy asks each pod by itself")
@needs("health_check")
def test_a_pod_that_says_that_it_is_ill_is_not_asked(world: World) -> None:
    check = {"path": "/health", "interval": "200ms", "rise": 1, "fall": 1}
    app = world.app("blue", "blue", health_check=check)
    world.settle()
    first, second = app.pods
    for healthy in (False, True):
        first.healthy = healthy
        wanted = app.names if healthy else {second.name}
        eventually(lambda wanted=wanted: world.answered_by(app.host, tries=8).keys() == wanted, 15)  # type: ignore[misc]


@balance
@needs("balance")
def test_source_leads_a_client_to_one_pod(world: World) -> None:
    app = world.app("blue", "blue", "blue", balance="source")
    world.settle()
    seen = set()
    for number in range(20):
        with world.client(source=f"127.0.1.{number + 1}") as client:
            (pod,) = {client.ask(app.host, f"/{each}").pod for each in range(5)}
            seen.add(pod)
    assert len(seen) > 1


@balance
@needs("balance")
def test_uri_leads_a_path_to_one_pod(world: World) -> None:
    app = world.app("blue", "blue", "blue", balance="uri")
    world.settle()
    seen = set()
    for number in range(16):
        (pod,) = world.answered_by(app.host, f"/path/{number}", tries=4)
        seen.add(pod)
    assert len(seen) > 1


@balance
@needs("balance")
def test_leastconn_leads_to_the_pod_that_has_the_least_to_do(world: World) -> None:
    app = world.app("blue", "blue", balance="leastconn")
    world.settle()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(world.ask, app.host, "/hold") for _ in range(8)]
        eventually(lambda: sum(pod.in_flight for pod in app.pods) == 8, 10, "all in flight")
        assert [pod.in_flight for pod in app.pods] == [4, 4]
        for pod in app.pods:
            pod.release()
        assert {answer.result().status for answer in answers} == {200}


@balance
@needs("balance")
@pytest.mark.parametrize(("kind", "least"), [("roundrobin", 10), ("random", 1)])
def test_others_lead_to_each(world: World, kind: str, least: int) -> None:
    app = world.app("blue", "blue", balance=kind)
    world.settle()
    # By chance all 60 of `random` go to one pod once in 10**18 runs.
    seen = world.answered_by(app.host, tries=60)
    assert min(seen[name] for name in app.names) >= least


@shows("`balance: first`: the first pod takes all that it can")
@needs("balance.first")
def test_first_leads_to_the_first_that_has_room(world: World) -> None:
    app = world.app("blue", "blue", balance="first")
    world.settle()
    assert len(world.answered_by(app.host, tries=60)) == 1


@shows("`keep_alive`: connections to pods are used again")
@needs("keep_alive")
def test_connections_to_pods_are_used_again(world: World) -> None:
    app = world.app(keep_alive={"connections": 8, "period": "30s"})
    world.settle()
    world.answered_by(app.host, tries=40)
    assert app.pods[0].accepted < 10


@shows("a field that is not in effect is told, and the app is served without it")
@needs("hosts")
def test_a_field_that_is_not_in_effect_is_told(world: World) -> None:
    wanted: dict[str, Any] = {
        "sticky": True,
        "compression": True,
        "max_body_size": "1M",
        "rate_limit": {"requests": 1000},
        "canary_match": {"header": "X-Version"},
        "timeouts": {"queue": "5s", "server": "5s"},
    }
    names = {"canary_match.header", "timeouts.queue", "timeouts.server"}
    names |= wanted.keys() - {"canary_match", "timeouts"}
    app = world.app(**wanted)
    world.settle()
    assert world.ask(app.host).status == 200
    lacking = sorted(names - world.front.capabilities())
    told = [each for each in app.status["problems"] if each["code"] == "not_in_effect"]
    assert [each["message"].partition(":")[0] for each in told] == [", ".join(lacking)]
    assert [each["target"] for each in told] == [world.front.kind]
