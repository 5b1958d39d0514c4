"""A real vulcand on loopback, which takes its configuration from an etcd."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.build import VULCAND, Progress, ensure
from tests.servers.etcd import EtcdTls
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

# Its snapshot of a large etcd on a busy machine, and what is before it.
_READY = 30.0


class Vulcand:
    """A vulcand on free loopback ports; a context manager that starts and removes it.

    `etcd` is one URL or several, `prefix` what its keys begin with (no leading slash unless given),
    `tls` the certificates of an etcd that wants them, `flags` are added to its command line. It
    serves HTTP at `url` and its API at `api_url`, on the same ports over all restarts.

    `with Vulcand(...)` waits until it is ready and raises `ServerFailed` if it does not become so;
    use `process` or `start(wait=False)` for one that is not expected to.

    Raises `ServerMissing` when made if vulcand is not there and cannot be built. A cold build takes
    a minute or two and tells its `progress`.
    """

    def __init__(
        self,
        etcd: str | Sequence[str],
        prefix: str = "vulcand",
        *,
        tls: EtcdTls | None = None,
        flags: Sequence[str] = (),
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        program = ensure(VULCAND, progress=progress) / "vulcand"
        self.prefix = prefix
        self.port = free_port()
        self.api_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_url = f"http://127.0.0.1:{self.api_port}"
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="vulcand-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        endpoints = (etcd,) if isinstance(etcd, str) else tuple(etcd)
        command = [
            str(program),
            *(f"-etcd={endpoint}" for endpoint in endpoints),
            f"-etcdKey={prefix}",
            "-interface=127.0.0.1",
            f"-port={self.port}",
            "-apiInterface=127.0.0.1",
            f"-apiPort={self.api_port}",
            "-logSeverity=info",
        ]
        if tls:
            command += [f"-etcdCaFile={tls.ca}", f"-etcdCertFile={tls.client.cert}"]
            command += [f"-etcdKeyFile={tls.client.key}", "-etcdEnableTLS"]
        self.process = ServerProcess("vulcand", [*command, *flags], self.folder / "vulcand.log")

    @property
    def running(self) -> bool:
        return self.process.running

    @property
    def serving(self) -> bool:
        """Whether its HTTP port takes connections, as it does once its snapshot is applied."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with `wait`, until it is ready (`ServerFailed` if it does not become so)."""
        self.process.start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, deadline: float = _READY) -> None:
        """Wait until it serves HTTP and its API; raises `ServerFailed` with its log."""
        refused = (OSError, http.client.HTTPException)
        self.process.wait_until(
            lambda: self.serving and self.api("status")[0] == 200, deadline, refused
        )

    def stop(self) -> None:
        """End it by SIGTERM."""
        self.process.stop()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def restart(self) -> None:
        """Stop it and start it on the same ports; ready on return."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 25) -> str:
        return self.process.log_tail(lines)

    def api(self, path: str) -> tuple[int, Any]:
        """`GET /v2/<path>` at its API: the status and the JSON; OSError if it is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=5)
        try:
            connection.request("GET", f"/v2/{path}")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def close(self) -> None:
        """End it at once, and remove the folder if it was a temporary one."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
