"""List, watch, resume, back off: keep a store equal to a remote one.

The rules, as client-go's `tools/cache/reflector.go` has them and with its reasons:

* Only a completed list or a DELETED event removes a record. A failure never does: while the server
  is away the last known state stays. A list that would remove too many at once is not believed in
  that (see `holds`): what it misses is held beside what it brings, and a list is due soon.
* A version is an opaque text: handed back, never compared.
* A broken stream is resumed from the last version seen. Only a lost place (410, Expired, a version
  that the server has not reached) leads to a new list; the place is lost for good then.
* A server that was restored from a backup may accept a watch from a version that it will reach in a
  week, and say nothing until then. So after a failure, and after silence, it is asked first.
* Silence is no failure: a resource in which nothing has happened since the server's start gets no
  bookmarks either (seen on 1.36: `replicationcontrollers` where nobody uses them).
* Every failure waits: longer each time, never less than the server asks, and never on anything but
  the stop event.
* An object that cannot be read costs itself. It is skipped, and a list later is asked about it.

Nothing here knows HTTP: `Transport` gives bytes and raises `errors.SourceError`.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, Protocol

import structlog

from vulcanized.errors import Expired, Invalid, SourceError, Unreachable, forget
from vulcanized.holds import Holds, unguarded
from vulcanized.listwatch import Codec, Event, Unreadable
from vulcanized.model import MOST_LEFT_OUT, AppId, SourcePhase, SourceState
from vulcanized.objects import Record
from vulcanized.slot import Clock, DirtyApps

log = structlog.get_logger(__name__)

Uniform = Callable[[float, float], float]

_MOST_PAGES = 2_000
"""Of one list, at 500 objects each: a server that goes on for ever must not fill our memory."""

_UID = attrgetter("uid")
_SHORTEST_WATCH = 2.0
"""Seconds, where a list is due soon: longer than one that counts as refused."""

_MOST_COMPLAINTS = 100
"""Unreadable objects that get a log line of their own; the others are only counted."""

_LONGEST_LINE = 16 << 20
"""Bytes. etcd keeps objects under 1.5 MB by default; a line without an end is no event."""


class Silent(Unreachable):
    """Nothing came on an open stream for so long that it may be dead."""


class Transport(Protocol):
    """One resource of a server, as bytes. Every wait in it is bounded; it raises SourceError."""

    def start(self, stop: threading.Event) -> None:
        """Have the other calls end soon once `stop` is set."""

    def page(self, more: str) -> bytes:
        """One page of the list, the first for "", else the one that the token asks for."""

    def watch(self, version: str, seconds: int) -> AbstractContextManager[Iterator[bytes]]:
        """Whatever happens after `version`, as it comes in, for about `seconds` seconds.

        Chunks need not end where lines do. The stream may end early, and cleanly. Raises `Silent`
        when nothing comes for too long.
        """

    def check(self, version: str) -> None:
        """Raise `Expired` when the server has not reached this version."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `backoff` and `mend` are the first and the longest wait; each doubles.

    `calm`: without a failure for so long, the next one waits the shortest time again; `steady`: so
    does that of a stream that was open for so long. `watch`: the range from which the length of a
    watch is drawn, so that a server is not asked by all its clients at once. `short`: a watch that
    ends sooner was refused rather than ended.
    `retry_after`: the longest wait that a server may ask for. `mend`: when to list again because an
    object could not be read.
    """

    backoff: tuple[float, float] = (0.8, 30.0)
    calm: float = 120.0
    steady: float = 10.0
    watch: tuple[float, float] = (300.0, 600.0)
    short: float = 1.0
    retry_after: float = 60.0
    mend: tuple[float, float] = (60.0, 600.0)


USUAL_TIMING = Timing()


class Cache(Generic[Record]):
    """Records by uid, indexed by app. One thread writes, any may read.

    Every change answers with the apps for which something changed, none when nothing did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._apps: dict[AppId, tuple[Record, ...]] = {}  # each sorted by uid

    def replace(self, records: Mapping[str, Record]) -> set[AppId]:
        """Make these, by uid, all there is. What did not change costs a comparison."""
        known = self._records
        gone = known.keys() - records.keys()
        came = {
            uid: record
            for uid, record in records.items()
            if (before := known.get(uid)) is not record and before != record
        }
        left = {uid: known[uid] for uid in (*gone, *(came.keys() & known.keys()))}
        into: dict[AppId, list[Record]] = {_app(record): [] for record in left.values()}
        for record in came.values():
            into.setdefault(_app(record), []).append(record)
        with self._lock:
            for app, instead in into.items():
                self._exchange(app, left, instead)
            for uid in gone:
                del known[uid]
            known.update(came)
        return set(into)

    def known(self, record: Record) -> Record:
        """The record that is here, where that is equal: what is listed again takes no memory."""
        here = self._records.get(record.uid)
        return record if here is None or here != record else here

    def put(self, record: Record) -> tuple[AppId, ...]:
        """Add a record, or put it in the place of the one with its uid."""
        app = _app(record)
        with self._lock:
            before = self._records.get(record.uid)
            if before == record:
                return ()
            self._records[record.uid] = record
            self._exchange(app, (record.uid,), (record,))
            if before is None or (left := _app(before)) == app:
                return (app,)
            self._exchange(left, (record.uid,))
            return (app, left)

    def remove(self, uid: str) -> tuple[AppId, ...]:
        """Take the record with this uid away, if there is one."""
        with self._lock:
            before = self._records.pop(uid, None)
            if before is None:
                return ()
            app = _app(before)
            self._exchange(app, (uid,))
            return (app,)

    def _exchange(self, app: AppId, out: Container[str], instead: Iterable[Record] = ()) -> None:
        """Take the records with these uids out of an app and put others in, in one step."""
        records = [record for record in self._apps.get(app, ()) if record.uid not in out]
        records += instead
        if records:
            self._apps[app] = tuple(sorted(records, key=_UID))
        else:
            del self._apps[app]

    def of(self, app: AppId) -> tuple[Record, ...]:
        """The records of one app, sorted by uid."""
        return self._apps.get(app, ())

    def apps(self) -> set[AppId]:
        """The apps that have a record."""
        with self._lock:
            return set(self._apps)

    def get(self, uid: str) -> Record | None:
        """The record with this uid."""
        return self._records.get(uid)

    def all(self) -> tuple[Record, ...]:
        """Every record, in no order."""
        with self._lock:
            return tuple(self._records.values())

    def by_uid(self) -> dict[str, Record]:
        """Every record by its uid; a copy."""
        with self._lock:
            return dict(self._records)

    def __len__(self) -> int:
        return len(self._records)


def _app(record: Record) -> AppId:
    return AppId(record.namespace, record.app)


class Backoff:
    """How long to wait after a failure: from the first wait to the longest, doubling, jittered."""

    _JITTER = 1.5

    def __init__(self, first: float, longest: float, calm: float, uniform: Uniform) -> None:
        self._first, self._longest, self._calm = first, longest, calm
        self._uniform = uniform
        self._step = first
        self._until: float | None = None

    def after_failure(self, now: float) -> float:
        """The seconds to wait after a failure at `now`."""
        if self._until is not None and now - self._until >= self._calm:
            self._step = self._first
        # The jitter stays below the longest wait, else a herd would meet again there.
        pause = self._step * self._uniform(1.0, self._JITTER)
        self._step = min(self._step * 2, self._longest / self._JITTER)
        self._until = now + pause
        return pause

    def reset(self) -> None:
        """Have the next failure be the first."""
        self._step = self._first


class Reflector(Generic[Record]):
    """One stream: keeps `cache` equal to what the transport's server has, and marks what changed.

    `spoken`: a first list is complete. `run` is for one thread; the rest may be read by any.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        codec: Codec[Record],
        cache: Cache[Record],
        dirty: DirtyApps,
        *,
        holds: Holds[str, Record] | None = None,
        timing: Timing = USUAL_TIMING,
        clock: Clock = time.monotonic,
        uniform: Uniform = random.uniform,
    ) -> None:
        self.name = name
        self.spoken = False
        self._holds = unguarded(name) if holds is None else holds
        self._lock = threading.Lock()  # what is held and the cache change together
        self._transport = transport
        self._codec = codec
        self._cache = cache
        self._dirty = dirty
        self._timing = timing
        self._clock = clock
        self._uniform = uniform
        self._backoff = Backoff(*timing.backoff, timing.calm, uniform)
        # Whoever says that our place is lost is there: how long it was away does not count.
        self._relisting = Backoff(*timing.backoff, timing.calm, uniform)
        self._version: str | None = None
        self._cause = ""
        self._relists: dict[str, int] = {}
        self._following = False
        self._error = ""
        self._heard = clock()
        self._short_before = False
        self._doubt = False
        self._skipped = 0
        self._left_out: dict[str, str] = {}
        self._complained: set[str] = set()
        self._mend_pause = timing.mend[0]
        self._mend_at: float | None = None

    def state(self) -> SourceState:
        """How this stream is doing now. Relist causes: `expired`, `unreadable`, `held`."""
        phase = SourcePhase.SYNCED if self._following else SourcePhase.STALE
        return SourceState(
            name=self.name,
            phase=phase if self.spoken else SourcePhase.STARTING,
            age=max(0.0, self._clock() - self._heard),
            records=len(self._cache),
            relists=dict(self._relists),
            skipped=self._skipped,
            error=self._error,
            held=len(self._holds),
            holding=self._holds.message(),
            left_out=tuple(self._left_out.values()),
        )

    def accept(self) -> int:
        """Take what the server says as it is: let go what is held. How many that were."""
        with self._lock:
            let_go = self._holds.accept()
            changed = self._discard(let_go)
        self._dirty.mark(changed)
        return len(let_go)

    def _discard(self, uids: Iterable[str]) -> set[AppId]:
        return {app for uid in uids for app in self._cache.remove(uid)}

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Whatever is not a SourceError goes through."""
        self._transport.start(stop)
        while not stop.is_set():
            try:
                if self._version is None:
                    self._list(stop)
                    continue
                pause = self._follow(self._version, stop)
            except SourceError as error:
                if stop.is_set():
                    return
                pause = self._failed(error)
                forget(error)
            stop.wait(pause)

    # --- list ---------------------------------------------------------------------------------

    def _list(self, stop: threading.Event) -> None:
        try:
            listed = self._all_pages(stop)
        except Expired as error:
            # The token for the next page has grown too old. Once more at once, then with waits.
            forget(error)
            listed = self._all_pages(stop)
        if listed is None:
            return
        records, unreadable, version = listed
        fresh = {record.uid: record for record in (*self._kept(unreadable), *records)}
        with self._lock:
            before = self._cache.by_uid() if self.spoken else None
            held = self._holds.judge(before, fresh, self._cause or "start")
            changed = self._cache.replace({**fresh, **held} if held else fresh)
        self._mend_at = None
        if unreadable:
            self._schedule_mending()
        else:
            self._mend_pause = self._timing.mend[0]
        self._version, self._doubt = version, False
        self._well()
        if self._cause:
            self._relists[self._cause] = self._relists.get(self._cause, 0) + 1
        log.info(
            "listed",
            source=self.name,
            records=len(records),
            changed_apps=len(changed),
            cause=self._cause or "start",
        )
        self._cause = ""
        if not self.spoken:
            self.spoken = True
            self._dirty.mark_all()
        elif changed:
            self._dirty.mark(changed, self._heard)
        self._verify(stop)

    def _verify(self, stop: threading.Event) -> None:
        """Let go what the list confirms, or what is certainly gone."""
        gone = self._holds.verify(stop)
        if gone:
            with self._lock:
                changed = self._discard(self._holds.release(gone))
            self._dirty.mark(changed)

    def _all_pages(
        self, stop: threading.Event
    ) -> tuple[list[Record], list[Unreadable], str] | None:
        """All of a list, None when stopped on the way."""
        records: list[Record] = []
        unreadable: list[Unreadable] = []
        version = more = ""
        for _ in range(_MOST_PAGES):
            try:
                page = self._codec.page(self._transport.page(more))
            except Invalid as error:
                raise Unreachable(f"{self.name}: no usable answer to a list: {error}") from error
            self._heard = self._clock()
            # Page by page: or all there is would be there twice.
            records += map(self._cache.known, page.records)
            unreadable += page.unreadable
            # All pages show one moment. Should they not, the first says from where to watch.
            version = version or page.version
            more = page.more
            if not more:
                return records, unreadable, version
            if stop.is_set():
                return None
        raise Unreachable(f"{self.name}: a list that has no end after {_MOST_PAGES} pages")

    def _kept(self, unreadable: list[Unreadable]) -> tuple[Record, ...]:
        """What we know of objects that are in the list but cannot be read: it stays as it was."""
        self._left_out = {}
        for thing in unreadable:
            self._skip(thing.error)
        if all(thing.uid for thing in unreadable):
            known = (self._cache.get(thing.uid) for thing in unreadable)
            return tuple(record for record in known if record is not None)
        # One without a uid may be any of those that we know: none of them is known to be gone.
        return self._cache.all()

    # --- watch --------------------------------------------------------------------------------

    def _follow(self, version: str, stop: threading.Event) -> float:
        """Watch until the stream ends cleanly; the seconds to wait before the next."""
        opened, lines, events = self._clock(), Lines(), 0
        if self._list_is_due(opened):
            return 0.0
        if self._doubt:
            self._transport.check(version)
            self._doubt = False
        with self._transport.watch(version, self._watch_seconds()) as chunks:
            self._well()
            try:
                for chunk in chunks:
                    self._heard = now = self._clock()
                    for line in lines.feed(chunk):
                        self._apply(line, now)
                        events += 1
                    if stop.is_set() or self._list_is_due(now):
                        return 0.0
            except Silent:
                self._doubt = True
                return 0.0
            except Unreachable:
                # What cuts long streams (a proxy's idle time-out) is no server in trouble.
                if self._clock() - opened >= self._timing.steady:
                    self._backoff.reset()
                raise
        if lines.rest:
            raise Unreachable(f"{self.name}: the watch was cut off in the middle of a line")
        return self._after_clean_end(self._clock() - opened, events)

    def _watch_seconds(self) -> int:
        longest = self._uniform(*self._timing.watch)
        if (due := self._list_due()) is not None:
            longest = min(longest, max(_SHORTEST_WATCH, due - self._clock()))
        return math.ceil(longest)

    def _apply(self, line: bytes, since: float) -> None:
        try:
            event = self._codec.event(line)
        except Invalid as error:
            self._skip(error)
            self._schedule_mending()
            return
        changed = self._take(event) if not self._holds else self._take_while_holding(event)
        if event.version:
            self._version = event.version
        if changed:
            self._dirty.mark(changed, since)

    def _take(self, event: Event[Record]) -> Iterable[AppId]:
        if event.record is not None:
            return self._cache.put(event.record)
        return self._cache.remove(event.uid) if event.uid else ()

    def _take_while_holding(self, event: Event[Record]) -> Iterable[AppId]:
        with self._lock:
            before = self._cache.get(event.uid)
            gone = self._holds.seen(event.uid, event.record, before)
            return {*self._take(event), *self._discard(gone)}

    def _after_clean_end(self, lasted: float, events: int) -> float:
        """Servers end watches as they like. One that does so over and over is not asked as fast.

        Where each watch brings something the wait does not grow: what comes next would be late.
        """
        short, before = lasted < self._timing.short, self._short_before
        self._short_before = short
        if not short:
            return 0.0
        if events == 0:
            return self._backoff.after_failure(self._clock())
        return self._timing.backoff[0] * self._uniform(1.0, 1.5) if before else 0.0

    # --- failures -----------------------------------------------------------------------------

    def _failed(self, error: SourceError) -> float:
        """Note a failure; the seconds to wait."""
        backoff = self._backoff
        if isinstance(error, Expired):
            self._lose_place("expired")
            backoff = self._relisting
        pause = backoff.after_failure(self._clock())
        if isinstance(error, Unreachable) and error.retry_after is not None:
            pause = max(pause, min(error.retry_after, self._timing.retry_after))
        self._following, self._doubt = False, True
        self._error = str(error)
        log.warning("source failed", source=self.name, error=self._error, retry_in=round(pause, 1))
        return pause

    def _lose_place(self, cause: str) -> None:
        self._version = None
        self._cause = cause

    def _well(self) -> None:
        self._heard = self._clock()
        if self._error:
            log.info("source recovered", source=self.name)
        self._following, self._error = True, ""

    def _skip(self, error: Invalid) -> None:
        self._skipped += 1
        if len(self._left_out) < MOST_LEFT_OUT:
            self._left_out[error.where] = str(error)
        if error.where not in self._complained and len(self._complained) < _MOST_COMPLAINTS:
            self._complained.add(error.where)
            log.warning("object skipped", source=self.name, error=str(error))

    def _schedule_mending(self) -> None:
        """Ask about unreadable objects by a list, less and less often while it does not help."""
        if self._mend_at is None:
            self._mend_at = self._clock() + self._mend_pause
            self._mend_pause = min(self._mend_pause * 2, self._timing.mend[1])

    def _list_due(self) -> float | None:
        """When a list is due although the place is known; None: it is not."""
        return min((at for at in (self._mend_at, self._holds.due) if at is not None), default=None)

    def _list_is_due(self, now: float) -> bool:
        due = self._list_due()
        if due is None or now < due:
            return False
        self._lose_place("unreadable" if due == self._mend_at else "held")
        return True


class Lines:
    """Cuts chunks into lines. `rest` is the beginning of a line that has not ended yet."""

    def __init__(self) -> None:
        # Not a list of parts: a server may send a byte at a time.
        self.rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their ends, empty ones left out."""
        if b"\n" not in chunk:
            self.rest += chunk
            if len(self.rest) > _LONGEST_LINE:
                raise Unreachable(f"a line of the watch has no end after {len(self.rest)} bytes")
            return []
        if self.rest:
            chunk = bytes(self.rest + chunk)
        *lines, rest = chunk.split(b"\n")
        self.rest = bytearray(rest)
        return [line for line in lines if line and not line.isspace()]
