"""Pytest plugin: the real servers as fixtures (`pytest_plugins = ["tests.servers.fixtures"]`).

| fixture | scope | gives |
|---|---|---|
| `etcd_server` | session | a running `Etcd`, for all tests |
| `control_plane` | session | a running `ControlPlane`, for all tests |
| `namespace` | function | the name of a new namespace on it |
| `node_agent` | function | the session's `NodeAgent` on it; told behaviours end with the test |
| `vulcand_server` | module | a running `Vulcand`, on `etcd_server` with a prefix of its own |
| `new_etcd`, `new_control_plane`, | function | make your own, to kill: called as the class is |
| `new_vulcand` | | |
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn, Protocol

import pytest

from tests.servers.build import KUBERNETES, VULCAND, ensure
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.nodeagent import NodeAgent
from tests.servers.programs import ServerMissing, find_program
from tests.servers.vulcand import Vulcand

_BUILT = {
    KUBERNETES: {"control_plane", "new_control_plane"},
    VULCAND: {"vulcand_server", "new_vulcand", "worlds", "balancer"},
}


def servers_required() -> bool:
    """Whether an absent server fails a test: in CI, or where `VULCANIZED_REQUIRE_SERVERS=1`."""
    in_ci = os.environ.get("CI", "").lower() in {"true", "1"}
    return in_ci or os.environ.get("VULCANIZED_REQUIRE_SERVERS", "") == "1"


def missing(reason: ServerMissing | str) -> NoReturn:
    """Fail the test for want of a server where servers are required, else skip it."""
    if servers_required():
        pytest.fail(f"a server that must be here is missing: {reason}", pytrace=False)
    pytest.skip(str(reason))


def needs(*programs: str) -> None:
    """Fail or skip the test, as `missing` does, unless all of these are on this machine."""
    try:
        for program in programs:
            find_program(program)
    except ServerMissing as reason:
        missing(reason)


class NewEtcd(Protocol):
    def __call__(self, **options: Any) -> Etcd: ...


class NewControlPlane(Protocol):
    def __call__(self, **options: Any) -> ControlPlane: ...


class NewVulcand(Protocol):
    def __call__(
        self,
        etcd: str | Sequence[str],
        prefix: str = "vulcand",
        *,
        wait: bool = True,
        **options: Any,
    ) -> Vulcand: ...


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the tests want before the first of them: minutes, when cold, that no test's
    time-out has room for. What cannot be built is told by the tests that want it."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for module, fixtures in _BUILT.items():
        if fixtures & wanted:
            with contextlib.suppress(ServerMissing):
                ensure(module, progress=lambda line: print(line, file=sys.__stderr__, flush=True))


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


@pytest.fixture(scope="module")
def vulcand_server(etcd_server: Etcd) -> Iterator[Vulcand]:
    """One vulcand for the tests of a module, on the session's etcd under a prefix of its own."""
    prefix = f"v{secrets.token_hex(4)}"
    try:
        vulcand = Vulcand(etcd_server.endpoint, prefix)
    except ServerMissing as reason:
        missing(reason)
    with vulcand:
        yield vulcand
    etcd_server.delete_prefix(f"{prefix}/")


@pytest.fixture
def new_vulcand() -> Iterator[NewVulcand]:
    """Start a vulcand of one's own, with `Vulcand`'s options; removed after the test.

    With `wait=False` it is started and not awaited: it may not become ready, or end.
    """
    with ExitStack() as stack:

        def start(
            etcd: str | Sequence[str], prefix: str = "vulcand", *, wait: bool = True, **options: Any
        ) -> Vulcand:
            try:
                vulcand = Vulcand(etcd, prefix, **options)
            except ServerMissing as reason:
                missing(reason)
            stack.callback(vulcand.close)
            return vulcand.start(wait=wait)

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
