"""What must change between what is there and what should be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vulcanized.diff import KeyChanges, key_changes

TABLES = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz"))


def test_changes_are_told_apart_by_what_they_need() -> None:
    changes = key_changes({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"})
    assert changes == KeyChanges((("d", "1"),), (("b", "2"),), ("a",))
    assert len(changes) == 3


@given(TABLES, TABLES)
def test_changes_turn_one_into_the_other_and_nothing_into_itself(
    actual: dict[str, str], wanted: dict[str, str]
) -> None:
    changes = key_changes(actual, wanted)
    after = {**actual, **dict(changes.add), **dict(changes.change)}
    assert {key: value for key, value in after.items() if key not in changes.remove} == wanted
    assert bool(changes) == (actual != wanted)
