"""The client: reading, watching, and writes that cannot be made twice by mistake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import grpc
from etcd3 import etcdrpc as rpc

from vulcanized.errors import (
    Conflict,
    Expired,
    LeaseLost,
    Refused,
    Rewound,
    Unreachable,
)
from vulcanized.etcd.access import Login, Tls, login_of, tls_of
from vulcanized.etcd.calls import DEADLINE, Calls
from vulcanized.etcd.statuses import NoLease, TokenRefused
from vulcanized.etcd.values import (
    Compare,
    Delete,
    KeyValue,
    Listing,
    Operation,
    Put,
    chunks,
    prefix_end,
)
from vulcanized.etcd.watch import Watch
from vulcanized.settings import EtcdSettings

PAGE: Final = 1000
"""Keys in one page of a list."""

_LIST_TRIES = 5

# Asks etcd to end the watch on a member that has lost its cluster: it would be silent for ever.
_REQUIRE_LEADER = ("hasleader", "true")

_never = threading.Event()


def connect(settings: EtcdSettings) -> EtcdClient:
    """A client for the `[etcd]` section. Connects and logs in when it is first used.

    Raises `SettingsError` if the TLS files cannot be used.
    """
    return EtcdClient(settings.endpoints, tls_of(settings), login_of(settings))


class EtcdClient:
    """One etcd cluster, for any number of threads.

    Every call ends within seconds, and at once when the `stop` that it was given is set. What fails
    raises `Unreachable` or `Refused`. Reads are tried again, on another member too. A write is not,
    unless etcd cannot have seen it: one that got no answer raises `Uncertain`.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: Tls | None = None,
        login: Login | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = Calls(endpoints, tls, login)
        self._clock = clock

    def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- reading ---

    def get(self, key: str, stop: threading.Event = _never) -> KeyValue | None:
        """One key as the whole cluster has it now; None if there is none."""
        response = self._range(rpc.RangeRequest(key=key.encode()), key, stop)
        return _key_value(response.kvs[0]) if response.kvs else None

    def list_prefix(
        self, prefix: str, revision: int = 0, stop: threading.Event = _never
    ) -> Listing:
        """All keys that start with `prefix`, now or as they were at `revision`, page by page.

        Raises `Expired` if etcd no longer has that revision. Without one it begins again when a
        compaction overtakes it, and gives up after some rounds.
        """
        for _ in range(_LIST_TRIES - 1):
            try:
                return self._list(prefix, revision, stop)
            except Expired:
                if revision:
                    raise
        return self._list(prefix, revision, stop)

    def _list(self, prefix: str, revision: int, stop: threading.Event) -> Listing:
        items: list[KeyValue] = []
        start, end, more = prefix.encode(), prefix_end(prefix), True
        while more:
            request = rpc.RangeRequest(key=start, range_end=end, limit=PAGE, revision=revision)
            response = self._range(request, prefix, stop)
            revision = revision or int(response.header.revision)
            items.extend(map(_key_value, response.kvs))
            more = bool(response.more and response.kvs)
            if more:
                start = response.kvs[-1].key + b"\0"
        return Listing(tuple(items), revision)

    def watch(self, after: Mapping[str, int], stop: threading.Event = _never) -> Watch:
        """Follow all keys under each prefix, from the change after its revision on.

        Returns once etcd has confirmed all of them. Raises `Refused` for a prefix that may not be
        read, `Rewound` if etcd is behind a revision given here.
        """
        return self._calls.retry(partial(self._watch, after, stop), stop, again=True)

    def _watch(self, after: Mapping[str, int], stop: threading.Event) -> Watch:
        doing = f"watching {', '.join(after)}"
        session = self._calls.session(stop)
        metadata = (*session.metadata, _REQUIRE_LEADER)
        start = partial(session.member.watch.Watch, metadata=metadata)
        failed = partial(self._calls.failed, session, doing)
        try:
            watch = Watch(start, after, failed, stop, self._clock)
        except ValueError as error:  # gRPC's word for a channel that another thread has closed
            raise Unreachable(f"the connection to etcd was closed before {doing}") from error
        try:
            self._confirm(watch, after, session.member.url, stop)
        except BaseException:
            watch.close()
            raise
        return watch

    def _confirm(
        self, watch: Watch, after: Mapping[str, int], url: str, stop: threading.Event
    ) -> None:
        try:
            watch.confirm()
        except Refused as error:
            # etcd also says "permission denied" of a token that it does not know. A read tells the
            # two apart: it logs in again, or names the prefix that is denied.
            for prefix in after:
                self._revision(prefix, stop)
            raise TokenRefused(str(error)) from error
        newest = max(after.values())
        # A member may lag behind, a cluster cannot.
        if watch.revision < newest and self._revision(next(iter(after)), stop) < newest:
            raise Rewound(
                f"etcd at {url} is at revision {watch.revision} and was at {newest}: "
                "it was wiped or restored from a backup; see that this was meant"
            )

    def _revision(self, prefix: str, stop: threading.Event) -> int:
        end = prefix_end(prefix)
        request = rpc.RangeRequest(key=prefix.encode(), range_end=end, count_only=True)
        return int(self._range(request, prefix, stop).header.revision)

    def _range(self, request: Any, what: str, stop: threading.Event) -> Any:
        return self._calls.unary(
            lambda member: member.keys.Range, request, f"reading {what}", stop, again=True
        )

    # --- writing ---

    def put(self, key: str, value: bytes, lease: int = 0, stop: threading.Event = _never) -> int:
        """Write a key whatever it was; the revision after it."""
        return self.transact((), (Put(key, value, lease),), stop)

    def delete(self, key: str, stop: threading.Event = _never) -> int:
        """Delete a key if it is there; the revision after it."""
        return self.transact((), (Delete(key),), stop)

    def put_if(
        self,
        key: str,
        value: bytes,
        mod_revision: int,
        lease: int = 0,
        stop: threading.Event = _never,
    ) -> int:
        """Write a key if it was last changed at `mod_revision` (0: if it is not there).

        The revision after it. Raises `Conflict` if somebody else was first.
        """
        return self.transact((Compare(key, mod_revision),), (Put(key, value, lease),), stop)

    def transact(
        self,
        compares: Sequence[Compare],
        operations: Sequence[Operation],
        stop: threading.Event = _never,
    ) -> int:
        """Make all operations as one if all compares hold; the revision after it.

        At most `MAX_OPERATIONS` of either. Raises `Conflict` with the keys that were otherwise,
        `LeaseLost` if the lease of a `Put` is dead. `Uncertain` means that it may have been made:
        if it compares what it changes, making it once more is safe, and a `Conflict` then says no
        more than "read again".
        """
        request = rpc.TxnRequest(
            compare=[_compare(compare) for compare in compares],
            failure=[_look(compare) for compare in compares],
        )
        for operation in operations:
            _fill(request.success.add(), operation)
        keys = list(dict.fromkeys(operation.key for operation in operations))
        doing = f"writing {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if keys[3:] else ''}"
        try:
            response = self._calls.unary(lambda member: member.keys.Txn, request, doing, stop)
        except NoLease as error:
            raise LeaseLost(str(error)) from error
        if not response.succeeded:
            raise _conflict(compares, response.responses)
        return int(response.header.revision)

    def write(
        self,
        operations: Iterable[Operation],
        fence: Compare | None = None,
        stop: threading.Event = _never,
    ) -> int:
        """Make operations in their order, in as many transactions as etcd needs.

        The revision after the last, 0 for none. `fence` is what only the holder of a lease can say
        truthfully: each transaction is made only while it holds. Raises `LeaseLost` once it does
        not; what was made before that stays.
        """
        revision = 0
        for chunk in chunks(operations):
            try:
                revision = self.transact((fence,) if fence else (), chunk, stop)
            except Conflict as error:
                raise LeaseLost(f"nothing more is written, another may by now: {error}") from error
        return revision

    # --- leases: `leases.py` keeps them alive ---

    def grant(self, ttl: int, stop: threading.Event = _never) -> int:
        """A new lease that lives `ttl` seconds unless kept alive; its id."""
        response = self._calls.unary(
            lambda member: member.lease.LeaseGrant,
            rpc.LeaseGrantRequest(TTL=ttl),
            "granting a lease",
            stop,
            again=True,  # one that we do not get to know of runs out by itself
        )
        return int(response.ID)

    def keep_alive(self, lease: int, deadline: float = DEADLINE) -> int:
        """Let a lease's time begin anew; the seconds it has. Raises `LeaseLost` if it is dead."""
        doing = f"keeping lease {lease:x}"
        session = self._calls.session(_never)
        try:
            stream = session.member.lease.LeaseKeepAlive(
                iter((rpc.LeaseKeepAliveRequest(ID=lease),)),
                timeout=deadline,
                metadata=session.metadata,
            )
            ttl = int(next(stream).TTL)
        except grpc.RpcError as error:
            raise self._calls.failed(session, doing, error.code(), error.details()) from error
        except (StopIteration, ValueError) as error:
            raise Unreachable(f"etcd at {session.member.url} hung up ({doing})") from error
        if ttl <= 0:
            raise LeaseLost(f"etcd at {session.member.url} has no lease {lease:x}: it ran out")
        return ttl

    def revoke(self, lease: int, stop: threading.Event = _never) -> None:
        """End a lease and delete all its keys. Nothing happens if it has ended already."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        doing = f"revoking lease {lease:x}"
        try:
            self._calls.unary(
                lambda member: member.lease.LeaseRevoke, request, doing, stop, again=True
            )
        except NoLease:
            return


def _key_value(kv: Any) -> KeyValue:
    key = kv.key.decode(errors="backslashreplace")
    return KeyValue(key, kv.value, kv.create_revision, kv.mod_revision)


def _compare(compare: Compare) -> Any:
    return rpc.Compare(
        key=compare.key.encode(),
        target=rpc.Compare.MOD,
        result=rpc.Compare.EQUAL,
        mod_revision=compare.mod_revision,
    )


def _fill(part: Any, operation: Operation) -> None:
    """Say an operation in place: a message that is made apart is copied, and costs four times."""
    if isinstance(operation, Delete):
        part.request_delete_range.key = operation.key.encode()
        return
    put = part.request_put
    put.key, put.value = operation.key.encode(), operation.value
    if operation.lease:
        put.lease = operation.lease


def _look(compare: Compare) -> Any:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=compare.key.encode(), keys_only=True))


def _conflict(compares: Sequence[Compare], found: Sequence[Any]) -> Conflict:
    """What the transaction that was not made read of the keys that it compared, in words."""
    words: list[str] = []
    keys: list[str] = []
    for (key, expected), part in zip(compares, found, strict=False):
        kvs = part.response_range.kvs
        revision = kvs[0].mod_revision if kvs else 0
        if revision != expected:
            keys.append(key)
            words.append(f"{key} {f'was changed at revision {revision}' if kvs else 'is gone'}")
    return Conflict(f"{'; '.join(words)}: read again before writing", tuple(keys))
