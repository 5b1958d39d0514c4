"""A vulcand, its etcd and pods: write keys as anybody may, ask as a client does."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.servers.etcd import Etcd
from tests.servers.localpods import LocalPods
from tests.servers.vulcand import Vulcand
from tests.servers.wait import eventually

_numbers = itertools.count(1)

STATIC = "ResponseCode() == 503 && Attempts() < 2"
"""The predicate for a `breaker` before a backend without servers: it always answers."""


def breaker(
    status: int,
    body: str | dict[str, Any],
    *,
    kind: str = "text/html",
    condition: str = "NetworkErrorRatio() < 2.0",
) -> dict[str, Any]:
    """A circuit breaker that opens after the first request, for good, and answers this."""
    return {
        "Condition": condition,
        "Fallback": {
            "Type": "response",
            "Action": {"StatusCode": status, "ContentType": kind, "Body": body},
        },
        "FallbackDuration": 9 * 10**18,  # nanoseconds: 285 years
        "RecoveryDuration": 1,
        "CheckPeriod": 1,
    }


@dataclass(frozen=True)
class Reply:
    """An answer; `pod` is the name of the pod that gave it, None if vulcand did."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def pod(self) -> str | None:
        return self.headers.get("X-Pod")

    @property
    def echo(self) -> dict[str, Any]:
        """What a pod's `/echo` saw of the request; its headers by name in lower case."""
        seen: dict[str, Any] = json.loads(self.body)
        seen["headers"] = {name.lower(): value for name, value in seen["headers"]}
        return seen


class Stage:
    """Every change is a plain put or delete; `settle` waits until vulcand has seen them all."""

    def __init__(self, etcd: Etcd, vulcand: Vulcand, pods: LocalPods) -> None:
        self.etcd = etcd
        self.vulcand = vulcand
        self.pods = pods
        self.prefix = vulcand.prefix

    # What is written.

    def put(self, key: str, value: object) -> None:
        """Write a key below the prefix; a text as it is, all else as JSON."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.etcd.put(f"{self.prefix}/{key}", text)

    def delete(self, key: str) -> None:
        self.etcd.delete(f"{self.prefix}/{key}")

    def put_at_once(self, *keys: tuple[str, object], lease: str = "0") -> None:
        """Write several keys as JSON in one transaction, in that order."""
        puts = [
            {
                "key": base64.b64encode(f"{self.prefix}/{key}".encode()).decode(),
                "value": base64.b64encode(json.dumps(value).encode()).decode(),
                "lease": lease,
            }
            for key, value in keys
        ]
        self.etcd.call("kv/txn", {"success": [{"request_put": put} for put in puts]})

    def backend(self, name: str, **settings: Any) -> None:
        self.put(f"backends/{name}/backend", {"Type": "http", "Settings": settings})

    def server(self, backend: str, name: str, url: str) -> None:
        self.put(f"backends/{backend}/servers/{name}", {"URL": url})

    def frontend(self, name: str, backend: str, route: str, **settings: Any) -> None:
        value = {"Type": "http", "BackendId": backend, "Route": route, "Settings": settings}
        self.put(f"frontends/{name}/frontend", value)

    def middleware(
        self, frontend: str, name: str, kind: str, spec: Mapping[str, Any], priority: int = 1
    ) -> None:
        value = {"Type": kind, "Priority": priority, "Middleware": spec}
        self.put(f"frontends/{frontend}/middlewares/{name}", value)

    def app(self, name: str, *pods: str, **settings: Any) -> str:
        """A backend with these pods as servers (the pod `name` by default) and a frontend for
        `name.example`, all called `name`; the host."""
        self.backend(name)
        for pod in pods or (name,):
            self.server(name, pod, self.pod(pod))
        self.frontend(name, name, f'Host("{name}.example")', **settings)
        return f"{name}.example"

    def pod(self, name: str) -> str:
        """The URL of the pod of that name, started unless it runs."""
        try:
            address, port = self.pods.endpoint(name)
        except KeyError:
            address, port = self.pods.start(name, name)
        return f"http://{address}:{port}"

    # What is seen.

    def ask(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Reply:
        """One request on a connection of its own; OSError or HTTPException if it gets no answer."""
        at = self.vulcand.port if port is None else port
        connection = http.client.HTTPConnection("127.0.0.1", at, timeout=10)
        try:
            connection.request(method, path, body, {"Host": host, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def pods_of(self, host: str, path: str = "/", requests: int = 12) -> dict[str | None, int]:
        """How many of some requests each pod answered."""
        seen: dict[str | None, int] = {}
        for _ in range(requests):
            pod = self.ask(host, path).pod
            seen[pod] = seen.get(pod, 0) + 1
        return seen

    @contextlib.contextmanager
    def load(self, host: str) -> Iterator[list[int]]:
        """The statuses of requests that are sent one after the other, complete at the end."""
        statuses: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                statuses.append(self.ask(host).status)

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            try:
                eventually(lambda: statuses, interval=0.002)
                yield statuses
            finally:
                done.set()
        asking.result()

    def settle(self) -> None:
        """Wait until vulcand has applied, or dropped, all that was written before.

        Events are applied one after the other, so a route that is written now answers after them.
        """
        name = f"settle{next(_numbers)}"
        self.backend(name)
        self.server(name, "s", self.pod("settle"))
        # Sorts before any route that a test writes: nothing hides it.
        self.frontend(name, name, f"PathRegexp(`~|^/{name}$`)")
        eventually(
            lambda: self.ask(name, f"/{name}").pod == "settle",
            what=self.vulcand.log_tail,
            interval=0.003,
            ignore=(OSError, http.client.HTTPException),
        )
        for key in (f"frontends/{name}/frontend", f"backends/{name}/servers/s"):
            self.delete(key)
        self.delete(f"backends/{name}/backend")

    def clear(self) -> None:
        """Take everything away."""
        self.etcd.delete_prefix(f"{self.prefix}/frontends/")
        self.etcd.delete_prefix(f"{self.prefix}/backends/")
        self.etcd.delete_prefix(f"{self.prefix}/")
