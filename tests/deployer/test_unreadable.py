"""Records that cannot be read: each is told, and nobody acts on its app before a person has."""

from __future__ import annotations

import json

import pytest

from tests.deployer.serving import serving
from tests.deployer.stage import Stage
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually

pytestmark = pytest.mark.timeout(180)

NEW = {"app": "todo", "version": "2"}


def spoil(stage: Stage, text: str | None = None) -> str:
    """Make the newest record unreadable: its key. Without a text it is of a release to come."""
    folder = f"{stage.prefix}/deployments/{stage.app}/"
    key, value = max(stage.etcd.list(folder).items())
    stage.etcd.put(key, text or json.dumps({**json.loads(value), "status": "HALF_WAY"}))
    return key


def test_whoever_asks_is_told_and_nothing_is_changed(stage: Stage) -> None:
    assert stage.deploy().code == 0
    before = stage.controllers(), stage.active
    for text in (None, "{", "\x00", '"DEPLOYED"', "{}"):
        key = spoil(stage, text)
        asked = stage.run("history", stage.app)
        assert asked.code == 5, asked.text
        assert f"etcdctl del {key}" in asked.text
        (listed,) = json.loads(asked.out)
        assert (listed["key"], listed["status"]) == (key, "UNREADABLE")
    asks: tuple[tuple[str, ...], ...] = (("status",), ("status", stage.app))
    for words in asks:
        asked = stage.run(*words)
        assert asked.code == 5, asked.text
        assert asked.text.count("cannot be read") == 1
        (app,) = json.loads(asked.out)["apps"]
        assert (app["app"], app["needs_person"]) == (stage.app, True)
    descriptor = stage.write(stage.descriptor())
    for words in (
        ("deploy", str(descriptor)),
        ("plan", str(descriptor)),
        ("switch", stage.app, "1"),
        ("rollback", stage.app),
        ("scale", stage.app, "2"),
        ("undeploy", stage.app),
        ("recover", stage.app),
        ("recover",),
        ("dispose",),
    ):
        done = stage.run(*words)
        assert done.code == 5, (words, done.text)
        assert f"etcdctl del {key}" in done.text
    assert (stage.controllers(), stage.active) == before


def test_one_of_a_deployment_under_way_lets_no_second_one_begin(stage: Stage) -> None:
    assert stage.deploy().code == 0
    (spared,) = stage.etcd.list(f"{stage.prefix}/descriptors/")
    stage.nodes.behave(Behaviour(hold_ready=True), NEW)
    process = stage.start("deploy", stage.write(stage.descriptor()))
    stage.nodes.wait_pods(1, stage.namespace, NEW, state="Running")
    process.kill()
    (papers,) = [k for k in stage.etcd.list(f"{stage.prefix}/descriptors/") if k > spared]
    stage.etcd.put(papers, "{")
    recovered = stage.run("recover", stage.app)
    assert recovered.code == 5, recovered.text
    assert f"etcdctl del {papers}" in recovered.text
    key = spoil(stage)
    assert stage.deploy().code == 5
    assert stage.controllers() == {"1": 1, "2": 1}
    # A person has looked: what is left goes with the next, whose number is a new one.
    stage.etcd.ctl("del", key)
    done = stage.deploy()
    assert done.code == 0, done.text
    assert done.record["version"] == "3"
    assert stage.controllers() == {"3": 1}


def test_a_number_comes_only_once_whatever_is_taken_away(stage: Stage) -> None:
    assert stage.deploy(version="7").code == 0
    assert stage.run("undeploy", stage.app).code == 0
    stage.etcd.delete_prefix(f"{stage.prefix}/deployments/")
    done = stage.deploy()
    assert done.record["version"] == "8", done.text
    # Nor is it guessed.
    key = f"{stage.prefix}/versions/{stage.app}"
    stage.etcd.put(key, "eight")
    refused = stage.deploy()
    assert refused.code == 5
    assert f"etcdctl put {key}" in refused.text
    stage.etcd.put(key, "8\n")
    assert stage.deploy().record["version"] == "9"
    stage.etcd.put(key, "9" * 15)
    assert "used up" in stage.deploy().text
    assert stage.controllers() == {"9": 1}


def test_the_service_tells_it_once_and_goes_on_with_the_others(stage: Stage) -> None:
    assert stage.deploy().code == 0
    key = spoil(stage)
    id_ = key.rpartition("/")[2]
    stage.nodes.behave(Behaviour(hold_ready=True), {"app": "other"})
    other = stage.descriptor(app="other", config=None)
    process = stage.start("deploy", stage.write(other))
    stage.nodes.wait_pods(1, stage.namespace, {"app": "other"}, state="Running")
    process.kill()
    stage.expire_lock("other")
    with serving(stage) as service:
        status, listed, _ = service.ask("GET", "/deployments/")
        assert status == 200
        assert (listed[0]["deployment"], listed[0]["status"]) == (id_, "UNREADABLE")
        for method, path, body in (
            ("GET", f"/deployments/{id_}/", None),
            ("DELETE", f"/deployments/{id_}/", None),
            ("POST", "/deployments/", stage.descriptor()),
        ):
            status, answer, _ = service.ask(method, path, body)
            assert status == 409
            assert f"etcdctl del {key}" in answer["reason"]
        stage.nodes.release({"app": "other"})

        def recovered() -> bool:
            of_other = service.ask("GET", "/deployments/", appname="other")[1]
            return [each["status"] for each in of_other] == ["DEPLOYED"]

        eventually(recovered, 60, interval=0.5)
        log = stage.running[-1].log.read_text()
    assert log.count("record unreadable") == 1
    assert stage.controllers("other") == {"1": 1}


def test_a_stored_descriptor_that_cannot_be_read_is_told_and_hides_no_other(stage: Stage) -> None:
    prefix = f"{stage.prefix}/descriptors/{stage.app}"
    with serving(stage) as service:
        ask = service.ask
        places = [ask("POST", "/descriptors/", stage.descriptor())[2] for _ in range(3)]
        ids = [place.split("/")[2] for place in places]
        stage.etcd.put(f"{prefix}/{ids[0]}", "{")
        stage.etcd.put(f"{prefix}/{ids[1]}", '{"stored": true, "descriptor": "a: ["}')
        status, listed, _ = ask("GET", "/descriptors/")
        assert status == 200
        told = {each["id"]: each for each in listed}
        assert "descriptor" in told[ids[2]]
        assert f"{prefix}/{ids[0]} cannot be read" in told[ids[0]]["unreadable"]
        assert "the descriptor" in told[ids[1]]["unreadable"]
        for id_ in ids[:2]:
            status, answer, _ = ask("GET", f"/descriptors/{id_}/")
            assert (status, answer) == (200, told[id_])
            assert "store it anew" in answer["unreadable"]
        assert ask("POST", "/deployments/", descriptorId=ids[0])[0] == 409
        assert ask("POST", "/deployments/", descriptorId=ids[1])[0] == 422
        assert stage.controllers() == {}
        # By the same names it is mended, or taken away.
        assert ask("PUT", f"/descriptors/{ids[0]}/", stage.descriptor())[0] == 204
        assert ask("DELETE", f"/descriptors/{ids[1]}/")[0] == 204
        left = {each["id"]: each for each in ask("GET", "/descriptors/")[1]}
        assert left.keys() == {ids[0], ids[2]}
        assert "descriptor" in left[ids[0]]
