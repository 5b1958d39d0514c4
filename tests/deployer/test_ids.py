"""The ids of deployments."""

from __future__ import annotations

import pytest

from vulcanized.deployer.store import Store, app_id, new_id

NOON = 1_795_953_600.0  # 2026-11-29T12:00:00Z


def test_ids_sort_by_time_also_within_a_second() -> None:
    moments = [NOON + step for step in (0.0, 0.0011, 0.25, 0.9001, 0.9999, 1.0, 59.5, 86_400.0)]
    ids = [new_id(moment) for moment in moments]
    assert ids[0].startswith("20261129T120000-000")
    # 900 and 999 ms, in hexadecimal digits.
    assert [each[16:19] for each in ids[3:5]] == ["384", "3e7"]
    assert sorted(ids) == ids


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(NOON) for _ in range(100)}) > 95


@pytest.mark.parametrize("moment", [0.0, NOON, NOON + 0.123456, 4_000_000_000.5])
def test_an_id_is_one_that_keys_are_made_of(moment: float) -> None:
    store = Store(None, "/p", "/s", None)  # type: ignore[arg-type]
    id_ = new_id(moment)
    assert store.key("deployments", app_id("todo"), id_) == f"/p/deployments/default/todo/{id_}"
