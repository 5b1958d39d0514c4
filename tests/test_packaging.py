"""What is shipped is whole: templates and types in the wheel, locks that agree, units that load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIND_TEMPLATES = "from vulcanized.resources import templates_directory as t; print(t())"


def run(*arguments: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (made,) = folder.glob("*.whl")
    return made


def test_an_installed_wheel_finds_every_template(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-index", "--no-deps", "--target", site, wheel)
    found = Path(run(sys.executable, "-c", FIND_TEMPLATES, cwd=tmp_path, PYTHONPATH=str(site)))
    assert found == site / "vulcanized/templates"
    assert files_below(found) == files_below(ROOT / "templates")
    version = run(site / "bin/vulcanized", "--version", cwd=tmp_path, PYTHONPATH=str(site))
    assert re.fullmatch(r"vulcanized \d+\.\d+\.\d+\S*", version)


def test_a_checkout_and_an_editable_install_find_the_templates_beside_the_package(
    tmp_path: Path,
) -> None:
    plain = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {FIND_TEMPLATES}"
    assert Path(run(sys.executable, "-I", "-c", plain, cwd=tmp_path)) == ROOT / "templates"
    editable = run(sys.executable, "-c", FIND_TEMPLATES, cwd=tmp_path)
    assert Path(editable) == ROOT / "templates"


def test_the_wheel_says_that_it_is_typed_and_under_which_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert "vulcanized/py.typed" in names
    assert any(re.fullmatch(r"vulcanized-.*\.dist-info/licenses/LICENSE", name) for name in names)
    assert {name.partition("/")[0] for name in names} == {
        "vulcanized",
        next(name.partition("/")[0] for name in names if ".dist-info/" in name),
    }


def test_a_wheel_can_be_made_from_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    run("tar", "-xf", archive, "-C", tmp_path)
    source = archive.with_suffix("").with_suffix("")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=source)
    with zipfile.ZipFile(tmp_path / wheel.name) as again, zipfile.ZipFile(wheel) as first:
        assert again.namelist() == first.namelist()


# --- locks ------------------------------------------------------------------------------------


def pins(lock: Path) -> dict[str, str]:
    """Each pinned requirement with its marker, and the hashes that it may have."""
    blocks = re.findall(
        r"^(\S+==[^\\\n]+?) *\\\n((?:    --hash=\S+(?: \\)?\n)+)", lock.read_text(), re.MULTILINE
    )
    return {requirement: "".join(sorted(hashes.split())) for requirement, hashes in blocks}


def test_every_requirement_of_a_lock_is_pinned_by_hash() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lock = ROOT / ".ci" / name
        lines = [line for line in lock.read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)]
        assert len(lines) == len(pins(lock)) > 10
        assert "://" not in lock.read_text(), "a lock names no index"


def test_tests_run_with_exactly_what_is_shipped() -> None:
    shipped = pins(ROOT / ".ci/requirements.lock")
    tested = pins(ROOT / ".ci/requirements-dev.lock")
    assert shipped.items() <= tested.items()
