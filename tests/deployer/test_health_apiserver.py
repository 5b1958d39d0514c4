"""Health that is asked through the pod proxy of a real API server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.build import KUBERNETES, ensure
from tests.servers.fixtures import missing, needs
from tests.servers.programs import ServerMissing

pytestmark = pytest.mark.timeout(180)


def own_network() -> list[str]:
    """The words before a command that give it a network of its own; skips where nobody may."""
    if all(map(shutil.which, ("unshare", "ip"))):
        for rights in ((), ("--map-root-user",)):
            words = ["unshare", "--net", *rights]
            probe = [*words, "ip", "address", "add", "10.0.0.1/8", "dev", "lo"]
            if subprocess.run(probe, capture_output=True).returncode == 0:
                return words
    pytest.skip("nobody but root may make a network here (unshare --net), and pods need one")


def test_pods_are_asked_through_the_api_server(tmp_path: Path) -> None:
    needs("haproxy", "etcdctl", "etcd")
    try:
        ensure(KUBERNETES)
    except ServerMissing as reason:
        missing(reason)
    command = [*own_network(), sys.executable, "-m", "tests.deployer.proxied", str(tmp_path)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=150, cwd=Path(__file__).parents[2]
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    for name in ("get", "post", "headers"):
        code, text = told["done"][name]
        assert code == 0, (name, text)
    for name, words in (
        ("elsewhere", "was not asked, the API server answers 50"),
        ("ill", "/health at port 8080 answers 503, not 200 to 299"),
        ("forbidden", "cannot get resource"),
    ):
        code, text = told["done"][name]
        assert code == 1, (name, text)
        assert words in text, (name, text)
    assert told["controllers"] == {"3": 1}
