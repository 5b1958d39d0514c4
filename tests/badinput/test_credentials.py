"""Who we are to etcd and to the API server: files missing, unreadable, broken, expired.

What the client makes of them without the program: `tests/sources/test_kubernetes_credentials.py`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.badinput.golden import agrees, without
from tests.badinput.stage import Stage, pod, target
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.certs import Authority
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

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


def check(stage: Stage, sides: str) -> subprocess.CompletedProcess[str]:
    stage.settings.write_text(f"{sides}\n{target('edge', stage.target)}")
    return stage.command("check")


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


def test_a_kubeconfig_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    def run(number: int) -> tuple[int, list[str]]:
        stage = Stage(tmp_path / str(number))
        path = stage.folder / "kubeconfig"
        KUBECONFIGS[number][1](path)
        ended = check(
            stage, f'[kubernetes]\nkubeconfig = "{path}"\n[directory]\nstore = "{stage.store}"'
        )
        assert SECRET not in ended.stderr
        assert not stage.target.exists()
        places = {str(path): "KUBECONFIG", str(stage.folder): "FOLDER"}
        # The client logs what its plugins said.
        lines = without(ended.stderr, places).splitlines()
        return ended.returncode, [line for line in lines if line.startswith("vulcanized: ")]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(len(KUBECONFIGS))))
    agrees(
        "kubeconfigs",
        [(title, "", said) for (title, _), (_, said) in zip(KUBECONFIGS, results, strict=True)],
    )
    assert {code for code, _ in results} <= {2, 3}
    assert all(len(said) == 1 for _, said in results)


def test_certificates_for_etcd_that_cannot_be_used_are_told_at_once(stage: Stage) -> None:
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
        ended = check(
            stage,
            f'[directory]\nmanifests = "{stage.manifests}"\n'
            f'[etcd]\nendpoints = ["https://127.0.0.1:1"]\n{lines}',
        )
        assert ended.returncode == 2, ended.stderr
        said.append((title, "", without(ended.stderr, {str(stage.folder): "FOLDER"}).splitlines()))
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
