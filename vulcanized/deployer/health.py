"""Pods asked for their health, beside the thread that waits for it.

Each question ends within its time-out, whatever a pod does: hangs, trickles, floods.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import quote

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from vulcanized.cutter import Cutter, cut_late, live_socket
from vulcanized.deployer.words import Health, PodState
from vulcanized.errors import SourceError
from vulcanized.model import Endpoint
from vulcanized.objects import WRONG, shown

AT_ONCE: Final = 16
"""Pods that are asked at one time."""

_MOST_BYTES: Final = 1 << 16


class PodProxy(Protocol):
    """The API server as a way to a pod."""

    def exchange(
        self, method: str, path: str, *, more: Mapping[str, str], seconds: float, most: int
    ) -> tuple[int, bytes]: ...


class Unhealthy(Exception):
    """A pod is not healthy; why, in one line."""


@dataclass(slots=True)
class _Pod:
    """`row`: good answers in a row."""

    asked: float = 0.0
    row: int = 0
    why: str = "was not asked yet"
    answer: Future[str] | None = None


@dataclass(slots=True)
class Checker:
    """Asks pods again and again, as often as it is called and their interval allows.

    A pod that was healthy and is no longer begins anew. `begin` forgets all answers.
    """

    proxy: PodProxy | None
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, _Pod] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(AT_ONCE, thread_name_prefix="health")
    )
    _cutter: Cutter = field(default_factory=lambda: Cutter(tick=0.1))
    _stop: threading.Event = field(default_factory=threading.Event)
    _name: tuple[str, int] = ("", 0)

    def begin(self, name: tuple[str, int]) -> None:
        """Answers of before this step do not count for it."""
        if name != self._name:
            self._name, self._known = name, {}

    def look(
        self, namespace: str, pods: Iterable[tuple[PodState, Health]]
    ) -> tuple[frozenset[str], tuple[str, ...]]:
        """The pods (uids) that are healthy by now, and why the others are not."""
        self._cutter.serve(self._stop)
        now, healthy, complaints = self.clock(), set(), []
        for pod, health in pods:
            known = self._known.setdefault(pod.uid, _Pod())
            if known.answer is not None and known.answer.done():
                known.why = known.answer.result()
                known.row = 0 if known.why else known.row + 1
                known.answer = None
            if known.answer is None and now - known.asked >= (
                health.interval if known.asked else 0
            ):
                known.asked = now
                known.answer = self._pool.submit(self._ask, namespace, pod, health)
            if known.row >= health.successes:
                healthy.add(pod.uid)
            elif known.why:
                complaints.append(f"{pod.name}: {known.why}")
        return frozenset(healthy), tuple(complaints)

    def close(self) -> None:
        """Ask no more; what hangs is cut off."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, namespace: str, pod: PodState, health: Health) -> str:
        """Why a pod is not healthy, "" when it is."""
        try:
            if health.kind == "tcp":
                _connect(pod, health)
                return ""
            if health.via == "apiserver" and self.proxy is not None:
                status, body = _through(self.proxy, namespace, pod, health)
            else:
                status, body = self._direct(pod, health)
            judge(health, status, body)
        except (Unhealthy, SourceError) as error:
            return str(error)
        except (HTTPError, OSError, ValueError) as error:
            return shown(f"{type(error).__name__}: {error}", "")[:200]
        return ""

    def _direct(self, pod: PodState, health: Health) -> tuple[int, bytes]:
        if not pod.ip:
            raise Unhealthy("has no address")
        url = f"http://{Endpoint(pod.ip, health.port)}{health.path}"
        with urllib3.PoolManager(num_pools=1, retries=False) as manager:
            cut_late(manager, self._cutter, health.timeout)
            response = manager.request(
                health.method,
                url,
                headers={"Connection": "close", "Accept": "*/*", **dict(health.headers)},
                timeout=urllib3.Timeout(total=health.timeout),
                preload_content=False,
                redirect=False,
            )
            try:
                body = self._first(response, health.timeout)
            finally:
                response.close()
        return response.status, body

    def _first(self, response: urllib3.BaseHTTPResponse, seconds: float) -> bytes:
        """The body, or as much of it as is looked at."""
        sock = live_socket(response)
        late = nullcontext() if sock is None else self._cutter.deadline(sock, seconds)
        parts: list[bytes] = []
        size = 0
        with late as deadline:
            while size < _MOST_BYTES and (part := response.read(min(8192, _MOST_BYTES - size))):
                parts.append(part)
                size += len(part)
        if deadline is not None and deadline.passed:
            raise Unhealthy(f"its answer was not complete after {seconds:g} s")
        return b"".join(parts)


def _connect(pod: PodState, health: Health) -> None:
    with contextlib.closing(socket.create_connection((pod.ip, health.port), health.timeout)):
        return


def _through(proxy: PodProxy, namespace: str, pod: PodState, health: Health) -> tuple[int, bytes]:
    place = f"{quote(pod.name, safe='')}:{health.port}"
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{place}/proxy{health.path}"
    status, body = proxy.exchange(
        health.method, path, more=dict(health.headers), seconds=health.timeout, most=_MOST_BYTES
    )
    if status >= HTTPStatus.BAD_REQUEST and (said := _said_by_api_server(body)):
        raise Unhealthy(f"was not asked, the API server answers {status}: {said}")
    return status, body


def _said_by_api_server(body: bytes) -> str:
    """Why the API server itself did not lead to the pod; "" where the answer is the pod's."""
    try:
        found = msgspec.json.decode(body, type=_ApiStatus)
    except WRONG:
        return ""
    return shown(found.message, "") if (found.kind, found.api_version) == ("Status", "v1") else ""


class _ApiStatus(msgspec.Struct, rename="camel"):
    kind: str = ""
    api_version: str = ""
    message: str = ""


def judge(health: Health, status: int, body: bytes) -> None:
    """Raise `Unhealthy` for an answer that does not say that all is well."""
    where = f"{health.path} at port {health.port}"
    if health.kind == "probe":
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise Unhealthy(f"{where} answers {status}, and no JSON") from None
        if not isinstance(document, Mapping) or document.get("healthy") is not True:
            raise Unhealthy(f'{where} answers {status} without "healthy": true')
        return
    if not health.low <= status <= health.high:
        raise Unhealthy(f"{where} answers {status}, not {health.low} to {health.high}")
    if health.body and health.body.encode() not in body:
        raise Unhealthy(f"{where} answers {status} without the wanted text")
