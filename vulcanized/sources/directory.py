"""The embedded default: manifests and the store as files, both followed. No server is needed.

`ManifestSource` stands in for a cluster: `*.yaml`, `*.yml` and `*.json` below a directory hold pods
and controllers as kubectl prints them. `DirectoryStore` stands in for etcd: `apps/<ns>/<app>.json`
holds an app config, `active/<ns>/<app>` an activation. Either can be used without the other.

How files are read is `filetree`'s business. Beyond that: a manifest file that cannot be parsed, or
is empty, leaves its last good objects in effect, and so does a single object for itself. An empty
activation is handed on: an empty text is none that could take effect, so the last one does.

What a directory holds when we start, or when another one stands in its place (a volume that is
mounted or not), is a list like that of a server: what it misses may be held (see `holds`).
"""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Final, Generic

import structlog

from vulcanized.doorbell import Doorbell, identity
from vulcanized.errors import Invalid, SourceError
from vulcanized.filetree import FileTree, Patience
from vulcanized.guard import ACTIVATIONS, CONFIGS, DOCUMENTS, RECORDS, Key, Stored, Thing
from vulcanized.holds import Guarding, Holds
from vulcanized.manifests import Parsed, Record, parse
from vulcanized.model import (
    MOST_LEFT_OUT,
    AppId,
    Controller,
    Document,
    Pod,
    SourcePhase,
    SourceState,
)
from vulcanized.objects import Labels, Manifests
from vulcanized.reflector import Cache
from vulcanized.slot import Clock, DirtyApps

log = structlog.get_logger(__name__)

RESCAN: Final = 5.0
"""Seconds between looks at everything: what a bell missed is found then."""

RESCAN_WITHOUT_BELL: Final = 0.5
"""Seconds between looks where inotify cannot help, or while the directory is missing."""

_SLICE: Final = 0.2
"""Seconds. The stop event is looked at so often."""

_FIRST_CALM: Final = 1.0
"""Seconds. Files that are still being written hold up the first word for so long at most."""

MANIFEST_LIMIT: Final = 8 << 20
STORE_LIMIT: Final = 1 << 20

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_APP: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class _FileStream(ABC, Generic[Key, Thing]):
    """One directory, followed by one thread. Subclasses say what its files mean."""

    def __init__(
        self,
        name: str,
        tree: FileTree,
        root: Path,
        dirty: DirtyApps,
        clock: Clock,
        rescan: float,
        holds: Holds[Key, Thing],
    ) -> None:
        self.name = name
        self._rescan = rescan
        self._holds = holds
        self._lock = threading.Lock()  # what is held and what is known change together
        self._here: tuple[int, int] | None = None
        self._relisting = False
        self._seen_whole = False
        self._judged = False
        self.spoken = False
        self._tree = tree
        self._root = root
        self._dirty = dirty
        self._clock = clock
        self._heard = clock()
        self._error = ""
        self._skipped: dict[str, str] = {}
        self._missed = 0

    @abstractmethod
    def _take(self, changes: Mapping[str, bytes | None]) -> tuple[set[AppId], set[Key]]:
        """Take over changed files; the apps for which something changed, and what is in no file
        any more. That is left as it is.
        """

    @abstractmethod
    def _things(self) -> dict[Key, Thing]:
        """All that is known."""

    @abstractmethod
    def _put_back(self, things: Iterable[Thing]) -> set[AppId]:
        """Know these, which are in no file; the apps for which something changed."""

    @abstractmethod
    def _discard(self, keys: Iterable[Key]) -> set[AppId]:
        """Know these no longer; the apps for which something changed."""

    @abstractmethod
    def _problems(self) -> Mapping[str, str]:
        """What cannot be used now, each with its reason."""

    @abstractmethod
    def _records(self) -> int: ...

    def state(self) -> SourceState:
        """How this stream is doing now.

        `skipped`: files and objects that cannot be used now. Relist cause: `missed`, a look by the
        clock found what no event had told.
        """
        phase = SourcePhase.STALE if self._error else SourcePhase.SYNCED
        return SourceState(
            name=self.name,
            phase=phase if self.spoken else SourcePhase.STARTING,
            age=max(0.0, self._clock() - self._heard),
            records=self._records(),
            relists={"missed": self._missed} if self._missed else {},
            skipped=len(self._skipped),
            error=self._error,
            held=len(self._holds),
            holding=self._holds.message(),
            left_out=tuple(
                f"{self._root.name}/{file}: {reason}"
                for file, reason in sorted(self._skipped.items())[:MOST_LEFT_OUT]
            ),
        )

    def accept(self) -> int:
        """Take what is there as it is: let go what is held. How many things that were."""
        with self._lock:
            let_go = self._holds.accept()
            changed = self._discard(let_go)
        self._dirty.mark(changed)
        return len(let_go)

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        began = self._clock()
        rescan_at = began
        files: Mapping[str, bool] | None = None
        since = began
        with Doorbell(self._root, self._clock) as bell:
            while not stop.is_set():
                now = self._clock()
                unasked = files == {} and self._tree.due() is None and bell.works
                if bell.arm() or now >= min(rescan_at, self._holds.due or rescan_at):
                    files = None
                changed = self._look(files, since, patient=now - began < _FIRST_CALM)
                self._verify(stop)
                if changed and unasked:
                    self._missed += 1
                    bell.distrust()
                if files is None:
                    calm = bell.works and not self._error
                    rescan_at = now + (self._rescan if calm else RESCAN_WITHOUT_BELL)
                until = min(rescan_at, self._tree.due() or rescan_at)
                if (due := self._holds.due) is not None and due > now:
                    until = min(until, due)
                ring = None
                while ring is None and not stop.is_set() and self._clock() < until:
                    ring = bell.wait(min(_SLICE, until - self._clock()))
                files, since = ring or ({}, self._clock())

    def _look(self, files: Mapping[str, bool] | None, since: float, *, patient: bool) -> bool:
        """Look once; True when something changed."""
        here = identity(self._root)
        try:
            changes = self._tree.look(files)
        except SourceError as error:
            self._here = None
            if str(error) != self._error:
                log.warning("source failed", source=self.name, error=str(error))
            self._error = str(error)
            return False
        speaks = not self.spoken and (not patient or self._tree.due() is None)
        with self._lock:
            if here != self._here:
                self._relisting, self._seen_whole = True, False
            self._seen_whole |= files is None
            changed, gone = self._take(changes)
            changed |= self._let_go(gone, whole=files is None)
            if speaks:
                changed |= self._put_back(self._judge(None, self._things(), "start").values())
            # What is missing is doubted for a while, and is part of the list until then.
            if self._seen_whole and self._tree.due() is None:
                self._relisting = False
            self._here = here
        if self._error:
            log.info("source recovered", source=self.name)
        self._error = ""
        self._heard = self._clock()
        self._complain()
        if self.spoken:
            if changed:
                self._dirty.mark(changed, since)
        elif speaks:
            self.spoken = True
            log.info("listed", source=self.name, records=self._records(), cause="start")
            self._dirty.mark_all()
        return bool(changed)

    def _let_go(self, gone: set[Key], *, whole: bool) -> set[AppId]:
        """Know no longer what is in no file, but for what has to be confirmed."""
        due = self._holds.due
        confirms = whole and due is not None and self._clock() >= due
        if self.spoken and (confirms or (gone and self._relisting)):
            known = self._things()
            listed = {
                key: thing
                for key, thing in known.items()
                if key not in gone and key not in self._holds
            }
            gone = gone - self._judge(known, listed, "replaced").keys()
        return self._discard(gone)

    def _judge(
        self, before: dict[Key, Thing] | None, listed: dict[Key, Thing], cause: str
    ) -> dict[Key, Thing]:
        self._judged = True
        return self._holds.judge(before, listed, cause)

    def _verify(self, stop: threading.Event) -> None:
        """Let go what a look has confirmed."""
        if not self._judged:
            return
        self._judged = False
        gone = self._holds.verify(stop)
        with self._lock:
            changed = self._discard(self._holds.release(gone))
        self._dirty.mark(changed)

    def _complain(self) -> None:
        """Say what is skipped, once for as long as it stays so."""
        problems = dict(self._problems())
        for file, reason in problems.items():
            if self._skipped.get(file) != reason:
                log.warning("file skipped", source=self.name, file=file, reason=reason)
        self._skipped = problems


class ManifestSource:
    """The cluster side from files. `pods` and `controllers` may be called by any thread."""

    def __init__(
        self,
        root: Path,
        dirty: DirtyApps,
        *,
        labels: Labels = Labels(),
        patience: Patience = Patience(),
        guarding: Guarding | None = None,
        rescan: float = RESCAN,
        clock: Clock = time.monotonic,
    ) -> None:
        self._pods: Cache[Pod] = Cache()
        self._controllers: Cache[Controller] = Cache()
        tree = FileTree(root, _is_manifest, MANIFEST_LIMIT, patience=patience, clock=clock)
        guarding = guarding or Guarding()
        known = guarding.baseline
        holds = Holds(
            "manifests",
            RECORDS,
            guarding,
            lambda: chain[Pod | Controller](known.pods(""), known.controllers("")),
            clock=clock,
        )
        self.streams = (
            _ManifestStream(
                tree,
                root,
                dirty,
                clock,
                rescan,
                holds,
                Manifests(labels),
                self._pods,
                self._controllers,
            ),
        )

    def pods(self, app: AppId) -> tuple[Pod, ...]:
        """The pods of one app, sorted by uid."""
        return self._pods.of(app)

    def controllers(self, app: AppId) -> tuple[Controller, ...]:
        """The controllers of one app, sorted by uid."""
        return self._controllers.of(app)

    def apps(self) -> set[AppId]:
        """The apps that have a pod or a controller."""
        return self._pods.apps() | self._controllers.apps()


def _is_manifest(file: PurePosixPath) -> bool:
    return file.suffix in (".yaml", ".yml", ".json")


class _ManifestStream(_FileStream[str, Record]):
    def __init__(
        self,
        tree: FileTree,
        root: Path,
        dirty: DirtyApps,
        clock: Clock,
        rescan: float,
        holds: Holds[str, Record],
        manifests: Manifests,
        pods: Cache[Pod],
        controllers: Cache[Controller],
    ) -> None:
        super().__init__("manifests", tree, root, dirty, clock, rescan, holds)
        self._manifests = manifests
        self._pods = pods
        self._controllers = controllers
        self._files: dict[str, Parsed] = {}
        self._unreadable: dict[str, str] = {}
        self._claims: dict[str, dict[str, Record]] = {}

    def _take(self, changes: Mapping[str, bytes | None]) -> tuple[set[AppId], set[str]]:
        touched: set[str] = set()
        for file, content in sorted(changes.items()):
            touched |= self._replace(file, content)
        return self._put_in_effect(touched)

    def _replace(self, file: str, content: bytes | None) -> set[str]:
        """Take over one file; the uids that it held or holds."""
        before = self._files.pop(file, Parsed())
        self._unreadable.pop(file, None)
        after = Parsed()
        if content is not None:
            try:
                after = parse(content, file, self._manifests)
            except Invalid as error:
                self._unreadable[file] = error.reason
                self._files[file] = before
                return set()
            # An object that cannot be used stays as it was, all of them if it cannot be told which.
            kept = before.records if "" in after.invalid else after.invalid
            for key in kept:
                if key in before.records:
                    after.records.setdefault(key, before.records[key])
            self._files[file] = after
        for record in before.records.values():
            self._claims[record.uid].pop(file, None)
        for record in after.records.values():
            self._claims.setdefault(record.uid, {})[file] = record
        records = (*before.records.values(), *after.records.values())
        return {record.uid for record in records}

    def _put_in_effect(self, uids: Iterable[str]) -> tuple[set[AppId], set[str]]:
        """Add, and say what is gone. Of files that hold the same object the first counts."""
        changed: set[AppId] = set()
        gone: set[str] = set()
        for uid in uids:
            claims = self._claims[uid]
            if not claims:
                del self._claims[uid]
                gone.add(uid)
                continue
            record = claims[min(claims)]
            gone |= self._holds.seen(uid, record, self._pods.get(uid))
            changed |= self._put_back([record])
        return changed, gone

    def _things(self) -> dict[str, Record]:
        return {**self._pods.by_uid(), **self._controllers.by_uid()}

    def _put_back(self, things: Iterable[Record]) -> set[AppId]:
        changed: set[AppId] = set()
        for record in things:
            if isinstance(record, Pod):
                changed.update(self._pods.put(record), self._controllers.remove(record.uid))
            else:
                changed.update(self._controllers.put(record), self._pods.remove(record.uid))
        return changed

    def _discard(self, keys: Iterable[str]) -> set[AppId]:
        changed: set[AppId] = set()
        for uid in keys:
            changed.update(self._pods.remove(uid), self._controllers.remove(uid))
        return changed

    def _problems(self) -> Mapping[str, str]:
        problems = {**self._tree.problems, **self._unreadable}
        for file, parsed in self._files.items():
            for key, reason in parsed.invalid.items():
                problems[f"{file} {key}".strip()] = reason
        for uid, claims in self._claims.items():
            first, *others = sorted(claims)
            problems.update({f"{other} {uid}": f"is in {first} already" for other in others})
        return problems

    def _records(self) -> int:
        return len(self._pods) + len(self._controllers)


class DirectoryStore:
    """The store side from files. Its reads may be called by any thread."""

    def __init__(
        self,
        root: Path,
        dirty: DirtyApps,
        *,
        patience: Patience = Patience(),
        guarding: Guarding | None = None,
        rescan: float = RESCAN,
        clock: Clock = time.monotonic,
    ) -> None:
        self._documents = _Documents()
        tree = FileTree(root, _is_stored, STORE_LIMIT, patience=patience, clock=clock)
        guarding = guarding or Guarding()
        holds = Holds("store", DOCUMENTS, guarding, guarding.baseline.documents, clock=clock)
        self.streams = (_StoreStream(tree, root, dirty, clock, rescan, holds, self._documents),)

    def config(self, app: AppId) -> Document | None:
        """The text of the app's config as it is written, None without one."""
        return self._documents.get(CONFIGS, app)

    def activation(self, app: AppId) -> Document | None:
        """The text of the app's activation as it is written, None without one."""
        return self._documents.get(ACTIVATIONS, app)

    def apps(self) -> set[AppId]:
        """The apps that have a config or an activation."""
        return self._documents.apps()


class _Documents:
    """Documents by folder (`apps`, `active`) and app. One thread writes, any may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[tuple[str, AppId], Document] = {}

    def __len__(self) -> int:
        return len(self._documents)

    def get(self, folder: str, app: AppId) -> Document | None:
        return self._documents.get((folder, app))

    def put(self, folder: str, app: AppId, document: Document | None) -> bool:
        """True when that changed something."""
        with self._lock:
            if document is None:
                return self._documents.pop((folder, app), None) is not None
            changed = self._documents.get((folder, app)) != document
            self._documents[folder, app] = document
            return changed

    def apps(self) -> set[AppId]:
        with self._lock:
            return {app for _, app in self._documents}

    def all(self) -> dict[tuple[str, AppId], Document]:
        with self._lock:
            return dict(self._documents)


def _is_stored(file: PurePosixPath) -> bool:
    _place(file)
    return True


def _place(file: PurePosixPath) -> tuple[str, AppId]:
    """Folder and app of a file of the store. Raises Invalid for any other name."""
    layout = "is neither apps/<namespace>/<app>.json nor active/<namespace>/<app>; rename it"
    if len(file.parts) != 3:
        raise Invalid(str(file), layout)
    folder, namespace, name = file.parts
    if folder not in ("apps", "active") or (folder == "apps") != name.endswith(".json"):
        raise Invalid(str(file), layout)
    app = name.removesuffix(".json")
    if not _NAMESPACE.fullmatch(namespace) or not _APP.fullmatch(app):
        raise Invalid(str(file), "is named by what Kubernetes allows no name to be; rename it")
    return folder, AppId(namespace, app)


def _decoded(content: bytes) -> tuple[str, str]:
    """The text, and why there is none."""
    try:
        return content.decode(), ""
    except UnicodeDecodeError as error:
        return "", f"is not UTF-8 text (byte {error.start}); save it as UTF-8"


class _StoreStream(_FileStream[tuple[str, AppId], Stored]):
    def __init__(
        self,
        tree: FileTree,
        root: Path,
        dirty: DirtyApps,
        clock: Clock,
        rescan: float,
        holds: Holds[tuple[str, AppId], Stored],
        documents: _Documents,
    ) -> None:
        super().__init__("store", tree, root, dirty, clock, rescan, holds)
        self._documents = documents
        self._stand_ins: set[str] = set()

    def _take(
        self, changes: Mapping[str, bytes | None]
    ) -> tuple[set[AppId], set[tuple[str, AppId]]]:
        changed: set[AppId] = set()
        gone: set[tuple[str, AppId]] = set()
        for file, content in changes.items():
            self._stand_ins.discard(file)
            if content is None:
                gone.add(_place(PurePosixPath(file)))
            else:
                changed |= self._put(file, *_decoded(content))
        changed |= self._stand_in(gone)
        return changed, gone

    def _stand_in(self, gone: set[tuple[str, AppId]]) -> set[AppId]:
        """A file that is there but cannot be used is not an absent one.

        Without an activation every version would take traffic. A document without a text stands in:
        it cannot take effect, and says why.
        """
        changed: set[AppId] = set()
        problems = self._tree.problems
        for file in self._stand_ins - problems.keys():
            self._stand_ins.discard(file)
            gone.add(_place(PurePosixPath(file)))
        for file, reason in problems.items():
            try:
                key = _place(PurePosixPath(file))
            except Invalid:
                continue
            gone.discard(key)
            self._stand_ins.add(file)
            changed |= self._put(file, "", reason)
        return changed

    def _put(self, file: str, text: str, fault: str = "") -> set[AppId]:
        folder, app = key = _place(PurePosixPath(file))
        self._holds.seen(key)
        document = Document(text, f"{self._root.name}/{file}", fault=fault)
        return {app} if self._documents.put(folder, app, document) else set()

    def _things(self) -> dict[tuple[str, AppId], Stored]:
        return {key: Stored(*key, document) for key, document in self._documents.all().items()}

    def _put_back(self, things: Iterable[Stored]) -> set[AppId]:
        return {one.app for one in things if self._documents.put(*one)}

    def _discard(self, keys: Iterable[tuple[str, AppId]]) -> set[AppId]:
        return {app for folder, app in keys if self._documents.put(folder, app, None)}

    def _problems(self) -> Mapping[str, str]:
        # A file that names an app is told as that app's problem.
        return {
            file: reason
            for file, reason in self._tree.problems.items()
            if file not in self._stand_ins
        }

    def _records(self) -> int:
        return len(self._documents)
