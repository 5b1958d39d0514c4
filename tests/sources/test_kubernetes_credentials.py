"""Where the API server is and who we are there: kubeconfigs, plugins, accounts, rights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import faults
from tests.fakes.kubernetes import FakeKubernetes, User
from tests.sources.following import following
from vulcanized.errors import Refused, SettingsError
from vulcanized.model import SourcePhase
from vulcanized.settings import KubernetesSettings
from vulcanized.slot import DirtyApps
from vulcanized.sources.kubernetes import KubernetesSource

# --- credentials ------------------------------------------------------------------------------


def kubeconfig(path: Path, **changes: Any) -> Path:
    whole: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(whole | changes))
    return path


def exec_user(*command: str) -> dict[str, Any]:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": command[0],
        "args": list(command[1:]),
    }
    return {"users": [{"name": "u", "user": {"exec": plugin}}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{", "not YAML"),
        ("[]", "not a kubeconfig"),
        ("7", "not a kubeconfig"),
        ("text", "not a kubeconfig"),
        ("clusters: 7", "not a kubeconfig"),
        ("{}", "current-context"),
        ("current-context: x\ncontexts: []", "name x in .*contexts"),
        ("contexts: [{}]\ncurrent-context: x", "not a kubeconfig|name"),
    ],
)
def test_a_broken_kubeconfig_is_a_settings_error_that_names_the_file(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    with pytest.raises(SettingsError, match=message) as raised:
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_kubeconfig_that_is_not_there_is_a_settings_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"

    with pytest.raises(SettingsError, match="there is no such file"):
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())


def test_an_unknown_context_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "kubeconfig")

    with pytest.raises(SettingsError, match=r"object with name production in .*contexts"):
        KubernetesSource(KubernetesSettings(kubeconfig=path, context="production"), DirtyApps())


@pytest.mark.parametrize("command", [("false",), ("no-such-program",), ("echo", "nonsense")])
def test_an_exec_plugin_that_gives_nothing_is_refused(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = kubeconfig(tmp_path / "kubeconfig", **exec_user(*command))

    with pytest.raises(Refused, match=f"exec plugin '{command[0]}' failed, or gave no"):
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())


def test_an_exec_plugin_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.sources.kubernetes._PLUGIN_SECONDS", 0.2)
    path = kubeconfig(tmp_path / "kubeconfig", **exec_user("sleep", "60"))
    began = time.monotonic()

    with pytest.raises(Refused, match=r"exec plugin 'sleep' failed, or .* within 0\.2 s"):
        KubernetesSource(KubernetesSettings(kubeconfig=path), DirtyApps())
    assert time.monotonic() - began < 5


@pytest.fixture
def guarded(server: FakeKubernetes, tmp_path: Path) -> User:
    """Somebody who may follow; from now on the server wants a token."""
    resources = ["pods", "replicationcontrollers", "replicasets", "deployments"]
    rule = {"apiGroups": ["", "apps"], "resources": resources, "verbs": ["list", "watch"]}
    return server.user(tmp_path, [rule])


def users_kubeconfig(server: FakeKubernetes, path: Path, user: dict[str, Any]) -> Path:
    clusters = [{"name": "c", "cluster": {"server": server.url}}]
    return kubeconfig(path, clusters=clusters, users=[{"name": "u", "user": user}])


def test_an_exec_plugin_gives_the_token(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    version = "client.authentication.k8s.io/v1"
    credential = {
        "apiVersion": version,
        "kind": "ExecCredential",
        "status": {"token": guarded.token},
    }
    user = exec_user("echo", json.dumps(credential))["users"][0]["user"]
    path = users_kubeconfig(server, tmp_path / "kubeconfig", user)

    with following(KubernetesSettings(kubeconfig=path)) as running:
        running.until_spoken()


def test_a_token_file_may_end_in_a_newline(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{guarded.token}\n")
    path = users_kubeconfig(server, tmp_path / "kubeconfig", {"tokenFile": "token"})

    with following(KubernetesSettings(kubeconfig=path)) as running:
        running.until_spoken()


@pytest.mark.parametrize("secret", ["geheim\nheimlich", "geheim\u20ac", "geheim\x00"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(
    server: FakeKubernetes, tmp_path: Path, secret: str
) -> None:
    path = users_kubeconfig(server, tmp_path / "kubeconfig", {"token": secret})

    with following(KubernetesSettings(kubeconfig=path)) as running:
        state = running.until_error("the token is not one line of plain text")

    assert state.error.startswith(f"{path}: ")
    assert "geheim" not in state.error
    assert server.count() == 0


def test_credentials_that_were_renewed_in_their_file_are_taken_up(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("expired")
    path = users_kubeconfig(server, tmp_path / "kubeconfig", {"tokenFile": "token"})
    with following(KubernetesSettings(kubeconfig=path)) as running:
        state = running.until_error("does not accept the credentials")
        assert str(path) in state.error
        assert "(401)" in state.error

        path.write_text("{")
        running.until_error("not YAML")
        users_kubeconfig(server, path, {"tokenFile": "token"})
        (tmp_path / "token").write_text(guarded.token)
        running.until_spoken()
        running.until_synced()


def test_what_is_forbidden_names_what_must_be_granted(
    server: FakeKubernetes, guarded: User, tmp_path: Path
) -> None:
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}
    user = server.user(tmp_path, [rule])
    settings = KubernetesSettings(kubeconfig=user.kubeconfig)

    with following(settings) as running:
        pods = running.until_error("forbidden")
        replica_sets = running.until_error("forbidden", "kubernetes/replicasets")
        deployments = running.until_error("forbidden", "kubernetes/deployments")
    with following(settings.model_copy(update={"namespaces": ("blue",)})) as running:
        blue = running.until_error("forbidden", "kubernetes/pods/blue")

    assert pods.error.startswith(
        "list pods in all namespaces is forbidden:"
        ' grant verbs list, watch on resource "pods" (apiGroup ""); the server says: pods is'
    )
    assert 'on resource "replicasets" (apiGroup "apps")' in replica_sets.error
    assert deployments.error.startswith("watch deployments in all namespaces is forbidden")
    assert blue.error.startswith('list pods in namespace "blue" is forbidden')


def test_rights_taken_away_keep_the_state(
    server: FakeKubernetes, settings: KubernetesSettings
) -> None:
    forbidden = faults.Refuse(403, "Forbidden", "pods is forbidden")
    with following(settings) as running:
        running.until_spoken()
        with server.suffering(forbidden):
            server.cut()
            assert running.until_error("forbidden").phase is SourcePhase.STALE
            assert running.names() == ["a"]
        running.until_synced()


# --- where the credentials come from ----------------------------------------------------------

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}


@pytest.mark.parametrize(
    ("token", "ca", "message"),
    [(None, "x", "token file"), ("", "x", "empty"), ("t", None, "certification file")],
)
def test_an_incomplete_service_account_is_a_settings_error(
    tmp_path: Path, token: str | None, ca: str | None, message: str
) -> None:
    for name, text in (("token", token), ("ca.crt", ca)):
        if text is not None:
            (tmp_path / name).write_text(text)

    with pytest.raises(SettingsError, match=message) as raised:
        KubernetesSource(
            KubernetesSettings(), DirtyApps(), environ=IN_CLUSTER, service_account=tmp_path
        )
    assert str(tmp_path) in str(raised.value)


def test_a_kubeconfig_in_the_settings_wins_over_the_cluster_that_we_are_in(
    settings: KubernetesSettings, tmp_path: Path
) -> None:
    with following(settings, environ=IN_CLUSTER, service_account=tmp_path) as running:
        running.until_spoken()


def test_without_a_kubeconfig_in_the_settings_it_is_the_users(
    settings: KubernetesSettings, tmp_path: Path
) -> None:
    environ = {"KUBECONFIG": f"{tmp_path / 'none'}:{settings.kubeconfig}"}
    with following(KubernetesSettings(), environ=environ) as running:
        running.until_spoken()
