"""Where bad input is put in: files in a folder, and the program on them as a user would run it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.daemons import run_command
from tests.servers.localpods import Files
from tests.servers.ports import free_port


class Stage(Files):
    """Manifests, a store and settings with one HAProxy target, which no command needs to run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.settings = folder / "vulcanized.toml"
        self.target = folder / "edge"
        self.settings.write_text(f"{self.sides}\n{target('edge', self.target)}")

    def command(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """`vulcanized` with these words and the settings, to its end."""
        return run_command(*words, "--config", str(self.settings), **more)

    def pod_of(self, app: str, address: tuple[str, int] = ("127.0.0.1", 9)) -> None:
        """A ready pod of that app, at an address that somebody else may answer."""
        self.pod(pod(f"{app}-1", app, address))

    def app_file(self, app: str) -> Path:
        return self.store / f"apps/default/{app}.json"

    def active_file(self, app: str) -> Path:
        return self.store / f"active/default/{app}"


def target(name: str, directory: Path, *more: str) -> str:
    """The settings of a HAProxy target; `more`: further lines."""
    # A Unix socket's path is short, and pytest's folders are long.
    port = free_port()
    lines = (
        "",
        "[[targets]]",
        'kind = "haproxy"',
        f'name = "{name}"',
        f'directory = "{directory}"',
        f'listen = ["127.0.0.1:{port}"]',
        f'master_socket = "{tempfile.gettempdir()}/vulcanized-{port}.sock"',
        *more,
        "",
    )
    return "\n".join(lines)


def pod(
    name: str, app: str, address: tuple[str, int] = ("127.0.0.1", 9), version: str = "1"
) -> dict[str, Any]:
    """A ready pod as `kubectl get pod -o json` prints it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app, "version": version}},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": address[1]}]}]},
        "status": {
            "phase": "Running",
            "podIP": address[0],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def write(path: Path, text: str | bytes) -> None:
    """Whatever somebody may write; also half surrogate pairs."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))


def by_app(said: str, folder: Path | None = None) -> Mapping[str, list[str]]:
    """What a command said on standard error, by the app (without namespace) that it is about."""
    lines: dict[str, list[str]] = {}
    for line in said.splitlines():
        about = re.match(r"vulcanized: default/([^:]+): (.*)", line)
        subject, text = (about[1], about[2]) if about else ("", line)
        lines.setdefault(subject, []).append(text.replace(str(folder), "FOLDER"))
    return lines


def problems_of(status: Mapping[str, Any], app: str) -> list[str]:
    """The problems of an app in `/status`, as `check` prints them."""
    document = next((each for each in status["apps"] if each["app"] == f"default/{app}"), None)
    return [] if document is None else [_problem(each) for each in document["problems"]]


def _problem(problem: Mapping[str, str]) -> str:
    where = f" ({problem['where']})" if problem["where"] else ""
    return f"{problem['code']}: {problem['message']}{where}"
