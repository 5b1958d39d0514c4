"""Who is kept back and for how long: found by a proxy's verdicts alone, whatever it names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vulcanized.model import AppId
from vulcanized.targets.quarantine import (
    MOST_RUNS,
    Budget,
    NotTheirs,
    Quarantine,
    TooMany,
    Verdict,
    search,
)
from vulcanized.targets.staged import FIRST_SECOND_TRY, LAST_SECOND_TRY

Check = Callable[[frozenset[AppId]], Verdict]


def apps(count: int) -> list[AppId]:
    return [AppId("default", f"a{number:04}") for number in range(count)]


def found(
    suspects: Sequence[AppId], check: Check, runs: int = MOST_RUNS
) -> tuple[dict[AppId, str], int]:
    """The culprits, and how many checks they took after the first."""
    searching = search(suspects, check(frozenset(suspects)), runs)
    count, subset = 0, next(searching)
    while True:
        count += 1
        try:
            subset = searching.send(check(subset))
        except StopIteration as end:
            return dict(end.value), count


def refusing(
    bad: set[AppId], pairs: Sequence[tuple[AppId, AppId]] = (), naming: str = "nobody"
) -> Check:
    """A proxy that refuses these, and those pairs together."""

    def check(subset: frozenset[AppId]) -> Verdict:
        culprits = sorted(bad & subset)
        culprits += [max(pair) for pair in pairs if subset.issuperset(pair)]
        if not culprits:
            return Verdict(passed=True)
        named = {
            "nobody": [],
            "culprits": culprits,
            "the first": culprits[:1],
            "victims": sorted(subset)[-1:],
            "everybody": sorted(subset),
        }[naming]
        said = f"no {culprits[0].name}"
        return Verdict(passed=False, said=said, named={app: f"no {app.name}" for app in named})

    return check


NAMING = ["nobody", "culprits", "the first", "victims", "everybody"]


@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=4))
    ),
    st.sampled_from(NAMING),
)
def test_just_the_bad_ones_are_found_whatever_the_proxy_names(
    case: tuple[int, set[int]], naming: str
) -> None:
    count, numbers = case
    suspects = apps(count)
    bad = {suspects[number] for number in numbers}
    culprits, runs = found(suspects, refusing(bad, naming=naming), runs=1000)
    assert set(culprits) == bad
    assert runs <= 34 + 4 + 2 + len(bad) * (2 + math.ceil(math.log2(count)))
    assert all(words == f"no {app.name}" for app, words in culprits.items())


@given(
    st.integers(2, 40).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.sets(st.integers(0, n - 1), max_size=3),
            st.lists(
                st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(
                    lambda pair: pair[0] < pair[1]
                ),
                min_size=1,
                max_size=3,
            ),
        )
    ),
    st.sampled_from(NAMING),
)
def test_of_two_that_are_bad_together_only_the_later_one_goes(
    case: tuple[int, set[int], list[tuple[int, int]]], naming: str
) -> None:
    count, numbers, pairs = case
    suspects = apps(count)
    bad = {suspects[number] for number in numbers}
    conflicts = [(suspects[one], suspects[other]) for one, other in pairs]
    check = refusing(bad, conflicts, naming)
    if check(frozenset(suspects)).passed:
        return
    culprits, _ = found(suspects, check, runs=1000)
    rest = frozenset(suspects) - culprits.keys()
    assert check(rest).passed
    assert bad <= culprits.keys()
    # Nobody is left out without need.
    assert not any(check(rest | {app}).passed for app in culprits)
    assert culprits.keys() <= bad | {later for _, later in conflicts}


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_what_it_takes_to_find_them(count: int) -> None:
    suspects = apps(count)
    log = math.ceil(math.log2(count))
    one, three = {suspects[count // 3]}, {suspects[1], suspects[count // 2], suspects[-1]}
    assert found(suspects, refusing(one, naming="culprits"))[1] == 1
    assert found(suspects, refusing(three, naming="culprits"))[1] == 4
    assert found(suspects, refusing(one))[1] <= log + 2
    assert found(suspects, refusing(three))[1] <= 3 * (log + 1) + 1


def test_what_is_refused_without_them_is_not_theirs() -> None:
    suspects = apps(7)
    with pytest.raises(NotTheirs, match="the frame"):
        found(suspects, lambda _: Verdict(passed=False, said="the frame"))


def test_when_too_many_are_bad_the_search_ends() -> None:
    suspects = apps(500)
    checks = 0

    def check(subset: frozenset[AppId]) -> Verdict:
        nonlocal checks
        checks += 1
        return refusing(set(suspects), naming="everybody")(subset)

    with pytest.raises(TooMany):
        found(suspects, check)
    assert checks == MOST_RUNS + 1


def test_a_verdict_that_changes_its_mind_ends_the_search_all_the_same() -> None:
    suspects = apps(20)
    verdicts = iter([False, True] + [False, True] * 200)
    culprits, _ = found(
        suspects, lambda subset: Verdict(passed=not subset or next(verdicts)), runs=1000
    )
    assert culprits.keys() <= set(suspects)


# --- how long ---------------------------------------------------------------------------------


def test_the_same_refused_again_waits_ever_longer_and_something_else_does_not() -> None:
    quarantine, (one, other) = Quarantine(), apps(2)
    assert quarantine.next_try() is None
    assert quarantine.hold(one, "x", "no", 0.0)
    assert quarantine.next_try() == (FIRST_SECOND_TRY, one)
    for _ in range(9):
        assert not quarantine.hold(one, "x", "no", 0.0)
    assert quarantine.next_try() == (LAST_SECOND_TRY, one)
    assert not quarantine.hold(one, "y", "no", 0.0)
    assert quarantine.next_try() == (FIRST_SECOND_TRY, one)
    assert quarantine.holds(one, "y")
    assert not quarantine.holds(one, "x")
    assert other not in quarantine
    assert quarantine.reasons() == {one: "no"}
    assert quarantine.release(one)
    assert not quarantine.release(one)
    assert not quarantine


def test_checks_are_bounded_in_a_minute_but_not_in_a_burst() -> None:
    budget = Budget(40)
    taken = [0.0]
    for _ in range(200):
        now = max(taken[-1], budget.due(taken[-1]))
        budget.take(now)
        taken.append(now)
    assert taken[40] == 0.0
    assert taken[41] > 0.0
    busiest = max(sum(1 for t in taken if start <= t < start + 60) for start in taken if start > 0)
    assert busiest <= 41
    assert budget.due(taken[-1] + 1000) == taken[-1] + 1000
