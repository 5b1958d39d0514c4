"""Which pods of an app are asked, from their first moment to their last."""

from __future__ import annotations

from tests.behaviour.world import World, needs, shows
from tests.servers.wait import eventually

TITLE = "Pods"

readiness = shows("only ready pods are asked")
drain = shows("a pod that ends is asked no more, finishes what it has")
no_failure = shows("pods replaced, scaled, deleted under load: no request fails")
reused = shows("an address that another app's pod gets is that app's alone")


@readiness
@needs("hosts")
def test_a_pod_is_asked_while_it_is_ready(world: World) -> None:
    app = world.bare_app()
    pod = app.pod(ready=False)
    app.configure()
    for ready in (False, True, False, True):
        app.tell(pod, ready=ready)
        world.settle()
        asked = len(pod.seen)
        assert world.ask(app.host).pod == (pod.name if ready else "503")
        assert len(pod.seen) == asked + ready


@readiness
@needs("hosts")
def test_of_several_pods_the_ready_ones_are_asked_in_turns(world: World) -> None:
    app = world.app("blue", "blue", "blue")
    unready = app.pod(ready=False)
    world.settle()

    seen = world.answered_by(app.host, tries=24)

    assert seen.keys() == app.names - {unready.name}
    assert min(seen.values()) >= 4
    app.tell(unready)
    app.tell(app.pods[0], ready=False)
    world.settle()
    assert world.answered_by(app.host, tries=24).keys() == app.names - {app.pods[0].name}


@drain
@needs("hosts")
def test_a_request_in_flight_ends_where_it_began_though_its_pod_ends(world: World) -> None:
    app = world.app("blue", "blue")
    world.settle()
    with world.in_flight(app) as (pod, answer):
        app.tell(pod, terminating=True)
        world.settle()
        assert world.answered_by(app.host, tries=12).keys() == app.names - {pod.name}
        app.forget(pod)
        world.settle()
        pod.release()
        assert answer.result().pod == pod.name


@drain
@needs("hosts")
def test_the_last_pod_finishes_what_it_has_and_then_there_is_none(world: World) -> None:
    app = world.app()
    world.settle()
    with world.in_flight(app) as (pod, answer):
        app.tell(pod, terminating=True)
        world.settle()
        assert world.ask(app.host).status == 503
        pod.release()
        assert answer.result().pod == pod.name
    app.forget(pod)
    world.settle()
    assert world.ask(app.host).status == 503


@no_failure
@needs("hosts")
def test_pods_replaced_one_by_one_fail_no_request(world: World) -> None:
    app = world.app("blue", "blue")
    world.settle()
    with world.load(app.host) as load:
        for old in tuple(app.pods):
            new = app.pod()
            world.settle()
            app.delete(old)
            eventually(lambda new=new: load.report.pods[new.name] > 5, 10)  # type: ignore[misc]
            load.go_on(30)
    assert load.report.pods.keys() == app.names


@no_failure
@needs("hosts")
def test_scaling_up_and_down_fails_no_request(world: World) -> None:
    app = world.app()
    world.settle()
    with world.load(app.host) as load:
        for _ in range(4):
            app.pod()
        world.settle()
        load.go_on(60)
        for pod in app.pods[:-1]:
            app.delete(pod)
    assert load.report.pods.keys() == app.names


@reused
@needs("hosts")
def test_an_address_is_never_two_apps(world: World) -> None:
    old, new = world.app("blue", "blue"), world.bare_app()
    new.configure()
    world.settle()
    gone, stays = old.pods
    # Kept open by the proxy, perhaps: the next pod there must not get what comes by it.
    assert world.answered_by(old.host, tries=12).keys() == old.names

    with world.load(old.host) as load:
        old.delete(gone)
        heir = new.pod(at=gone)
        world.settle()
        load.go_on(60)
        assert world.answered_by(new.host, tries=12).keys() == {heir.name}
    assert heir.name not in load.report.pods
    assert world.answered_by(old.host, tries=12).keys() == {stays.name}
    assert {each.header("host") for each in heir.seen} == {new.host}


@reused
@needs("hosts")
def test_a_pod_that_comes_back_by_another_name_at_the_same_address_is_asked(world: World) -> None:
    app = world.app("blue", "blue")
    world.settle()
    first, _ = app.pods
    with world.load(app.host):
        app.delete(first)
        again = app.pod(at=first)
        world.settle()
        eventually(lambda: again.seen, 10, "it is asked")
