"""Templates: strict, sandboxed, overridden file by file, followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.wait import eventually
from tests.targets.edge import app
from vulcanized.errors import TemplateFailed
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


def test_shipped_templates_are_not_watched() -> None:
    assert not Templates("haproxy").changed()
