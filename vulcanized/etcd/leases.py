"""Leases that are kept alive, and what is held by one: a lock, the leadership.

Time alone cannot say who holds a key: a process can be frozen between looking at the clock and
writing. So whoever holds one writes with its `fence`, and etcd refuses the write once the key is
another's. `alive` is only a reason to stop trying earlier.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

import structlog

from vulcanized.errors import Conflict, LeaseLost, SourceError
from vulcanized.etcd.calls import DEADLINE
from vulcanized.etcd.client import EtcdClient
from vulcanized.etcd.values import Compare

log = structlog.get_logger(__name__)

_CAMPAIGN = 1.0
"""Seconds between two looks of those who wait to lead: one small read each."""

_SLICE = 0.2  # how often a leader looks at `stop`

_PATIENCE = 2.0
"""Seconds that `close` waits for etcd: a daemon that is told to end has five in all."""

Clock = Callable[[], float]
_never = threading.Event()


class Lease:
    """A lease of `ttl` seconds, kept alive by a thread of its own until it is closed or lost.

    Making it raises what `EtcdClient.grant` does. `lost` is set when it was closed, when etcd says
    that it is dead, or when nothing was heard for so long that it must be: then its keys are gone
    or about to go. `ttl` is a few seconds at least: etcd makes a shorter one longer.
    """

    def __init__(
        self,
        client: EtcdClient,
        ttl: int,
        stop: threading.Event = _never,
        clock: Clock = time.monotonic,
    ) -> None:
        self.ttl: Final = ttl
        self.lost: Final = threading.Event()
        self._client = client
        self._clock = clock
        self._closing = threading.Event()
        # From before the question: etcd's own time begins later.
        asked = clock()
        self.id: Final = client.grant(ttl, stop)
        self._until = asked + ttl
        self._thread = threading.Thread(target=self._keep, name="etcd-lease", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether etcd must still have it by our clock. No proof: that is what a fence is for."""
        return not self.lost.is_set() and self._clock() < self._until

    def close(self) -> None:
        """Stop keeping it, and end it with its keys; where etcd does not answer, it runs out."""
        self._closing.set()
        self._thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self) -> None:
        try:
            while not self._closing.wait(self.ttl / 3):
                self._refresh()
            self._client.revoke(self.id)
        except LeaseLost as error:
            log.warning("etcd lease lost", error=str(error))
        except SourceError as error:
            log.info("etcd lease left to run out", ttl=self.ttl, error=str(error))
        finally:
            self.lost.set()

    def _refresh(self) -> None:
        """Raises `LeaseLost` when etcd says so, or when etcd must have ended it by now."""
        while not self._closing.is_set():
            asked = self._clock()
            try:
                ttl = self._client.keep_alive(self.id, min(DEADLINE, self.ttl / 4))
                self._until = asked + ttl
                return
            except SourceError as error:
                if self._clock() >= self._until:
                    raise LeaseLost(
                        f"etcd lease {self.id:x} could not be kept alive in time: {error}"
                    ) from error
                log.debug("etcd lease not refreshed", error=str(error))
            self._closing.wait(min(0.2, self.ttl / 20))


class Held:
    """A key that is ours for as long as its lease lives: a lock, a leadership.

    `fence` goes with every write that only the holder may make (`EtcdClient.write`, `transact`).
    """

    def __init__(self, lease: Lease, fence: Compare) -> None:
        self.fence: Final = fence
        self.lost: Final = lease.lost
        self._lease = lease

    @property
    def alive(self) -> bool:
        """As `Lease.alive`."""
        return self._lease.alive

    def release(self) -> None:
        """Give the key up for the next one to take."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def acquire(
    client: EtcdClient,
    key: str,
    value: bytes,
    ttl: int,
    stop: threading.Event = _never,
    clock: Clock = time.monotonic,
) -> Held:
    """Take a key that nobody holds, under a lease of `ttl` seconds.

    `value` tells others who holds it. Raises `Conflict` at once if somebody does; it can be read.
    """
    lease = Lease(client, ttl, stop, clock)
    try:
        revision = client.put_if(key, value, 0, lease.id, stop)
    except BaseException:
        # A put that got no answer may have been made: without its lease, the key goes again.
        lease.close()
        raise
    return Held(lease, Compare(key, revision))


class Leadership:
    """Tries to hold a key for as long as it runs, and takes it again when it was lost.

    `run` is a thread's work. `fence` is what this process writes with while it leads, else None.
    `leader` is what stands in the key: who led when it was looked at last, b"" for nobody. `error`
    says why that cannot be told or won, "" while it can.
    `changed` is called in that thread after each change of it.
    """

    def __init__(
        self,
        client: EtcdClient,
        key: str,
        value: bytes,
        ttl: int = 10,
        changed: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.key: Final = key
        self.leader = b""
        self.error = ""
        self._value = value
        self._clock = clock
        self._look_at = 0.0
        self._client = client
        self._acquire = partial(acquire, client, key, value, ttl, clock=clock)
        self._changed = changed
        self._held: Held | None = None

    @property
    def fence(self) -> Compare | None:
        """The fence of the leader, None while another leads or our lease may be over."""
        held = self._held
        return held.fence if held and held.alive else None

    def run(self, stop: threading.Event) -> None:
        """Campaign and lead until `stop` is set; then let the next one lead at once."""
        while not stop.is_set():
            try:
                found = self._client.get(self.key, stop)
                self.leader = b"" if found is None else found.value
                if found is None:
                    self._lead(self._acquire(stop=stop), stop)
                    continue
                self._note("")
            except Conflict:
                pass  # another was quicker
            except (SourceError, LeaseLost) as error:
                self._note(str(error))
            stop.wait(_CAMPAIGN)

    def _note(self, error: str) -> None:
        if error and error != self.error:
            log.warning("cannot campaign", key=self.key, error=error)
        self.error = error

    def _lead(self, held: Held, stop: threading.Event) -> None:
        log.info("leading", key=self.key)
        with held:
            self._held, self.leader, self.error = held, self._value, ""
            self._changed()
            while not stop.is_set() and not held.lost.wait(_SLICE) and self._is_ours(held, stop):
                pass
            self._held = None
        self._changed()
        log.info("no longer leading", key=self.key)

    def _is_ours(self, held: Held, stop: threading.Event) -> bool:
        """Whether the key still is as we wrote it: somebody may have deleted it by hand.

        Looked at as often as those who wait do.
        """
        now = self._clock()
        if now < self._look_at:
            return True
        self._look_at = now + _CAMPAIGN
        try:
            found = self._client.get(self.key, stop)
        except SourceError:
            return True  # that is for the lease to tell
        return found is not None and found.mod_revision == held.fence.mod_revision
