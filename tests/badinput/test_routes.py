"""Two apps that claim one route: the first by creation keeps it, the other is told.

The decision alone: `tests/test_claims.py`; a host that moves: `tests/test_daemon.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.badinput.stage import Stage, pod, problems_of
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.servers.fixtures import NewEtcd
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")


def _config(*hosts: str) -> str:
    return json.dumps({"hosts": hosts})


def test_the_first_by_creation_keeps_the_route_and_the_other_is_told(
    stage: Stage, new_etcd: NewEtcd
) -> None:
    etcd: Any = new_etcd()
    etcd.put("/vulcanized/apps/default/zfirst", _config("shop.example.com"))
    etcd.put("/vulcanized/apps/default/asecond", _config("shop.example.com", "a.example.com"))
    sides = f'[directory]\nmanifests = "{stage.manifests}"\n[etcd]\nendpoints = ["{etcd.endpoint}"]'
    with LocalPods() as pods, Vulcanized(stage.folder / "v", sides) as daemon:
        for app in ("zfirst", "asecond"):
            stage.pod(pod(f"{app}-1", app, pods.start(f"{app}-1", "1")))
        daemon.start()
        assert served_by(daemon.url, "shop.example.com") == {"zfirst-1"}
        assert served_by(daemon.url, "a.example.com") == {"asecond-1"}
        (problem,) = problems_of(daemon.status(), "asecond")
        assert problem == (
            "route_taken: shop.example.com/ (prefix) belongs to default/zfirst, which comes first "
            "(the older config, else by name): remove it from one of the two "
            "(etcd /vulcanized/apps/default/asecond)"
        )
        assert problems_of(daemon.status(), "zfirst") == []
        # Written again, it is as old as it was.
        etcd.put("/vulcanized/apps/default/zfirst", _config("shop.example.com", "z.example.com"))
        eventually_served_by(daemon.url, "z.example.com", ["zfirst-1"])
        assert served_by(daemon.url, "shop.example.com") == {"zfirst-1"}
        etcd.put("/vulcanized/apps/default/zfirst", _config("z.example.com"))
        eventually_served_by(daemon.url, "shop.example.com", ["asecond-1"])
        eventually(lambda: not problems_of(daemon.status(), "asecond"), 5, "no problem")
