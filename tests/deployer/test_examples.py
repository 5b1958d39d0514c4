"""What stands in `examples/deployer` can be used as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from vulcanized.deployer.cli import main
from vulcanized.deployer.descriptor import descriptor_schema

FOLDER = Path(__file__).parents[2] / "examples/deployer"


@pytest.mark.parametrize("name", ["todo.yaml", "todo-canary.json", "amdatu.json"])
def test_an_example_is_a_descriptor(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(FOLDER / name), "--set", "TAG=1.4.2"]) == 0
    assert "no problems" in capsys.readouterr().out
    if name != "amdatu.json":
        document = yaml.safe_load((FOLDER / name).read_text())
        Draft202012Validator(descriptor_schema()).validate(document)


def test_the_script_is_one() -> None:
    assert subprocess.run(["sh", "-n", str(FOLDER / "release.sh")]).returncode == 0
