"""Pods and their controllers, followed through the Kubernetes API.

The official client gives configuration, authentication and HTTP, and no more: its models take fifty
times the CPU time, and its watches neither resume nor back off as they should. `listwatch` decodes,
`reflector` follows: one stream for each resource and namespace.

Every wait for the server is bounded: connecting, the headers of an answer, a whole page of a list,
and the gap between two bytes of a watch (bookmarks come once a minute where anything happens).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import vulcanized.lean_requests  # noqa: F401

# isort: split
import structlog
import urllib3
import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import OpenApiException
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import SERVICE_HOST_ENV_NAME, InClusterConfigLoader
from kubernetes.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger
from kubernetes.utils.keepalive import tcp_keepalive_socket_options
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from vulcanized.cutter import Cutter, cut_late, live_socket
from vulcanized.errors import Expired, Refused, SettingsError, Unreachable
from vulcanized.guard import CONTROLLERS, PODS, Kind
from vulcanized.holds import Baseline, Guarding, Holds
from vulcanized.listwatch import Codec, status_error
from vulcanized.model import AppId, Controller, Pod
from vulcanized.objects import (
    DEPLOYMENT,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    Labels,
    Record,
    Resource,
    controllers,
    pods,
    shown,
)
from vulcanized.reflector import USUAL_TIMING, Cache, Reflector, Silent, Timing, Uniform
from vulcanized.settings import KubernetesSettings
from vulcanized.slot import Clock, DirtyApps

log = structlog.get_logger(__name__)

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# Bytes. Of a page, where smaller pages are asked for if it is too large (etcd keeps objects under
# 1.5 MB by default), and of a refused request.
_LARGEST_PAGE = 64 << 20
_LARGEST_REFUSAL = 64 << 10

_PLUGIN_SECONDS = 30

# Seconds of silence until the kernel asks the peer, between two questions, and how many of them.
_KEEPALIVE = {"idle": 15, "interval": 5, "count": 3}

# We ask for none, but what is between us and the server may do as it likes. The others are read
# without a bound of memory somewhere.
_CODINGS = ("identity", "gzip", "x-gzip")

_LOST = (OpenApiException, HTTPError, OSError, ValueError)
"""What the client and urllib3 raise when a request cannot be made or its answer not be read."""

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the server may take, and how many objects it is asked for at a time.

    `headers` is for a TLS handshake, and for the headers of an answer, `page` for the body of a
    page, from the first to the last byte; `gap` is the longest silence in a watch before the server
    is asked whether it is there. A mute server (it accepts, and never answers) is noticed after
    `connect + headers`, a frozen one, and one that does not finish a line, after `gap + headers`, a
    dead host or path in a watch after `_KEEPALIVE`.
    """

    connect: float = 5.0
    headers: float = 20.0
    page: float = 60.0
    gap: float = 90.0
    objects: int = 500


class KubernetesSource:
    """The cluster side: streams, each to be run in a thread of its own, and reads for any thread.

    Raises when made `SettingsError` for a configuration that cannot be used, and `SourceError` for
    credentials that cannot be had. The server is not asked anything before a stream runs.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        dirty: DirtyApps,
        *,
        guarding: Guarding | None = None,
        limits: Limits = Limits(),
        timing: Timing = USUAL_TIMING,
        clock: Clock = time.monotonic,
        uniform: Uniform = random.uniform,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        namespaces = tuple(dict.fromkeys(settings.namespaces)) or ("",)
        labels = Labels(settings.app_label, settings.version_label)
        server = Server(
            Credentials(settings, environ, service_account),
            limits,
            connections=len(namespaces) * (1 + len(_CONTROLLERS)),
        )

        guarding = guarding or Guarding()

        def stream(
            served: Served,
            namespace: str,
            resource: Resource[Record],
            cache: Cache[Record],
            counted: Kind[str, Record],
            remembered: Callable[[], Iterable[Record]],
        ) -> Reflector[Record]:
            transport = ResourceTransport(server, served, namespace, settings.selector)
            holds = Holds(
                transport.name, counted, guarding, remembered, clock=clock, uniform=uniform
            )
            return Reflector(
                transport.name,
                transport,
                Codec(resource),
                cache,
                dirty,
                holds=holds,
                timing=timing,
                clock=clock,
                uniform=uniform,
            )

        # By namespace; "" for all.
        self._pods: dict[str, Cache[Pod]] = {}
        self._controllers: dict[str, tuple[Cache[Controller], ...]] = {}
        streams: list[Reflector[Pod] | Reflector[Controller]] = []
        for namespace in namespaces:
            self._pods[namespace] = Cache()
            streams.append(
                stream(
                    _PODS,
                    namespace,
                    pods(labels),
                    self._pods[namespace],
                    PODS,
                    partial(guarding.baseline.pods, namespace),
                )
            )
            caches = tuple(Cache[Controller]() for _ in _CONTROLLERS)
            self._controllers[namespace] = caches
            for served, cache in zip(_CONTROLLERS, caches, strict=True):
                resource = controllers(served.kind, labels)
                known = partial(_of_kind, guarding.baseline, namespace, served.kind)
                streams.append(stream(served, namespace, resource, cache, CONTROLLERS, known))
        self.streams = tuple(streams)

    def pods(self, app: AppId) -> tuple[Pod, ...]:
        """The pods of an app, sorted by uid."""
        cache = self._pods.get(app.namespace, self._pods.get(""))
        return cache.of(app) if cache is not None else ()

    def controllers(self, app: AppId) -> tuple[Controller, ...]:
        """The controllers of an app, of all kinds, sorted by uid."""
        caches = self._controllers.get(app.namespace, self._controllers.get("", ()))
        found = [record for cache in caches for record in cache.of(app)]
        return tuple(sorted(found, key=lambda record: record.uid))

    def apps(self) -> set[AppId]:
        """Every app that has a pod or a controller."""
        found: set[AppId] = set()
        for cache in self._pods.values():
            found |= cache.apps()
        for caches in self._controllers.values():
            for kind in caches:
                found |= kind.apps()
        return found


def _of_kind(baseline: Baseline, namespace: str, kind: str) -> Iterator[Controller]:
    return (each for each in baseline.controllers(namespace) if each.kind == kind)


class Served(NamedTuple):
    """Where the API server has a resource."""

    plural: str
    group: str
    kind: str

    def path(self, namespace: str) -> str:
        """The path of its list in one namespace, or for "" in all."""
        base = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{base}{inside}/{self.plural}"


_PODS = Served("pods", "", POD)
_CONTROLLERS = (
    Served("replicationcontrollers", "", REPLICATION_CONTROLLER),
    Served("replicasets", "apps", REPLICA_SET),
    Served("deployments", "apps", DEPLOYMENT),
)


class ResourceTransport:
    """Lists and watches one resource, in one namespace or (for "") in all; for one thread."""

    def __init__(self, server: Server, served: Served, namespace: str, selector: str) -> None:
        self.name = f"kubernetes/{served.plural}" + (f"/{namespace}" if namespace else "")
        self._server = server
        self._path = served.path(namespace)
        self._what = f"{served.plural} in " + (
            f'namespace "{namespace}"' if namespace else "all namespaces"
        )
        self._grant = (
            f'grant verbs list, watch on resource "{served.plural}" (apiGroup "{served.group}")'
        )
        self._selector: Query = [("labelSelector", selector)] if selector else []
        self._objects = server.limits.objects

    def start(self, stop: threading.Event) -> None:
        """Have every wait of `page` and `watch` end when `stop` is set."""
        self._server.start(stop)

    def page(self, more: str) -> bytes:
        """One page of the list, as the server has it now (no version: never one of before)."""
        query = [*self._selector, ("limit", str(self._objects))]
        if more:
            query.append(("continue", more))
        with self._get("list", query, self._server.limits.page) as response:
            try:
                return self._server.read(response, _LARGEST_PAGE)
            except TooLarge as error:
                self._objects = max(1, self._objects // 5)
                said = f"{error}: pages of {self._objects} objects are asked for from now on"
                raise Unreachable(said) from error

    @contextmanager
    def watch(self, version: str, seconds: int) -> Iterator[Iterator[bytes]]:
        """The lines of what happens after `version`, each as soon as its bytes are in."""
        query = [
            *self._selector,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(seconds)),
        ]
        with self._get("watch", query, self._server.limits.gap) as response:
            yield self._server.chunks(response, f"watch {self._what}")

    def check(self, version: str) -> None:
        """Raise `Expired` when the server has not reached this version: by a list of one object."""
        query = [
            ("limit", "1"),
            ("resourceVersion", version),
            ("resourceVersionMatch", "NotOlderThan"),
        ]
        limits = self._server.limits
        with self._get("list", query, limits.page) as response:
            self._server.read(response, _LARGEST_PAGE)

    @contextmanager
    def _get(self, verb: str, query: Query, gap: float) -> Iterator[urllib3.BaseHTTPResponse]:
        what = f"{verb} {self._what}"
        try:
            opened = self._server.get(what, self._path, query, gap)
        except Forbidden as error:
            raise Refused(f"{what} is forbidden: {self._grant}; {error}") from error
        except BadRequest as error:
            if any(name == "resourceVersion" for name, _ in query):
                # A version that this server cannot read is no place in its history.
                raise Expired(str(error)) from error
            raise
        try:
            yield opened
        finally:
            opened.close()
            opened.release_conn()


class Forbidden(Refused):
    """403: the server knows who we are, or takes us for anonymous, and does not allow it."""


class BadRequest(Unreachable):
    """400 or 422: the server can make nothing of the request."""


class TooLarge(Unreachable):
    """An answer of more bytes than we take."""


class Server:
    """One API server: requests as one user, all waits bounded; for any number of threads."""

    def __init__(self, credentials: Credentials, limits: Limits, connections: int) -> None:
        self.limits = limits
        self._credentials = credentials
        self._connections = connections
        self._cutter = Cutter(tick=min(1.0, limits.headers / 10))
        self._lock = threading.Lock()
        self._host = ""
        self._client: ApiClient | None = self._log_in()

    def start(self, stop: threading.Event) -> None:
        """Cut every connection when `stop` is set."""
        self._cutter.serve(stop)

    def get(self, what: str, path: str, query: Query, gap: float) -> urllib3.BaseHTTPResponse:
        """The answer to a request, its body not read yet; the caller closes and releases it.

        `what` is named in errors; `gap` is the read time-out of the body. Raises what
        `status_error` makes of an answer other than 200.
        """
        client, url, headers = self._prepare(path, query)
        timeout = (self.limits.connect, gap)
        try:
            answer = client.call_api("GET", url, headers, _request_timeout=timeout)
        except _LOST as error:
            if _is_tls(error):
                self._forget(client)
            raise self._lost(what, error) from error
        response: urllib3.BaseHTTPResponse = answer.response
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding not in _CODINGS:
            response.close()
            response.release_conn()
            raise Unreachable(f"{self._host}: cannot {what}: compressed by {shown(coding)}")
        if response.status == 200:
            return response
        try:
            body = self.read(response, _LARGEST_REFUSAL)
        finally:
            response.close()
            response.release_conn()
        retry_after = response.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isdecimal() else None
        if response.status == 401:
            self._forget(client)
            raise Refused(
                f"{what}: the server does not accept the credentials of"
                f" {self._credentials.origin} (401): renew them; they are read again"
            )
        if response.status == 403:
            raise Forbidden(str(status_error(body, "the server says", 403)))
        refusal = status_error(body, what, response.status, seconds)
        if response.status in (400, 422):
            raise BadRequest(str(refusal), seconds)
        raise refusal

    def read(self, response: urllib3.BaseHTTPResponse, most: int) -> bytes:
        """The whole body. Raises `Unreachable` when it does not come in time, or is too large."""
        sock = live_socket(response)  # None: the body came with the headers
        late = nullcontext() if sock is None else self._cutter.deadline(sock, self.limits.page)
        parts: list[bytes] = []
        size, lost = 0, None
        with late as deadline:
            try:
                # Not at once: http.client keeps every chunk of one read by itself, however small.
                while size <= most and (part := response.read(1 << 20)):
                    parts.append(part)
                    size += len(part)
            except _LOST as error:
                lost = error
        # Asked first: a body without a length that is cut off looks complete.
        if deadline is not None and deadline.passed:
            limit = f"an answer was not complete after {self.limits.page:g} s"
            raise Unreachable(f"{self._host}: {limit}") from lost
        if lost is not None:
            raise self._lost("read an answer", lost) from lost
        if size > most:
            raise TooLarge(f"{self._host}: an answer of more than {most >> 20} MiB")
        return b"".join(parts)

    def chunks(self, response: urllib3.BaseHTTPResponse, what: str) -> Iterator[bytes]:
        """The body as it comes in. Raises `Unreachable` too when a line of it takes too long."""
        sock, longest = live_socket(response), self.limits.gap + self.limits.headers
        late = nullcontext() if sock is None else self._cutter.deadline(sock, longest)
        lost = None
        with late as deadline:
            try:
                for chunk in _as_it_comes(response):
                    if deadline is not None and b"\n" in chunk:
                        deadline.renew()
                    yield chunk
            except ReadTimeoutError as error:
                raise Silent(f"{what}: nothing came for {self.limits.gap:g} s") from error
            except _LOST as error:
                lost = error
        if deadline is not None and deadline.passed:
            raise Unreachable(f"{what}: a line was not complete after {longest:g} s") from lost
        if lost is not None:
            raise self._lost(what, lost) from lost

    def _prepare(self, path: str, query: Query) -> tuple[ApiClient, str, dict[str, str]]:
        # Under the lock: it may run the credentials' exec plugin, and once is enough.
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._log_in()
                except SettingsError as error:
                    raise Refused(str(error)) from error
            client = self._client
            try:
                _, url, headers, _, _ = client.param_serialize(
                    "GET",
                    path,
                    query_params=list(query),
                    header_params={"Accept": "application/json"},
                    auth_settings=["BearerToken"],
                )
            except (ConfigException, *_LOST) as error:
                raise Refused(f"{self._credentials.origin}: {error}") from error
        token = headers.get("authorization", "").strip()
        if not (token.isascii() and token.isprintable()):
            # http.client would refuse it too, and print it.
            raise Refused(f"{self._credentials.origin}: the token is not one line of plain text")
        if token:
            headers["authorization"] = token
        return client, url, headers

    def _log_in(self) -> ApiClient:
        configuration = self._credentials.load()
        configuration.retries = False  # urllib3 would sleep where nothing can wake it
        configuration.socket_options = tcp_keepalive_socket_options(**_KEEPALIVE)
        configuration.connection_pool_maxsize = self._connections
        client = ApiClient(configuration)
        client.user_agent = "vulcanized"
        cut_late(client.rest_client.pool_manager, self._cutter, self.limits.headers)
        self._host = configuration.host
        log.info("kubernetes client", server=self._host, credentials=self._credentials.origin)
        return client

    def _forget(self, client: ApiClient) -> None:
        """Read the credentials again for the next request: files are renewed under us."""
        with self._lock:
            if self._client is client:
                self._client = None
                client.close()

    def _lost(self, what: str, error: Exception) -> Unreachable:
        reason = shown(self._reason(error), "")
        return Unreachable(f"{self._host}: cannot {what}: {reason}")

    def _reason(self, error: Exception) -> str:
        if isinstance(error, NewConnectionError):  # which is a ConnectTimeoutError
            return str(error).rpartition(": ")[2]
        if isinstance(error, ConnectTimeoutError):
            return f"no connection within {self.limits.connect:g} s"
        if isinstance(error, ReadTimeoutError):
            return f"nothing came for {self.limits.page:g} s"
        if isinstance(error, OpenApiException):
            return " ".join(str(getattr(error, "reason", error)).split())
        cause = next((arg for arg in error.args if isinstance(arg, OSError)), None)
        return str(cause or error) or type(error).__name__


def _as_it_comes(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The body in chunks, each as soon as it is in.

    `stream` is the quicker by half, but where the body is not chunked it waits for a full buffer.
    """
    if getattr(response, "chunked", False):
        yield from response.stream(1 << 16, decode_content=True)
    else:
        while chunk := response.read1(1 << 16):
            yield chunk


def _is_tls(error: Exception) -> bool:
    # The client turns urllib3's SSLError into this.
    return isinstance(error, OpenApiException) and getattr(error, "status", None) == 0


class Credentials:
    """Where the API server is, and who we are there: in-cluster, or by a kubeconfig.

    Without a kubeconfig in the settings it is in-cluster where the environment says so, else the
    user's own: `KUBECONFIG`, else `~/.kube/config`.
    """

    def __init__(
        self, settings: KubernetesSettings, environ: Mapping[str, str], service_account: Path
    ) -> None:
        self._context = settings.context or None
        self._environ = environ
        self._account = service_account
        self._in_cluster = settings.kubeconfig is None and SERVICE_HOST_ENV_NAME in environ
        users = environ.get("KUBECONFIG") or "~/.kube/config"
        self._kubeconfig = str(settings.kubeconfig or users)
        self.origin = (
            f"the service account in {service_account}" if self._in_cluster else self._kubeconfig
        )

    def load(self) -> Configuration:
        """Raises `SettingsError`, and `Refused` when an exec plugin fails."""
        configuration = Configuration()
        try:
            if self._in_cluster:
                InClusterConfigLoader(
                    token_filename=str(self._account / "token"),
                    cert_filename=str(self._account / "ca.crt"),
                    environ=self._environ,
                ).load_and_set(configuration)
            else:
                self._load_kubeconfig(configuration)
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise self._broken(f"not YAML: {said}; mend it there") from error
        except OSError as error:
            file = error.filename or self.origin
            raise self._broken(f"{file} cannot be read ({error.strerror}); mend it") from error
        except (ConfigException, ValueError) as error:
            raise self._broken(f"{error}; mend it, or name another") from error
        except (TypeError, KeyError, AttributeError) as error:
            raise self._broken(f"not a kubeconfig ({error}); name one") from error
        return configuration

    def _load_kubeconfig(self, configuration: Configuration) -> None:
        merged = KubeConfigMerger(self._kubeconfig).config
        if merged is None:
            raise self._broken(
                "there is no such file: set kubernetes.kubeconfig to one, or run in a cluster"
            )
        loader: Any = _Loader
        loader(merged, self._context, config_base_path=None).load_and_set(configuration)

    def _broken(self, problem: str) -> SettingsError:
        return SettingsError(self.origin, (problem,))


class _Loader(KubeConfigLoader):
    """The client's loader, with an exec plugin that ends and whose failure is one."""

    def _load_from_exec_plugin(self) -> Any:
        user: Any = self._user
        plugin = user.safe_get("exec")
        if plugin is None:
            return None
        command = str(plugin.get("command", ""))
        # The client waits for a plugin for ever, and gives us no way to bound it but this.
        seconds = f"{_PLUGIN_SECONDS}"
        bounded = ["--foreground", "--kill-after=5", seconds, command, *(plugin.get("args") or ())]
        exec_ = {**plugin, "command": "timeout", "args": bounded}
        self._user = ConfigNode(user.name, {**user.value, "exec": exec_}, user.path)
        try:
            loaded = super()._load_from_exec_plugin()  # type: ignore[no-untyped-call]
        finally:
            self._user = user
        if not loaded:
            raise Refused(
                f"{user.path}: the exec plugin {command!r} failed, or gave no credentials within"
                f" {seconds} s: run it by hand to see why"
            )
        return loaded
