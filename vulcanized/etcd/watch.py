"""One watch stream, with all the ways in which it can end told apart.

It does not resume: `Unreachable` asks the caller to watch again from where it was, `Expired` to
list anew.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import grpc
from etcd3 import etcdrpc as rpc

from vulcanized.errors import Expired, Unreachable
from vulcanized.etcd.values import Batch, Event, prefix_end

OPENING: Final = 5.0
"""Seconds that etcd has to confirm a watch."""

PROGRESS: Final = 5.0
"""Seconds between two questions whether etcd is still there."""

SILENCE: Final = 15.0
"""Seconds without an answer to them after which a watch counts as dead."""

_SLICE = 0.2  # how often `stop` and the silence are looked at

Failed = Callable[[grpc.StatusCode | None, str | None], Exception]


class Watch:
    """An iterator of batches; a context manager that ends the stream.

    Iterating raises `Expired` if etcd has compacted what comes next, `Refused` if it may not be
    read, `Unreachable` for all else that ends the stream; it stops once `close` was called, from
    any thread, or `stop` is set.

    `start` makes the gRPC call out of its requests, `after` gives each prefix the revision after
    which it is watched, `failed` makes an error of a status and etcd's words.
    """

    def __init__(
        self,
        start: Callable[[Iterator[Any]], Any],
        after: Mapping[str, int],
        failed: Failed,
        stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self.revision = 0
        self._prefixes = tuple(after)
        self._position = dict(after)
        self._failed = failed
        self._stop = stop
        self._clock = clock
        self._ids: dict[int, str] = {}
        self._early: deque[Batch] = deque()
        self._heard = clock()
        self._answers = False
        self._silent = ""
        self._closed = False
        self._ended = threading.Event()
        self._call: Any = None
        self._call = start(self._requests())
        if not self._call.add_callback(self._ended.set):
            self._ended.set()

    def confirm(self) -> None:
        """Wait until etcd has confirmed all watches; `revision` is then the server's own."""
        while len(self._ids) < len(self._prefixes):
            response = self._receive()
            if response is None:
                raise Unreachable(f"stopped before watching {', '.join(self._prefixes)}")
            batch = self._batch(response)
            if batch is not None:
                self._early.append(batch)

    def close(self) -> None:
        """End the stream at once. Half-closing it, as python-etcd3 does, would leave it open."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._early:
            return self._early.popleft()
        while True:
            response = self._receive()
            if response is None:
                raise StopIteration
            batch = self._batch(response)
            if batch is not None:
                return batch

    def _requests(self) -> Iterator[Any]:
        """Runs in a thread of gRPC's, which is why it also minds the silence and `stop`."""
        for prefix in self._prefixes:
            create = rpc.WatchCreateRequest(
                key=prefix.encode(),
                range_end=prefix_end(prefix),
                start_revision=self._position[prefix] + 1,
                progress_notify=True,
            )
            yield rpc.WatchRequest(create_request=create)
        asked = self._clock()
        while not self._ended.wait(_SLICE):
            now = self._clock()
            limit = SILENCE if self._answers else OPENING
            # An etcd or a proxy that has never answered such a question does not know it.
            minded = self._answers or len(self._ids) < len(self._prefixes)
            if minded and now - self._heard > limit:
                self._silent = f"said nothing for {limit:g} s"
            if self._silent or self._stop.is_set():
                self._call.cancel()
                return
            if now - asked >= PROGRESS:
                asked = now
                yield rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())

    def _receive(self) -> Any | None:
        """The next message, None once we are to end."""
        code, details = None, "ended the watch"
        try:
            response = next(self._call)
        except StopIteration:
            pass
        except grpc.RpcError as error:
            code, details = error.code(), self._silent or error.details()
        else:
            self._heard = self._clock()
            return response
        if self._closed or self._stop.is_set():
            return None
        raise self._failed(code, details)

    def _batch(self, response: Any) -> Batch | None:
        # In this order: a watch that is refused is confirmed *and* cancelled in one message, and
        # one that comes too late is cancelled with a reason that does not matter.
        if response.compact_revision:
            raise Expired(
                f"etcd has compacted up to revision {response.compact_revision}, "
                f"past what was seen of {', '.join(self._prefixes)}"
            )
        if response.canceled:
            raise self._failed(None, response.cancel_reason or "cancelled the watch")
        if response.created:
            if len(self._ids) < len(self._prefixes):  # in the order in which they were asked for
                self._ids[response.watch_id] = self._prefixes[len(self._ids)]
            self.revision = response.header.revision
            return None
        prefix = self._ids.get(response.watch_id)
        if prefix is None:
            # The answer to `progress`. Its revision may be ahead of events still to come (etcd
            # before 3.4.25 and 3.5.8, etcd-io/etcd#15220), so it is no place to resume from.
            self._answers = True
            return Batch("", (), 0)
        events = tuple(map(_event, response.events))
        # The header's revision may be ahead of the events in the message.
        revision = events[-1].mod_revision if events else response.header.revision
        self._position[prefix] = max(self._position[prefix], revision)
        return Batch(prefix, events, self._position[prefix])


def _event(event: Any) -> Event:
    kv = event.kv
    deleted = event.type == 1
    value = None if deleted else kv.value
    return Event(
        kv.key.decode(errors="backslashreplace"), value, kv.create_revision, kv.mod_revision
    )
