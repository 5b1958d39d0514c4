"""Debian's own nginx beside our unit: its files, its commands, its user; our user and its rights.

No systemd runs here. What the units say is read from them and done: the commands of nginx.service,
and who the daemon is and may write to by vulcanized.service and its drop-in.
"""

from __future__ import annotations

import contextlib
import grp
import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import PROGRAM, Vulcanized, eventually_served_by
from tests.servers.fixtures import missing
from tests.servers.load import Load
from tests.servers.localpods import Files, LocalPods
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.wait import eventually

HOST = "todo.example.com"
SYSTEMD = Path(__file__).parents[2] / "systemd"
DIRECTORY = "/etc/nginx/vulcanized"
USER = 64321
"""A user that is nobody, as `vulcanized` is."""

HIDDEN = """
# Ours may stand below directories that only root gets through.
for path in {hidden}; do
  stash=$(mktemp -d -p {folder})
  mount --bind $path $stash
  mount -t tmpfs -o mode=755 none $path
  for entry in $stash/* $stash/.[!.]*; do
    if test -d $entry; then mkdir $path/${{entry##*/}}; mount --bind $entry $path/${{entry##*/}}; fi
  done
done
"""


def unit(*paths: Path) -> dict[str, list[str]]:
    """All values of each key of a unit and its drop-ins."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for line in path.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found[key].append(value)
    return found


def debian_unit() -> dict[str, list[str]]:
    for folder in ("/usr/lib/systemd/system", "/lib/systemd/system"):
        path = Path(folder) / "nginx.service"
        if path.exists():
            return unit(path)
    pytest.skip("this system has no nginx.service")


class Host:
    """A host of its own: processes, /run, /etc/nginx, /var/log/nginx."""

    def __init__(self, folder: Path, pods: LocalPods) -> None:
        self.folder = folder
        self.pods = pods
        self.files = Files(folder / "files")
        self.port = free_port()
        self.nginx = debian_unit()
        self.ours = unit(
            SYSTEMD / "vulcanized.service", SYSTEMD / "vulcanized.service.d/nginx.conf"
        )
        for name, version in (("blue-1", "blue"), ("green-1", "green")):
            pods.start(name, version)
            self.files.pod(pods.manifest(name, "todo"))
        self.files.config("todo")
        self.files.activate("blue")
        etc, self.log = folder / "etc", folder / "log"
        shutil.copytree("/etc/nginx", etc, symlinks=True)
        self.log.mkdir()
        adm = grp.getgrnam("adm").gr_gid
        (self.log / "error.log").touch(0o640)
        os.chown(self.log / "error.log", -1, adm)
        # As docs/nginx.md has it.
        (etc / "sites-enabled/default").unlink(missing_ok=True)
        (etc / "conf.d/vulcanized.conf").write_text(f"include {DIRECTORY}/http.con[f];\n")
        self.directory = etc / "vulcanized"
        self.directory.mkdir()
        self.directory.chmod(0o755)
        os.chown(self.directory, USER, USER)
        self._ends = contextlib.ExitStack()
        self._inside: list[str] = []

    def boot(self) -> None:
        """Its first process, and its file systems."""
        needed = [Path(sys.prefix), Path(sys.base_prefix), Path.cwd()]
        hidden = {up for path in needed for up in path.parents if not up.stat().st_mode & 0o001}
        script = f"""set -e
mount -t tmpfs none /run
mount --bind {self.folder}/etc /etc/nginx
mount --bind {self.log} /var/log/nginx
{HIDDEN.format(hidden=" ".join(map(str, sorted(hidden))), folder=self.folder)}
touch {self.folder}/booted
exec {sys.executable} -c 'import signal; signal.pause()'
"""
        alone = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
        command = [str(shutil.which("unshare")), *alone, "sh", "-c", script]
        first = ServerProcess("host", command, self.folder / "host.log")
        first.start()
        self._ends.callback(first.kill)
        first.wait_until((self.folder / "booted").exists, 10)
        inner = _child_of(first.pid)
        enter = str(shutil.which("nsenter"))
        self._inside = [enter, "--target", str(inner), "--pid", "--mount", "--root", "--wd"]

    def close(self) -> None:
        self._ends.close()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command as root of that host."""
        return subprocess.run(
            [*self._inside, *command], capture_output=True, text=True, check=True, timeout=30
        )

    def systemctl(self, verb: str) -> None:
        """What systemd runs of nginx.service."""
        keys = {"start": ("ExecStartPre", "ExecStart"), "reload": ("ExecReload",)}.get(
            verb, ("ExecStop",)
        )
        for key in keys:
            for line in self.nginx[key]:
                self.run(*shlex.split(line.removeprefix("-")))

    def daemon(self) -> Vulcanized:
        """As the unit has it: who it is, what it may do, where it may write."""
        ours = self.ours
        capabilities = [
            f"+{each.removeprefix('CAP_').lower()}"
            for each in ours["AmbientCapabilities"][-1].split()
        ]
        assert ours["ProtectSystem"] == ["strict"]
        assert f"-{DIRECTORY}" in ours["ReadWritePaths"]
        script = (
            f"mount --bind {DIRECTORY} {DIRECTORY} && mount -o remount,bind,ro / && "
            f"umask {ours['UMask'][-1]} && exec setpriv --reuid {USER} --regid {USER} "
            f"--groups {','.join(ours['SupplementaryGroups'])} --no-new-privs "
            f"--inh-caps=-all,{','.join(capabilities)} "
            f"--ambient-caps=-all,{','.join(capabilities)} "
            f'--bounding-set=-all,{",".join(capabilities)} "$@"'
        )
        target = f"""
[[targets]]
kind = "nginx"
directory = "{DIRECTORY}"
listen = ["127.0.0.1:{self.port}"]
"""
        program = [*self._inside, "unshare", "--mount", "sh", "-c", script, "sh", *PROGRAM]
        made = Vulcanized(
            self.folder / "v", self.files.sides, targets=target, port=self.port, program=program
        )
        made.process.start()
        self._ends.callback(made.close)
        return made


@pytest.fixture
def host(open_folder: Path) -> Iterator[Host]:
    if not Path("/etc/nginx/nginx.conf").exists():
        missing("nginx is not installed as Debian has it")
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("it takes root and setpriv")
    tried = subprocess.run(["unshare", "-m", "-p", "-f", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no host of its own can be made here: {tried.stderr.strip()}")
    with LocalPods() as pods:
        made = Host(open_folder, pods)
        try:
            made.boot()
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("first", ["nginx", "vulcanized"])
def test_debians_nginx_is_followed_by_a_daemon_with_the_rights_of_our_unit(
    host: Host, first: str
) -> None:
    if first == "nginx":
        host.systemctl("start")
        daemon = host.daemon()
    else:
        daemon = host.daemon()
        eventually((host.directory / "http.conf").exists, 20)
        host.systemctl("start")
    daemon.wait_ready()
    eventually_served_by(daemon.url, HOST, ["blue-1"])
    with Load(host.port, HOST) as load:
        for version in ("green", "blue"):
            host.files.activate(version)
            eventually_served_by(daemon.url, HOST, [f"{version}-1"])
        host.pods.start("blue-2", "blue")
        host.files.pod(host.pods.manifest("blue-2", "todo"))
        eventually_served_by(daemon.url, HOST, ["blue-1", "blue-2"])
        host.systemctl("reload")
        load.go_on(30)
    assert load.report.failed == {}
    # That answers come from it may be the doing of whoever else reloads.
    eventually(lambda: daemon.status()["targets"][0]["reloads"].get("servers") == 1, 20)
    assert daemon.status()["targets"][0]["old_workers"] is not None
    # nginx's own words, from the log that only root and adm read.
    bad = host.folder / "etc/conf.d/bad.conf"
    bad.write_text("gibberish;\n")
    host.files.remove_pod("blue-2")
    eventually(lambda: "gibberish" in daemon.status()["targets"][0]["error"], 30)
    bad.unlink()
    host.files.remove_pod("green-1")
    eventually_served_by(daemon.url, HOST, ["blue-1"], 30)


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
