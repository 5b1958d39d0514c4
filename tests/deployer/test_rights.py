"""The rights in `examples/kubernetes` are enough for deployer and daemon, and none is too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemons import Vulcanized
from tests.deployer.stage import Stage
from tests.servers.controlplane import ControlPlane
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)

FOLDER = Path(__file__).parents[2] / "examples/kubernetes"

Right = tuple[str, str, str]


def rights(name: str) -> list[Right]:
    documents = yaml.safe_load_all((FOLDER / name).read_text())
    (role,) = [each for each in documents if each["kind"] in ("Role", "ClusterRole")]
    return [
        (rule["apiGroups"][0], resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def rules(rights: list[Right], without: Right | None) -> list[dict[str, list[str]]]:
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for group, resource, verb in rights
        if (group, resource, verb) != without
    ]


RIGHTS = rights("rbac-deployer.yaml")
DAEMONS = rights("rbac.yaml")


def become(stage: Stage, without: Right | None) -> None:
    """Deployers have these rights from now on, but for one, and lose their patience soon."""
    user = stage.cluster.user(rules(RIGHTS, without), stage.namespace)
    text = stage.config.read_text().replace(str(stage.cluster.kubeconfig), str(user.kubeconfig))
    stage.config.write_text(text.replace("ready_timeout = 30", "ready_timeout = 4"))


def release(stage: Stage) -> bool:
    """Whether all goes well that these rights are for."""
    # The second takes the first away, and `undeploy` the second.
    kinds = ("ReplicationController", "ReplicaSet")
    good = all(stage.deploy(controller=kind).code == 0 for kind in kinds)
    if not good or stage.run("logs", stage.app).code != 0:
        return False
    stage.nodes.behave(Behaviour(waiting="ImagePullBackOff"), {"app": "todo", "version": "3"})
    spec = stage.descriptor()["podspec"]
    failed = stage.deploy(podspec={**spec, "nodeSelector": {"no": "where"}})
    details = str([line["detail"] for line in failed.lines if "detail" in line])
    return (
        failed.code == 1
        and "FailedScheduling" in details
        and stage.run("undeploy", stage.app).code == 0
    )


def test_they_are_enough(stage: Stage) -> None:
    become(stage, None)
    assert release(stage)


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: f"{right[1]}-{right[2]}")
def test_without_any_one_of_them_something_is_missing(stage: Stage, right: Right) -> None:
    become(stage, right)
    assert not release(stage)


@pytest.mark.parametrize(
    "without", [None, *DAEMONS], ids=lambda right: f"{right[1]}-{right[2]}" if right else "all"
)
def test_the_daemon_needs_all_of_its_own(
    tmp_path: Path, control_plane: ControlPlane, without: Right | None
) -> None:
    user = control_plane.user(rules(DAEMONS, without))
    sides = f"""
[kubernetes]
kubeconfig = "{user.kubeconfig}"

[directory]
store = "store"
"""
    (tmp_path / "store").mkdir()
    with Vulcanized(tmp_path, sides) as daemon:
        daemon.start(ready=without is None)

        def sources() -> list[dict[str, Any]]:
            return [each for each in daemon.status().get("sources", []) if "kube" in each["name"]]

        if without is None:
            eventually(lambda: all(each["state"] == "synced" for each in sources()), 10)
        else:
            eventually(
                lambda: any("forbidden" in each["error"] for each in sources()),
                20,
                lambda: str(sources()),
                ignore=(OSError, ValueError),
            )
