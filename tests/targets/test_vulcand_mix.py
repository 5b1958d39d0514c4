"""Weights as whole servers: the nearest ratio that there is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vulcanized.model import Server, Share
from vulcanized.targets.vulcand.mix import MOST_SERVERS, mix, nearest

weights = st.one_of(st.integers(1, 100), st.sampled_from([1, 5, 10, 25, 50, 90, 95, 99]))
limits = st.integers(1, 8)


def error(weights: tuple[int, ...], counts: tuple[int, ...]) -> float:
    """The largest difference between a wanted and a reached part, in billionths."""
    parts = zip(weights, counts, strict=True)
    return max(round(abs(w / sum(weights) - c / sum(counts)), 9) for w, c in parts)


@settings(max_examples=200)
@given(shares=st.lists(st.tuples(weights, limits), min_size=2, max_size=3))
def test_no_choice_is_nearer_and_no_equal_one_has_more_servers(
    shares: list[tuple[int, int]],
) -> None:
    wanted, most = zip(*shares, strict=True)
    found = nearest(wanted, most)

    choices = product(*(range(1, each + 1) for each in most))
    best = min((error(wanted, counts), -sum(counts)) for counts in choices)
    assert (error(wanted, found), -sum(found)) == best
    assert all(1 <= count <= each for count, each in zip(found, most, strict=True))


@settings(max_examples=50)
@given(shares=st.lists(st.tuples(weights, limits), min_size=4, max_size=9))
def test_many_shares_have_a_server_each(shares: list[tuple[int, int]]) -> None:
    wanted, most = zip(*shares, strict=True)
    found = nearest(wanted, most)
    assert all(1 <= count <= each for count, each in zip(found, most, strict=True))


@pytest.mark.parametrize(
    ("wanted", "most", "found"),
    [
        ((90, 10), (9, 1), (9, 1)),
        ((90, 10), (3, 3), (3, 1)),
        ((99, 1), (3, 3), (3, 1)),
        ((50, 50), (1, 8), (1, 1)),
        ((1, 1), (4, 6), (4, 4)),
        ((1, 2, 1), (4, 4, 4), (2, 4, 2)),
        ((1, 1), (0, 3), (0, 3)),
        ((1, 1, 1), (0, 2, 2), (0, 2, 2)),
        ((7,), (5,), (5,)),
        ((1, 1), (0, 0), (0, 0)),
    ],
)
def test_nearest(wanted: tuple[int, ...], most: tuple[int, ...], found: tuple[int, ...]) -> None:
    assert nearest(wanted, most) == found


def servers(version: str, count: int) -> tuple[Server, ...]:
    return tuple(Server(f"{version}-{n}", "10.0.0.1", n + 1) for n in range(count))


def test_a_mix_says_what_it_reached() -> None:
    blue, green = Share("blue", 90), Share("green", 10)
    found = mix({blue: servers("blue", 3), green: servers("green", 3)})

    assert [each.name for each in found.servers] == ["blue-0", "blue-1", "blue-2", "green-0"]
    assert found.reached == ((blue, 3), (green, 1))
    assert found.error == pytest.approx(0.15)
    assert found.in_words() == "blue 3 of 4 servers (75 %), green 1 of 4 servers (25 %)"


def test_a_version_without_servers_leaves_its_part_to_the_others() -> None:
    found = mix({Share("blue", 1): (), Share("green", 1): servers("green", 2)})
    assert [each.name for each in found.servers] == ["green-0", "green-1"]
    assert found.error == 0.5


def test_no_servers_at_all() -> None:
    found = mix({Share("blue", 1): (), Share("green", 1): ()})
    assert (found.servers, found.error) == ((), 1.0)
    assert found.in_words() == "blue 0 of 0 servers (0 %), green 0 of 0 servers (0 %)"


def test_more_than_enough_servers_are_not_all_taken() -> None:
    found = mix({Share("blue", 1): servers("b", 600), Share("green", 1): servers("g", 600)})
    assert found.counts == (MOST_SERVERS, MOST_SERVERS)
