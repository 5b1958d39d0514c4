"""Pytest plugin: the real servers as fixtures (`pytest_plugins = ["tests.servers.fixtures"]`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.servers.etcd import Etcd
from tests.servers.programs import ServerMissing


def servers_required() -> bool:
    """Whether an absent server fails a test: in CI, or where `VULCANIZED_REQUIRE_SERVERS=1`."""
    in_ci = os.environ.get("CI", "").lower() in {"true", "1"}
    return in_ci or os.environ.get("VULCANIZED_REQUIRE_SERVERS", "") == "1"


def missing(reason: ServerMissing | str) -> NoReturn:
    """Fail the test for want of a server where servers are required, else skip it."""
    if servers_required():
        pytest.fail(f"a server that CI must have is missing: {reason}", pytrace=False)
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Etcd]:
    """One etcd for the whole session. Leave it running; make your own `Etcd` for faults."""
    try:
        etcd = Etcd()
    except ServerMissing as reason:
        missing(reason)
    with etcd:
        yield etcd
