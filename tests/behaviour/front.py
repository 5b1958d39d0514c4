"""The proxies, each as little as makes it different: adding one is one class here."""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.etcd import Etcd
from tests.servers.ports import free_port
from tests.servers.programs import find_program
from tests.servers.vulcand import Vulcand


class Front:
    """One proxy of a test. `settings` is the text of its `[[targets]]`; clients ask at `port`.

    Raises ServerMissing when made if its program is not on this machine.
    """

    kind: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        self.folder = folder
        self.etcd = etcd
        self.port = free_port()

    @classmethod
    def capabilities(cls) -> frozenset[str]:
        """What its target declares."""
        module: Any = importlib.import_module(f"vulcanized.targets.{cls.kind}.target")
        declared: frozenset[str] = module.CAPABILITIES
        return declared

    @property
    def settings(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, unless the daemon does."""

    def stop(self) -> None:
        """End it for good, unless the daemon does."""

    def pids(self) -> Iterable[int]:
        """Its processes."""
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Child(Front):
    """A proxy that the daemon starts, of files made from templates; `overrides` is their directory,
    none unless a test makes one."""

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        super().__init__(folder, etcd)
        find_program(self.kind)
        # Workers of another user look into it, who may not see pytest's folders.
        self.directory = Path(tempfile.mkdtemp(prefix=f"behaviour-{self.kind}-"))
        self.directory.chmod(0o755)
        self.overrides = folder / f"{self.kind}-templates"

    @property
    def settings(self) -> str:
        templates = f'templates = "{self.overrides}"\n' if self.overrides.exists() else ""
        return f"""
[[targets]]
kind = "{self.kind}"
directory = "{self.directory}"
listen = ["127.0.0.1:{self.port}"]
start = true
{templates}"""

    def stop(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def pids(self) -> Iterable[int]:
        """The master and its workers: its directory is in what the master was told."""
        parents, masters = {}, set()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                stat = (path / "stat").read_text().rpartition(")")
                words = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if stat[0].endswith(f"({self.kind}"):
                parents[int(path.name)] = int(stat[2].split()[1])
                if os.fsencode(self.directory) in words:
                    masters.add(int(path.name))
        return {pid for pid, parent in parents.items() if pid in masters or parent in masters}


class Haproxy(Child):
    kind = "haproxy"
    title = "HAProxy"


class Nginx(Child):
    kind = "nginx"
    title = "nginx"


class Vulcan(Front):
    """A vulcand on the etcd of the tests, under a prefix of its own."""

    kind = "vulcand"
    title = "vulcand"

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        super().__init__(folder, etcd)
        self.vulcand = Vulcand(etcd.endpoint, f"b{secrets.token_hex(4)}", folder=folder / "vulcand")
        self.port = self.vulcand.port

    @property
    def settings(self) -> str:
        return f"""
[[targets]]
kind = "vulcand"
prefix = "{self.vulcand.prefix}"
probe = ["127.0.0.1:{self.port}"]
lease = 5
"""

    def start(self) -> None:
        self.vulcand.start()

    def stop(self) -> None:
        self.vulcand.close()
        self.etcd.delete_prefix(f"{self.vulcand.prefix}/")

    def pids(self) -> Iterable[int]:
        return (self.vulcand.process.pid,)


FRONTS: tuple[type[Front], ...] = (Haproxy, Nginx, Vulcan)
