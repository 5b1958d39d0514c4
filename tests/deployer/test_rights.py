"""The rights in `examples/kubernetes/rbac-deployer.yaml` are enough, and none is too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployer.stage import Stage
from tests.servers.nodeagent import Behaviour

pytestmark = pytest.mark.timeout(180)

FILE = Path(__file__).parents[2] / "examples/kubernetes/rbac-deployer.yaml"


def rules() -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(FILE.read_text())
    (role,) = [each for each in documents if each["kind"] == "Role"]
    found: list[dict[str, Any]] = role["rules"]
    return found


RIGHTS = [
    (rule["apiGroups"][0], resource, verb)
    for rule in rules()
    for resource in rule["resources"]
    for verb in rule["verbs"]
]


def become(stage: Stage, without: tuple[str, str, str] | None) -> None:
    """Deployers have these rights from now on, but for one, and lose their patience soon."""
    granted = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for group, resource, verb in RIGHTS
        if (group, resource, verb) != without
    ]
    user = stage.cluster.user(granted, stage.namespace)
    text = stage.config.read_text().replace(str(stage.cluster.kubeconfig), str(user.kubeconfig))
    stage.config.write_text(text.replace("ready_timeout = 30", "ready_timeout = 4"))


def release(stage: Stage) -> bool:
    """Whether all goes well that these rights are for."""
    kinds = ("ReplicationController", "ReplicaSet", "ReplicationController")
    good = all(stage.deploy(controller=kind).code == 0 for kind in kinds)
    if not good:
        return False
    stage.nodes.behave(Behaviour(waiting="ImagePullBackOff"), {"app": "todo", "version": "4"})
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
def test_without_any_one_of_them_something_is_missing(
    stage: Stage, right: tuple[str, str, str]
) -> None:
    if right[1] == "pods/log":
        pytest.skip("the pods of the tests have no log")
    become(stage, right)
    assert not release(stage)
