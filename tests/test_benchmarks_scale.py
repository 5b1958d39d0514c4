"""The benchmarks of scale measure what they say, in little, and name what grows."""

from __future__ import annotations

from pathlib import Path

from benchmarks import churn, figures, inside, lists, scale
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program


def test_every_figure_of_many_apps_is_measured_in_little(tmp_path: Path) -> None:
    for program in ("haproxy", "etcd"):
        try:
            find_program(program)
        except ServerMissing as reason:
            missing(reason)
    rows: list[figures.Row] = []
    scale.measure(tmp_path, lambda line: None, scale.QUICK, rows)

    told = "\n".join(row.what for row in rows)
    for what in (
        "listed → all in the store",
        "start, 40 apps",
        "memory there",
        "processor time of one event, at 40 apps against 3",
        "lists anew",
        "bytes of a watch → store",
        "files ready and flushed",
        "containers after a day",
    ):
        assert what in told
    day = [row for row in rows if "after a day" in row.what]
    assert [row.what for row in day if not row.ok and "memory" not in row.what] == []


def test_a_container_that_grows_is_named() -> None:
    class Leaks:
        __module__ = "vulcanized.somewhere"

        def __init__(self) -> None:
            self.names: dict[str, list[str]] = {}

    leaks, seen = Leaks(), []
    for hour in range(6):
        leaks.names |= {f"{hour} {number}": ["once"] for number in range(20)}
        seen.append(churn.Seen(1, 1, 1, 1, 1, inside.sizes({"root": leaks})))

    *others, containers = churn.compare("a day", seen)
    assert all(row.ok for row in others)
    assert not containers.ok
    assert containers.ours == "[].names (50 → 110); [].names[] (50 → 110)"


def test_a_list_takes_as_long_as_it_takes() -> None:
    took = lists.run("feed", "500")

    assert took.cpu > 0
    assert 0 < took.wall < 60
