"""A fake API server with one pod, and the settings that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import manifests
from tests.fakes.kubernetes import FakeKubernetes
from vulcanized.settings import KubernetesSettings


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as server:
        server.store.create("pods", manifests.pod("a"))
        yield server


@pytest.fixture
def settings(server: FakeKubernetes, tmp_path: Path) -> KubernetesSettings:
    return KubernetesSettings(kubeconfig=server.write_kubeconfig(tmp_path / "kubeconfig"))
