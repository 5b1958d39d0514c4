"""Fixtures of the bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.badinput.stage import Stage
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program


@pytest.fixture(scope="session")
def haproxy() -> None:
    """A HAProxy is here, else the test is not for this machine."""
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)
