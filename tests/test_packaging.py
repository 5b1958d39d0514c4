"""What is shipped: templates in the wheel, one lock for tests and image, a unit that verifies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins(lock: Path) -> dict[str, str]:
    """name -> its whole entry of a lock file, with hashes, without comments."""
    text = re.sub(r"^ +#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    entries = re.finditer(r"^([a-z0-9-]+)==(?:.*\\\n)*.*", text, re.MULTILINE)
    return {entry[1]: entry[0] for entry in entries}


def test_tests_and_image_have_the_same_versions_of_everything() -> None:
    runtime = pins(ROOT / ".ci/requirements.lock")
    tested = pins(ROOT / ".ci/requirements-dev.lock")
    assert "kubernetes" in runtime
    for name, entry in runtime.items():
        assert tested[name] == entry
    sha256 = "61a805cb2c7ac372380d3280de4043dc115d2dc4878188867998301cdf1d68ed"
    assert sha256 in runtime["cslab-etcd3"]


def test_templates_are_found_in_an_installed_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    shutil.rmtree(installed / "tests", ignore_errors=True)
    code = (
        "from vulcanized.resources import templates_directory as d;"
        "print(d()); print(sorted(p.name for p in d().rglob('*.j2')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    where, names = done.stdout.splitlines()
    assert where == str(installed / "vulcanized/templates")
    shipped = sorted(path.name for path in (ROOT / "templates").rglob("*.j2"))
    assert names == str(shipped)
    assert (installed / "vulcanized/py.typed").is_file()


def test_templates_are_found_in_a_checkout() -> None:
    from vulcanized.resources import templates_directory

    assert (templates_directory() / "haproxy/haproxy.cfg.j2").is_file()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_the_unit_verifies(tmp_path: Path) -> None:
    text = (ROOT / "systemd/vulcanized.service").read_text()
    unit = tmp_path / "vulcanized.service"
    unit.write_text(text.replace("/usr/local/bin/vulcanized", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^Type=notify$", text, re.MULTILINE)
    assert re.search(r"^WatchdogSec=", text, re.MULTILINE)
