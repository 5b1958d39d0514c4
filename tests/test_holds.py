"""What is asked before something is let go, and what an operator reads of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tests.factory import TODO, controller, pod
from tests.network import Network
from vulcanized.guard import CONTROLLERS, PODS, Patience, Stored
from vulcanized.holds import Guarding, Holds
from vulcanized.model import Controller, Document, Endpoint, Port, Server, ServerState

STOP = threading.Event()


def server(number: int, version: str = "blue", state: ServerState = ServerState.READY) -> Server:
    return Server(f"s{number}", f"10.0.0.{number}", 8080, state, version=version)


def guarding(*servers: Server, network: Network | None = None) -> Guarding:
    return Guarding(
        0.5,
        prober=network or Network(),
        patience=Patience(confirm=(0.0, 0.0)),
        servers=lambda app: servers if app == TODO else [],
    )


def test_a_pod_is_asked_where_it_serves_else_at_the_ports_that_it_names() -> None:
    of = guarding(server(1), server(2)).endpoints
    assert of(pod("a", ip="10.0.0.2", ports=(Port("", 99),))) == [Endpoint("10.0.0.2", 8080)]
    assert of(pod("a", ip="10.0.0.9", ports=(Port("", 99),))) == [Endpoint("10.0.0.9", 99)]
    assert of(pod("a", ip="10.0.0.9", ports=())) == []


def test_what_the_targets_have_is_not_known_at_first() -> None:
    of = Guarding().endpoints
    assert of(pod("a", ports=())) is None
    assert of(pod("a", ports=(Port("", 99),))) == [Endpoint("10.0.0.1", 99)]
    assert of(controller("todo")) is None
    assert of(Stored("apps", TODO, Document("{}", ""))) is None


def test_a_controller_is_asked_for_at_the_servers_of_its_version() -> None:
    of = guarding(server(1), server(2, "green")).endpoints
    assert of(controller("todo", "green")) == [Endpoint("10.0.0.2", 8080)]
    assert len(of(controller("todo", "")) or ()) == 2
    assert of(controller("todo", "gone")) == []


def test_a_config_is_asked_for_at_some_servers_of_its_app_ready_ones_first() -> None:
    servers = [server(n, state=ServerState.DRAIN) for n in range(3)]
    servers += [server(n) for n in range(100, 200)]
    asked = guarding(*servers).endpoints(Stored("apps", TODO, Document("{}", ""))) or ()
    assert len(asked) == 5
    assert asked[0] == Endpoint("10.0.0.100", 8080)


def judged(
    before: Sequence[Controller], listed: Sequence[Controller], network: Network, *servers: Server
) -> list[set[str]]:
    """What stays after a first, and then after each further list."""
    holds = Holds("c", CONTROLLERS, guarding(*servers, network=network), tuple)
    known = {each.uid: each for each in before}
    fresh = {each.uid: each for each in listed}
    stayed = []
    for _ in range(2):
        stay = holds.judge(known, fresh, "expired")
        gone = holds.release(holds.verify(STOP))
        known = {uid: each for uid, each in (fresh | stay).items() if uid not in gone}
        stayed.append(set(known) - set(fresh))
    return stayed


def test_controllers_stay_while_servers_of_their_version_answer() -> None:
    blue, green = controller("todo-blue"), controller("todo-green", "green")
    network = Network(["10.0.0.1"])
    servers = server(1), server(2, "green")
    assert judged([blue, green], [], network, *servers) == [{blue.uid, green.uid}, {blue.uid}]


def test_a_release_while_nobody_watched_holds_no_controller() -> None:
    blue, green = controller("todo-blue"), controller("todo-green", "green")
    assert judged([blue], [green], Network(["10.0.0.1"]), server(1)) == [set(), set()]


def test_the_message_names_some_says_why_and_what_to_do() -> None:
    holds = Holds("pods", PODS, guarding(network=Network()), tuple)
    assert holds.message() == ""
    pods = [pod(f"todo-{n}", ip=f"10.0.0.{n}") for n in range(1, 6)]
    holds.judge({each.uid: each for each in pods}, {}, "expired")
    message = holds.message()
    assert message.startswith("5 pods (default/todo-1, default/todo-2, default/todo-3, ...) are ")
    assert "a second list has to confirm it" in message
    assert message.endswith(
        "systemctl kill --kill-whom=main -s USR1 vulcanized (kill -USR1 1 in a container)"
    )
