"""App configs and activations from etcd, kept equal to what it has.

The rules:

* Only a completed list or a delete event takes a document away. While etcd is away the last known
  state stays, and its age shows.
* A broken watch is resumed from the last change seen. Only lost history (compacted, wiped,
  restored) leads to a new list, of which the difference is taken over. But a list, the first one
  too, that would take away too much at once is not believed in that (see `holds`).
* A value that cannot be a document is one all the same: one that its parser refuses, so that it is
  a problem of that one app, which keeps its last good one. Only a key that names no app is skipped.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from vulcanized.appconfig import MAX_CONFIG_BYTES
from vulcanized.errors import Expired, Rewound, SourceError, forget
from vulcanized.etcd import Batch, EtcdClient
from vulcanized.guard import ACTIVATIONS, CONFIGS, DOCUMENTS, Stored
from vulcanized.holds import Guarding, Holds
from vulcanized.model import (
    MOST_LEFT_OUT,
    AppId,
    Document,
    Reached,
    SourcePhase,
    SourceState,
)
from vulcanized.objects import shown
from vulcanized.reflector import Backoff, Uniform
from vulcanized.slot import Clock, DirtyApps

log = structlog.get_logger(__name__)

BACKOFF: Final = (0.2, 10.0)
"""Seconds: the first and the longest wait after a failure."""

_CALM = 10.0  # seconds without a failure after which the first wait is the shortest again
_MOST_COMPLAINTS = 100  # skipped keys that get a log line of their own

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?").fullmatch
_APP = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?").fullmatch


class EtcdSource:
    """The store side of etcd, and its one stream.

    `run` is for one thread, the rest may be called by any.
    """

    name: Final = "etcd"

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        dirty: DirtyApps,
        *,
        guarding: Guarding | None = None,
        clock: Clock = time.monotonic,
        uniform: Uniform = random.uniform,
    ) -> None:
        self.streams = (self,)
        self.spoken = False
        self._client = client
        self._dirty = dirty
        self._clock = clock
        self._configs = f"{prefix}/apps/"
        self._activations = f"{prefix}/active/"
        self._folders = {self._configs: CONFIGS, self._activations: ACTIVATIONS}
        guarding = guarding or Guarding()
        self._holds = Holds(
            self.name,
            DOCUMENTS,
            guarding,
            guarding.baseline.documents,
            clock=clock,
            uniform=uniform,
        )
        self._lock = threading.Lock()
        self._documents: dict[str, dict[AppId, Document]] = {
            self._configs: {},
            self._activations: {},
        }
        self._skipped: set[str] = set()
        self._complaints = 0
        self._position: dict[str, int] = {}
        self._placed = False
        self._cause = ""
        self._relists: dict[str, int] = {}
        self._backoff = Backoff(*BACKOFF, _CALM, uniform)
        self._following = False
        self._error = ""
        self._heard = clock()

    # --- what it knows ---

    def config(self, app: AppId) -> Document | None:
        """The text of the app's config as it is written, None without one."""
        return self._documents[self._configs].get(app)

    def activation(self, app: AppId) -> Document | None:
        """The text of the app's activation as it is written, None without one."""
        return self._documents[self._activations].get(app)

    def apps(self) -> set[AppId]:
        """The apps that have a config or an activation."""
        with self._lock:
            return {app for documents in self._documents.values() for app in documents}

    @property
    def revision(self) -> int:
        """Every activation written up to this etcd revision is known; 0 before the first list.

        Configs are followed beside them: one may be known a moment sooner or later.
        """
        return self._position.get(self._activations, 0)

    def state(self) -> SourceState:
        """How the stream is doing now. Relist causes: `expired`, `rewound`, `held`.

        `skipped`: keys there are that name no app.
        """
        phase = SourcePhase.SYNCED if self._following else SourcePhase.STALE
        with self._lock:
            records = sum(map(len, self._documents.values()))
            skipped, relists = sorted(self._skipped), dict(self._relists)
        return SourceState(
            name=self.name,
            phase=phase if self.spoken else SourcePhase.STARTING,
            age=max(0.0, self._clock() - self._heard),
            records=records,
            relists=relists,
            skipped=len(skipped),
            error=self._error,
            held=len(self._holds),
            holding=self._holds.message(),
            left_out=tuple(
                f"etcd {shown(key, '')}: names no app; delete it, or write <namespace>/<app>"
                for key in skipped[:MOST_LEFT_OUT]
            ),
        )

    def accept(self) -> int:
        """Take what etcd says as it is: let go what is held. How many documents that were."""
        with self._lock:
            let_go = self._holds.accept()
            self._discard(let_go)
        self._dirty.mark({app for _, app in let_go})
        return len(let_go)

    # --- how it gets to know ---

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Whatever is not a SourceError goes through."""
        while not stop.is_set():
            try:
                if not self._placed:
                    self._list(stop)
                self._follow(stop)
            except SourceError as error:
                if stop.is_set():
                    return
                pause = self._failed(error)
                forget(error)
                stop.wait(pause)

    def _list(self, stop: threading.Event) -> None:
        fresh: dict[str, dict[AppId, Document]] = {}
        skipped: set[str] = set()
        revision = 0
        for prefix in self._documents:
            # Both as of one moment, so that what was written together is seen together.
            items, revision = self._client.list_prefix(prefix, revision, stop)
            self._heard = self._clock()
            fresh[prefix] = {}
            for key, value, created, _ in items:
                app = _app_of(key, prefix)
                if app is None:
                    skipped.add(key)
                else:
                    fresh[prefix][app] = _document(key, value, created)
        with self._lock:
            before = self._stored(self._documents) if self.spoken else None
            held = self._holds.judge(before, self._stored(fresh), self._cause or "start")
            for prefix, folder in self._folders.items():
                fresh[prefix].update(
                    (s.app, s.document) for s in held.values() if s.folder == folder
                )
            changed = _difference(self._documents, fresh)
            self._documents, self._skipped = fresh, set()
            if self._cause:
                self._relists[self._cause] = self._relists.get(self._cause, 0) + 1
            self._position = dict.fromkeys(fresh, revision)
        self._placed = True
        log.info(
            "listed",
            source=self.name,
            records=sum(map(len, fresh.values())),
            changed_apps=len(changed),
            revision=revision,
            cause=self._cause or "start",
        )
        self._cause = ""
        for key in skipped:
            self._skip(key)
        if self.spoken:
            self._dirty.mark(changed, self._heard, self._reached())
        else:
            self.spoken = True
            self._dirty.mark_all(self._reached())
        self._verify(stop)

    def _verify(self, stop: threading.Event) -> None:
        """Let go what the list confirms."""
        gone = self._holds.verify(stop)
        with self._lock:
            let_go = self._holds.release(gone)
            self._discard(let_go)
        self._dirty.mark({app for _, app in let_go})

    def _stored(
        self, documents: Mapping[str, Mapping[AppId, Document]]
    ) -> dict[tuple[str, AppId], Stored]:
        return {
            (folder, app): Stored(folder, app, document)
            for prefix, folder in self._folders.items()
            for app, document in documents[prefix].items()
        }

    def _discard(self, keys: Iterable[tuple[str, AppId]]) -> None:
        """Forget documents, under the lock."""
        for prefix, folder in self._folders.items():
            for of, app in keys:
                if of == folder:
                    self._documents[prefix].pop(app, None)

    def _follow(self, stop: threading.Event) -> None:
        with self._client.watch(self._position, stop) as batches:
            self._well()
            for batch in batches:
                self._heard = now = self._clock()
                if batch.prefix:
                    self._apply(batch, now)
                if (due := self._holds.due) is not None and now >= due:
                    self._placed, self._cause = False, "held"
                    return

    def _apply(self, batch: Batch, since: float) -> None:
        changed: set[AppId] = set()
        with self._lock:
            documents = self._documents[batch.prefix]
            for key, value, created, _ in batch.events:
                app = _app_of(key, batch.prefix)
                if app is None:
                    self._skip(key) if value is not None else self._skipped.discard(key)
                    continue
                before = documents.get(app)
                document = None if value is None else _document(key, value, created)
                self._holds.seen((self._folders[batch.prefix], app))
                if document == before:
                    continue
                if document is None:
                    del documents[app]
                else:
                    documents[app] = document
                changed.add(app)
            self._position[batch.prefix] = batch.revision
        self._dirty.mark(changed, since, self._reached())

    def _reached(self) -> Reached:
        return Reached(self._position[self._activations], self._position[self._configs])

    def _failed(self, error: SourceError) -> float:
        """Note a failure; the seconds to wait."""
        if isinstance(error, Expired) and self._placed:
            self._placed = False
            self._cause = "rewound" if isinstance(error, Rewound) else "expired"
        pause = self._backoff.after_failure(self._clock())
        self._following = False
        self._error = str(error)
        log.warning("source failed", source=self.name, error=self._error, retry_in=round(pause, 1))
        return pause

    def _well(self) -> None:
        self._heard = self._clock()
        if self._error:
            log.info("source recovered", source=self.name)
        self._following, self._error = True, ""

    def _skip(self, key: str) -> None:
        self._skipped.add(key)
        if self._complaints < _MOST_COMPLAINTS:
            self._complaints += 1
            log.warning("key skipped", source=self.name, key=key[:300], reason="names no app")


def _app_of(key: str, prefix: str) -> AppId | None:
    """The app of `<prefix><namespace>/<app>`, None for a key that names none."""
    namespace, _, name = key.removeprefix(prefix).partition("/")
    return AppId(namespace, name) if _NAMESPACE(namespace) and _APP(name) else None


def _document(key: str, value: bytes, created: int) -> Document:
    origin = f"etcd {key}"
    # Longer than any parser takes: kept just long enough to be refused for it.
    part = value[: MAX_CONFIG_BYTES + 1]
    try:
        text = part.decode()
    except UnicodeDecodeError as error:
        if len(part) == len(value):
            fault = f"is not UTF-8 text (byte {error.start}): write it as UTF-8"
            return Document("", origin, created, fault)
        text = part.decode(errors="replace")
    return Document(text, origin, created)


def _difference(
    old: Mapping[str, Mapping[AppId, Document]], new: Mapping[str, Mapping[AppId, Document]]
) -> set[AppId]:
    return {
        app
        for prefix in old
        for app in old[prefix].keys() | new[prefix].keys()
        if old[prefix].get(app) != new[prefix].get(app)
    }
