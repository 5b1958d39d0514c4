"""The stage for deployments, on real servers; by HAProxy, unless a test names others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.front import FRONTS, Front, Haproxy
from tests.deployer.stage import Stage, staged
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.fixtures import missing, needs
from tests.servers.nodeagent import NodeAgent
from tests.servers.programs import ServerMissing


@pytest.fixture
def balancer(request: pytest.FixtureRequest, tmp_path: Path, etcd_server: Etcd) -> Iterator[Front]:
    """The proxy of the stage, running; a test may be parametrized by its kind."""
    kind = getattr(request, "param", Haproxy.kind)
    try:
        (front,) = (each(tmp_path, etcd_server) for each in FRONTS if each.kind == kind)
    except ServerMissing as reason:
        missing(reason)
    front.start()
    yield front
    front.stop()


@pytest.fixture
def stage(
    tmp_path: Path,
    control_plane: ControlPlane,
    node_agent: NodeAgent,
    etcd_server: Etcd,
    namespace: str,
    balancer: Front,
) -> Iterator[Stage]:
    """Nothing is deployed yet; the daemon follows one namespace."""
    needs("etcdctl")
    with staged(tmp_path, control_plane, node_agent, etcd_server, namespace, balancer) as stage:
        yield stage
