"""Servers made from Go modules: built once, and a clear word where they cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import build
from tests.servers.build import GoModule, ensure
from tests.servers.programs import ServerMissing, find_program

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Go's own build cache stays where it is, else each of these tests compiles its runtime anew.
    go_cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE", f"{go_cache}/go-build"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


@pytest.fixture
def module(tmp_path: Path) -> GoModule:
    folder = tmp_path / "twins"
    folder.mkdir()
    (folder / "go.mod").write_text("module example.test/twins\n\ngo 1.19\n")
    (folder / "main.go").write_text(
        'package main\n\nimport (\n\t"fmt"\n\t"os"\n)\n\nfunc main() { fmt.Println(os.Args[0]) }\n'
    )
    return GoModule(folder, "the twins", ("castor", "pollux"), go=(1, 19))


def a_go_that_says(folder: Path, answer: str, code: int = 0) -> Path:
    """A PATH folder with a `go` that gives one answer to everything."""
    program = folder / "bin" / "go"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    program.chmod(0o755)
    return program.parent


def programs_in(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


@needs_go
def test_one_build_gives_every_program_and_later_calls_build_nothing(module: GoModule) -> None:
    lines: list[str] = []

    folder = ensure(module, progress=lines.append)

    for program in module.programs:
        ran = subprocess.run([folder / program], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == str(folder / program)
    assert any("building" in line for line in lines)
    lines.clear()
    assert ensure(module, progress=lines.append) == folder
    assert lines == []


@needs_go
def test_changed_source_is_another_build(module: GoModule) -> None:
    before = ensure(module)
    main = module.folder / "main.go"
    main.write_text(main.read_text() + "\n// changed\n")

    after = ensure(module)

    assert after != before
    assert before.exists()


@needs_go
def test_two_that_ask_at_once_build_once(module: GoModule) -> None:
    lines: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: ensure(module, progress=lines.append), range(2)))

    assert folders[0] == folders[1]
    assert sum("building in" in line for line in lines) == 1


@needs_go
def test_source_that_does_not_compile_is_told_in_the_compilers_words(module: GoModule) -> None:
    (module.folder / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")

    with pytest.raises(ServerMissing, match="undefined: nonsense"):
        ensure(module)

    assert [path.name for path in build.cache_folder().iterdir() if path.is_dir()] == []


@needs_go
def test_modules_that_cannot_be_fetched_are_told_with_what_to_do(
    module: GoModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (module.folder / "go.mod").write_text(
        (module.folder / "go.mod").read_text() + "\nrequire example.com/away v1.0.0\n"
    )
    main = module.folder / "main.go"
    main.write_text(main.read_text().replace("import (", 'import (\n\t_ "example.com/away"', 1))
    (module.folder / "go.sum").write_text(
        "example.com/away v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
        "example.com/away v1.0.0/go.mod h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    )
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")

    with pytest.raises(ServerMissing, match=r"GOPROXY.*\n?.*KUBEBUILDER_ASSETS"):
        ensure(module)


@pytest.mark.parametrize("code", [0, 1])
def test_too_old_a_go_is_named(
    module: GoModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    old = a_go_that_says(tmp_path, "go version go1.18.8 linux/amd64", code)
    monkeypatch.setenv("PATH", f"{old}{os.pathsep}{os.environ['PATH']}")

    wanted = "Go 1.19 or newer is needed to build the twins; found 1.18.8: "
    with pytest.raises(ServerMissing, match=wanted):
        ensure(module)


def test_without_go_the_reason_says_so(module: GoModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(name: str) -> Path:
        raise ServerMissing(name)

    monkeypatch.setattr(build, "find_program", none_found)

    with pytest.raises(ServerMissing, match="found none: install"):
        ensure(module)


def test_a_folder_of_given_programs_wins(
    module: GoModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = programs_in(tmp_path / "given", "castor", "pollux", "etcd")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))

    assert ensure(module) == given
    assert find_program("etcd") == given / "etcd"


def test_a_folder_that_lacks_a_wanted_program_is_not_mixed_with_a_build(
    module: GoModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = programs_in(tmp_path / "given", "castor")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))

    assert ensure(module, "castor") == given
    built = build.cache_folder() / f"{module.name}-{module.key()}"
    built.mkdir(parents=True)
    assert ensure(module) == built


def test_an_absent_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(ServerMissing, match="apt-get install no-such-program"):
        find_program("no-such-program")


def test_the_command_refuses_an_unknown_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.servers.build", "nonsense"],
        cwd=Path(build.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2
    assert "kubernetes" in ran.stdout
