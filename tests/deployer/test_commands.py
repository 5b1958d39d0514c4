"""What is done to a deployed app: rollback, switch, scale, undeploy, dispose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.daemons import ask
from tests.deployer.stage import Stage, on_every_proxy
from tests.servers.load import Load
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually
from vulcanized.deployer.store import KEPT

pytestmark = pytest.mark.timeout(180)


@on_every_proxy
def test_back_to_the_version_before_while_it_is_kept_then_it_is_disposed_of(stage: Stage) -> None:
    assert stage.deploy(keep_previous=600).code == 0
    assert stage.deploy(keep_previous=600).code == 0
    assert stage.controllers() == {"1": 1, "2": 1}
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        assert stage.run("scale", stage.app, "2").code == 0
        back = stage.run("rollback", stage.app)
        assert back.code == 0, back.text
        assert stage.active == "1"
        assert ask(stage.daemon.url, stage.host)[1]["version"] == "1"
        forth = stage.run("switch", stage.app, "2")
        assert forth.code == 0, forth.text
        assert stage.active == "2"
        # One previous version is kept, and no third.
        assert stage.deploy(keep_previous=1).code == 0
        assert stage.controllers() == {"2": 2, "3": 1}
        eventually(
            lambda: stage.run("dispose").code == 0 and stage.controllers() == {"3": 1},
            30,
            "the previous version to be disposed of",
        )
        load.go_on()
    assert load.report.failed == {}
    gone = stage.run("rollback", stage.app)
    assert gone.code == 1
    assert "no version 2 any more" in gone.text


def test_an_app_is_scaled_and_taken_away(stage: Stage) -> None:
    assert stage.deploy().code == 0
    with Load(stage.daemon.port, stage.host) as load:
        load.go_on()
        for replicas in (3, 1):
            done = stage.run("scale", stage.app, str(replicas))
            assert done.code == 0, done.text
            assert stage.controllers() == {"1": replicas}
        load.go_on()
    assert load.report.failed == {}
    done = stage.run("undeploy", stage.app)
    assert done.code == 0, done.text
    assert done.record["status"] == "UNDEPLOYED"
    assert stage.controllers() == {}
    assert stage.pods() == []
    assert stage.key("apps") is stage.active is None
    assert ask(stage.daemon.url, stage.host)[0] in (404, 503)
    assert stage.run("undeploy", stage.app).code == 1
    # Numbers go on where they were.
    assert stage.deploy().record["version"] == "2"


def test_the_logs_of_all_containers_are_shown_or_why_there_are_none(stage: Stage) -> None:
    spec = stage.descriptor()["podspec"]
    spec["containers"].append({"name": "beside", "image": "tests/beside:1"})
    assert stage.deploy(podspec=spec).code == 0

    def told() -> list[tuple[str, str]]:
        asked = stage.run("logs", stage.app)
        assert asked.code == 0, asked.text
        lines = [json.loads(line) for line in asked.out.splitlines()]
        of_pods = [line for line in lines if "pod" in line]
        return [(each["container"], each.get("log") or each["reason"]) for each in of_pods]

    for name, (container, line) in zip(("app", "beside"), told(), strict=True):
        assert container == name
        assert line.startswith(f"{name}: version 1 listens at ")
    stage.nodes.behave(Behaviour(waiting="ImagePullBackOff"), {"app": "todo", "version": "2"})
    stage.start("deploy", stage.write(stage.descriptor()))
    stage.nodes.wait_pods(1, stage.namespace, {"app": "todo", "version": "2"}, state="Waiting")
    ((container, reason),) = told()
    assert container == "app"
    assert "is waiting to start: ImagePullBackOff" in reason


def test_a_switch_without_a_cluster_writes_the_file_that_the_daemon_follows(tmp_path: Path) -> None:
    from vulcanized.deployer.cli import main

    settings = tmp_path / "vulcanized.toml"
    settings.write_text('[directory]\nmanifests = "manifests"\nstore = "store"\n')
    assert main(["switch", "shop/todo", "green", "--config", str(settings)]) == 0
    assert (tmp_path / "store/active/shop/todo").read_text() == "green\n"
    assert [each.name for each in (tmp_path / "store/active/shop").iterdir()] == ["todo"]
    for wrong in ("shop/", "/todo", "", "shop/../x", "a/b/c"):
        assert main(["switch", wrong, "green", "--config", str(settings)]) == 2
    assert main(["switch", "shop/todo", "no version", "--config", str(settings)]) == 2
    assert main(["deploy", str(settings), "--config", str(settings)]) == 2


def test_of_an_apps_deployments_the_oldest_are_forgotten_with_their_papers(stage: Stage) -> None:
    assert stage.deploy().code == 0
    (record,) = stage.records()
    folders = [f"{stage.prefix}/{each}/{stage.app}" for each in ("deployments", "descriptors")]
    for number in range(KEPT + 5):
        old = {**record, "id": f"20200101T000000-{number:08x}"}
        for folder in folders:
            text = json.dumps(old) if folder == folders[0] else "{}"
            stage.etcd.put(f"{folder}/{old['id']}", text)
    done = stage.run("scale", stage.app, "2")
    assert done.code == 0, done.text
    # Six are too many: those five and the one that was first of all.
    left = [f"20200101T000000-{number:08x}" for number in range(6, KEPT + 5)]
    for folder in folders:
        ids = [key.rpartition("/")[2] for key in sorted(stage.etcd.list(f"{folder}/"))]
        assert ids[: len(left)] == left
        assert len(ids) == KEPT + 1
        assert record["id"] in ids
