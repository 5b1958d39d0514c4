"""The benchmark of the proxies measures what it says, in little: no figure is judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import proxies
from benchmarks.figures import Row
from tests.behaviour.front import FRONTS
from tests.servers.build import VULCAND, ensure
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program


@pytest.mark.timeout(300)
def test_each_change_is_measured_on_each_proxy_beside_its_floor(tmp_path: Path) -> None:
    try:
        for program in ("haproxy", "nginx", "etcd"):
            find_program(program)
        ensure(VULCAND)
    except ServerMissing as reason:
        missing(reason)
    rows: list[Row] = []

    proxies.measure(tmp_path, lambda line: None, proxies.QUICK, rows)

    for front in FRONTS:
        own = [row for row in rows if row.what.startswith(f"{front.title}: ")]
        compared = [row.what.partition(": ")[2].partition(",")[0] for row in own if row.ratio]
        assert compared == [
            "app put → last answer without it",
            "switch put → last old answer",
            "Ready sent → first answer",
            "DELETE sent → last answer",
        ]
        loads = [row for row in own if "under load" in row.what]
        assert [row.ok for row in loads] == [True, True], loads
    assert "keep_alive = 0" in rows[-1].what
