"""A small Kubernetes API server on the wire: four resources, lists, watches, named faults.

It does what the real one does (one contract suite runs on both) as far as it matters to a client
that follows pods and controllers. What cannot be asked of the real one is a `faults.Fault`:

    with FakeKubernetes() as server:
        server.store.create("pods", manifests.pod("a"))
        with server.suffering(faults.Mute(), verb="watch", plural="pods"):
            ...

One thread runs an asyncio loop; tests call from theirs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.fakes.faults import Fault, event_line, too_large
from tests.fakes.store import KINDS, Item, Object, StatusError, Store, selector, shown
from tests.fakes.wire import Abort, EndOfStream, Exchange, Request, read_request
from tests.servers.api import Api

Rule = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class User:
    """Somebody who can log in with a bearer token, and may do what `rules` say."""

    name: str
    token: str
    kubeconfig: Path
    rules: Sequence[Rule]
    namespace: str | None

    def may(self, request: Request) -> bool:
        return self.namespace in (None, request.namespace) and any(
            request.group in rule["apiGroups"]
            and request.plural in rule["resources"]
            and request.verb in rule["verbs"]
            for rule in self.rules
        )


@dataclass(eq=False)
class _Active:
    """A fault, the requests that it is for, and how many of them are left."""

    fault: Fault
    verb: str
    plural: str
    times: int | None

    def takes(self, request: Request) -> bool:
        if self.verb not in ("", request.verb) or self.plural not in ("", request.plural):
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class FakeKubernetes:
    """A context manager: started on entering; on the same port after every `stop` and `start`.

    With `tls` it speaks HTTPS; a certificate loaded into that counts from the next connection on.
    `requests` holds all that came in, `connections` counts those open now.
    """

    def __init__(self, *, bookmark_every: float = 60.0, tls: ssl.SSLContext | None = None) -> None:
        self.store = Store(self._wake)
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        # Seconds: whatever a client asks for, a watch ends after so many.
        self.longest_watch = float("inf")
        self._bookmark_every = bookmark_every
        self._tls = tls
        self._bookmarks = 0
        self._faults: list[_Active] = []
        self._snapshots: OrderedDict[str, tuple[int, list[Item]]] = OrderedDict()
        self._watches: dict[asyncio.Event, str] = {}
        self._users: dict[str, User] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake", daemon=True)

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def start(self) -> Self:
        if not self._thread.is_alive():
            self._thread.start()
        self._await(self._listen())
        return self

    def stop(self) -> None:
        """Refuse connections, and reset those that are open. The store stays."""
        self._await(self._silence())

    def close(self) -> None:
        self.stop()
        self._await(self._finish())
        self._soon(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- faults -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def suffering(
        self, fault: Fault, *, verb: str = "", plural: str = "", times: int | None = None
    ) -> Iterator[None]:
        """Have a fault in a `with` block, for the requests meant, or the next `times` of them.

        Of several for one request, the one that was there first counts: those with `times` are a
        schedule.
        """
        active = _Active(fault, verb, plural, times)
        self._faults.append(active)
        try:
            yield
        finally:
            self._faults.remove(active)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        self._await(self._reset())

    def freeze(self) -> None:
        """Write nothing any more on any connection, until `thaw`."""
        self._soon(self._thawed.clear)

    def thaw(self) -> None:
        self._soon(self._thawed.set)

    def bookmark(self) -> None:
        """Send a bookmark on every watch now."""
        self._bookmarks += 1
        self._wake()

    # --- what clients do ----------------------------------------------------------------------

    def watching(self, plural: str = "") -> int:
        """How many watches are open now."""
        return sum(1 for watched in list(self._watches.values()) if plural in ("", watched))

    def count(self, verb: str = "", plural: str = "") -> int:
        """How many requests of this kind came in so far."""
        return sum(
            verb in ("", request.verb) and plural in ("", request.plural)
            for request in list(self.requests)
        )

    def user(self, folder: Path, rules: Sequence[Rule], namespace: str | None = None) -> User:
        """Somebody new. Once there is one, nobody gets in without a token."""
        name, token = f"user-{len(self._users):03}", secrets.token_hex(8)
        user = User(name, token, folder / f"{name}.yaml", rules, namespace)
        self._users[token] = user
        self.write_kubeconfig(user.kubeconfig, token)
        return user

    def write_kubeconfig(self, path: Path, token: str = "", ca: Path | None = None) -> Path:
        trusted = {"certificate-authority": str(ca)} if ca else {}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url, **trusted}}],
            "users": [{"name": "me", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
            "current-context": "fake",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def client(self, token: str = "") -> Api:
        """Requests as that user; the caller closes it."""
        return Api(self.url, Path(os.devnull), token)

    # --- connections --------------------------------------------------------------------------

    def _soon(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _wake(self) -> None:
        def wake_all() -> None:
            for wake in self._watches:
                wake.set()

        self._soon(wake_all)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, backlog=1000, ssl=self._tls
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _silence(self) -> None:
        if self._listener is not None:
            for listening in self._listener.sockets:
                self._loop.remove_reader(listening.fileno())
            # Not at once: asyncio loses connections that are being accepted when it is closed.
            await asyncio.sleep(0)
            self._listener.close()
            self._listener = None
        await self._reset()
        self._thawed.set()

    async def _reset(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self) -> None:
        """End also the connections that were accepted last, and begin only now."""
        while len(asyncio.all_tasks()) > 1:
            await self._reset()
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # a transport that is aborted closes its socket in the next turn

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await read_request(reader)) is not None:
                self.requests.append(request)
                await self._serve(Exchange(request, reader, writer, self._thawed))
        except (Abort, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # by a fault, by the client, or by `stop`
        finally:
            writer.transport.abort()
            self.connections -= 1
            self._tasks.discard(task)

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        active = next((active for active in list(self._faults) if active.takes(request)), None)
        fault = active.fault if active is not None else Fault()
        if await fault.instead(exchange):
            return
        try:
            self._authorize(request)
            if request.plural not in KINDS or request.group != KINDS[request.plural].group:
                message = "the server could not find the requested resource"
                raise StatusError(404, "NotFound", message)
            if request.verb == "list":
                page = fault.page(self._page(request, fault))
                await exchange.answer(200, page, *fault.headers)
            elif request.verb == "watch":
                await self._watch(exchange, fault)
            else:
                code, body = self._one(request)
                await exchange.answer(code, body)
        except StatusError as error:
            await exchange.refuse(error)

    def _authorize(self, request: Request) -> None:
        if not self._users:
            return
        user = self._users.get(request.token)
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        if not user.may(request):
            where = ".".join(filter(None, (request.plural, request.group)))
            scope = f'in the namespace "{request.namespace}"' if request.namespace else ""
            message = (
                f'{where} is forbidden: User "{user.name}" cannot {request.verb} resource'
                f' "{request.plural}" in API group "{request.group}"'
                f" {scope or 'at the cluster scope'}"
            )
            raise StatusError(403, "Forbidden", message, kind=request.plural)

    # --- lists --------------------------------------------------------------------------------

    def _page(self, request: Request, fault: Fault) -> bytes:
        limit = int(request.query.get("limit") or 0)
        if token := request.query.get("continue", ""):
            name, version, items, start = self._continued(token)
        else:
            asked = request.query.get("resourceVersion", "")
            if asked and _version(asked) > self.store.version:
                raise too_large(asked, self.store.version)
            version, items = self.store.select(request.plural, request.namespace, _wanted(request))
            version, items = fault.listed(version, items)
            name, start = secrets.token_hex(8), 0
        end = start + limit if limit else len(items)
        metadata: Object = {"resourceVersion": str(version)}
        if end < len(items):
            self._snapshots[name] = version, items
            if len(self._snapshots) > 64:
                self._snapshots.popitem(last=False)
            metadata["continue"] = base64.urlsafe_b64encode(f"{name}@{end}".encode()).decode()
            if not request.query.get("labelSelector"):
                metadata["remainingItemCount"] = len(items) - end
        kind = KINDS[request.plural]
        head = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata}
        encoded = b",".join(fault.encoded(item.encoded()) for item in items[start:end])
        return json.dumps(head)[:-1].encode() + b',"items":[' + encoded + b"]}"

    def _continued(self, token: str) -> tuple[str, int, list[Item], int]:
        try:
            name, _, start = base64.urlsafe_b64decode(token).decode().partition("@")
            position = int(start)
        except ValueError:
            message = f"invalid continue token: continue key is not valid: {token}"
            raise StatusError(400, "BadRequest", message) from None
        version, items = self._snapshots.get(name, (0, []))
        if version < self.store.oldest:
            message = (
                "The provided continue parameter is too old to display a consistent list result."
                " You can start a new list without the continue parameter."
            )
            raise StatusError(410, "Expired", message)
        return name, version, items, position

    # --- watches ------------------------------------------------------------------------------

    async def _watch(self, exchange: Exchange, fault: Fault) -> None:
        wanted = _wanted(exchange.request)
        if not (exchange.request.query.get("resourceVersion") or "0").isdecimal():
            await exchange.answer(500, b"strconv.ParseUint: invalid syntax")  # not even a Status
            return
        exchange.chunked = fault.chunked
        await exchange.begin_stream(*fault.headers)
        try:
            await fault.watching(exchange)
            await self._follow(exchange, fault, wanted)
        except EndOfStream:
            await exchange.chunk(b"")

    async def _follow(
        self, exchange: Exchange, fault: Fault, wanted: Callable[[Item], bool]
    ) -> None:
        request, plural = exchange.request, exchange.request.plural
        asked = request.query.get("resourceVersion", "")
        if asked in ("", "0"):
            version, items = self.store.select(plural, request.namespace, wanted)
            for item in items:
                await fault.event(exchange, event_line("ADDED", fault.encoded(item.encoded())))
        else:
            version = int(asked)
            if version < self.store.oldest:
                message = f"too old resource version: {version} ({self.store.oldest})"
                status = StatusError(410, "Expired", message).status
                await exchange.chunk(event_line("ERROR", json.dumps(status).encode()))
                raise EndOfStream
        position = self.store.position(version)
        lasts = float(request.query.get("timeoutSeconds") or 1800)
        ends = time.monotonic() + min(lasts, self.longest_watch)
        # The real one sends a last bookmark two seconds before it ends a watch.
        mark = min(time.monotonic() + self._bookmark_every, ends - 2)
        sent = self._bookmarks
        if request.query.get("allowWatchBookmarks") not in ("true", "1"):
            mark = float("inf")
        wake = asyncio.Event()
        gone = asyncio.ensure_future(exchange.until_gone())
        gone.add_done_callback(lambda _: wake.set())
        self._watches[wake] = plural
        try:
            while not gone.done():
                wake.clear()
                position, changes = self.store.since(position)
                for change in changes:
                    # A version that is not reached yet is waited for, in silence.
                    if change.version > version and change.concerns(plural, request.namespace):
                        seen = shown(change, wanted)
                        if seen is not None:
                            line = event_line(seen[0], fault.encoded(seen[1].encoded()))
                            await fault.event(exchange, line)
                now = time.monotonic()
                if now >= ends:
                    raise EndOfStream
                if now >= mark or (sent != self._bookmarks and mark != float("inf")):
                    mark, sent = now + self._bookmark_every, self._bookmarks
                    await fault.event(exchange, event_line("BOOKMARK", self._bookmark(request)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(ends, mark) - now):
                        await wake.wait()
        finally:
            del self._watches[wake]
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        raise Abort

    def _bookmark(self, request: Request) -> bytes:
        kind = KINDS[request.plural]
        metadata = {"resourceVersion": str(self.store.version), "creationTimestamp": None}
        head = {"kind": kind.name, "apiVersion": kind.api_version, "metadata": metadata}
        return json.dumps({**head, "spec": {"containers": None}, "status": {}}).encode()

    # --- single objects -----------------------------------------------------------------------

    def _one(self, request: Request) -> tuple[int, bytes]:
        plural, namespace, name = request.plural, request.namespace, request.name
        if request.verb == "get":
            return 200, self.store.get(plural, namespace, name).encoded()
        body = _decoded(request.body)
        if request.verb == "create":
            metadata = {**(body.get("metadata") or {}), "namespace": namespace}
            status = {"phase": "Pending"} if plural == "pods" else {}
            item = self.store.create(plural, {**body, "metadata": metadata, "status": status})
            return 201, item.encoded()
        if request.verb == "patch":
            # The object and its status are two resources: each ignores the other's half.
            kept = ("status", "metadata") if request.subresource == "status" else None
            patch = {
                key: value
                for key, value in body.items()
                if (key in kept if kept else key != "status")
            }
            return 200, self.store.patch(plural, namespace, name, patch).encoded()
        if request.verb == "delete":
            return 200, self._delete(plural, namespace, name, body).encoded()
        raise StatusError(405, "MethodNotAllowed", "the server does not allow this method")

    def _delete(self, plural: str, namespace: str, name: str, options: Object) -> Item:
        content = self.store.get(plural, namespace, name).object()
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != content["metadata"]["uid"]:
            message = (
                f"Precondition failed: UID in precondition: {wanted}, UID in object meta:"
                f" {content['metadata']['uid']}"
            )
            raise StatusError(409, "Conflict", message, name=name, kind=plural)
        grace = options.get("gracePeriodSeconds")
        if plural != "pods":
            return self.store.delete(plural, namespace, name)
        # Only a pod that is bound to a node has somebody who could end it gracefully.
        if not content["spec"].get("nodeName"):
            grace = 0
        terminating = {
            "deletionTimestamp": content["metadata"]["creationTimestamp"],
            "deletionGracePeriodSeconds": 30 if grace is None else grace,
        }
        terminated = self.store.patch(plural, namespace, name, {"metadata": terminating})
        return self.store.delete(plural, namespace, name) if grace == 0 else terminated


def _version(text: str) -> int:
    if not text.isdecimal():
        message = f"Invalid value: {text!r}: strconv.ParseUint: invalid syntax"
        raise StatusError(400, "BadRequest", message)
    return int(text)


def _wanted(request: Request) -> Callable[[Item], bool]:
    matches = selector(request.query.get("labelSelector", ""))
    return lambda item: matches(item.labels)


def _decoded(body: bytes) -> Object:
    try:
        decoded = json.loads(body or b"{}")
    except ValueError as error:
        raise StatusError(400, "BadRequest", f"the object provided is no JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise StatusError(400, "BadRequest", "the object provided is no object")
    return decoded
