"""The command line: exit codes to script against, and one clear line for what is wrong."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.servers.ports import free_port
from vulcanized import appconfig, oneshot
from vulcanized.cli import main

APP = {
    "app": "default/todo",
    "routes": [{"host": "todo.example.com", "path": "/"}],
    "activation": {"wanted": "blue", "in_effect": "blue", "held": False},
    "maintenance": False,
    "versions": [
        {"version": "blue", "active": True, "weight": None, "ready": 1, "desired": 2, "servers": []}
    ],
    "problems": [],
}
SOURCE = {
    "name": "pods",
    "state": "synced",
    "age": 0.5,
    "records": 3,
    "skipped": 0,
    "held": 0,
    "holding": "",
    "error": "",
}
TARGET = {
    "name": "edge",
    "kind": "haproxy",
    "generation": 7,
    "wanted": 7,
    "reloads": {},
    "quarantined": [],
    "error": "",
}
CALM: dict[str, Any] = {
    "instance": "infra-1",
    "version": "1.2.3",
    "generation": 7,
    "ready": True,
    "apps": [APP],
    "targets": [TARGET],
    "sources": [SOURCE],
}
PROBLEM = {"code": "config_invalid", "message": "not JSON", "where": "line 1"}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings of files that name nothing; their daemon would listen at `admin`."""
    for name in ("manifests", "store", "edge"):
        (tmp_path / name).mkdir()
    config = tmp_path / "vulcanized.toml"
    config.write_text(
        f"""
[directory]
manifests = "{tmp_path}/manifests"
store = "{tmp_path}/store"
[[targets]]
kind = "haproxy"
directory = "{tmp_path}/edge"
listen = ["127.0.0.1:{free_port()}"]
start = true
[admin]
listen = "127.0.0.1:{free_port()}"
"""
    )
    return config


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "vulcanized", *words]


# --- what is wrong with the call ------------------------------------------------------------------


def test_every_fault_of_the_settings_gets_a_line_with_its_file(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.write_text(settings.read_text().replace("start = true", "start = 7\nspeed = 9"))
    assert main(["check", "--config", str(settings)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"vulcanized: {settings}: ") for line in lines)
    assert "start" in lines[0] + lines[1]
    assert "speed" in lines[0] + lines[1]


def test_settings_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--config", str(tmp_path / "none.toml")]) == 2
    assert str(tmp_path / "none.toml") in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["dance"], ["schema"], ["run", "--twice"]])
def test_a_call_that_is_none_is_a_matter_of_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


# --- how it ends ----------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as full:
        done = subprocess.run(
            command("schema", "app"), stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(appconfig, "app_schema", interrupted)
    assert main(["schema", "app"]) == 130


def test_a_source_that_says_nothing_is_named_and_cannot_be_reached(
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(oneshot, "SPEAK_SECONDS", 0.3)
    port = free_port()
    (tmp_path / "kubeconfig").write_text(
        f"""
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{}}}}]
"""
    )
    text = settings.read_text().replace(f'manifests = "{tmp_path}/manifests"\n', "")
    settings.write_text(f'{text}\n[kubernetes]\nkubeconfig = "{tmp_path}/kubeconfig"\n')
    assert main(["check", "--config", str(settings)]) == 3
    said = capsys.readouterr().err
    assert "source kubernetes/pods: " in said
    assert f"127.0.0.1:{port}" in said


# --- status ---------------------------------------------------------------------------------------


class _Page(BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def says(settings: Path) -> Iterator[Callable[[bytes], None]]:
    """A daemon whose `/status` is what it is told to be."""
    port = free_port()
    lines = settings.read_text().splitlines()
    settings.write_text("\n".join([*lines[:-1], f'listen = "0.0.0.0:{port}"']))
    with HTTPServer(("127.0.0.1", port), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield lambda content: setattr(_Page, "content", content)
        finally:
            server.shutdown()
            thread.join(10)


def _with(section: str, **changes: object) -> dict[str, Any]:
    return CALM | {section: [CALM[section][0] | changes]}


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (CALM, 0),
        (_with("apps", problems=[PROBLEM]), 1),
        (_with("targets", error="HAProxy does not answer"), 1),
        (_with("sources", error="no route to host"), 1),
        (_with("sources", held=1), 1),
    ],
    ids=["calm", "app", "target", "source", "held"],
)
def test_status_in_a_pipe_is_the_document_and_its_code_tells_of_trouble(
    settings: Path,
    says: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
    document: dict[str, Any],
    code: int,
) -> None:
    says(json.dumps(document).encode())
    assert main(["status", "--config", str(settings)]) == code
    assert json.loads(capsys.readouterr().out) == document


def test_status_on_a_terminal_is_a_table_with_every_trouble(
    settings: Path, says: Callable[[bytes], None]
) -> None:
    says(json.dumps(_with("apps", problems=[PROBLEM])).encode())
    terminal, ours = pty.openpty()
    with subprocess.Popen(
        command("status", "--config", str(settings)),
        stdout=ours,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
    ) as process:
        os.close(ours)
        shown = b""
        with suppress(OSError):  # how a terminal says that nobody is there any more
            while data := os.read(terminal, 4096):
                shown += data
    os.close(terminal)
    assert process.returncode == 1
    for words in ("infra-1", "todo.example.com/", "edge (haproxy)", "config_invalid: not JSON"):
        assert words in shown.decode()


def test_an_answer_that_is_no_status_is_told(
    settings: Path, says: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    says(b"<h1>It works!</h1>")
    assert main(["status", "--config", str(settings)]) == 3
    assert "admin.listen" in capsys.readouterr().err
