"""A bare client of etcd: what the floor writes with, and sees keys change by.

    python -m benchmarks.bare PORT PREFIX

watches, says `watching` on its standard output, and ends with its standard input.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from etcd3 import etcdrpc as rpc

TRANSACTION = 128
"""Operations that etcd takes in one."""

_TIMEOUT = 10.0


class Bare:
    """One connection, and calls without anything around them; a context manager that ends it."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._keys = rpc.KVStub(self._channel)
        grpc.channel_ready_future(self._channel).result(_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def put(self, key: str, value: bytes) -> int:
        """Write a key; the revision of that."""
        request = rpc.PutRequest(key=key.encode(), value=value)
        return int(self._keys.Put(request, timeout=_TIMEOUT).header.revision)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._keys.DeleteRange(rpc.DeleteRangeRequest(key=key.encode()), timeout=_TIMEOUT)

    def put_all(self, values: Mapping[str, bytes]) -> None:
        """Write keys in their order, a full transaction after the other."""
        puts = [(key.encode(), value) for key, value in values.items()]
        for begin in range(0, len(puts), TRANSACTION):
            operations = [
                rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
                for key, value in puts[begin : begin + TRANSACTION]
            ]
            self._keys.Txn(rpc.TxnRequest(success=operations), timeout=_TIMEOUT)


class Seen:
    """When each key below a prefix was put first, as a bare watch sees it; a context manager."""

    def __init__(self, port: int, prefix: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._prefix = prefix
        self._condition = threading.Condition()
        self._moments: dict[str, float] = {}
        self._watching = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch {prefix}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._watching.wait(_TIMEOUT):
            raise TimeoutError(f"no watch of {self._prefix}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._channel.close()
        self._thread.join(_TIMEOUT)

    def put_of(self, part: str, within: float) -> float:
        """When a key with this in it was put. Raises TimeoutError."""
        deadline = time.monotonic() + within
        with self._condition:
            while True:
                found = [moment for key, moment in self._moments.items() if part in key]
                if found:
                    self._moments.clear()
                    return min(found)
                if not self._condition.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no key with {part} in it within {within:g} s")

    def _requests(self) -> Iterator[Any]:
        end = self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1)
        create = rpc.WatchCreateRequest(key=self._prefix.encode(), range_end=end.encode())
        yield rpc.WatchRequest(create_request=create)
        self._done.wait()

    def _watch(self) -> None:
        try:
            for response in rpc.WatchStub(self._channel).Watch(self._requests()):
                now = time.monotonic()
                if response.created:
                    self._watching.set()
                with self._condition:
                    for event in response.events:
                        self._moments.setdefault(event.kv.key.decode(), now)
                    self._condition.notify()
        except grpc.RpcError:
            if not self._done.is_set():
                raise


def main(port: str, prefix: str) -> None:
    """Watch until standard input ends."""
    with Seen(int(port), prefix):
        print("watching", flush=True)
        sys.stdin.read()
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
