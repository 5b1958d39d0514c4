"""Which versions take traffic: what the activation says, and what it may not say."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from tests.behaviour.pods import Pod
from tests.behaviour.world import App, World, needs, shows
from tests.servers.wait import eventually

TITLE = "Versions"

plain = shows("no activation: every version; one version: that one")
held = shows("a version without ready pods, or garbage: the last good one stays")
weights = shows("weights over versions")
switched = shows("100 switches under load: no request fails")
pinned_header = shows("a client pinned to a version by a header")
pinned_cookie = shows("a client pinned to a version by a cookie")


def versions(world: World, app: App, tries: int = 16) -> set[str]:
    """The versions that answer."""
    return {world.ask(app.host).header("x-version") for _ in range(tries)}


@plain
@needs("hosts")
def test_without_an_activation_every_version_takes_traffic(world: World) -> None:
    app = world.app("blue", "green", "red")
    world.settle()
    assert versions(world, app, 24) == {"blue", "green", "red"}

    app.activate("green")
    world.settle()
    assert versions(world, app) == {"green"}

    app.deactivate()
    world.settle()
    assert versions(world, app, 24) == {"blue", "green", "red"}


@plain
@needs("hosts")
@pytest.mark.parametrize("written", ["blue", " blue\n", '{"weights": {"blue": 7}}'])
def test_one_version_however_it_is_written(world: World, written: str) -> None:
    app = world.app("blue", "green", active=written)
    world.settle()
    assert versions(world, app) == {"blue"}


@plain
@needs("hosts")
def test_a_new_pod_of_the_active_version_is_asked_and_one_of_another_is_not(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    app.pod("blue")
    app.pod("green")
    app.pod("red")
    world.settle()
    assert world.answered_by(app.host, tries=16).keys() == {
        pod.name for pod in app.pods if pod.version == "blue"
    }


@held
@needs("hosts")
@pytest.mark.parametrize(
    "written",
    ["green", "nobody", '{"weights": {"blue": 50, "green": 50}}', "{", "two words", "null", "{}"],
)
def test_what_cannot_be_is_held(world: World, written: str) -> None:
    app = world.app("blue", active="blue")
    app.pod("green", ready=False)
    world.settle()

    app.activate(written)
    world.settle()

    assert versions(world, app) == {"blue"}
    assert app.status["activation"]["in_effect"] == "blue"
    assert app.status["problems"]


@held
@needs("hosts")
def test_what_is_held_takes_effect_when_it_can(world: World) -> None:
    app = world.app("blue", active="blue")
    green = app.pod("green", ready=False)
    app.activate("green")
    world.settle()
    assert versions(world, app) == {"blue"}

    with world.load(app.host):
        app.tell(green)
        world.settle()
    assert versions(world, app) == {"green"}


@held
@needs("hosts")
def test_a_version_that_loses_its_pods_while_active_stays_so(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    app.tell(app.pods[0], ready=False)
    world.settle()
    assert world.ask(app.host).status == 503

    app.tell(app.pods[0])
    world.settle()
    assert versions(world, app) == {"blue"}


@weights
@needs("hosts")
def test_weights_are_shares_of_the_requests(world: World) -> None:
    # 3 to 1, in pods too: a proxy that has no weights but of whole pods can do that.
    app = world.app("blue", "blue", "blue", "green")
    app.activate(json.dumps({"weights": {"blue": 75, "green": 25}}))
    world.settle()
    tries = 600

    with world.client() as client:
        seen = Counter(client.ask(app.host).header("x-version") for _ in range(tries))

    # Seven standard deviations of draws: once in 4 * 10**11 runs by chance.
    margin = 7 * math.sqrt(tries * 0.75 * 0.25)
    assert abs(seen["green"] - tries * 0.25) <= margin, seen
    assert seen["blue"] + seen["green"] == tries


@weights
@needs("hosts")
def test_weights_that_change_under_load_fail_no_request(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    with world.load(app.host) as load:
        for share in (50, 99, 100, 50, 0):
            shares = {"blue": 100 - share, "green": share}
            app.activate(json.dumps({"weights": {k: v for k, v in shares.items() if v}}))
            world.settle()
            load.go_on(30)
            if share == 100:
                assert versions(world, app) == {"green"}
    assert versions(world, app) == {"blue"}


@weights
@needs("hosts")
def test_the_share_of_a_version_that_lost_its_pods_goes_to_the_others(world: World) -> None:
    app = world.app("blue", "green")
    app.activate('{"weights": {"blue": 50, "green": 50}}')
    world.settle()
    assert versions(world, app, 40) == {"blue", "green"}
    app.tell(app.pods[1], ready=False)
    world.settle()
    assert versions(world, app, 20) == {"blue"}


@shows("weights in steps of 1 % whatever the number of pods")
@needs("hosts", "weights")
def test_weights_do_not_depend_on_the_number_of_pods(world: World) -> None:
    app = world.app("blue", "green", "green", "green")
    app.activate('{"weights": {"blue": 90, "green": 10}}')
    world.settle()
    tries = 800

    with world.client() as client:
        seen = Counter(client.ask(app.host).header("x-version") for _ in range(tries))

    margin = 7 * math.sqrt(tries * 0.9 * 0.1)
    assert abs(seen["green"] - tries * 0.1) <= margin, seen


@switched
@needs("hosts")
def test_a_hundred_switches_under_load_fail_no_request(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    with world.load(app.host) as load:
        for number in range(100):
            version = ("green", "blue")[number % 2]
            before = load.report.versions[version]
            app.activate(version)
            eventually(
                lambda before=before, version=version: load.report.versions[version] > before + 2,  # type: ignore[misc]
                20,
                f"switch {number} to {version}",
                interval=0.002,
            )
    assert load.report.versions.keys() == {"blue", "green"}


@shows("a request in flight ends where it began, though its version is switched off")
@needs("hosts")
def test_a_request_in_flight_ends_where_it_began_though_all_is_switched(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    world.settle()
    with world.in_flight(app) as (blue, answer):
        app.activate("green")
        world.settle()
        assert versions(world, app) == {"green"}
        blue.release()
        assert answer.result().pod == blue.name


def pinned(world: World, match: dict[str, str], headers: dict[str, dict[str, str]]) -> None:
    """`headers`: what a client sends who wants `green`, and what others send."""
    app = world.app("blue", "green", active="blue", canary_match=match)
    world.settle()
    for wanted, version in (("green", "green"), ("other", "blue"), ("none", "blue")):
        sent = headers.get(wanted, {})
        seen = {world.ask(app.host, headers=sent).header("x-version") for _ in range(8)}
        assert seen == {version}, (wanted, sent)

    app.activate("green")
    world.settle()
    assert versions(world, app) == {"green"}
    to_blue = {name: value.replace("green", "blue") for name, value in headers["green"].items()}
    assert world.ask(app.host, headers=to_blue).header("x-version") == "blue"
    released: list[Pod] = [app.pods[0]]
    app.tell(released[0], ready=False)
    world.settle()
    assert world.ask(app.host, headers=to_blue).header("x-version") == "green"


@pinned_header
@needs("canary_match.header")
def test_a_header_that_names_a_version_pins_to_it(world: World) -> None:
    pinned(
        world,
        {"header": "X-Wanted"},
        {
            "green": {"x-wanted": "green"},
            "other": {"X-Wanted": "greener"},
        },
    )


@pinned_cookie
@needs("canary_match.cookie")
def test_a_cookie_that_names_a_version_pins_to_it(world: World) -> None:
    pinned(
        world,
        {"cookie": "v"},
        {
            "green": {"Cookie": "a=b; v=green; c=d"},
            "other": {"Cookie": "xv=green; v=greener; w=green"},
        },
    )


@pinned_header
@needs("canary_match.header")
def test_a_header_pins_without_an_activation_too(world: World) -> None:
    app = world.app("blue", "green", "red", canary_match={"header": "X-Wanted"})
    world.settle()
    assert versions(world, app, 24) == {"blue", "green", "red"}
    for version in ("blue", "green", "red"):
        headers = {"X-Wanted": version}
        assert {world.ask(app.host, headers=headers).pod for _ in range(6)} == {
            pod.name for pod in app.pods if pod.version == version
        }


@pinned_cookie
@needs("canary_match.cookie")
def test_a_cookie_pins_beside_weights_too(world: World) -> None:
    app = world.app("blue", "green", canary_match={"cookie": "v"})
    app.activate('{"weights": {"blue": 50, "green": 50}}')
    world.settle()
    for version in ("blue", "green"):
        headers = {"Cookie": f"v={version}"}
        assert {world.ask(app.host, headers=headers).header("x-version") for _ in range(8)} == {
            version
        }


@pinned_header
@needs("canary_match.header")
def test_a_header_beats_weights(world: World) -> None:
    app = world.app("blue", "green", canary_match={"header": "X-Wanted"})
    app.activate('{"weights": {"blue": 99, "green": 1}}')
    world.settle()
    with world.client() as client:
        for version in ("green", "blue"):
            asked = [client.ask(app.host, headers={"X-Wanted": version}) for _ in range(100)]
            assert {answer.header("x-version") for answer in asked} == {version}


@pinned_header
@needs("canary_match.header")
def test_a_header_leads_to_a_version_once_it_has_a_ready_pod(world: World) -> None:
    app = world.app("blue", active="blue", canary_match={"header": "X-Wanted"})
    green = app.pod("green", ready=False)
    headers = {"X-Wanted": "green"}
    world.settle()
    assert world.ask(app.host, headers=headers).header("x-version") == "blue"
    with world.load(app.host):
        for ready, version in ((True, "green"), (False, "blue"), (True, "green")):
            app.tell(green, ready=ready)
            world.settle()
            for _ in range(4):
                assert world.ask(app.host, headers=headers).header("x-version") == version


@pinned_header
@needs("canary_match.header", "canary_match.cookie")
def test_a_pin_changes_under_load(world: World) -> None:
    app = world.app("blue", "green", active="blue")
    header, cookie = {"X-Wanted": "green"}, {"Cookie": "v=green"}
    world.settle()
    with world.load(app.host) as load:
        for match, by_header, by_cookie in (
            ({"header": "x-wanted"}, "green", "blue"),
            ({"cookie": "v"}, "blue", "green"),
            ({"header": "X-Other"}, "blue", "blue"),
            ({"header": "X-Wanted"}, "green", "blue"),
            (None, "blue", "blue"),
        ):
            app.change(canary_match=match)
            world.settle()
            assert world.ask(app.host, headers=header).header("x-version") == by_header
            assert world.ask(app.host, headers=cookie).header("x-version") == by_cookie
            load.go_on(10)
    assert load.report.versions.keys() == {"blue"}


@pinned_header
@needs("canary_match.header")
def test_a_pinned_client_stays_on_its_version_while_others_are_switched(world: World) -> None:
    app = world.app("blue", "green", active="blue", canary_match={"header": "X-Wanted"})
    world.settle()
    for active in ("green", "blue", "green"):
        app.activate(active)
        world.settle()
        assert versions(world, app) == {active}
        for version in ("green", "blue"):
            headers = {"X-Wanted": version}
            assert {world.ask(app.host, headers=headers).header("x-version") for _ in range(4)} == {
                version
            }
