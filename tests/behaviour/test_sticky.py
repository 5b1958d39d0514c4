"""Clients that stay on their pod by a cookie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.cookies import SimpleCookie

import pytest

from tests.behaviour.world import App, World, needs, shows

TITLE = "Policies"

sticky = shows("`sticky`: a client stays on its pod by a cookie")
steady = shows("`sticky`: clients stay while other apps change, and most when a pod comes")

CLIENTS = 40


def visit(world: World, app: App, cookie: str = "where") -> tuple[str, str]:
    """A first visit: the cookie that it brought, and the pod."""
    answer = world.ask(app.host)
    assert answer.status == 200
    return SimpleCookie(answer.header("set-cookie"))[cookie].value, answer.pod


def pods_of(world: World, app: App, clients: Mapping[str, str]) -> dict[str, str]:
    """Where each of these clients is served now."""
    return {
        value: world.ask(app.host, headers={"Cookie": f"a=b; where={value}"}).pod
        for value in clients
    }


@sticky
@needs("sticky")
def test_a_cookie_keeps_a_client_on_its_pod(world: World) -> None:
    app = world.app("blue", "blue", "blue", sticky={"cookie": "where"})
    world.settle()
    clients = dict(visit(world, app) for _ in range(20))
    assert len(clients) == 20
    assert len(set(clients.values())) > 1
    for value, pod in clients.items():
        headers = {"Cookie": f"a=b; where={value}; where2=c"}
        assert world.answered_by(app.host, tries=6, headers=headers).keys() == {pod}


@sticky
@needs("sticky")
@pytest.mark.parametrize(
    ("wanted", "name", "attributes"),
    [
        (True, "vulcanized", {"path": "/", "httponly": True, "samesite": "Lax", "max-age": ""}),
        (
            {"cookie": "where", "max_age": "90m"},
            "where",
            {"path": "/", "httponly": True, "samesite": "Lax", "max-age": "5400"},
        ),
    ],
)
def test_the_cookie_comes_once_and_no_script_reads_it(
    world: World, wanted: object, name: str, attributes: dict[str, object]
) -> None:
    app = world.app("blue", "blue", sticky=wanted)
    plain = world.app("blue")
    world.settle()
    first = world.ask(app.host)
    [found] = SimpleCookie(first.header("set-cookie")).values()
    assert (found.key, {key: found[key] for key in attributes}) == (name, attributes)
    assert not world.ask(app.host, headers={"Cookie": f"{name}={found.value}"}).every("set-cookie")
    assert not world.ask(plain.host).every("set-cookie")
    # What is no value, or is the cookie of another name, is none.
    for other in ("", f"{name}=", f"x{name}=1", f"{name}x=1", "a=b;;", f'{name}="'[:-1]):
        assert world.ask(app.host, headers={"Cookie": other}).header("set-cookie")


@sticky
@needs("sticky")
@pytest.mark.parametrize(
    "value", ["x", "0", "%00", "a'b", "$request_id", "\\1", "(.*)", '"q"', "x" * 4000, "../../etc"]
)
def test_any_value_keeps_its_client_on_one_pod(world: World, value: str) -> None:
    app = world.app("blue", "blue", "blue", sticky={"cookie": "where"})
    world.settle()
    headers = {"Cookie": f"where={value}"}
    assert len(world.answered_by(app.host, tries=8, headers=headers)) == 1
    assert not world.ask(app.host, headers=headers).every("set-cookie")


@sticky
@needs("sticky")
def test_a_cookie_is_found_among_many(world: World) -> None:
    app = world.app("blue", "blue", "blue", sticky={"cookie": "where"})
    world.settle()
    value, pod = visit(world, app)
    others = "; ".join(f"cookie-{number}={'v' * 20}" for number in range(150))
    for cookies in (f"{others}; where={value}", f"where={value}; {others}"):
        assert world.answered_by(app.host, tries=5, headers={"Cookie": cookies}).keys() == {pod}


@sticky
@needs("sticky", "weights")
def test_a_client_stays_on_its_version_while_weights_do(world: World) -> None:
    app = world.app("blue", "green", sticky={"cookie": "where"})
    app.activate(json.dumps({"weights": {"blue": 50, "green": 50}}))
    world.settle()
    clients = dict(visit(world, app) for _ in range(CLIENTS))
    assert len(set(clients.values())) == 2
    assert pods_of(world, app, clients) == clients
    app.activate(json.dumps({"weights": {"blue": 40, "green": 60}}))
    world.settle()
    moved = [value for value, pod in pods_of(world, app, clients).items() if clients[value] != pod]
    # A tenth of them, and only towards the one that has more now.
    assert len(moved) <= CLIENTS // 3
    assert {clients[value] for value in moved} <= {app.pods[0].name}


@steady
@needs("sticky")
def test_clients_stay_whatever_happens_to_other_apps(world: World) -> None:
    app = world.app("blue", "blue", "blue", sticky={"cookie": "where"})
    world.settle()
    clients = dict(visit(world, app) for _ in range(CLIENTS))
    for _ in range(2):
        other = world.app("blue", sticky={"cookie": "elsewhere"})
        world.settle()
        assert pods_of(world, app, clients) == clients
        other.unconfigure()
    app.change(timeouts={"server": "20s"})
    world.settle()
    assert pods_of(world, app, clients) == clients


@steady
@needs("sticky")
def test_most_clients_stay_when_a_pod_comes_and_all_of_the_others_when_one_goes(
    world: World,
) -> None:
    app = world.app("blue", "blue", "blue", sticky={"cookie": "where"})
    world.settle()
    clients = dict(visit(world, app) for _ in range(CLIENTS))
    fresh = app.pod()
    world.settle()
    now = pods_of(world, app, clients)
    moved = {value for value, pod in now.items() if pod != clients[value]}
    assert {now[value] for value in moved} <= {fresh.name}
    assert len(moved) < CLIENTS * 2 / 3

    app.delete(fresh)
    world.settle()
    assert pods_of(world, app, clients) == clients

    gone = app.pods[0]
    app.delete(gone)
    world.settle()
    left = pods_of(world, app, clients)
    assert all(left[value] == pod for value, pod in clients.items() if pod != gone.name)


@steady
@needs("sticky")
def test_a_pod_that_dies_costs_its_clients_no_request(world: World) -> None:
    app = world.app("blue", "blue", "blue", sticky={"cookie": "where"})
    world.settle()
    clients = dict(visit(world, app) for _ in range(CLIENTS))
    world.pods.stop(app.pods[0])  # and nobody has been told yet
    now = pods_of(world, app, clients)
    assert app.pods[0].name not in now.values()
    assert all(now[value] == pod for value, pod in clients.items() if pod != app.pods[0].name)


@steady
@needs("sticky")
def test_a_switch_moves_every_client_and_back(world: World) -> None:
    app = world.app("blue", "blue", "green", "green", sticky={"cookie": "where"})
    app.activate("blue")
    world.settle()
    clients = dict(visit(world, app) for _ in range(CLIENTS))
    app.activate("green")
    world.settle()
    greens = {pod.name for pod in app.pods if pod.version == "green"}
    assert set(pods_of(world, app, clients).values()) == greens
    app.activate("blue")
    world.settle()
    assert pods_of(world, app, clients) == clients


@steady
@needs("sticky")
def test_sticky_comes_and_goes_under_load(world: World) -> None:
    app = world.app("blue", "blue")
    world.settle()
    with world.load(app.host) as load:
        app.change(sticky=True)
        world.settle()
        assert world.ask(app.host).header("set-cookie").startswith("vulcanized=")
        app.change(sticky={"cookie": "where"})
        world.settle()
        assert world.ask(app.host).header("set-cookie").startswith("where=")
        app.change(sticky=None)
        world.settle()
        assert not world.ask(app.host).every("set-cookie")
        load.go_on(10)
