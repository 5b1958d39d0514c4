"""The deployer's keys in etcd: records, descriptors, locks, the next version, and the switch.

Every write carries the fence of the lock: once the lock is another's, etcd refuses it.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from vulcanized.deployer.descriptor import app_settings, environment_of
from vulcanized.deployer.words import History, Record, Report, Switch, Unread, encode
from vulcanized.errors import Conflict, Invalid, LeaseLost, Locked, NotPossible, Unreadable
from vulcanized.etcd import (
    Compare,
    Delete,
    EtcdClient,
    Held,
    KeyValue,
    Operation,
    Put,
    acquire,
)
from vulcanized.model import AppId
from vulcanized.objects import WRONG, shown

KEPT: Final = 50
"""Records of an app: the oldest go when a new one begins."""

_MOST_ENVIRONMENT = 1000
_MOST_FORGOTTEN = 50
"""In the transaction of a new record, of which etcd takes 128 operations."""

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?").fullmatch
_APP = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?").fullmatch
_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}").fullmatch
_NUMBER = re.compile(r"[0-9]{1,15}").fullmatch

_record = msgspec.json.Decoder(Record)
_report = msgspec.json.Decoder(Report)

Now = Callable[[], float]


class Papers(msgspec.Struct, frozen=True):
    """What stands beside a record: the descriptor without secrets, and the app configs.

    `config` is the one to write, "" for none; `replaced` the one that was there, None for none.
    `stored`: it stands for itself, with all that it was given with, to be deployed by its id.
    """

    descriptor: str = ""
    config: str = ""
    replaced: str | None = None
    stored: bool = False


class Stored(NamedTuple):
    """A stored descriptor as it was given; `unread`: why it cannot be told, "" where it can."""

    app: AppId
    text: str
    unread: str = ""


class Written(NamedTuple):
    """A key's text and when it was last changed; "" and 0 where there is none."""

    text: str
    revision: int


def new_id(now: float) -> str:
    """The id of a deployment: sorted by time, to the millisecond, and never the same twice."""
    second, rest = divmod(now, 1)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(second))
    return f"{moment}-{int(rest * 1000):03x}{secrets.randbits(20):05x}"


def app_id(text: str) -> AppId:
    """`NS/APP`, checked. Raises `Invalid`: no empty part may ever build a key."""
    namespace, slash, name = text.partition("/")
    if not slash:
        namespace, name = "default", text
    return checked(AppId(namespace, name))


def checked(app: AppId) -> AppId:
    """The app, if keys can be made of it. Raises `Invalid`."""
    if not _NAMESPACE(app.namespace) or not _APP(app.name):
        raise Invalid(
            "app", f"{shown(str(app))} names no app: write NAMESPACE/APP, such as default/todo"
        )
    return app


class Store:
    """One etcd under one prefix; for any number of threads."""

    def __init__(
        self, client: EtcdClient, prefix: str, settings_prefix: str, stop: threading.Event
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._settings = settings_prefix
        self._stop = stop

    def key(self, folder: str, app: AppId, id_: str = "") -> str:
        """A key of ours. Raises `Invalid` for a name that must not be in one."""
        checked(app)
        if id_ and not _ID(id_):
            raise Invalid("deployment", f"{shown(id_)} is no id of a deployment: see history")
        return f"{self._prefix}/{folder}/{app.namespace}/{app.name}" + (f"/{id_}" if id_ else "")

    # --- the lock ---

    def lock(self, app: AppId, holder: str, ttl: int) -> Held:
        """Take the lock of an app. Raises `Locked`, which says who has it."""
        key = self.key("locks", app)
        try:
            return acquire(self._client, key, holder.encode(), ttl, self._stop)
        except Conflict as error:
            found = self._client.get(key, self._stop)
            who = found.value.decode(errors="replace") if found is not None else "another"
            raise Locked(
                f"{app} is locked by {shown(who, '')}: wait for it, or end it; its lock goes "
                f"{ttl} s after it died",
                who,
            ) from error

    def is_ours(self, held: Held) -> bool:
        """Whether the lock still is, as etcd says."""
        found = self._client.get(held.fence.key, self._stop)
        return found is not None and found.mod_revision == held.fence.mod_revision

    # --- records ---

    def begin(
        self,
        record: Record,
        papers: Papers,
        held: Held,
        number: Written | None,
        known: Sequence[Record],
    ) -> None:
        """Write a new record with its papers and, where it was counted up, the last version.

        `known`: the records of the app; the oldest of those that are over go.
        """
        app = record.app_id
        compares = [held.fence, Compare(self.key("deployments", app, record.id), 0)]
        operations: list[Operation] = [
            Put(self.key("deployments", app, record.id), encode(record)),
            Put(self.key("descriptors", app, record.id), msgspec.json.encode(papers)),
        ]
        if number is not None:
            compares.append(Compare(self.key("versions", app), number.revision))
            operations.append(Put(self.key("versions", app), number.text.encode()))
        over = [each for each in known if not each.under_way and not each.keeps]
        for old in over[: max(0, len(over) - KEPT)][:_MOST_FORGOTTEN]:
            operations += self._gone(old)
        self._transact(held, compares, operations)

    def save(self, record: Record, held: Held) -> None:
        """Write a record again. Made twice, it does no harm."""
        key = self.key("deployments", record.app_id, record.id)
        self._transact(held, [held.fence], [Put(key, encode(record))])

    def record(self, app: AppId, id_: str) -> Record | None:
        """One record, None if there is none. Raises `Unreadable`."""
        found = self._client.get(self.key("deployments", app, id_), self._stop)
        if found is None:
            return None
        record = self._read(found)
        if isinstance(record, Unread):
            raise Unreadable(record.told)
        return record

    def records(self, app: AppId) -> tuple[Record, ...]:
        """The records of an app, the oldest first.

        Raises `Unreadable` if there is one that is not to be read: whoever acts must know all.
        """
        found = self.history(app)
        if found.unread:
            raise Unreadable(found.unread[0].told)
        return found.records

    def history(self, app: AppId | None = None, namespace: str = "") -> History:
        """What there is to read of one app, of a namespace, or of all."""
        prefix = f"{self._prefix}/deployments/"
        if app is not None:
            prefix = f"{self.key('deployments', app)}/"
        elif namespace:
            prefix += f"{checked(AppId(namespace, 'any')).namespace}/"
        items = self._client.list_prefix(prefix, stop=self._stop).items
        read = [self._read(item) for item in items]
        records = (each for each in read if isinstance(each, Record))
        return History(
            tuple(sorted(records, key=lambda record: (record.app_id, record.id))),
            tuple(each for each in read if isinstance(each, Unread)),
        )

    def _read(self, item: KeyValue) -> Record | Unread:
        owner, _, id_ = item.key.removeprefix(f"{self._prefix}/deployments/").rpartition("/")
        namespace, _, name = owner.partition("/")
        app = AppId(namespace, name) if _NAMESPACE(namespace) and _APP(name) else None
        try:
            record = _record.decode(item.value)
        except WRONG as error:
            return Unread(item.key, app, id_, shown(str(error), ""))
        if (record.app_id, record.id) != (app, id_) or not _ID(id_):
            # Acting on it would be acting on another app.
            return Unread(item.key, app, id_, "it is about something else than its key")
        if record.moves and not record.stages:
            return Unread(item.key, app, id_, "it leads nowhere")
        return record

    def delete_record(self, record: Record, held: Held) -> None:
        """Forget a deployment that is over."""
        self._transact(held, [held.fence], self._gone(record))

    def _gone(self, record: Record) -> list[Operation]:
        folders = ("deployments", "descriptors")
        return [Delete(self.key(folder, record.app_id, record.id)) for folder in folders]

    def papers(self, record: Record) -> Papers:
        """What stands beside a record; nothing where that is gone."""
        found = self._client.get(self.key("descriptors", record.app_id, record.id), self._stop)
        if found is None:
            return Papers()
        try:
            return msgspec.json.decode(found.value, type=Papers)
        except WRONG as error:
            raise Unreadable(
                f"{found.key} cannot be read ({shown(str(error), '')}): it holds the app config "
                "that is to be put back should the deployment be undone; delete it to go on "
                f"without (etcdctl del {found.key})"
            ) from None

    # --- descriptors that stand for themselves ---

    def stored(self, namespace: str) -> dict[str, Stored]:
        """The stored descriptors of a namespace, by id; what cannot be read is one of them."""
        checked(AppId(namespace, "any"))
        prefix = f"{self._prefix}/descriptors/{namespace}/"
        found = {}
        for item in self._client.list_prefix(prefix, stop=self._stop).items:
            name, _, id_ = item.key.removeprefix(prefix).partition("/")
            if not _APP(name) or not _ID(id_):
                continue
            app = AppId(namespace, name)
            try:
                papers = msgspec.json.decode(item.value, type=Papers)
            except WRONG as error:
                # Beside a record it is told by who needs it.
                if self._client.get(self.key("deployments", app, id_), self._stop) is None:
                    why = f"{item.key} cannot be read ({shown(str(error), '')}): store it anew"
                    found[id_] = Stored(app, "", why)
            else:
                if papers.stored:
                    found[id_] = Stored(app, papers.descriptor)
        return found

    def put_descriptor(self, app: AppId, id_: str, text: str) -> None:
        """Store a descriptor."""
        papers = Papers(text, stored=True)
        key = self.key("descriptors", app, id_)
        self._client.put(key, msgspec.json.encode(papers), stop=self._stop)

    def delete_descriptor(self, app: AppId, id_: str) -> None:
        """Delete a stored descriptor."""
        self._client.delete(self.key("descriptors", app, id_), self._stop)

    # --- versions ---

    def next_version(self, app: AppId, taken: Iterable[str]) -> tuple[str, Written]:
        """The number after all that were ever given or are `taken`, and what to write for it.

        Raises `Unreadable`, and `NotPossible` after the last number.
        """
        number, revision = self._last_number(app)
        numbers = [int(version) for version in taken if _NUMBER(version)]
        following = str(max([number, *numbers]) + 1)
        if not _NUMBER(following):
            raise NotPossible(f"{app} has used up all numbers: name a version")
        return following, Written(following, revision)

    def counted(self, app: AppId, version: str) -> Written | None:
        """What to write so that a version that was named is never counted up to; None: nothing."""
        if not _NUMBER(version):
            return None
        number, revision = self._last_number(app)
        return Written(str(int(version)), revision) if int(version) > number else None

    def _last_number(self, app: AppId) -> tuple[int, int]:
        key = self.key("versions", app)
        last = self.read(key)
        if last.revision and not _NUMBER(last.text.strip()):
            raise Unreadable(
                f"{key} holds {shown(last.text)} and not the last version number of {app}: write "
                f"the highest that it ever had (etcdctl put {key} NUMBER)"
            )
        return int(last.text or 0), last.revision

    # --- activation and config ---

    def read(self, key: str) -> Written:
        """A key as text."""
        found = self._client.get(key, self._stop)
        if found is None:
            return Written("", 0)
        return Written(found.value.decode(errors="replace"), found.mod_revision)

    def activation(self, app: AppId) -> Written:
        """The activation as it is written."""
        return self.read(self.key("active", app))

    def config(self, app: AppId) -> Written:
        """The app config as it is written."""
        return self.read(self.key("apps", app))

    def switch(self, record: Record, step: Switch, papers: Papers, held: Held) -> tuple[int, bool]:
        """Write the activation, and the app config with it, in one transaction.

        Its revision, and whether it changed the app config. Raises `Conflict` if either is not as
        it was read.
        """
        app = record.app_id
        active = self.key("active", app)
        compares = [held.fence, Compare(active, step.expect)]
        text = step.text
        if text is None and not step.expect:
            # There is none to delete, and a daemon proves what it has seen: show it one that says
            # what holds without.
            word = record.new.version or record.version
            expect = self._transact(held, compares, [Put(active, word.encode())])
            compares = [held.fence, Compare(active, expect)]
        operations: list[Operation]
        operations = [Delete(active) if text is None else Put(active, text.encode())]
        configured = self._with_config(record, step, papers)
        if configured is not None:
            compares.append(configured[0])
            operations.append(configured[1])
        return self._transact(held, compares, operations), configured is not None

    def _with_config(
        self, record: Record, step: Switch, papers: Papers
    ) -> tuple[Compare, Operation] | None:
        if step.config == "keep":
            return None
        key = self.key("apps", record.app_id)
        now = self.read(key)
        if step.config == "new":
            if not papers.config or papers.config == now.text:
                return None
            return Compare(key, record.config), Put(key, papers.config.encode())
        if step.config == "remove":
            return (Compare(key, now.revision), Delete(key)) if now.revision else None
        ours = {entry.revision for entry in record.journal if entry.step == "switch"}
        if not record.configures or now.revision not in ours | {step.expect}:
            return None  # somebody wrote another since, and that stays
        back = Delete(key) if papers.replaced is None else Put(key, papers.replaced.encode())
        return Compare(key, now.revision), back

    # --- what pods are given ---

    def environment(self, app: AppId) -> tuple[tuple[str, str], ...]:
        """What every pod of an app is given, by name. Raises `Invalid`."""
        prefix = f"{self._prefix}/environment/"
        items = self._client.list_prefix(prefix, stop=self._stop).items
        if len(items) > _MOST_ENVIRONMENT:
            raise Invalid(prefix, f"holds more than {_MOST_ENVIRONMENT} keys: take some away")
        common = environment_of(
            (item.key.removeprefix(prefix), item.value.decode(errors="replace")) for item in items
        )
        key = f"{self._settings}/{checked(app).name}"
        own = self.read(key)
        return (*common, *(app_settings(own.text, key) if own.text.strip() else ()))

    # --- reports ---

    def reports(self) -> tuple[Report, ...]:
        """What every live daemon says. One that cannot be read has nothing in effect."""
        prefix = f"{self._prefix}/instances/"
        found = []
        for item in self._client.list_prefix(prefix, stop=self._stop).items:
            instance = item.key.removeprefix(prefix)
            try:
                report = _report.decode(item.value)
            except WRONG:
                report = Report(instance)
            found.append(msgspec.structs.replace(report, instance=instance))
        return tuple(found)

    def _transact(
        self, held: Held, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> int:
        try:
            return self._client.transact(compares, tuple(operations), self._stop)
        except Conflict as error:
            if held.fence.key in error.keys:
                raise LeaseLost(f"the lock is lost, another may have it by now: {error}") from error
            raise
