"""The stage for deployments, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Vulcanized
from tests.deployer.stage import TIMES, Stage
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.fixtures import missing
from tests.servers.nodeagent import NodeAgent
from tests.servers.programs import ServerMissing, find_program


@pytest.fixture
def stage(
    tmp_path: Path,
    control_plane: ControlPlane,
    node_agent: NodeAgent,
    etcd_server: Etcd,
    namespace: str,
) -> Iterator[Stage]:
    """Nothing is deployed yet; the daemon follows one namespace."""
    try:
        find_program("haproxy")
        find_program("etcdctl")
    except ServerMissing as reason:
        missing(reason)
    prefix = f"/of-{namespace}"
    sides = f"""
[kubernetes]
kubeconfig = "{control_plane.kubeconfig}"
namespaces = ["{namespace}"]

[etcd]
endpoints = ["{etcd_server.endpoint}"]
prefix = "{prefix}"
"""
    config = tmp_path / "deployer.toml"
    config.write_text(f'{sides}\n[deployer]\n{TIMES}\napp_settings = "{prefix}/config"\n')
    with Vulcanized(tmp_path / "v", sides) as daemon:
        daemon.start()
        stage = Stage(
            tmp_path, control_plane, node_agent, etcd_server, namespace, daemon, prefix, config
        )
        yield stage
        for process in stage.running:
            process.stop()
    etcd_server.delete_prefix(prefix)
