"""Fixtures for what is tried on a real vulcand."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewVulcand
from tests.servers.localpods import LocalPods
from tests.servers.vulcand import Vulcand
from tests.vulcand.fleet import Fleet
from tests.vulcand.stage import Stage


@pytest.fixture(scope="module")
def pods() -> Iterator[LocalPods]:
    """Pods for the tests of a module."""
    with LocalPods() as pods:
        yield pods


@pytest.fixture
def stage(etcd_server: Etcd, vulcand_server: Vulcand, pods: LocalPods) -> Iterator[Stage]:
    """The module's vulcand without any configuration; it must survive the test."""
    stage = Stage(etcd_server, vulcand_server, pods)
    yield stage
    stage.clear()
    assert vulcand_server.running, vulcand_server.log_tail()


@pytest.fixture
def fleet(
    tmp_path: Path, etcd_server: Etcd, vulcand_server: Vulcand, pods: LocalPods
) -> Iterator[Fleet]:
    """Daemons on the module's vulcand, which must survive the test; none is started yet."""
    fleet = Fleet(tmp_path, etcd_server, vulcand_server, pods)
    yield fleet
    fleet.close()
    assert vulcand_server.running, vulcand_server.log_tail()


@pytest.fixture
def mortal(
    tmp_path: Path, etcd_server: Etcd, new_vulcand: NewVulcand, pods: LocalPods
) -> Iterator[Fleet]:
    """Daemons on a vulcand of the test's own, which may die."""
    vulcand = new_vulcand(etcd_server.endpoint, f"m{secrets.token_hex(4)}")
    fleet = Fleet(tmp_path, etcd_server, vulcand, pods)
    yield fleet
    fleet.close()


@pytest.fixture
def fragile(etcd_server: Etcd, new_vulcand: NewVulcand, pods: LocalPods) -> Iterator[Stage]:
    """A running vulcand of the test's own, which it may ruin."""
    prefix = f"f{secrets.token_hex(4)}"
    yield Stage(etcd_server, new_vulcand(etcd_server.endpoint, prefix), pods)
    etcd_server.delete_prefix(prefix)
