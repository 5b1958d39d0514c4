"""Deployments in threads of their own, for those who asked over HTTP and those who follow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import structlog

from vulcanized.deployer.progress import is_news, line_of, summary
from vulcanized.deployer.run import Deployer
from vulcanized.deployer.store import Store
from vulcanized.deployer.words import AnyStep, Record, Report, Seen, Unread
from vulcanized.errors import (
    Locked,
    Unreadable,
    VulcanizedError,
)
from vulcanized.printable import printable_document

log = structlog.get_logger(__name__)

MOST_DEPLOYMENTS: Final = 16
MOST_LINES: Final = 1000
"""Deployments under way here, and lines kept of each for those who follow it."""

BEGIN_SECONDS: Final = 60.0
MAINTAIN_EVERY: Final = 15.0

Json = Any


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Feed:
    """What a deployment here has said so far, for those who follow it; itself a `Progress`."""

    cancel: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    lines: list[Json] = field(default_factory=list)
    over: bool = False
    record: Record | None = None
    error: VulcanizedError | None = None

    def step(self, record: Record, seen: Seen, reports: Sequence[Report], step: AnyStep) -> None:
        """What is done or waited for now."""
        line = line_of(record, seen, reports, step)
        if not self.lines or is_news(line, self.lines[-1]):
            self._say(line)

    def trouble(self, record: Record, error: str) -> None:
        """Something is away."""
        line = {"deployment": record.id, "message": "trying again", "reason": error}
        if not self.lines or self.lines[-1] != line:
            self._say(line)

    def details(self, record: Record, lines: Sequence[str]) -> None:
        """Why pods are not well."""
        for each in lines:
            self._say({"deployment": record.id, "message": "detail", "detail": each})

    def ended(self, record: Record) -> None:
        """How it ended."""
        self._say({"message": "ended", **summary(record)})

    def begin(self, record: Record) -> None:
        """It stands in etcd."""
        with self.changed:
            self.record = record
            self.changed.notify_all()

    def end(self, error: VulcanizedError | None) -> None:
        """Nothing follows."""
        with self.changed:
            self.error, self.over = error, True
            self.changed.notify_all()

    def _say(self, line: Json) -> None:
        with self.changed:
            if len(self.lines) < MOST_LINES:
                self.lines.append(printable_document(line))
            self.changed.notify_all()

    def follow(self, stop: threading.Event, seconds: float) -> Iterator[Json]:
        """Each line, as it comes, up to the last; None now and then while there is none."""
        at, waited = 0, 0.0
        while not stop.is_set() and waited < seconds:
            with self.changed:
                if at >= len(self.lines) and not self.over:
                    self.changed.wait(1.0)
                    waited += 1.0
                fresh, over = self.lines[at:], self.over
            yield from fresh or [None]
            at += len(fresh)
            if over and at >= len(self.lines):
                return


class Service:
    """Deployments in threads of their own; what the routes do."""

    def __init__(
        self, make: Callable[[Feed], Deployer], store: Store, stop: threading.Event
    ) -> None:
        """`make` gives a deployer for one deployment, which tells its feed."""
        self.make = make
        self._store = store
        self._stop = stop
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MOST_DEPLOYMENTS)
        self._feeds: OrderedDict[str, Feed] = OrderedDict()
        self._unread: frozenset[Unread] = frozenset()

    # --- upkeep ---

    def maintain(self) -> None:
        """Finish what dead deployers left, take away what was kept long enough; until stopped."""
        while not self._stop.is_set():
            try:
                self._maintain_once()
            except VulcanizedError as error:
                log.warning("upkeep failed", reason=str(error))
            self._stop.wait(MAINTAIN_EVERY)

    def _maintain_once(self) -> None:
        deployer = self.make(Feed())
        now = deployer.now()
        history = self._store.history()
        for each in history.unread:
            if each not in self._unread:
                log.error("record unreadable", key=each.key, app=str(each.app), reason=each.told)
        self._unread = frozenset(history.unread)
        with self._lock:
            here = {id_ for id_, feed in self._feeds.items() if not feed.over}
        left = {r.app_id for r in history.records if r.under_way and r.id not in here}
        due = {r.app_id for r in history.records if r.keeps and (r.dispose_at or 0) <= now}
        for app in sorted((left | due) - history.unknown):
            try:
                if app in left:
                    deployer.recover(app)
                deployer.dispose(app)
            except Locked:
                continue  # somebody is at it
            except VulcanizedError as error:
                log.warning("upkeep failed", app=str(app), reason=str(error))

    # --- deployments ---

    def begin(self, work: Callable[[Deployer], Record]) -> Record:
        """Begin a deployment in a thread of its own; its record, once it stands in etcd."""
        if not self._room.acquire(blocking=False):
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_DEPLOYMENTS} are under way: try again"
            )
        feed = Feed()
        deployer = self.make(feed)
        deployer.begun = feed.begin
        thread = threading.Thread(
            target=self._run, args=(work, deployer, feed), name="deployment", daemon=True
        )
        thread.start()
        with feed.changed:
            feed.changed.wait_for(lambda: feed.record or feed.over, BEGIN_SECONDS)
            record, error = feed.record, feed.error
        if record is None:
            feed.cancel.set()
            raise error or Problem(HTTPStatus.GATEWAY_TIMEOUT, "it did not begin in time")
        with self._lock:
            self._feeds[record.id] = feed
            while len(self._feeds) > 4 * MOST_DEPLOYMENTS:
                oldest = next((id_ for id_, each in self._feeds.items() if each.over), None)
                if oldest is None:
                    break
                del self._feeds[oldest]
        return record

    def _run(self, work: Callable[[Deployer], Record], deployer: Deployer, feed: Feed) -> None:
        error: VulcanizedError | None = None
        try:
            work(deployer)
        except VulcanizedError as caught:
            error = caught
            log.warning("deployment failed", reason=str(caught))
        except Exception as caught:
            log.exception("deployment failed")
            error = VulcanizedError(f"failed: {type(caught).__name__}: see the log")
        finally:
            self._room.release()
            feed.end(error)

    def join(self, seconds: float) -> None:
        """Wait for the deployments here to note where they are, once `stop` is set."""
        with self._lock:
            feeds = list(self._feeds.values())
        for feed in feeds:
            with feed.changed:
                feed.changed.wait_for(lambda: feed.over, seconds)  # noqa: B023 - called here

    def feed(self, id_: str) -> Feed | None:
        """What is said about a deployment that is or was under way here."""
        with self._lock:
            return self._feeds.get(id_)

    def record(self, namespace: str, id_: str) -> Record:
        """A record by its id."""
        history = self._store.history(namespace=namespace)
        for record in history.records:
            if record.id == id_:
                return record
        for each in history.unread:
            if each.id == id_:
                raise Unreadable(each.told)
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such deployment in this namespace")
