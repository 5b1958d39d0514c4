"""The cluster as the deployer uses it: controllers made, scaled and deleted; pods looked at.

The official client gives configuration, authentication and HTTP (see `sources/kubernetes.py`).
Every wait is bounded: connecting, the headers of an answer, its whole body.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import vulcanized.lean_requests  # noqa: F401

# isort: split
import msgspec
import urllib3
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import OpenApiException
from urllib3.exceptions import HTTPError

from vulcanized.cutter import Cutter, cut_late, live_socket
from vulcanized.deployer.descriptor import DEPLOYMENT_ANNOTATION, HEALTH_ANNOTATION
from vulcanized.deployer.words import ControllerState, Health, PodState, Ref
from vulcanized.errors import (
    AlreadyThere,
    Invalid,
    NotAccepted,
    NotFound,
    Refused,
    SettingsError,
    Unreachable,
    VulcanizedError,
)
from vulcanized.listwatch import status_error
from vulcanized.model import AppId
from vulcanized.objects import (
    DEPLOYMENT,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    WRONG,
    Labels,
    WireController,
    WirePod,
    controllers,
    pods,
    shown,
)
from vulcanized.settings import KubernetesSettings
from vulcanized.sources.kubernetes import SERVICE_ACCOUNT, Credentials

CONNECT: Final = 5.0
HEADERS: Final = 20.0
BODY: Final = 30.0
"""Seconds for one call: to connect, for the headers of its answer, and for all of its body."""

_LARGEST = 64 << 20
_PAGE = 500
_MOST_PAGES = 100
_LOST = (OpenApiException, HTTPError, OSError, ValueError)

_PATHS: Final = {
    "Pod": ("/api/v1", "pods"),
    REPLICATION_CONTROLLER: ("/api/v1", "replicationcontrollers"),
    REPLICA_SET: ("/apis/apps/v1", "replicasets"),
    DEPLOYMENT: ("/apis/apps/v1", "deployments"),
}

Json = dict[str, Any]


class Api:
    """One API server, asked as one user; for any number of threads."""

    def __init__(
        self,
        settings: KubernetesSettings,
        stop: threading.Event,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        self._credentials = Credentials(settings, environ, service_account)
        self._cutter = Cutter(tick=0.5)
        self._cutter.serve(stop)
        self._lock = threading.Lock()
        self._client: ApiClient | None = self._log_in()

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
        *,
        patch: bool = False,
        seconds: float = BODY,
        most: int = _LARGEST,
    ) -> bytes:
        """The body of the answer to a request, if that is 2xx.

        Raises `NotFound`, `AlreadyThere`, `NotAccepted`, `Refused` and `Unreachable`: whatever is
        not an answer of the API server to what was asked is the last.
        """
        kind = "application/merge-patch+json" if patch else "application/json"
        data = json.dumps(body).encode() if body is not None else None
        status, answer = self.exchange(
            method, path, query, data, {"Content-Type": kind}, seconds=seconds, most=most
        )
        return _judged(f"{method} {path}", status, answer)

    def exchange(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        data: bytes | None = None,
        more: Mapping[str, str] | None = None,
        *,
        seconds: float = BODY,
        most: int = _LARGEST,
    ) -> tuple[int, bytes]:
        """Status and body of the answer, whatever they say. `more`: further headers.

        Raises `Unreachable` where there is none, and `Refused` without credentials to ask with.
        """
        client, url, headers = self._prepare(method, path, query)
        headers.update(more or {})
        try:
            response = client.rest_client.pool_manager.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT, read=seconds),
                preload_content=False,
                retries=False,
                redirect=False,
            )
            try:
                answer = self._read(response, seconds, most)
            finally:
                response.close()
                response.release_conn()
        except _LOST as error:
            self._forget(client)
            said = shown(str(error), "")[:300]
            raise Unreachable(f"cannot {method} {path}: {said}") from error
        if response.status == 401:
            self._forget(client)
        return response.status, answer

    def _read(self, response: urllib3.BaseHTTPResponse, seconds: float, most: int) -> bytes:
        sock = live_socket(response)
        late = nullcontext() if sock is None else self._cutter.deadline(sock, seconds)
        parts: list[bytes] = []
        size = 0
        with late as deadline:
            while size <= most and (part := response.read(1 << 16)):
                parts.append(part)
                size += len(part)
        if deadline is not None and deadline.passed:
            raise TimeoutError(f"the answer was not complete after {seconds:g} s")
        if size > most:
            raise ValueError(f"an answer of more than {most >> 10} KiB")
        return b"".join(parts)

    def _prepare(
        self, method: str, path: str, query: Sequence[tuple[str, str]]
    ) -> tuple[ApiClient, str, dict[str, str]]:
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._log_in()
                except SettingsError as error:
                    raise Refused(str(error)) from error
            client = self._client
            try:
                _, url, headers, _, _ = client.param_serialize(
                    method,
                    path,
                    header_params={"Accept": "application/json"},
                    auth_settings=["BearerToken"],
                )
            except _LOST as error:
                raise Refused(f"{self._credentials.origin}: {error}") from error
        token = headers.get("authorization", "").strip()
        if not (token.isascii() and token.isprintable()):
            raise Refused(f"{self._credentials.origin}: the token is not one line of plain text")
        if token:
            headers["authorization"] = token
        return client, f"{url}?{urlencode(query)}" if query else url, headers

    def _log_in(self) -> ApiClient:
        configuration = self._credentials.load()
        configuration.retries = False
        client = ApiClient(configuration)
        client.user_agent = "vulcanized-deployer"
        cut_late(client.rest_client.pool_manager, self._cutter, HEADERS)
        return client

    def _forget(self, client: ApiClient) -> None:
        with self._lock:
            if self._client is client:
                self._client = None


def _judged(what: str, status: int, body: bytes) -> bytes:
    if 200 <= status < 300:
        return body
    said = str(status_error(body, what, status))
    if status in (401, 403):
        raise Refused(f"{said}: examples/kubernetes/rbac-deployer.yaml has what is needed")
    if status == 404:
        raise NotFound(said)
    if status == 409:
        raise AlreadyThere(said)
    if status in (400, 415, 422):
        raise NotAccepted(said)
    raise Unreachable(said)


class LogTail(NamedTuple):
    """The last lines of a container's log, or why there are none."""

    container: str
    lines: tuple[str, ...]
    error: VulcanizedError | None = None


class Cluster:
    """The objects of apps, by the labels of the settings."""

    def __init__(self, api: Api, labels: Labels) -> None:
        self.api = api
        self.labels = labels
        self._pods = pods(labels)

    def controllers(self, app: AppId) -> tuple[ControllerState, ...]:
        """The ReplicationControllers, ReplicaSets and Deployments of an app."""
        found: list[ControllerState] = []
        for kind in (REPLICATION_CONTROLLER, REPLICA_SET, DEPLOYMENT):
            resource = controllers(kind, self.labels)
            for raw in self._list(kind, app):
                more = msgspec.json.decode(raw, type=_Controller).metadata or _Metadata()
                lean = resource.lean(msgspec.json.decode(raw, type=WireController))
                if lean is None or lean.app != app.name:
                    continue
                annotations = more.annotations or {}
                owner = next((o for o in more.owner_references or () if o.controller), None)
                found.append(
                    ControllerState(
                        kind=kind,
                        name=lean.name,
                        uid=lean.uid,
                        version=lean.version,
                        desired=lean.desired,
                        deployment=annotations.get(DEPLOYMENT_ANNOTATION, ""),
                        owner=f"{owner.kind} {owner.name}" if owner is not None else "",
                        health=_health(annotations.get(HEALTH_ANNOTATION)),
                    )
                )
        return tuple(sorted(found, key=lambda each: (each.kind, each.name)))

    def pods(self, app: AppId) -> tuple[PodState, ...]:
        """The pods of an app that have not finished, by name."""
        found: list[PodState] = []
        for raw in self._list("Pod", app):
            pod = self._pods.lean(msgspec.json.decode(raw, type=WirePod))
            if pod is None or pod.finished:
                continue
            more = msgspec.json.decode(raw, type=_Pod)
            found.append(
                PodState(
                    name=pod.name,
                    uid=pod.uid,
                    version=pod.version,
                    ready=pod.ready,
                    terminating=pod.terminating,
                    ip=pod.ip,
                    why="" if pod.ready else _why(more),
                    containers=_containers(more.spec or _Spec()),
                )
            )
        return tuple(sorted(found))

    def _list(self, kind: str, app: AppId) -> Iterator[msgspec.Raw]:
        query = [
            ("labelSelector", f"{self.labels.app}={app.name}"),
            ("limit", str(_PAGE)),
        ]
        more = ""
        for _ in range(_MOST_PAGES):
            following = [("continue", more)] if more else []
            body = self.api.request("GET", _path(kind, app.namespace), [*query, *following])
            try:
                page = msgspec.json.decode(body, type=_Page)
                yield from page.items or ()
            except WRONG as error:
                raise Unreachable(f"the list of {kind}s cannot be read: {error}") from error
            except Invalid as error:
                raise Unreachable(f"the list of {kind}s cannot be read: {error}") from error
            more = (page.metadata.more or "") if page.metadata is not None else ""
            if not more:
                return
        raise Unreachable(f"the list of {kind}s does not end")

    def create(self, manifest: Json, *, only_try: bool = False) -> None:
        """Create a controller. `only_try`: have the server check it, and keep nothing."""
        query = [("dryRun", "All")] if only_try else []
        namespace = str(manifest["metadata"]["namespace"])
        self.api.request("POST", _path(str(manifest["kind"]), namespace), query, manifest)

    def scale(self, app: AppId, ref: Ref, replicas: int) -> None:
        """Have a controller want so many pods. Raises `NotFound` where it is gone."""
        path = f"{_path(ref.kind, app.namespace, ref.name)}/scale"
        # A uid that is another's is refused: a controller of the same name is not the same.
        metadata = {"uid": ref.uid} if ref.uid else {}
        body = {"metadata": metadata, "spec": {"replicas": replicas}}
        self.api.request("PATCH", path, (), body, patch=True)

    def delete(self, app: AppId, ref: Ref) -> None:
        """Delete a controller, and its pods after it. Raises `NotFound` where it is gone."""
        body: Json = {"propagationPolicy": "Background"}
        if ref.uid:
            body["preconditions"] = {"uid": ref.uid}
        self.api.request("DELETE", _path(ref.kind, app.namespace, ref.name), (), body)

    def events(self, namespace: str, uid: str) -> tuple[str, ...]:
        """The last warnings about an object, the newest first."""
        query = [
            ("fieldSelector", f"involvedObject.uid={uid},type=Warning"),
            ("limit", str(_PAGE)),
        ]
        body = self.api.request("GET", f"/api/v1/namespaces/{quote(namespace)}/events", query)
        try:
            items = msgspec.json.decode(body, type=_Events).items or []
        except WRONG:
            return ()
        items.sort(key=lambda event: event.last_timestamp or "", reverse=True)
        told = [f"{event.reason or ''}: {event.message or ''}" for event in items[:5]]
        return tuple(shown(line, "") for line in told)

    def logs(self, namespace: str, pod: PodState, lines: int = 20) -> Iterator[LogTail]:
        """The ends of a pod's logs; they may hold anything, so they are shown and never kept."""
        path = f"{_path('Pod', namespace, pod.name)}/log"
        query = [("tailLines", str(lines)), ("limitBytes", str(1 << 16))]
        for container in pod.containers:
            asked = [*query, ("container", container)]
            try:
                text = self.api.request("GET", path, asked, most=1 << 17)
            except VulcanizedError as error:
                yield LogTail(container, (), error)
            else:
                yield LogTail(container, tuple(text.decode(errors="replace").splitlines()))


def _path(kind: str, namespace: str, name: str = "") -> str:
    base, plural = _PATHS[kind]
    if not namespace:
        raise Invalid("namespace", "must not be empty")
    path = f"{base}/namespaces/{quote(namespace, safe='')}/{plural}"
    return f"{path}/{quote(name, safe='')}" if name else path


def _health(text: str | None) -> Health | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Health)
    except WRONG:
        return None


# --- the wire ----------------------------------------------------------------------------------


class _More(msgspec.Struct):
    more: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct):
    metadata: _More | None = None
    items: list[msgspec.Raw] | None = None


class _Owner(msgspec.Struct):
    kind: str | None = None
    name: str | None = None
    controller: bool | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    annotations: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _Controller(msgspec.Struct):
    metadata: _Metadata | None = None


class _Reason(msgspec.Struct, rename="camel"):
    reason: str | None = None
    message: str | None = None
    exit_code: int | None = None


class _State(msgspec.Struct):
    waiting: _Reason | None = None
    terminated: _Reason | None = None


class _Container(msgspec.Struct, rename="camel"):
    name: str | None = None
    ready: bool | None = None
    state: _State | None = None
    last_state: _State | None = None
    restart_count: int | None = None


class _Condition(msgspec.Struct):
    type: str | None = None
    status: str | None = None
    reason: str | None = None
    message: str | None = None


class _Status(msgspec.Struct, rename="camel"):
    phase: str | None = None
    conditions: list[_Condition] | None = None
    init_container_statuses: list[_Container] | None = None
    container_statuses: list[_Container] | None = None


class _Spec(msgspec.Struct, rename="camel"):
    init_containers: list[_Container] | None = None
    containers: list[_Container] | None = None


class _Pod(msgspec.Struct):
    spec: _Spec | None = None
    status: _Status | None = None


class _Event(msgspec.Struct, rename="camel"):
    reason: str | None = None
    message: str | None = None
    last_timestamp: str | None = None


class _Events(msgspec.Struct):
    items: list[_Event] | None = None


def _containers(spec: _Spec) -> tuple[str, ...]:
    listed = (*(spec.init_containers or ()), *(spec.containers or ()))
    return tuple(each.name for each in listed if each.name)


def _why(pod: _Pod) -> str:
    """What keeps a pod from being ready, in one line."""
    status = pod.status or _Status()
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return shown(f"{condition.reason}: {condition.message}", "")
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        for state in (container.state, container.last_state):
            if state is None or container.ready:
                continue
            if state.waiting is not None:
                words = f"{state.waiting.reason}: {state.waiting.message or ''}"
                return shown(f"container {container.name} waits: {words}", "")
            if state.terminated is not None:
                code = state.terminated.exit_code
                words = f"{state.terminated.reason} (exit code {code})"
                return shown(f"container {container.name} ended: {words}", "")
    return shown(f"{status.phase or 'Pending'}, not ready", "")
