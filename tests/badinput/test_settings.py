"""Settings: every mistake at once, each with its place and what to do instead; secrets never."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.badinput.golden import agrees, without
from tests.daemons import run_command
from vulcanized.cli import main

FILES = '[directory]\nmanifests = "m"\nstore = "s"\n'
TARGET = '[[targets]]\nkind = "haproxy"\ndirectory = "edge"\nlisten = ["0.0.0.0:80"]\n'
GOOD = FILES + TARGET
SECRET = "hunter2"

MANY = """instance = "a b"
[log]
level = "loud"
[sync]
hold-off = -1
resync = "often"
[[targets]]
kind = "haproxy"
listen = "80"
"""

# Title, the file, the environment.
Variables = dict[str, str]
CASES: tuple[tuple[str, str | bytes, Variables], ...] = (
    ("an empty file", "", {}),
    ("a key twice", '[log]\nlevel = "info"\nlevel = "debug"\n' + GOOD, {}),
    ("a section twice", FILES + TARGET + "[directory]\n", {}),
    ("a section that is a list", GOOD.replace("[directory]", "[[directory]]"), {}),
    ("one target in single brackets", GOOD.replace("[[targets]]", "[targets]"), {}),
    ("a text without its end", GOOD + '[log]\nlevel = "info\n', {}),
    ("a value without quotes", GOOD + "[log]\nlevel = info\n", {}),
    ("YAML", "directory:\n  manifests: m\n", {}),
    ("JSON", '{"directory": {}}', {}),
    ("deep nesting", "a = " + "[" * 100_000, {}),
    ("bytes that are no UTF-8", GOOD.encode() + b'instance = "caf\xe9"', {}),
    ("a zero byte", GOOD + 'instance = "a\0"', {}),
    ("a number too large", GOOD + "[sync]\nresync = 1" + "0" * 400, {}),
    ("a date for a text", "instance = 2026-01-01\n" + GOOD, {}),
    ("two of one name", GOOD + TARGET.replace("edge", "other").replace(":80", ":81"), {}),
    ("two in one directory", GOOD + TARGET + 'name = "other"\n', {}),
    (
        "two on one address",
        GOOD + TARGET.replace("edge", "other") + 'name = "other"\n',
        {},
    ),
    (
        "two on one address by another name",
        GOOD + TARGET.replace("edge", "other").replace("0.0.0.0:80", "*:80") + 'name = "other"\n',
        {},
    ),
    (
        "the proxy and the admin page on one address",
        GOOD + '[admin]\nlisten = "127.0.0.1:80"\n',
        {},
    ),
    ("port 0", GOOD.replace(":80", ":0"), {}),
    ("port 65536", GOOD.replace(":80", ":65536"), {}),
    ("a port alone", GOOD.replace("0.0.0.0:80", "80"), {}),
    ("a name for an address", GOOD.replace("0.0.0.0", "localhost"), {}),
    ("an address with a newline", GOOD.replace("0.0.0.0:80", "0.0.0.0:80\\n"), {}),
    ("an address in which digits are not", GOOD.replace(":80", ":٨٠"), {}),
    ("a directory with a space", GOOD.replace('"edge"', '"my edge"'), {}),
    ("a directory with a newline", GOOD.replace('"edge"', '"edge\\nglobal"'), {}),
    ("a directory with a zero byte", GOOD.replace('"edge"', '"edge\\u0000"'), {}),
    ("an empty directory", GOOD.replace('"edge"', '""'), {}),
    ("a directory of 300 characters", GOOD.replace('"edge"', f'"{"e" * 300}"'), {}),
    ("a name with a newline", GOOD + 'name = "edge\\n"\n', {}),
    ("a label selector that is none", '[kubernetes]\nselector = "a=\\n"\n[etcd]\n' + TARGET, {}),
    (
        "a password in an endpoint",
        f'[kubernetes]\n[etcd]\nendpoints = ["http://u:{SECRET}@10.0.0.1:2379"]\n' + TARGET,
        {},
    ),
    ("a password for a key", f'[kubernetes]\n[etcd]\npassword = "{SECRET}"\n' + TARGET, {}),
    ("a variable that is no list", GOOD, {"VULCANIZED_TARGETS__0__LISTEN": "[80"}),
    ("a variable with a bad address", GOOD, {"VULCANIZED_TARGETS__0__LISTEN": "80,*:81"}),
    ("a variable for a target far away", GOOD, {"VULCANIZED_TARGETS__7__START": "true"}),
    ("a variable for a target by name", GOOD, {"VULCANIZED_TARGETS__EDGE__START": "true"}),
    ("a variable for an unknown key", GOOD, {"VULCANIZED_LOG__LEVLE": "info"}),
    ("a variable for an unknown section", GOOD, {"VULCANIZED_ETDC__PREFIX": "/a"}),
    ("a variable for a section", GOOD, {"VULCANIZED_LOG": "loud"}),
    ("a variable that is broken JSON", GOOD, {"VULCANIZED_LOG": '{"level": '}),
    ("a variable that is no number", GOOD, {"VULCANIZED_SYNC__RESYNC": "often"}),
    (
        "many at once",
        MANY,
        {"VULCANIZED_GUARD__MAX_REMOVED": "all"},
    ),
)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder in which the path of a Unix socket is short, and always as short."""
    with tempfile.TemporaryDirectory(prefix="vb-", dir="/tmp") as folder:
        yield Path(folder)


def test_each_is_told_with_its_place_and_what_to_do(
    short_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("VULCANIZED_"):
            monkeypatch.delenv(name)
    path = short_path / "vulcanized.toml"
    said = []
    fine = []
    for title, text, variables in CASES:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            code = main(["status", "--config", str(path)])
        output = capsys.readouterr()
        if code != 2:
            fine.append(title)
            continue
        assert output.out == ""
        assert SECRET not in output.err
        lines = without(output.err, {str(path): "FILE", str(short_path): "FOLDER"}).splitlines()
        given = text if isinstance(text, bytes) else text.replace(SECRET, "SECRET")
        environment = "".join(f"\n{name}={value}" for name, value in variables.items())
        said.append((title, environment.strip() or given, lines))
    assert fine == []
    agrees("settings-of-the-program", said)


@pytest.mark.parametrize("command", ["run", "check", "render", "diff", "status"])
def test_every_command_ends_with_2_and_the_same_words(tmp_path: Path, command: str) -> None:
    path = tmp_path / "vulcanized.toml"
    path.write_text(GOOD + '[log]\nlevel = "loud"\n')
    ended = run_command(command, "--config", str(path))
    assert ended.returncode == 2
    assert ended.stderr == (
        f"vulcanized: {path}: log.level: must be 'debug', 'info', 'warning' or 'error', "
        "not 'loud'\n"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["vulcanized.toml"]


@pytest.mark.parametrize("place", ["missing", "a directory", "unreadable", "a loop"])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, place: str) -> None:
    path = tmp_path / "vulcanized.toml"
    reason = {
        "missing": "there is no such file; write it, or name another with --config FILE",
        "a directory": "cannot be read (Is a directory); mend its path or its permissions",
        "unreadable": "cannot be read (Permission denied); mend its path or its permissions",
        "a loop": "cannot be read (Too many levels of symbolic links); mend its path or its "
        "permissions",
    }[place]
    if place == "a directory":
        path.mkdir()
    elif place == "unreadable":
        path.write_text(GOOD)
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root may read everything")
    elif place == "a loop":
        path.symlink_to(path.name)
    ended = run_command("check", "--config", str(path))
    assert (ended.returncode, ended.stderr) == (2, f"vulcanized: {path}: {reason}\n")
