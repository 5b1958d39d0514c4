"""The stage for deployments, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployer.stage import Stage, staged
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.fixtures import needs
from tests.servers.nodeagent import NodeAgent


@pytest.fixture
def stage(
    tmp_path: Path,
    control_plane: ControlPlane,
    node_agent: NodeAgent,
    etcd_server: Etcd,
    namespace: str,
) -> Iterator[Stage]:
    """Nothing is deployed yet; the daemon follows one namespace."""
    needs("haproxy", "etcdctl")
    with staged(tmp_path, control_plane, node_agent, etcd_server, namespace) as stage:
        yield stage
