"""The thread that keeps a `Tree` equal to etcd: list, watch, resume, list again when it must."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from vulcanized.errors import Expired, Rewound, SourceError
from vulcanized.etcd import EtcdClient, Watch
from vulcanized.reflector import Backoff, Uniform
from vulcanized.slot import Clock
from vulcanized.targets.vulcand.tree import Tree

log = structlog.get_logger(__name__)

BACKOFF: Final = (0.2, 5.0)
"""Seconds: the first and the longest wait after a failure."""

_CALM: Final = 10.0
_SLICE: Final = 0.5
"""Seconds that a batch of events waits at most: a watch on which nothing is read counts as dead."""
_SHOWN: Final = 3


class Follower:
    """Follows one prefix. `changed` is called after all that somebody else has changed.

    `error` says why it is cut off, "" while it follows; the tree is then as it was.
    """

    def __init__(
        self,
        client: EtcdClient,
        tree: Tree,
        changed: Callable[[], None],
        *,
        clock: Clock = time.monotonic,
        uniform: Uniform = random.uniform,
    ) -> None:
        self.error = ""
        self._client = client
        self._tree = tree
        self._changed = changed
        self._clock = clock
        self._backoff = Backoff(*BACKOFF, _CALM, uniform)
        self._position = 0
        self._placed = False
        self._watch: Watch | None = None
        self._anew = threading.Event()
        self._told: frozenset[str] = frozenset()

    def list_anew(self) -> None:
        """What was written is not known for certain: list, and tell the tree afterwards."""
        self._tree.listed = False
        self._anew.set()
        if (watch := self._watch) is not None:
            watch.close()

    def rest(self) -> None:
        """Watch nothing until the tree is quiet: etcd need not tell of thousands of our own keys.

        Afterwards all of it is heard from where it was.
        """
        if (watch := self._watch) is not None:
            watch.close()

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Whatever is not a SourceError goes through."""
        while not stop.is_set():
            if not self._tree.quiet.wait(_SLICE):
                continue
            try:
                if not self._placed or self._anew.is_set():
                    self._list(stop)
                self._follow(stop)
            except SourceError as error:
                if stop.is_set():
                    return
                stop.wait(self._failed(error))

    def _list(self, stop: threading.Event) -> None:
        self._anew.clear()
        listing = self._client.list_prefix(self._tree.keys.prefix, stop=stop)
        with self._tree.lock:
            self._tree.list(listing.items, listing.revision)
            strange = frozenset(self._tree.strange)
        self._position = listing.revision
        self._placed = True
        self._well()
        self._tell(strange)
        self._changed()

    def _follow(self, stop: threading.Event) -> None:
        prefix = self._tree.keys.prefix
        with self._client.watch({prefix: self._position}, stop) as batches:
            self._watch = batches
            if self._anew.is_set():
                return  # asked for before it could be closed
            self._well()
            for batch in batches:
                if batch.prefix:
                    # Nobody looks at the tree while it is written, and thousands of our own events
                    # would take the time of the thread that writes.
                    self._tree.quiet.wait(_SLICE)
                    with self._tree.lock:
                        for event in batch.events:
                            self._tree.event(event)
                        dirty = self._tree.dirty
                    self._position = batch.revision
                    if dirty:
                        self._changed()
                if self._anew.is_set():
                    return
            # Closed by us, else it would have raised.

    def _well(self) -> None:
        if self.error:
            log.info("vulcand's tree followed again", prefix=self._tree.keys.prefix)
            self.error = ""
            self._changed()

    def _failed(self, error: SourceError) -> float:
        """Note a failure; the seconds to wait."""
        if isinstance(error, Expired):
            self._placed = False
        if isinstance(error, Rewound):
            with self._tree.lock:
                self._tree.forget()
        pause = self._backoff.after_failure(self._clock())
        if self.error != str(error):
            log.warning("vulcand's tree not followed", reason=str(error))
        self.error = str(error)
        self._changed()
        return pause

    def _tell(self, strange: frozenset[str]) -> None:
        """Say once which keys vulcand would take for its own, or that stand where none belongs."""
        if strange and strange != self._told:
            log.warning(
                "keys that do not belong there",
                prefix=self._tree.keys.prefix,
                keys=len(strange),
                examples=sorted(strange)[:_SHOWN],
                reason="vulcand watches all that begins with its prefix; move or delete them",
            )
        self._told = strange
