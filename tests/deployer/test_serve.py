"""`vulcanized-deployer serve` over HTTP, on the real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployer.serving import OTHER, READER, WRITER, serving
from tests.deployer.stage import Stage
from tests.servers.nodeagent import Behaviour
from tests.servers.wait import eventually
from vulcanized.deployer.tokens import Bucket, Tokens, parse
from vulcanized.errors import SettingsError

pytestmark = pytest.mark.timeout(180)


def test_a_deployment_over_http_from_the_descriptor_to_the_end(stage: Stage) -> None:
    with serving(stage) as service:
        status, _, place = service.ask("POST", "/descriptors/", stage.descriptor())
        assert status == 201
        id_ = place.split("/")[2]
        key = {"Idempotency-Key": "build-7"}
        status, first, place = service.ask("POST", "/deployments/", descriptorId=id_, headers=key)
        assert (status, first["status"], first["version"]) == (202, "DEPLOYING", "1")
        assert place.startswith(f"/deployments/{first['deployment']}/")
        again = service.ask("POST", "/deployments/", descriptorId=id_, headers=key)[1]
        assert again["deployment"] == first["deployment"]
        lines = service.events(first["deployment"])
        assert lines[-1]["status"] == "DEPLOYED"
        assert "switch" in [line.get("step") for line in lines]
        status, found, _ = service.ask("GET", f"/deployments/{first['deployment']}/")
        assert (status, found["status"]) == (200, "DEPLOYED")
        assert stage.controllers() == {"1": 1}
        # A second one, cancelled on its way.
        stage.nodes.behave(Behaviour(hold_ready=True), {"app": "todo", "version": "2"})
        status, second, _ = service.ask("POST", "/deployments/", stage.descriptor())
        assert status == 202
        assert service.ask("POST", "/deployments/", stage.descriptor())[0] == 423
        assert service.ask("DELETE", f"/deployments/{second['deployment']}/")[0] == 202
        assert service.events(second["deployment"])[-1]["reason"] == "it was cancelled"
        status, listed, _ = service.ask("GET", "/deployments/", appname="todo")
        assert [each["status"] for each in listed] == ["FAILURE", "DEPLOYED"]
        assert service.ask("GET", f"/deployments/{first['deployment']}/healthcheckdata")[1]
        # The one that serves: it is undeployed.
        status, third, _ = service.ask("DELETE", f"/deployments/{first['deployment']}/")
        assert (status, third["action"]) == (202, "undeploy")
        assert service.events(third["deployment"])[-1]["status"] == "UNDEPLOYED"
        assert stage.controllers() == {}


def test_who_may_not_is_refused_and_nobody_hurts_it(stage: Stage) -> None:
    with serving(stage) as service:
        descriptor = stage.descriptor()
        ask = service.ask
        assert ask("GET", "/healthz", token="")[0] == 200
        assert ask("GET", "/openapi.json", token="")[1]["openapi"] == "3.1.0"
        assert ask("GET", "/deployments/", token="")[0] == 401
        assert ask("GET", "/deployments/", token="x" * 24)[0] == 401
        assert ask("GET", "/deployments/", token=OTHER)[0] == 403
        status, answer, _ = ask("GET", "/deployments/", namespace="")
        assert (status, "?namespace=" in answer["reason"]) == (400, True)
        assert ask("GET", "/deployments/", token=READER)[0] == 200
        assert ask("POST", "/deployments/", descriptor, token=READER)[0] == 403
        elsewhere = {**descriptor, "namespace": "other"}
        assert ask("POST", "/deployments/", elsewhere)[0] == 422
        assert ask("POST", "/descriptors/validate", descriptor)[0] == 200
        assert (
            "replicas"
            in ask("POST", "/descriptors/validate", {**descriptor, "replicas": 0})[1]["reason"]
        )
        assert ask("POST", "/deployments/", b"\xff\x00")[0] == 422
        assert ask("POST", "/deployments/", b" " * ((1 << 20) + 1))[0] == 413
        assert ask("GET", "/deployments/../x/")[0] == 404
        assert ask("PATCH", "/deployments/")[0] == 501
        assert ask("PUT", "/deployments/")[0] == 405
        assert ask("GET", "/deployments/20260101T000000-00000000/")[0] == 404
        # The environment of the service is nobody's.
        own = {**descriptor, "environment": {"A": "${PATH}"}}
        reason = ask("POST", "/deployments/", own)[1]["reason"]
        assert "${PATH}: no value: give ?set=NAME=VALUE" in reason
        secret = {**descriptor, "environment": {"PASSWORD": "geheim"}}
        place = ask("POST", "/descriptors/", secret)[2]
        assert "geheim" not in str(ask("GET", place.partition("?")[0])[1])
        listed = [ask("GET", "/descriptors/", appname=app)[1] for app in ("todo", "other")]
        assert [len(each) for each in listed] == [1, 0]
        strangers = [ask("GET", "/deployments/", token="")[0] for _ in range(40)]
        assert 429 in strangers
        eventually(lambda: ask("GET", "/deployments/")[0] == 200, 10)


def test_the_service_finishes_what_a_dead_deployer_left(stage: Stage) -> None:
    assert stage.deploy().code == 0
    stage.nodes.behave(Behaviour(hold_ready=True), {"app": "todo", "version": "2"})
    process = stage.start("deploy", stage.write(stage.descriptor()))
    (pod,) = stage.nodes.wait_pods(
        1, stage.namespace, {"app": "todo", "version": "2"}, state="Running"
    )
    process.kill()
    stage.expire_lock()
    with serving(stage) as service:
        stage.nodes.set_ready(pod)

        def done() -> bool:
            return bool(service.ask("GET", "/deployments/")[1][0]["status"] == "DEPLOYED")

        eventually(done, 60, interval=0.5)
    assert stage.controllers() == {"2": 1}


def test_tokens_are_read_again_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{WRITER} a,b\n{READER} * read\n")
    file.chmod(0o600)
    tokens = Tokens(file)
    grant = tokens.grant(f"Bearer {WRITER}")
    assert grant is not None
    assert grant.allows("a", writing=True)
    assert not grant.allows("c", writing=False)
    assert WRITER not in str(grant)
    reader = tokens.grant(f"bearer {READER}")
    assert reader is not None
    assert reader.allows("z", writing=False)
    assert not reader.allows("z", writing=True)
    for wrong in ("", "Bearer", "Bearer ", f"Basic {WRITER}", f"Bearer {WRITER}x", "Bearer \udcff"):
        assert tokens.grant(wrong) is None
    file.write_text("broken\n")
    assert tokens.grant(f"Bearer {WRITER}") == grant
    file.write_text(f"{OTHER} a\n")
    assert tokens.grant(f"Bearer {WRITER}") is None
    assert tokens.grant(f"Bearer {OTHER}") is not None
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="others may read it"):
        Tokens(file)
    with pytest.raises(SettingsError) as caught:
        parse("short a\n" + "l" * 20 + "\n" + "l" * 20 + " a write\n", "tokens")
    assert len(caught.value.problems) == 3
    with pytest.raises(SettingsError, match=r"none: cannot be read \(No such file.*chmod 600"):
        Tokens(tmp_path / "none")
    with pytest.raises(SettingsError, match="holds no token"):
        parse("# nothing\n", "tokens")


def test_a_bucket_fills_again() -> None:
    now = 0.0
    bucket = Bucket(2.0, 3.0, lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
