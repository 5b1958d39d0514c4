"""A real etcd on loopback: one member or several, with or without TLS."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.certs import Authority, Certificate
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.programs import find_program

# All that a member may be doing before it answers: opening its data, finding its peers, an
# election or two on a busy machine.
_READY = 30.0


class EtcdError(Exception):
    """etcd answered with an error; the message is its own."""


@dataclass(frozen=True)
class EtcdTls:
    """`ca` signed the server's certificate and whatever client certificate it accepts."""

    authority: Authority
    server: Certificate
    client: Certificate

    @property
    def ca(self) -> Path:
        return self.authority.ca


@dataclass(frozen=True)
class Member:
    """One member; `process` stops, kills, pauses, resumes it alone."""

    name: str
    port: int
    process: ServerProcess
    scheme: str

    @property
    def endpoint(self) -> str:
        """The URL for clients."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


class Etcd:
    """An etcd cluster on free loopback ports; a context manager that starts and removes it.

    `members` is 1 or an odd number; `tls` makes it talk TLS to clients and demand their
    certificate. The data stays through stop, kill and start, in `folder` (which then outlives
    it) or in a temporary folder. Writes are not flushed to disk where etcd has a switch for that:
    a SIGKILL of etcd loses nothing, since the kernel has what it wrote; with `flush` they are, as
    people have it. Once users are switched on,
    `call` and `ctl` log in as `user` (name and password).

    Raises `ServerMissing` when made if there is no etcd on this machine.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        members: int = 1,
        tls: bool = False,
        flush: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        program = find_program("etcd")
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="etcd-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tls = self._issue() if tls else None
        self._ssl = self._client_context() if self.tls else None
        self.user: tuple[str, str] | None = None
        common = [*(() if flush else _no_fsync(program)), *flags]
        names = [f"m{number}" for number in range(1, members + 1)]
        peers = {name: f"http://127.0.0.1:{free_port()}" for name in names}
        self.members = tuple(self._member(program, name, peers, common) for name in names)

    @property
    def endpoint(self) -> str:
        """The first member's URL for clients, such as `http://127.0.0.1:23790`."""
        return self.members[0].endpoint

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    @property
    def port(self) -> int:
        """The first member's port for clients."""
        return self.members[0].port

    def start(self) -> Self:
        """Start all members and wait until the cluster can write."""
        for member in self.members:
            if not member.process.running:
                member.process.start()
        self.wait_ready()
        return self

    def wait_ready(self, deadline: float = _READY) -> None:
        """Wait until every running member sees a leader; raises `ServerFailed` with its log."""
        for member in self.members:
            if member.process.running:
                healthy = functools.partial(self._healthy, member)
                refused = (OSError, http.client.HTTPException)
                member.process.wait_until(healthy, deadline, refused)

    def stop(self) -> None:
        """End all members by SIGTERM; the data stays."""
        for member in self.members:
            member.process.stop()

    def kill(self) -> None:
        """End all members by SIGKILL; the data stays."""
        for member in self.members:
            member.process.kill()

    def pause(self) -> None:
        """Freeze all members: connections stay open and nothing answers."""
        for member in self.members:
            member.process.pause()

    def resume(self) -> None:
        for member in self.members:
            member.process.resume()

    def restart(self) -> None:
        """Stop all members and start them on the same ports with their data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End all members at once, and remove the folder if it was a temporary one."""
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

    # A few operations by etcd's HTTP gateway, so that tests of our client need not trust it.

    def put(self, key: str, value: str | bytes, member: int = 0) -> int:
        """Write a key by way of one member; the revision after it."""
        data = value.encode() if isinstance(value, str) else value
        request = {"key": _base64(key.encode()), "value": _base64(data)}
        answer = self.call("kv/put", request, member)
        return int(answer["header"]["revision"])

    def get(self, key: str) -> bytes | None:
        """A key's value; None if there is no such key."""
        found = self._range(key.encode(), b"")
        return found.get(key)

    def list(self, prefix: str = "") -> dict[str, bytes]:
        """All keys that start with `prefix`, with their values, sorted by key."""
        start = prefix.encode() or b"\0"
        return self._range(start, _prefix_end(prefix.encode()))

    def delete(self, key: str) -> int:
        """Delete one key; the revision after it."""
        answer = self.call("kv/deleterange", {"key": _base64(key.encode())})
        return int(answer["header"]["revision"])

    def delete_prefix(self, prefix: str = "") -> int:
        """Delete all keys that start with `prefix` (all there are by default); the revision."""
        request = {
            "key": _base64(prefix.encode() or b"\0"),
            "range_end": _base64(_prefix_end(prefix.encode())),
        }
        return int(self.call("kv/deleterange", request)["header"]["revision"])

    def revision(self) -> int:
        """The store's revision now."""
        answer = self.call("kv/range", {"key": _base64(b"\0"), "count_only": True})
        return int(answer["header"]["revision"])

    def compact(self, revision: int | None = None) -> int:
        """Forget all history before `revision` (now, by default); the revision compacted at."""
        at = self.revision() if revision is None else revision
        self.call("kv/compaction", {"revision": at, "physical": True})
        return at

    def call(self, path: str, request: Mapping[str, Any], member: int = 0) -> dict[str, Any]:
        """`POST /v3/<path>` on one member: etcd's gRPC API as JSON, bytes in base64.

        Raises `EtcdError` for its refusals, OSError if it cannot be reached within 5 s.
        """
        at = self.members[member]
        status, body = self._http(at, "POST", f"/v3/{path}", json.dumps(request), self._token(at))
        if status != 200:
            raise EtcdError(body.decode(errors="replace"))
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _token(self, member: Member) -> str:
        if self.user is None:
            return ""
        name, password = self.user
        login = json.dumps({"name": name, "password": password})
        status, body = self._http(member, "POST", "/v3/auth/authenticate", login)
        if status != 200:
            raise EtcdError(body.decode(errors="replace"))
        return str(json.loads(body)["token"])

    def ctl(self, *words: str) -> str:
        """What `etcdctl <words>` prints; raises `EtcdError` with its complaint if it fails."""
        command = [str(find_program("etcdctl")), f"--endpoints={','.join(self.endpoints)}"]
        if self.tls:
            command += [f"--cacert={self.tls.ca}", f"--cert={self.tls.client.cert}"]
            command += [f"--key={self.tls.client.key}"]
        if self.user:
            command.append(f"--user={':'.join(self.user)}")
        ran = subprocess.run(
            [*command, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={**os.environ, "ETCDCTL_API": "3"},  # 3.4 takes API 2 unless told
        )
        if ran.returncode != 0:
            raise EtcdError(ran.stderr.strip() or ran.stdout.strip())
        return ran.stdout

    def _range(self, start: bytes, end: bytes) -> dict[str, bytes]:
        request = {"key": _base64(start)} | ({"range_end": _base64(end)} if end else {})
        found = self.call("kv/range", request).get("kvs", [])
        return {
            base64.b64decode(kv["key"]).decode(): base64.b64decode(kv.get("value", ""))
            for kv in found
        }

    def _healthy(self, member: Member) -> bool:
        status, body = self._http(member, "GET", "/health")
        return status == 200 and json.loads(body)["health"] in {"true", True}

    def _http(
        self, member: Member, method: str, path: str, body: str | None = None, token: str = ""
    ) -> tuple[int, bytes]:
        address = ("127.0.0.1", member.port)
        connection = (
            http.client.HTTPSConnection(*address, timeout=5, context=self._ssl)
            if self._ssl
            else http.client.HTTPConnection(*address, timeout=5)
        )
        try:
            connection.request(method, path, body, {"Authorization": token} if token else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _issue(self) -> EtcdTls:
        authority = Authority(self.folder / "tls", "etcd")
        return EtcdTls(authority, authority.issue("server"), authority.issue("client", hosts=()))

    def _client_context(self) -> ssl.SSLContext:
        assert self.tls is not None
        context = ssl.create_default_context(cafile=str(self.tls.ca))
        context.load_cert_chain(self.tls.client.cert, self.tls.client.key)
        return context

    def _member(
        self, program: Path, name: str, peers: Mapping[str, str], flags: Sequence[str]
    ) -> Member:
        port = free_port()
        scheme = "https" if self.tls else "http"
        url = f"{scheme}://127.0.0.1:{port}"
        command = [
            str(program),
            f"--name={name}",
            f"--data-dir={self.folder / name}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers[name]}",
            f"--initial-advertise-peer-urls={peers[name]}",
            f"--initial-cluster={','.join(f'{peer}={at}' for peer, at in peers.items())}",
            f"--initial-cluster-token={self.folder.name}",
            *flags,
        ]
        if self.tls:
            command += [
                "--client-cert-auth",
                f"--trusted-ca-file={self.tls.ca}",
                f"--cert-file={self.tls.server.cert}",
                f"--key-file={self.tls.server.key}",
            ]
        process = ServerProcess(f"etcd {name}", command, self.folder / f"{name}.log")
        return Member(name, port, process, scheme)


def _no_fsync(program: Path) -> list[str]:
    """The switch that spares the disk, if this etcd has it (it refuses what it does not know)."""
    switch = "--unsafe-no-fsync"
    ran = subprocess.run([program, switch, "--version"], capture_output=True, check=False)
    return [switch] if ran.returncode == 0 else []


def _prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`, in etcd's words; "\\0" means no end."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
