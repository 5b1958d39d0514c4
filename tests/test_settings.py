"""Settings: what is read, what is refused, and that a mistake is told with its place and cure."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from vulcanized.errors import SettingsError
from vulcanized.model import Endpoint
from vulcanized.settings import HaproxySettings, Settings

FILES = "[directory]\n"
LIVE = "[kubernetes]\n[etcd]\n"
TARGET = '[[targets]]\nkind = "haproxy"\ndirectory = "edge"\nlisten = ["0.0.0.0:80"]\n'


def load(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    path = folder / "vulcanized.toml"
    path.write_text(text)
    return Settings.load(path, environ or {})


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, text, environ)
    assert caught.value.origin == str(folder / "vulcanized.toml")
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


# --- what is read -----------------------------------------------------------------------------


def test_everything_that_the_design_names_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        instance = "infra-1"
        [kubernetes]
        kubeconfig = "/etc/vulcanized/kubeconfig"
        context = "prod"
        namespaces = ["shop", "web"]
        selector = "tier=front"
        app_label = "app.kubernetes.io/name"
        version_label = "release"
        [etcd]
        endpoints = ["https://10.0.0.1:2379", "https://[fd00::2]"]
        prefix = "/edge/"
        ca = "/etc/ca.pem"
        cert = "/etc/cert.pem"
        key = "/etc/key.pem"
        username = "edge"
        password_file = "/etc/password"
        [sync]
        hold_off = 0.1
        ceiling = 1
        resync = 60
        state = "memory"
        [guard]
        max_removed = 0.25
        [[targets]]
        kind = "haproxy"
        name = "edge"
        directory = "/etc/haproxy/vulcanized"
        listen = ["0.0.0.0:80", "[::]:80", ":8080"]
        listen_tls = ["*:443"]
        master_socket = "/run/haproxy/master.sock"
        start = true
        templates = "mine"
        strict = true
        [admin]
        listen = "[::1]:9000"
        [log]
        format = "json"
        level = "debug"
        [deployer]
        tokens = "/etc/vulcanized/tokens"
        keep_previous = 0
        """,
    )
    assert settings.instance == "infra-1"
    assert settings.kubernetes is not None
    assert settings.kubernetes.namespaces == ("shop", "web")
    assert settings.etcd is not None
    assert settings.etcd.endpoints == ("https://10.0.0.1:2379", "https://[fd00::2]:2379")
    assert settings.etcd.prefix == "/edge"
    assert settings.directory is None
    assert settings.sync.ceiling == 1.0
    assert settings.state == tmp_path / "memory"
    target = edge(settings)
    assert target.listen == (Endpoint("0.0.0.0", 80), Endpoint("::", 80), Endpoint("*", 8080))
    assert [str(one) for one in target.listen] == ["0.0.0.0:80", "[::]:80", "*:8080"]
    assert target.master_socket == Path("/run/haproxy/master.sock")
    assert target.templates == tmp_path / "mine"
    assert settings.admin.listen == Endpoint("::1", 9000)
    assert settings.deployer is not None
    assert settings.deployer.keep_previous == 0


def edge(settings: Settings) -> HaproxySettings:
    """The first target, which is an HAProxy."""
    target = settings.targets[0]
    assert isinstance(target, HaproxySettings)
    return target


def test_what_is_left_out_has_the_documented_default(tmp_path: Path) -> None:
    settings = load(tmp_path, LIVE + TARGET)
    assert settings.instance == socket.gethostname()
    assert settings.kubernetes is not None
    assert settings.kubernetes.kubeconfig is None
    assert settings.kubernetes.namespaces == ()
    assert settings.etcd is not None
    assert settings.etcd.prefix == "/vulcanized"
    assert (settings.sync.hold_off, settings.sync.ceiling, settings.sync.resync) == (0.05, 0.5, 300)
    assert settings.guard.max_removed == 0.5
    assert settings.targets[0].name == "haproxy"
    assert edge(settings).master_socket == tmp_path / "edge/master.sock"
    assert settings.admin.listen == Endpoint("127.0.0.1", 9642)
    assert (settings.log.format, settings.log.level) == ("auto", "info")


def test_the_same_text_gives_equal_settings_so_that_a_hangup_can_see_what_changed(
    tmp_path: Path,
) -> None:
    assert load(tmp_path, LIVE + TARGET) == load(tmp_path, LIVE + TARGET)
    assert load(tmp_path, LIVE + TARGET) != load(tmp_path, LIVE + "[log]\nlevel='debug'\n" + TARGET)


@pytest.mark.parametrize(
    ("text", "manifests", "store"),
    [
        (FILES, "manifests", "store"),
        ('[directory]\nmanifests = "pods"\n', "pods", "store"),
        ('[etcd]\n[directory]\nmanifests = "pods"\n', "pods", None),
        ("[etcd]\n[directory]\n", "manifests", None),
        ('[kubernetes]\n[directory]\nstore = "keys"\n', None, "keys"),
    ],
)
def test_the_directory_stands_in_for_the_sides_that_no_live_section_serves(
    tmp_path: Path, text: str, manifests: str | None, store: str | None
) -> None:
    directory = load(tmp_path, text + TARGET).directory
    assert directory is not None
    assert directory.manifests == (tmp_path / manifests if manifests else None)
    assert directory.store == (tmp_path / store if store else None)


def test_the_memory_of_last_good_configs_is_where_systemd_says(tmp_path: Path) -> None:
    assert load(tmp_path, FILES + TARGET).state == tmp_path / "edge/state"
    environ = {"STATE_DIRECTORY": "/var/lib/vulcanized:/var/lib/other"}
    assert load(tmp_path, FILES + TARGET, environ).state == Path("/var/lib/vulcanized")
    written = FILES + '[sync]\nstate = "mine"\n' + TARGET
    assert load(tmp_path, written, environ).state == tmp_path / "mine"


# --- the environment --------------------------------------------------------------------------


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[kubernetes]\nnamespaces = ["a"]\n[etcd]\nprefix = "/file"\n' + TARGET,
        {
            "VULCANIZED_INSTANCE": "from-environment",
            "VULCANIZED_ETCD__PREFIX": "/environment",
            "VULCANIZED_ETCD__ENDPOINTS": "http://10.0.0.1:2379, http://10.0.0.2:2379",
            "VULCANIZED_KUBERNETES__NAMESPACES": '["b", "c"]',
            "VULCANIZED_SYNC__HOLD_OFF": "0.2",
            "VULCANIZED_TARGETS__0__START": "true",
            "VULCANIZED_TARGETS__0__LISTEN": ":8080,:8081",
        },
    )
    assert settings.instance == "from-environment"
    assert settings.etcd is not None
    assert settings.etcd.prefix == "/environment"
    assert settings.etcd.endpoints == ("http://10.0.0.1:2379", "http://10.0.0.2:2379")
    assert settings.kubernetes is not None
    assert settings.kubernetes.namespaces == ("b", "c")
    assert settings.sync.hold_off == 0.2
    assert edge(settings).start
    assert edge(settings).listen == (Endpoint("*", 8080), Endpoint("*", 8081))
    assert edge(settings).directory == tmp_path / "edge"


def test_an_entry_can_be_added_to_the_targets_by_environment(tmp_path: Path) -> None:
    added = {
        "VULCANIZED_TARGETS__1__KIND": "haproxy",
        "VULCANIZED_TARGETS__1__NAME": "second",
        "VULCANIZED_TARGETS__1__DIRECTORY": "second",
        "VULCANIZED_TARGETS__1__LISTEN": ":81",
    }
    assert [target.name for target in load(tmp_path, LIVE + TARGET, added).targets] == [
        "haproxy",
        "second",
    ]


def test_a_container_without_a_file_is_set_up_by_environment_alone() -> None:
    settings = Settings.load(
        None,
        {
            "VULCANIZED_KUBERNETES": "{}",
            "VULCANIZED_ETCD__ENDPOINTS": "http://etcd:2379",
            "VULCANIZED_TARGETS": '[{"kind": "haproxy", "directory": "/run/v", "listen": ":80"}]',
        },
    )
    assert settings.kubernetes is not None
    assert edge(settings).directory == Path("/run/v")


def test_the_settings_file_can_be_named_by_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(FILES + TARGET)
    assert Settings.load(None, {"VULCANIZED_CONFIG": str(path)}).directory is not None


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_do_no_harm(
    tmp_path: Path,
) -> None:
    environ = {
        "VULCANIZED_SERVICE_HOST": "10.0.0.9",
        "VULCANIZED_PORT": "tcp://10.0.0.9:9642",
        "VULCANIZED_PORT_9642_TCP_ADDR": "10.0.0.9",
    }
    assert load(tmp_path, FILES + TARGET, environ) == load(tmp_path, FILES + TARGET)


def test_the_environment_of_this_process_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VULCANIZED_LOG__LEVEL", "debug")
    assert load(tmp_path, FILES + TARGET).log.level == "info"


# --- what is refused, and what is said about it -----------------------------------------------

REFUSED = (Path(__file__).parent / "golden/refused_settings.txt").read_text().split("## ")[1:]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.partition("\n")[0])
def test_refused_with_place_and_cure(tmp_path: Path, case: str) -> None:
    lines = case.replace("@target\n", TARGET).replace("{folder}", str(tmp_path)).splitlines()[1:]
    said = [line.removeprefix("=> ") for line in lines if line.startswith("=> ")]
    text = "\n".join(line for line in lines if not line.startswith("=> "))
    assert said
    assert problems(tmp_path, text) == said


def test_all_problems_are_told_at_once_each_with_the_file(tmp_path: Path) -> None:
    text = '[etcd]\nca = 5\n[log]\nlevel = "loud"\n[[targets]]\nkind = "haproxy"\nlisten = "80"\n'
    said = problems(tmp_path, text)
    assert [line.partition(": ")[0] for line in said] == [
        "there is no cluster side",
        "etcd.ca",
        "targets[0].directory",
        "targets[0].listen[0]",
        "log.level",
    ]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert all(line.startswith(f"{tmp_path / 'vulcanized.toml'}: ") for line in lines)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("VULCANIZED_SYNC__HOLD_OFF", "soon", "must be a number, not 'soon'"),
        ("VULCANIZED_SYNC__HOLD_OF", "1", "unknown key; did you mean hold_off?"),
        ("VULCANIZED_SYNC", "{oops", "must be a table with keys of its own, not '{oops'"),
        (
            "VULCANIZED_TARGETS__0__LISTEN",
            "[80",
            "is not a JSON list (Expecting ',' delimiter: line 1 column 4 (char 3))",
        ),
        (
            "VULCANIZED_ETDC__PREFIX",
            "/a",
            "there is no section [etdc]; sections are "
            + ", ".join(name for name in Settings.model_fields if name != "instance"),
        ),
    ],
)
def test_a_problem_of_a_variable_names_the_variable(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    assert problems(tmp_path, FILES + TARGET, {variable: value}) == [
        f"environment {variable}: {said}"
    ]


def test_an_entry_of_a_list_that_is_far_from_its_end_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, FILES + TARGET, {"VULCANIZED_TARGETS__7__START": "true"}) == [
        "targets: must be a list: '7' is not the index of the next entry"
    ]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(tmp_path / "none.toml", {"VULCANIZED_ETCD__PREFIX": "/a"})
    assert str(caught.value) == (
        f"{tmp_path}/none.toml: there is no such file; write it, or name another with --config FILE"
    )


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\)"):
        Settings.load(tmp_path, {})
    path = tmp_path / "latin.toml"
    path.write_bytes('instance = "caf\xe9"'.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"is not UTF-8 text \(byte 15\)"):
        Settings.load(path, {})


def test_paths_are_absolute_wherever_the_file_was_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vulcanized.toml").write_text(FILES + TARGET)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(Path("vulcanized.toml"), {})
    assert edge(settings).directory == tmp_path / "edge"
    assert os.fspath(settings.state).startswith(os.fspath(tmp_path))
