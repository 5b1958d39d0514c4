"""Templates with faults: told with file and line; what is not rendered anew goes on as it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.badinput.golden import agrees, without
from tests.badinput.stage import Stage, pod, problems_of, target
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually
from vulcanized.resources import templates_directory

pytestmark = pytest.mark.usefixtures("haproxy")

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SHIPPED = templates_directory() / "haproxy"

# Title, file, what it holds.
TEXTS: tuple[tuple[str, str, str | bytes], ...] = (
    ("a tag that does not end", "server.j2", "check\n{% if backend.tls"),
    ("a block that does not end", "backend.j2", "{% if backend.tls %}\nx"),
    ("an unknown tag", "server.j2", "{% iff backend.tls %}{% endif %}"),
    ("an unknown filter", "server.j2", "{{ backend.id|shout }}"),
    ("an undefined name", "server.j2", "\n\n{{ nobody }}"),
    ("an undefined field", "server.j2", "{{ backend.adress }}"),
    ("an undefined name in the frame", "haproxy.cfg.j2", "global\n{{ lisen }}"),
    ("an include that is missing", "server.j2", "{% include 'away.j2' %}"),
    ("an include from elsewhere", "server.j2", "{% include '../../../../etc/passwd' %}"),
    ("an include of itself", "server.j2", "{% include 'server.j2' %}"),
    ("a macro without end", "server.j2", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    ("an endless loop", "backend.j2", LOOP),
    ("an endless loop in the frame", "haproxy.cfg.j2", LOOP),
    ("an endless power", "server.j2", "{{ 10 ** (10 ** 10) }}"),
    ("a range of a billion", "server.j2", "{% for i in range(10**9) %}{% endfor %}"),
    ("ten gigabytes", "server.j2", "{{ 'a' * 10**10 }}"),
    ("a long text", "backend.j2", "{% for i in range(99999) %}{{ 'a' * 99 }}\n{% endfor %}"),
    ("a division by zero", "server.j2", "{{ 1 / 0 }}"),
    ("what the sandbox forbids", "server.j2", "{{ ''.__class__.__mro__ }}"),
    ("a value of two lines", "server.j2", "{{ 'a\\nserver evil 6.6.6.6:80' }}"),
    ("a zero byte", "backend.j2", "backend x\0"),
    ("a control character", "backend.j2", "backend \x1bx"),
    ("options with a quote", "server.j2", "check inter '1s'"),
    ("bytes that are no UTF-8", "server.j2", b"caf\xe9"),
    ("a template of 2 MB", "server.j2", "a" * 2_000_000),
)

# The words are HAProxy's and differ from version to version.
REFUSED = (
    ("server.j2", "chekc", "chekc"),
    ("backend.j2", "backend {{ backend.id }} from vulcanized-defaults\n  balanze x", "balanze"),
    ("haproxy.cfg.j2", "", "vulcanized-defaults"),
)


def _file_for_folder(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("")


PLACES: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("no directory", lambda folder: folder.rmdir()),
    ("a file for the directory", _file_for_folder),
    ("a directory for a file", lambda folder: (folder / "server.j2").mkdir()),
    ("a pipe for a file", lambda folder: os.mkfifo(folder / "server.j2")),
    ("a link to nowhere", lambda folder: (folder / "server.j2").symlink_to("away")),
    ("a link to itself", lambda folder: (folder / "server.j2").symlink_to("server.j2")),
    ("a device", lambda folder: (folder / "server.j2").symlink_to("/dev/zero")),
)


def test_each_is_one_clear_line_with_its_place_and_what_to_do(stage: Stage) -> None:
    """Each is the template of a target of its own."""
    stage.config("todo")
    stage.pod_of("todo")
    cases: list[tuple[str, str | bytes, Path]] = []
    for number, (title, file, text) in enumerate(TEXTS):
        folder = stage.folder / f"text-{number:02}"
        folder.mkdir()
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        cases.append((title, text, folder))
    for number, (title, spoil) in enumerate(PLACES):
        folder = stage.folder / f"place-{number:02}"
        folder.mkdir()
        spoil(folder)
        cases.append((title, "", folder))
    stage.settings.write_text(
        f"{stage.sides}\n"
        + "".join(
            target(folder.name, stage.folder / f"edge-{folder.name}", f'templates = "{folder}"')
            for _, _, folder in cases
        )
    )
    began = time.monotonic()
    check = stage.command("check")
    assert time.monotonic() - began < 50
    assert check.returncode == 1
    lines = check.stderr.splitlines()
    said = {
        folder.name: [
            without(
                line, {str(folder): "TEMPLATES", folder.name: "TARGET", str(SHIPPED): "SHIPPED"}
            )
            for line in lines
            if line.startswith(f"vulcanized: target {folder.name}: ")
        ]
        for _, _, folder in cases
    }
    assert sum(map(len, said.values())) == len(lines) == len(cases)
    agrees("templates", [(title, text, said[folder.name]) for title, text, folder in cases])


@pytest.mark.parametrize(("file", "text", "told"), REFUSED)
def test_what_haproxy_refuses_is_told_in_its_words(
    stage: Stage, file: str, text: str, told: str
) -> None:
    stage.config("todo")
    stage.pod_of("todo")
    (stage.folder / "templates").mkdir()
    (stage.folder / "templates" / file).write_text(text)
    with stage.settings.open("a") as settings:
        settings.write(f'templates = "{stage.folder}/templates"\n')
    check = stage.command("check")
    assert check.returncode == 1
    (line,) = check.stderr.splitlines()
    assert line.startswith("vulcanized: target edge: HAProxy refuses ")
    assert told in line


def all_that_is_said(daemon: Vulcanized) -> str:
    """The target's error, and what is told of single apps."""
    status = daemon.status()
    problems = [line for app in ("good", "bad") for line in problems_of(status, app)]
    return "".join([status["targets"][0]["error"], *problems])


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("backend.j2", f"{{% if backend.app == 'default/bad' %}}{LOOP}{{% endif %}}", "not ended"),
        ("backend.j2", LOOP, "not ended"),
        ("haproxy.cfg.j2", "{{ 'a' * 10**10 }}", "more memory"),
        ("server.j2", "{% include 'away.j2' %}", "is in neither"),
    ],
)
def test_pods_come_and_go_under_a_broken_template_and_the_daemon_ends_when_told(
    stage: Stage, file: str, text: str, told: str
) -> None:
    folder = stage.folder / "templates"
    folder.mkdir()
    good = (SHIPPED / file).read_text()
    (folder / file).write_text(good)
    with LocalPods() as pods:
        for app in ("good", "bad"):
            stage.config(app)
            stage.pod_of(app, pods.start(f"{app}-1", "1"))
        lines = f'start = true\ntemplates = "{folder}"'
        # Not a context of its own: that would start it again, to end its HAProxy.
        with closing(Vulcanized(stage.folder / "v", stage.sides, target=lines)) as daemon:
            daemon.start()
            (folder / file).write_text(text + good)
            stage.pod(pod("good-2", "good", pods.start("good-2", "1")))
            eventually(lambda: told in all_that_is_said(daemon), 20, "the failure")
            eventually_served_by(daemon.url, "good.example.com", ["good-1", "good-2"])
            stage.remove_pod("good-1")
            eventually_served_by(daemon.url, "good.example.com", ["good-2"])
            assert served_by(daemon.url, "bad.example.com") == {"bad-1"}
            assert daemon.page("/healthz")[0] == 200

            (folder / file).write_text(good)
            eventually(lambda: not all_that_is_said(daemon), 30, "the recovery")
            (folder / file).write_text(text + good)
            eventually(lambda: told in all_that_is_said(daemon), 20, "it again")
            began = time.monotonic()
            os.kill(daemon.process.pid, signal.SIGTERM)
            eventually(lambda: not daemon.process.running, 8, "the end")
            assert time.monotonic() - began < 5
