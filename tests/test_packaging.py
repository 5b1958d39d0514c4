"""What is shipped is whole: templates and types in the wheel, locks that agree, good units."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIND_TEMPLATES = "from vulcanized.resources import templates_directory as t; print(t())"
BUILD = (sys.executable, "-m", "hatchling", "build")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


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


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("vulcanized.daemon", "rich"),
        ("vulcanized.sources.kubernetes", "charset_normalizer"),
    ],
)
def test_a_daemon_is_imported_without_what_it_never_uses(module: str, left_out: str) -> None:
    said = f"import sys, {module}; print('{left_out}' in sys.modules); import {left_out}"
    (missing,) = run(sys.executable, "-W", "error", "-c", said).splitlines()
    assert missing == "False"


# --- the wheel --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*BUILD, "-t", "wheel", "-d", folder)
    (made,) = folder.glob("*.whl")
    return made


def test_an_installed_wheel_finds_every_template(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(*PIP, "install", "--no-index", "--no-deps", "--target", site, wheel)
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


def test_the_wheel_is_typed_licensed_and_has_nothing_else_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert "vulcanized/py.typed" in names
    about = {name.partition("/")[0] for name in names} - {"vulcanized"}
    assert len(about) == 1
    assert f"{about.pop()}/licenses/LICENSE" in names


def test_a_wheel_can_be_made_from_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    run(*BUILD, "-t", "sdist", "-d", tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    run("tar", "-xf", archive, "-C", tmp_path)
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    run(*BUILD, "-t", "wheel", "-d", tmp_path, cwd=source)
    with zipfile.ZipFile(tmp_path / wheel.name) as again, zipfile.ZipFile(wheel) as first:
        assert again.namelist() == first.namelist()


# --- locks ------------------------------------------------------------------------------------


def pins(lock: str) -> dict[str, str]:
    """Each pinned requirement with its marker, and the hashes that its files may have."""
    block = re.compile(r"^(\S+==[^\\\n]+?) *\\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)
    blocks = block.findall((ROOT / ".ci" / lock).read_text())
    return {requirement: "".join(sorted(hashes.split())) for requirement, hashes in blocks}


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-dev.lock", "requirements-build.lock"]
)
def test_every_requirement_of_a_lock_is_pinned_by_hash(lock: str) -> None:
    text = (ROOT / ".ci" / lock).read_text()
    assert pins(lock)
    assert len(pins(lock)) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    assert "://" not in text, "a lock names no index"


def test_tests_run_with_exactly_what_is_shipped_and_what_builds_it() -> None:
    tested = pins("requirements-dev.lock").items()
    assert pins("requirements.lock").items() <= tested
    assert pins("requirements-build.lock").items() <= tested


def test_etcd3_is_the_build_that_works() -> None:
    sha256 = "61a805cb2c7ac372380d3280de4043dc115d2dc4878188867998301cdf1d68ed"
    shipped = pins("requirements.lock")
    assert sha256 in shipped["cslab-etcd3==0.12.1"]
    assert not any(requirement.startswith("etcd3==") for requirement in shipped)


# --- units and image --------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_the_unit_verifies_and_is_sandboxed(tmp_path: Path) -> None:
    text = (ROOT / "systemd/vulcanized.service").read_text()
    unit = tmp_path / "vulcanized.service"
    unit.write_text(text.replace("/usr/local/bin/vulcanized", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    # Of 10 (nothing is kept from it); the sandbox must not erode unnoticed.
    run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)


def test_the_unit_keeps_what_the_daemon_relies_on() -> None:
    unit = (ROOT / "systemd/vulcanized.service").read_text().splitlines()
    assert {
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=30",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=always",
        "KillMode=process",  # an HAProxy that it started outlives its crash
        "StateDirectory=vulcanized",
        "NoNewPrivileges=yes",
    } <= set(unit)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_the_drop_in_for_debians_haproxy_verifies(tmp_path: Path) -> None:
    debian = Path("/lib/systemd/system/haproxy.service")
    if not debian.exists():
        pytest.skip("Debian's haproxy is not installed")
    shutil.copy(debian, tmp_path)
    shutil.copytree(ROOT / "systemd/haproxy.service.d", tmp_path / "haproxy.service.d")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "haproxy.service"],
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_the_drop_in_for_debians_nginx_verifies_and_erodes_little(tmp_path: Path) -> None:
    text = (ROOT / "systemd/vulcanized.service").read_text()
    unit = tmp_path / "vulcanized.service"
    unit.write_text(text.replace("/usr/local/bin/vulcanized", sys.executable))
    shutil.copytree(ROOT / "systemd/vulcanized.service.d", tmp_path / "vulcanized.service.d")
    debian = Path("/lib/systemd/system/nginx.service")
    if debian.exists():
        # Which ours is to be started after.
        shutil.copy(debian, tmp_path)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    run("systemd-analyze", "security", "--offline=true", "--threshold=30", unit)


def test_all_that_the_image_copies_is_there_and_is_let_in() -> None:
    copied = re.findall(
        r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    sources = [source for line in copied for source in line.split()]
    let_in = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert ".ci/requirements.lock" in sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source
