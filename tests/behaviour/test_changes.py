"""Whatever is changed, and whatever becomes of the daemon: requests go on."""

from __future__ import annotations

import pytest

from tests.behaviour.world import World, needs, shows
from tests.servers.wait import eventually

TITLE = "Changes under load"

moved = shows("a route moved to another app, an app renamed: no request fails")
config = shows("config changed, broken, mended; apps come and go: no request fails")


@moved
@needs("hosts")
def test_an_app_renamed_fails_no_request(world: World) -> None:
    old, new = world.app(), world.bare_app()
    world.settle()
    with world.load(old.host) as load:
        new.pod()
        new.configure(hosts=[old.host])
        world.settle()
        assert load.report.pods.keys() == old.names
        old.unconfigure()
        world.settle()
        old.delete(old.pods[0])
        load.go_on(20)
        assert world.answered_by(old.host, tries=6).keys() == new.names


@moved
@needs("hosts", "paths")
def test_a_path_that_becomes_an_app_of_its_own_and_goes_back_fails_no_request(world: World) -> None:
    whole, part = world.app(), world.bare_app()
    part.pod()
    world.settle()
    with world.load(whole.host, path="/part/x") as load, world.load(whole.host, path="/") as rest:
        for _ in range(3):
            part.configure(hosts=[whole.host], paths=["/part"])
            world.settle()
            assert world.ask(whole.host, "/part").pod in part.names
            load.go_on(10)
            part.unconfigure()
            world.settle()
            assert world.ask(whole.host, "/part").pod in whole.names
            load.go_on(10)
    assert load.report.pods.keys() == whole.names | part.names
    assert rest.report.pods.keys() == whole.names


@moved
@needs("hosts")
def test_hosts_that_change_leave_the_others_alone(world: World) -> None:
    app = world.app()
    world.settle()
    with world.load(app.host):
        for number in range(4):
            new = f"n{number}.{app.host}"
            app.change(hosts=[app.host, new])
            world.settle()
            assert world.ask(new).pod in app.names
    assert world.ask(f"n0.{app.host}").status == 404


@config
@needs("hosts")
def test_apps_that_come_and_go_fail_no_request_of_another(world: World) -> None:
    app = world.app("blue", "blue")
    world.settle()
    with world.load(app.host) as load:
        for number in range(6):
            other = world.app("blue", "green", active="blue")
            world.settle()
            assert world.ask(other.host).status == 200
            other.unconfigure()
            if number % 2:
                world.settle()
            load.go_on(10)


@config
@needs("hosts")
@pytest.mark.parametrize(
    "fields",
    [
        {"timeouts": {"server": "30s"}},
        {"retries": 3},
        {"max_connections": 500},
        {"balance": "leastconn"},
        {"max_body_size": "1M"},
        {"max_connections": {"app": 900}},
        {"canary_match": {"header": "X-V"}},
    ],
    ids="-".join,
)
def test_a_policy_that_comes_and_goes_fails_no_request(
    world: World, fields: dict[str, object]
) -> None:
    app = world.app("blue", "blue")
    world.settle()
    with world.load(app.host) as load:
        app.change(**fields)
        world.settle()
        load.go_on(20)
        app.configure()
        world.settle()


@config
@needs("port")
def test_another_port_fails_no_request(world: World) -> None:
    app = world.bare_app()
    app.pod(ports=("http", "other"))
    app.pod(ports=("http", "other"))
    app.configure(port="http")
    world.settle()
    with world.load(app.host) as load:
        for port in ("other", "http", "other"):
            app.change(port=port)
            world.settle()
            load.go_on(20)
            assert world.ask(app.host).header("x-port") == port


@config
@needs("hosts")
@pytest.mark.parametrize("written", ["", "{", '{"hosts": 1}', "[]", '{"hosts": ["a b"]}'])
def test_a_broken_config_leaves_the_last_good_one_and_the_others(
    world: World, written: str
) -> None:
    app, other = world.app(), world.app()
    world.settle()
    with world.load(app.host), world.load(other.host):
        world.put("apps", app.name, written)
        world.settle()
        assert app.status["quarantined"]
        new = app.pod()
        world.settle()
        eventually(lambda: new.seen, 10, "the new pod to be asked")
        app.configure()
        world.settle()
        assert not app.status["quarantined"]


@shows("the daemon dies: requests go on; it comes back: what has changed since is in effect")
@needs("hosts")
def test_the_daemon_dies_and_comes_back(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    with world.load(app.host) as load:
        world.daemon.process.kill()
        load.go_on(50)
        app.activate("green")
        more = app.pod("green")
        world.daemon.start()
        world.settle()
        eventually(lambda: more.seen, 10, "the new pod to be asked")
    assert world.ask(app.host).header("x-version") == "green"
