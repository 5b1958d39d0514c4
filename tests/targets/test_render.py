"""Templates: strict, sandboxed, overridden file by file, followed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.wait import eventually
from tests.targets.edge import app
from vulcanized.errors import TemplateFailed
from vulcanized.model import Balance, HealthCheck, Policies, Protocol, Timeouts
from vulcanized.resources import templates_directory
from vulcanized.targets.haproxy.config import Maps
from vulcanized.targets.haproxy.parts import backend_view
from vulcanized.targets.render import Templates

VIEW = backend_view(app(), "*")


def templates(folder: Path, **files: str) -> Templates:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.j2").write_text(text)
    return Templates("haproxy", folder)


def test_a_file_of_the_override_stands_for_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    both = templates(tmp_path, server="check inter 7s\n")
    assert both.render("server.j2", backend=VIEW) == "check inter 7s\n"
    assert both.render("backend.j2", backend=VIEW).startswith("backend default:todo ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ok\n{% if %}", r"server\.j2:2: Expected an expression"),
        ("ok\n\n{{ nobody }}", r"server\.j2:3: 'nobody' is undefined"),
        ("{{ backend.nothing }}", r"server\.j2:1: .*nothing"),
        ("{% include 'away.j2' %}", r"away\.j2 is in neither .*haproxy"),
        ("{{ 1 / 0 }}", r"server\.j2:1: division by zero"),
        ("{{ backend.__class__.__mro__ }}", r"server\.j2:1: .*unsafe"),
        ("{{ backend.__init__.__globals__ }}", r"server\.j2:1: .*unsafe"),
        ("{{ 'a\\nserver evil' }}", r"server\.j2:1: .*one line"),
    ],
)
def test_what_is_wrong_with_a_template_is_told_with_its_place(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(TemplateFailed, match=told):
        templates(tmp_path, server=text).render("server.j2", backend=VIEW)


def test_a_missing_template_is_told(tmp_path: Path) -> None:
    with pytest.raises(TemplateFailed, match=r"nothing\.j2 is in neither"):
        templates(tmp_path).render("nothing.j2")


def test_changes_of_the_override_are_followed_however_they_are_made(tmp_path: Path) -> None:
    """Also as a mounted ConfigMap changes: a symlink to a directory is swapped."""
    versions = [tmp_path / "v1", tmp_path / "v2"]
    for folder in versions:
        templates(folder, server=f"{folder.name}\n").close()
    link = tmp_path / "templates"
    link.symlink_to(versions[0])
    followed = Templates("haproxy", link)
    followed.changed()
    try:
        assert followed.render("server.j2", backend=VIEW) == "v1\n"
        (versions[0] / "server.j2").write_text("v1, edited\n")
        eventually(followed.changed, 5, "the edit is seen")
        assert followed.render("server.j2", backend=VIEW) == "v1, edited\n"
        swap = tmp_path / "swap"
        swap.symlink_to(versions[1])
        swap.replace(link)
        eventually(followed.changed, 5, "the swap is seen")
        assert followed.render("server.j2", backend=VIEW) == "v2\n"
    finally:
        followed.close()


# --- templates that never end, or eat all memory ----------------------------------------------

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LOOP, r"server\.j2: has not ended after 0\.5 s of computing"),
        ("{{ 10 ** (10 ** 10) }}", r"server\.j2: has not ended after 0\.5 s of computing"),
        ("{{ 'a' * 10 ** 10 }}", r"server\.j2:1: needs more memory"),
        ("{{ ''|center(10 ** 10) }}", r"server\.j2:1: needs more memory"),
        ("{% include 'server.j2' %}", r"server\.j2:1: nests or calls itself too deeply"),
        ("{% for i in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "more than 1048576 characters"),
        ("balance\0first", r"server\.j2: line 1 of its text has the control character '\\x00'"),
    ],
)
def test_a_template_without_bounds_costs_its_own_text_and_no_more(
    tmp_path: Path, text: str, told: str
) -> None:
    both = templates(tmp_path, server=text)
    try:
        with pytest.raises(TemplateFailed, match=told):
            both.render("server.j2", backend=VIEW)
        assert both.render("backend.j2", backend=VIEW).startswith("backend default:todo ")
    finally:
        both.close()


def test_a_text_that_broke_its_renderer_is_not_tried_again_until_the_template_changes(
    tmp_path: Path,
) -> None:
    both = templates(tmp_path, server=f"{{% if backend.version == 'a' %}}{LOOP}{{% endif %}}ok")
    both.changed()
    a, b = (backend_view(app(), version) for version in "ab")
    try:
        with pytest.raises(TemplateFailed, match="has not ended"):
            both.render("server.j2", backend=a)
        spent = os.times().children_user
        for _ in range(100):
            with pytest.raises(TemplateFailed, match="has not ended"):
                both.render("server.j2", backend=a)
            assert both.render("server.j2", backend=b) == "ok"
        assert os.times().children_user - spent < 0.4  # less than one more try takes
        templates(tmp_path, server="mended")
        eventually(both.changed, 5, "the edit is seen")
        assert both.render("server.j2", backend=a) == "mended"
    finally:
        both.close()


def test_a_template_that_breaks_for_everybody_does_not_cost_its_time_for_each(
    tmp_path: Path,
) -> None:
    both = templates(tmp_path, server=LOOP)
    spent = os.times().children_user
    try:
        for number in range(50):
            with pytest.raises(TemplateFailed, match="has not ended"):
                both.render("server.j2", backend=backend_view(app(), f"v{number}"))
        assert os.times().children_user - spent < 5
        assert both.render("backend.j2", backend=VIEW).startswith("backend default:todo ")
    finally:
        both.close()


def test_who_is_told_to_end_does_not_wait_for_a_template(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    stop = threading.Event()
    both = Templates("haproxy", folder, stop)
    assert both.render("backend.j2", backend=VIEW)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    frozen = [int(pid) for pid in children if b"vulcanized.renderer" in _command(pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(TemplateFailed, match="since vulcanized ends"):
        both.render("backend.j2", backend=VIEW)
    assert time.monotonic() - began < 5
    assert len(frozen) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(frozen[0], 0)


def _command(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("version", ["*", "blue"])
def test_an_override_gives_the_same_text_as_what_ships(tmp_path: Path, version: str) -> None:
    """It is rendered by another process, from values that went through a wire."""
    check = HealthCheck("/health", 8081, 1, 0.5, 2, 3, 200, 399)
    policies = Policies(Protocol.HTTPS, Balance.URI, Timeouts(connect=1), 2, check)
    view = backend_view(app(policies=policies), version)
    shipped = Templates("haproxy")
    copied = Templates(
        "haproxy", shutil.copytree(templates_directory() / "haproxy", tmp_path / "t")
    )
    maps = Maps(*(f"/d/{field}" for field in Maps._fields))
    try:
        wanted: dict[str, dict[str, object]] = {
            "backend.j2": {"backend": view},
            "server.j2": {"backend": view},
            "haproxy.cfg.j2": {"listen": ("*:80", "[::]:80 v6only"), "maps": maps},
        }
        for name, values in wanted.items():
            assert copied.render(name, **values) == shipped.render(name, **values)
    finally:
        copied.close()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: folder.rmdir(), "there is no directory .*; make it"),
        (lambda folder: (folder / "server.j2").mkdir(), r"server\.j2: cannot be read \(Is a dir"),
        (lambda folder: (folder / "server.j2").symlink_to("away"), "its link leads nowhere"),
        (lambda folder: (folder / "server.j2").symlink_to("server.j2"), "Too many levels"),
        (lambda folder: os.mkfifo(folder / "server.j2"), "not a regular file"),
        (lambda folder: (folder / "server.j2").write_bytes(b"\xff"), "is not UTF-8 text"),
        (lambda folder: (folder / "server.j2").write_bytes(b"a" * 2_000_000), "more than 1024 KiB"),
    ],
)
def test_an_override_that_cannot_be_read_is_not_taken_for_none(
    tmp_path: Path, spoil: Callable[[Path], object], told: str
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    spoil(folder)
    with pytest.raises(TemplateFailed, match=told):
        Templates("haproxy", folder).render("server.j2", backend=VIEW)


def test_shipped_templates_are_not_watched() -> None:
    assert not Templates("haproxy").changed()
