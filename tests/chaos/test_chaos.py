"""A short run of what `make chaos` does for minutes, always with the same seed."""

from __future__ import annotations

import pytest

from tests.chaos.run import run
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program


@pytest.mark.timeout(300)
def test_nothing_that_happens_within_seconds_fails_a_request_or_is_missed() -> None:
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    verdict = run(seed=4, seconds=15)
    assert sum(verdict.done.values()) >= 10
    assert min(verdict.answers.values()) > 20
    assert verdict.wrong == [], "\n".join(["make chaos replays it:", *verdict.history])
