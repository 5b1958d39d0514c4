"""What an app config asks for, seen by clients of a vulcand."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers.wait import eventually
from tests.vulcand.fleet import HOST, Fleet


def versions_of(fleet: Fleet, requests: int) -> Counter[str]:
    """How many of some requests each version answered."""
    return Counter(fleet.hand.ask(HOST).headers["X-Version"] for _ in range(requests))


@pytest.mark.parametrize(
    ("weights", "blue", "rounded"),
    [
        ('{"weights": {"blue": 75, "green": 25}}', 9, ""),
        ('{"weights": {"blue": 1, "green": 1}}', 6, ""),
        ('{"weights": {"blue": 90, "green": 10}}', 9, "blue 3 of 4 servers (75 %)"),
    ],
    ids=["3:1", "1:1", "9:1"],
)
def test_weights_become_the_nearest_ratio_of_servers_which_is_told(
    fleet: Fleet, weights: str, blue: int, rounded: str
) -> None:
    fleet.todo("blue-1", "blue-2", "blue-3", "green-1", active=weights)
    daemon = fleet.daemon()
    fleet.settled(daemon)

    wanted = {"blue": blue, "green": 12 - blue}
    eventually(lambda: versions_of(fleet, 12) == wanted, 5, ignore=KeyError)
    assert versions_of(fleet, 12) == wanted
    problems = daemon.app("default/todo")["problems"]
    assert [problem["code"] for problem in problems] == ["weights_rounded"] * bool(rounded)
    assert all(rounded in problem["message"] for problem in problems)
    assert len(daemon.log_lines("weights_rounded")) == len(problems)


@pytest.mark.parametrize(
    ("match", "headers"),
    [
        ({"header": "X-Version-Wanted"}, {"X-Version-Wanted": "green"}),
        ({"cookie": "v"}, {"Cookie": "a=b; v=green; c=d"}),
    ],
    ids=["header", "cookie"],
)
def test_a_canary_is_asked_for_by_header_or_cookie(
    fleet: Fleet, match: dict[str, str], headers: dict[str, str]
) -> None:
    fleet.todo("blue-1", "green-1", canary_match=match)
    fleet.daemon()
    fleet.served_by("blue-1")

    asked = {fleet.hand.ask(HOST, headers=headers).pod for _ in range(6)}

    assert asked == {"green-1"}
    other = {name: value.replace("green", "greener") for name, value in headers.items()}
    assert {fleet.hand.ask(HOST, headers=other).pod for _ in range(6)} == {"blue-1"}


def test_maintenance_is_503_and_its_end_is_seen(fleet: Fleet) -> None:
    fleet.todo("blue-1", maintenance=True)
    fleet.daemon()
    fleet.answers(503)
    fleet.configure()
    fleet.served_by("blue-1")


def test_hosts_and_paths_that_nobody_has_are_404(fleet: Fleet) -> None:
    fleet.todo("blue-1", hosts=["x.w.test"], paths=["/a"])
    fleet.add_pod("wild-1", "1", "wild")
    fleet.configure("wild", hosts=["*.w.test"])
    fleet.daemon()
    fleet.served_by("blue-1", host="x.w.test", path="/a")
    fleet.served_by("wild-1", host="y.w.test")

    assert fleet.hand.ask("unknown.example.com").status == 404
    assert fleet.hand.ask("x.w.test", "/b").status == 404
    fleet.remove_app("wild")
    fleet.answers(404, "y.w.test")
    assert fleet.hand.ask("x.w.test", "/a").pod == "blue-1"


def test_a_route_that_vulcand_cannot_say_costs_its_own_app_its_last_good_one_stays(
    fleet: Fleet,
) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.tree()

    fleet.configure(paths=[{"regex": "/[a\\b]"}])

    eventually(lambda: daemon.app("default/todo")["problems"], 5, "its refusal")
    (problem,) = daemon.app("default/todo")["problems"]
    assert (problem["code"], problem["target"]) == ("quarantined", "vulcand")
    assert fleet.tree() == before
    fleet.add_pod("other-1", "1", "other")
    fleet.configure("other")
    fleet.served_by("other-1", host="other.example.com")
    fleet.configure()
    eventually(lambda: not daemon.app("default/todo")["problems"], 5, "its release")


def test_a_body_over_the_limit_is_413(fleet: Fleet) -> None:
    fleet.todo("blue-1", max_body_size=100)
    fleet.daemon()
    fleet.served_by("blue-1")

    assert fleet.hand.ask(HOST, method="POST", body=b"x" * 100).status == 200
    assert fleet.hand.ask(HOST, method="POST", body=b"x" * 101).status == 413


def test_connections_of_an_app_are_bounded(fleet: Fleet) -> None:
    fleet.todo("blue-1", max_connections={"app": 1})
    fleet.daemon()
    fleet.served_by("blue-1")

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(fleet.hand.ask, HOST, "/slow?seconds=1")
        eventually(lambda: fleet.pods.in_flight("blue-1"), 5, interval=0.002)
        assert fleet.hand.ask(HOST).status == 429
        assert slow.result().status == 200
    assert fleet.hand.ask(HOST).status == 200


def test_a_pod_that_is_silent_for_too_long_is_504(fleet: Fleet) -> None:
    fleet.todo("blue-1", timeouts={"server": "200ms"}, retries=0)
    fleet.daemon()
    fleet.served_by("blue-1")

    assert fleet.hand.ask(HOST, "/slow?seconds=0.05").status == 200
    assert fleet.hand.ask(HOST, "/slow?seconds=2").status == 504


def test_a_dead_pod_is_stepped_over_for_what_may_be_asked_twice(fleet: Fleet) -> None:
    fleet.todo("blue-1", "blue-2")
    fleet.daemon()
    fleet.served_by("blue-1", "blue-2")

    fleet.pods.crash("blue-1")

    with fleet.load(keep_alive=0):
        pass
    posts = {fleet.hand.ask(HOST, method="POST", body=b"x").status for _ in range(6)}
    assert posts == {200, 502}
    fleet.configure(retries=0)
    eventually(lambda: fleet.hand.ask(HOST).status == 502, 5)
