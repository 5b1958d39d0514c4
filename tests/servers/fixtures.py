"""Pytest plugin: the real servers as fixtures (`pytest_plugins = ["tests.servers.fixtures"]`).

| fixture | scope | gives |
|---|---|---|
| `etcd_server` | session | a running `Etcd`, for all tests |
| `control_plane` | session | a running `ControlPlane`, for all tests |
| `namespace` | function | the name of a new namespace on it |
| `node_agent` | function | the session's `NodeAgent` on it; told behaviours end with the test |
| `new_etcd`, `new_control_plane` | function | make your own, to kill: called as the class is |
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NoReturn, Protocol

import pytest

from tests.servers.build import KUBERNETES, ensure
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.nodeagent import NodeAgent
from tests.servers.programs import ServerMissing

_BUILT = {"control_plane", "new_control_plane"}


def servers_required() -> bool:
    """Whether an absent server fails a test: in CI, or where `VULCANIZED_REQUIRE_SERVERS=1`."""
    in_ci = os.environ.get("CI", "").lower() in {"true", "1"}
    return in_ci or os.environ.get("VULCANIZED_REQUIRE_SERVERS", "") == "1"


def missing(reason: ServerMissing | str) -> NoReturn:
    """Fail the test for want of a server where servers are required, else skip it."""
    if servers_required():
        pytest.fail(f"a server that must be here is missing: {reason}", pytrace=False)
    pytest.skip(str(reason))


class NewEtcd(Protocol):
    def __call__(self, **options: Any) -> Etcd: ...


class NewControlPlane(Protocol):
    def __call__(self, **options: Any) -> ControlPlane: ...


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane before the first test: minutes, when cold, that no test's time-out
    has room for. What cannot be built is told by the tests that want it."""
    if session.config.option.collectonly:
        return
    if any(_BUILT.intersection(getattr(item, "fixturenames", ())) for item in session.items):
        with contextlib.suppress(ServerMissing):
            ensure(KUBERNETES, progress=lambda line: print(line, file=sys.__stderr__, flush=True))


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Etcd]:
    """One etcd for the whole session: leave it running."""
    try:
        etcd = Etcd()
    except ServerMissing as reason:
        missing(reason)
    with etcd:
        yield etcd


@pytest.fixture
def new_etcd() -> Iterator[NewEtcd]:
    """Start an etcd of one's own, with `Etcd`'s options; removed after the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> Etcd:
            try:
                return stack.enter_context(Etcd(**options))
            except ServerMissing as reason:
                missing(reason)

        yield start


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One control plane for the whole session: leave it running."""
    try:
        control_plane = ControlPlane()
    except ServerMissing as reason:
        missing(reason)
    with control_plane:
        yield control_plane


@pytest.fixture
def new_control_plane() -> Iterator[NewControlPlane]:
    """Start a control plane of one's own, with `ControlPlane`'s options; removed after the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> ControlPlane:
            try:
                return stack.enter_context(ControlPlane(**options))
            except ServerMissing as reason:
                missing(reason)

        yield start


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace of the session's control plane; its deletion is begun, not awaited."""
    with control_plane.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def _session_agent(control_plane: ControlPlane) -> Iterator[NodeAgent]:
    with NodeAgent(control_plane) as agent:
        yield agent


@pytest.fixture
def node_agent(_session_agent: NodeAgent) -> Iterator[NodeAgent]:
    """Two nodes on the session's control plane: leave them running."""
    yield _session_agent
    _session_agent.reset()
