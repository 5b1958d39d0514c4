"""Build the servers that come as Go modules, once per version, into the user's cache folder.

`python -m tests.servers.build [MODULE...]` builds in advance: a cold build of the Kubernetes
control plane takes some minutes, which no test should have to wait for. Another server is another
folder with go.mod, go.sum and a Go file, and one more `GoModule` in `MODULES`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.programs import ASSETS, ServerMissing, find_program, in_assets

_HERE = Path(__file__).parent
_VERSION = "k8s.io/component-base/version"

Progress = Callable[[str], None]

_FETCH_FAILED = re.compile(r'Get "https?://|no such host|module lookup disabled')

_failed: dict[Path, str] = {}


@dataclass(frozen=True)
class GoModule:
    """A folder with go.mod, go.sum and Go files, made into the programs of one server."""

    folder: Path
    title: str
    programs: tuple[str, ...]
    go: tuple[int, int]
    package: str = "."
    ldflags: str = "-s -w"

    @property
    def name(self) -> str:
        return self.folder.name

    def key(self) -> str:
        """Changes with everything that decides what is built."""
        digest = hashlib.sha256()
        for path in sorted([*self.folder.glob("*.go"), *self.folder.glob("go.*")]):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        for word in (self.package, self.ldflags, platform.machine()):
            digest.update(word.encode() + b"\0")
        return digest.hexdigest()[:16]


KUBERNETES = GoModule(
    folder=_HERE / "kubernetes",
    title="the Kubernetes control plane",
    programs=("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    go=(1, 26),
    # Unset, GET /version says v0.0.0-master, which clients cannot compare.
    ldflags=f"-s -w -X {_VERSION}.gitVersion=v1.36.3"
    f" -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36",
)

# Not a program of ours: the folder's Go file only names it, so that go.sum covers it.
VULCAND = GoModule(
    folder=_HERE / "vulcand",
    title="vulcand",
    programs=("vulcand",),
    go=(1, 19),
    package="github.com/vulcand/vulcand",
)

MODULES = (KUBERNETES, VULCAND)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "vulcanized-tests"


def ensure(module: GoModule, *programs: str, progress: Progress | None = None) -> Path:
    """The folder that holds the module's programs, built now if it has to be.

    `programs` are those that the caller wants (all by default): the folder that
    `KUBEBUILDER_ASSETS` names is taken if it has them all, so that one control plane is never of
    two versions. Several processes may ask at once: one builds, the others wait for it. Raises
    `ServerMissing` if Go is absent, too old, or fails; what failed is not tried again.
    """
    say = progress or (lambda line: None)
    given = in_assets(*(programs or module.programs))
    if given is not None:
        return given
    cache = cache_folder()
    final = cache / f"{module.name}-{module.key()}"
    if final in _failed:
        raise ServerMissing(_failed[final])
    if not final.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(final.with_suffix(".lock"), lambda: say(f"{module.title}: waiting for a build")):
            if not final.exists():
                try:
                    _build(module, final, say)
                except ServerMissing as missing:
                    _failed[final] = str(missing)
                    raise
    return final


@contextmanager
def _lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(module: GoModule, final: Path, say: Progress) -> None:
    go = _go(module)
    for left in final.parent.glob(f"{final.name}.*.part"):  # by a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    candidate = Path(tempfile.mkdtemp(".part", f"{final.name}.", final.parent))
    try:
        binary = candidate / module.name
        say(f"{module.title}: building in {module.folder} (minutes when cold)")
        flags = ["-v", "-trimpath", "-buildvcs=false", "-ldflags", module.ldflags]
        _run_go([go, "build", *flags, "-o", str(binary), module.package], module, say)
        for program in module.programs:
            if program != module.name:
                (candidate / program).symlink_to(module.name)
        candidate.chmod(0o755)  # mkdtemp makes it private, and a cache may be shared
        candidate.rename(final)
    finally:
        shutil.rmtree(candidate, ignore_errors=True)
    say(f"{module.title}: ready in {final}")


def _go(module: GoModule) -> str:
    """A Go that is new enough. Go itself fetches a newer one where GOTOOLCHAIN allows it."""
    wanted = ".".join(map(str, module.go))
    need = f"Go {wanted} or newer is needed to build {module.title}"
    try:
        go = str(find_program("go"))
    except ServerMissing:
        raise ServerMissing(f"{need}; found none: install it from https://go.dev/dl/") from None
    asked = _ask_go(go, module.folder)
    if asked.returncode != 0:
        # Too old a Go refuses even to read this go.mod: ask it elsewhere for its version.
        asked = _ask_go(go, Path("/"))
    found = re.search(r"go(\d+)\.(\d+)\S*", asked.stdout)
    if found is None:
        complaint = (asked.stderr or asked.stdout).strip()
        raise ServerMissing(f"{need}; `go version` failed: {complaint}")
    if (int(found[1]), int(found[2])) < module.go:
        raise ServerMissing(f"{need}; found {found[0][2:]}: install one from https://go.dev/dl/")
    return go


def _ask_go(go: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([go, "version"], cwd=folder, capture_output=True, text=True, check=False)


def _run_go(command: list[str], module: GoModule, say: Progress) -> None:
    """Run a Go command; a line of progress every 15 s, and its last words if it fails."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    started = told = time.monotonic()
    last: deque[str] = deque(maxlen=20)
    packages = 0
    with subprocess.Popen(
        command,
        cwd=module.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last.append(line.rstrip())
            packages += not line.startswith("go: ")
            if time.monotonic() - told >= 15:
                told = time.monotonic()
                say(f"{module.title}: {told - started:.0f} s, {packages} packages compiled")
    if process.returncode != 0:
        words = "\n".join(last)
        hint = f"\n{_offline_hint(module)}" if _FETCH_FAILED.search(words) else ""
        raise ServerMissing(f"{module.title} cannot be built: go ended with {words}{hint}")


def _offline_hint(module: GoModule) -> str:
    return (
        "The first build fetches modules. Without that network: name a module proxy that can be "
        f"reached (GOPROXY), or a folder that has {', '.join(module.programs)} ({ASSETS}), or copy "
        f"{cache_folder()} from a machine that has built them."
    )


def main(names: list[str]) -> int:
    """Build the named modules, or all. 0: they are there; 1: one cannot be built; 2: no such."""
    known = {module.name: module for module in MODULES}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such module: {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    try:
        for name in names or known:
            print(ensure(known[name], progress=lambda line: print(line, flush=True)))
    except ServerMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
