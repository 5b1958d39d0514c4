"""The floor: bare clients of the API server and of etcd, each a process of its own.

    python -m benchmarks.floor CONFIG-AS-JSON

Such a process notes when the bytes of an event came in and does nothing else that would delay them.
It answers every line on its standard input by what it noted since the last one, as JSON.

All moments are on `time.monotonic()`'s clock, which the processes of a machine share.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from benchmarks.children import Child

_TIMEOUT = 10.0


class FloorError(Exception):
    """Something was not seen at all."""


class Floor(Child):
    """A bare client as a child process."""

    def __init__(self, config: PodWatch | KeyWatch) -> None:
        super().__init__("benchmarks.floor", config)
        self._noted: dict[str, dict[str, Any]] = {}

    def moments(self, kind: str, names: Iterable[str]) -> dict[str, Any]:
        """What it noted of these things, by name: it may see them later than we do.

        Raises `FloorError` when something is not seen at all.
        """
        wanted = set(names)
        deadline = time.monotonic() + _TIMEOUT
        while True:
            # What it noted since the last question, by kind of event.
            self.ask("")
            for each, noted in self.answer(_TIMEOUT).items():
                self._noted.setdefault(each, {}).update(noted)
            seen = self._noted.get(kind, {})
            if wanted <= seen.keys():
                return seen
            if time.monotonic() > deadline:
                raise FloorError(f"the floor has not seen {sorted(wanted - seen.keys())} {kind}")
            time.sleep(0.02)


class PodWatch(msgspec.Struct, frozen=True, tag=True):
    """Where to watch pods, and as whom."""

    port: int
    ca: str
    token: str


class KeyWatch(msgspec.Struct, frozen=True, tag=True):
    """The etcd key to watch, and the HAProxy whose map is set for each of its events."""

    port: int
    key: str
    haproxy_socket: str
    command: str


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, gc=False):
    conditions: list[_Condition] = []


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct, gc=False):
    object: _Pod


class _Notes:
    """The first moment of each thing, by kind and name; written by one thread, taken by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: dict[str, dict[str, Any]] = {}

    def first(self, kind: str, name: str, value: Any) -> None:
        with self._lock:
            self._notes.setdefault(kind, {}).setdefault(name, value)

    def taken(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            taken, self._notes = self._notes, {}
            return taken


def watch_pods(config: PodWatch, notes: _Notes) -> None:
    """Note when the first line came in that says a pod is `ready`, is `deleted`, by its uid."""
    context = ssl.create_default_context(cafile=config.ca)
    listed = _connect(config, context, "limit=1")
    body = b"".join(iter(lambda: listed.recv(1 << 16), b""))
    found = re.search(rb'"resourceVersion": ?"(\d+)"', body)
    if found is None:
        raise FloorError(f"the API server does not list pods: {body[:300]!r}")
    stream = _connect(config, context, f"watch=1&resourceVersion={found[1].decode()}")
    decoder = msgspec.json.Decoder(_Event)
    rest = b""
    print('"watching"', flush=True)
    while data := stream.recv(1 << 16):
        now = time.monotonic()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"{"):
                continue  # a header, or the length of a chunk
            pod = decoder.decode(line).object
            uid = pod.metadata.uid
            if pod.metadata.deletion_timestamp is not None:
                notes.first("deleted", uid, now)
            elif any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions):
                notes.first("ready", uid, now)


def _connect(config: PodWatch, context: ssl.SSLContext, query: str) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", config.port), timeout=_TIMEOUT)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = context.wrap_socket(raw, server_hostname="127.0.0.1")
    stream.sendall(
        f"GET /api/v1/pods?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {config.token}\r\nAccept: application/json\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    stream.settimeout(None)
    return stream


def watch_key(config: KeyWatch, notes: _Notes) -> None:
    """For each event, by its revision: when it came in, and when HAProxy had answered."""
    import grpc
    from etcd3 import etcdrpc as rpc

    done = threading.Event()

    def requests() -> Any:
        create = rpc.WatchCreateRequest(key=config.key.encode())
        yield rpc.WatchRequest(create_request=create)
        done.wait()

    with grpc.insecure_channel(f"127.0.0.1:{config.port}") as channel:
        for response in rpc.WatchStub(channel).Watch(requests()):
            now = time.monotonic()
            if response.created:
                print('"watching"', flush=True)
            for event in response.events:
                _command(config.haproxy_socket, config.command)
                notes.first("put", str(event.kv.mod_revision), (now, time.monotonic()))


def _command(path: str, command: str) -> bytes:
    """One command on a connection of its own: the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)  # the master's socket stays open otherwise
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def _answer(notes: _Notes) -> None:
    """Answer each line of standard input; at its end, end the process."""
    for _ in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(notes.taken()) + b"\n")
        sys.stdout.buffer.flush()
    os._exit(0)


def main(encoded: str) -> None:
    """Watch until standard input ends."""
    config: PodWatch | KeyWatch = msgspec.json.decode(encoded, type=PodWatch | KeyWatch)
    notes = _Notes()
    threading.Thread(target=_answer, args=(notes,), daemon=True).start()
    if isinstance(config, PodWatch):
        watch_pods(config, notes)
    else:
        watch_key(config, notes)


if __name__ == "__main__":
    main(sys.argv[1])
