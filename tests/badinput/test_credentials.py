"""Who we are to etcd and to the API server: files missing, unreadable, broken, expired.

What the client makes of them without the program: `tests/sources/test_kubernetes_credentials.py`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from tests.badinput.golden import agrees, without
from tests.badinput.stage import Stage, pod, target
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.certs import Authority
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually
from vulcanized.cli import main

pytestmark = pytest.mark.usefixtures("haproxy")

SECRET = "hunter2"


def kubeconfig(path: Path, user: dict[str, Any] | None = None, **changes: Any) -> None:
    whole: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user or {"token": SECRET}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(whole | changes))


def plugin(*command: str) -> dict[str, Any]:
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": command[0], "args": [*command[1:]]}}


Check = Callable[[Stage, str], tuple[int, list[str]]]

CLUSTER = {"server": "https://127.0.0.1:1", "certificate-authority": "away.crt"}
KUBECONFIGS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("none", lambda path: None),
    ("a directory", lambda path: path.mkdir()),
    ("an empty one", lambda path: path.write_text("")),
    ("broken YAML", lambda path: path.write_text("clusters: [")),
    ("a list", lambda path: path.write_text("[]")),
    ("one without a context", lambda path: path.write_text("{}")),
    ("a context that nobody has", lambda path: kubeconfig(path, None, **{"current-context": "y"})),
    (
        "a CA that is missing",
        lambda path: kubeconfig(path, clusters=[{"name": "c", "cluster": CLUSTER}]),
    ),
    ("a token file that is missing", lambda path: kubeconfig(path, {"tokenFile": "away"})),
    ("a plugin that is missing", lambda path: kubeconfig(path, plugin("no-such-program"))),
    ("a plugin that fails", lambda path: kubeconfig(path, plugin("false"))),
    ("a plugin that talks nonsense", lambda path: kubeconfig(path, plugin("echo", SECRET))),
)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Iterator[Check]:
    """`vulcanized check` in this process: the client takes seconds to load on a busy machine."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(stage: Stage, sides: str) -> tuple[int, list[str]]:
        stage.settings.write_text(f"{sides}\n{target('edge', stage.target)}")
        code = main(["check", "--config", str(stage.settings)])
        said = capsys.readouterr().err
        assert SECRET not in said
        assert not stage.target.exists()
        # The client logs what its plugins said.
        lines = without(said, {str(stage.folder): "FOLDER"}).splitlines()
        return code, [line for line in lines if line.startswith("vulcanized: ")]

    yield run
    root.handlers, root.level = before
    structlog.reset_defaults()


def test_a_kubeconfig_that_cannot_be_used_is_told_at_once(tmp_path: Path, check: Check) -> None:
    said = []
    for number, (title, make) in enumerate(KUBECONFIGS):
        stage = Stage(tmp_path / str(number))
        path = stage.folder / "kubeconfig"
        make(path)
        sides = f'[kubernetes]\nkubeconfig = "{path}"\n[directory]\nstore = "{stage.store}"'
        code, lines = check(stage, sides)
        assert code == (3 if "plugin" in title else 2)
        assert len(lines) == 1
        said.append((title, "", lines))
    agrees("kubeconfigs", said)


def test_certificates_for_etcd_that_cannot_be_used_are_told_at_once(
    stage: Stage, check: Check
) -> None:
    authority = Authority(stage.folder / "tls")
    mine, other = authority.issue("mine"), authority.issue("other")
    nonsense, half = stage.folder / "nonsense.pem", stage.folder / "half.pem"
    nonsense.write_text("no certificate")
    half.write_bytes(mine.cert.read_bytes()[:100])
    cases: tuple[tuple[str, dict[str, Path]], ...] = (
        ("a CA that is missing", {"ca": stage.folder / "away.crt"}),
        ("a CA that is a directory", {"ca": stage.folder}),
        ("a CA that is none", {"ca": nonsense}),
        ("a CA that breaks off", {"ca": half}),
        ("a certificate that is none", {"ca": authority.ca, "cert": nonsense, "key": mine.key}),
        ("a key that is missing", {"cert": mine.cert, "key": stage.folder / "away.key"}),
        ("a key that is none", {"cert": mine.cert, "key": nonsense}),
        ("somebody else's key", {"cert": mine.cert, "key": other.key}),
        ("the two mixed up", {"cert": mine.key, "key": mine.cert}),
    )
    said = []
    for title, files in cases:
        lines = "".join(f'{name} = "{path}"\n' for name, path in files.items())
        code, told = check(
            stage,
            f'[directory]\nmanifests = "{stage.manifests}"\n'
            f'[etcd]\nendpoints = ["https://127.0.0.1:1"]\n{lines}',
        )
        assert code == 2
        said.append((title, "", told))
    agrees("certificates", said)
    assert [len(lines) for _, _, lines in said] == [1] * len(cases)


def test_a_token_that_expires_keeps_traffic_and_is_taken_up_when_renewed(stage: Stage) -> None:
    with LocalPods() as pods, FakeKubernetes() as server:
        resources = ["pods", "replicationcontrollers", "replicasets", "deployments"]
        rule = {"apiGroups": ["", "apps"], "resources": resources, "verbs": ["list", "watch"]}
        user = server.user(stage.folder, [rule])
        token = stage.folder / "token"
        token.write_text(user.token)
        path = stage.folder / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": server.url}}
        kubeconfig(path, {"tokenFile": str(token)}, clusters=[cluster])
        manifest = pod("todo-1", "todo", pods.start("todo-1", "1"))
        server.store.create("pods", {**manifest, "metadata": _whole(manifest["metadata"])})
        stage.config("todo")
        sides = f'[kubernetes]\nkubeconfig = "{path}"\n[directory]\nstore = "{stage.store}"'
        with Vulcanized(stage.folder / "v", sides) as daemon:
            daemon.start()
            assert served_by(daemon.url, "todo.example.com") == {"todo-1"}
            # The server forgets the token, and cuts who used it.
            renewed = server.user(stage.folder, [rule])
            del server._users[user.token]
            server._await(server._reset())
            eventually(
                lambda: "does not accept the credentials" in json.dumps(daemon.status()["sources"]),
                20,
                "the refusal to show",
            )
            before, began = server.count(), time.monotonic()
            eventually(lambda: time.monotonic() - began > 3, 5)
            assert server.count() - before < 60  # four streams, each backing off
            assert served_by(daemon.url, "todo.example.com") == {"todo-1"}
            assert daemon.metric("vulcanized_source_state", state="stale") == 4
            token.write_text(renewed.token)
            eventually(
                lambda: daemon.metric("vulcanized_source_state", state="synced") == 5, 60, "it back"
            )
            eventually_served_by(daemon.url, "todo.example.com", ["todo-1"])


def _whole(metadata: dict[str, Any]) -> dict[str, Any]:
    return {**metadata, "namespace": "default"}
