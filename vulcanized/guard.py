"""Which removals by a list are held back, and for how long. Pure: time and chance are handed in.

An API server, an etcd or a directory can answer with a list that is valid, and wrong: empty, half,
of another place. So a list that would remove more than a set share of an app's servers, or of all,
is believed in what it adds and changes, and held in what it removes. What is held is let go

* when a later list confirms it, and nothing answers a direct connect to it (see `holds`),
* at once when it is certain: an event deletes it, or its address belongs to another pod by now,
* when an operator says so.

It stays as it was, as if it had never been missing, when a list or an event shows it again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Generic, NamedTuple, TypeVar

from vulcanized.model import AppId, Controller, Document, Pod

Key = TypeVar("Key", bound=Hashable)
Thing = TypeVar("Thing")


CONFIGS: Final = "apps"
ACTIVATIONS: Final = "active"


class Stored(NamedTuple):
    """One document of the store; `folder` tells `CONFIGS` from `ACTIVATIONS`."""

    folder: str
    app: AppId
    document: Document


@dataclass(frozen=True, slots=True)
class Kind(Generic[Key, Thing]):
    """How the things of one stream are counted.

    `what`: what they are called. `groups`: the crowds of which a thing is one; its removal is held
    when any of them would lose too much. `serves`: whether losing it costs traffic; what does not
    is neither counted nor held. `net`: what a list brings makes up for what it takes; else each
    loss counts.
    """

    what: str
    key: Callable[[Thing], Key]
    app: Callable[[Thing], AppId]
    name: Callable[[Thing], str]
    groups: Callable[[Thing], tuple[Hashable, ...]]
    serves: Callable[[Thing], bool] = lambda _: True
    net: bool = False

    def tally(self, things: Iterable[Thing]) -> Counter[Hashable]:
        """How many things that serve there are, by group."""
        serving = filter(self.serves, things)
        return Counter(chain.from_iterable(map(self.groups, serving)))


def excessive(
    missing: Mapping[Key, Thing],
    known: Mapping[Hashable, int],
    lost: Mapping[Hashable, int],
    groups: Callable[[Thing], tuple[Hashable, ...]],
    most: float,
) -> set[Key]:
    """Those of `missing` that belong to a group which loses more than the share `most` of it.

    `known` and `lost` count by group. 1 as `most` holds nothing, 0 holds every loss.
    """
    over = {group for group, loss in lost.items() if loss > most * known.get(group, 0)}
    if not over:
        return set()
    return {key for key, thing in missing.items() if not over.isdisjoint(groups(thing))}


# --- what is counted --------------------------------------------------------------------------


def takes_traffic(pod: Pod) -> bool:
    """Whether it is a server that takes new requests. One that ends is expected to go."""
    return pod.ready and bool(pod.ip) and not pod.terminating and not pod.finished


def app_of(record: Pod | Controller) -> AppId:
    """The app of a record."""
    return AppId(record.namespace, record.app)


def _named(record: Pod | Controller) -> str:
    return f"{record.namespace}/{record.name}"


def _serves(record: Pod | Controller) -> bool:
    return takes_traffic(record) if isinstance(record, Pod) else True


PODS: Kind[str, Pod] = Kind(
    "pods", lambda p: p.uid, app_of, _named, lambda p: ((p.namespace, p.app), ""), takes_traffic
)
# One for another is what a release does: it must not be held for the one that it takes away.
CONTROLLERS: Kind[str, Controller] = Kind(
    "controllers", lambda c: c.uid, app_of, _named, lambda c: ((c.namespace, c.app), ""), net=True
)
RECORDS: Kind[str, Pod | Controller] = Kind(
    "objects",
    lambda r: r.uid,
    app_of,
    _named,
    lambda r: ((type(r), r.namespace, r.app), type(r)),
    _serves,
)
# People do delete the config of one app: only what takes many is strange.
DOCUMENTS: Kind[tuple[str, AppId], Stored] = Kind(
    "configs and activations",
    lambda s: (s.folder, s.app),
    lambda s: s.app,
    lambda s: s.document.origin,
    lambda s: (s.folder,),
)


# --- addresses that are used again ------------------------------------------------------------


def replaced(
    missing: Mapping[Key, Any], before: Mapping[Key, Any], listed: Mapping[Key, Any]
) -> set[Key]:
    """The missing pods whose address another pod of the list has by now: they are gone."""
    at: dict[str, list[Key]] = defaultdict(list)
    wanted = {thing.ip for thing in missing.values() if isinstance(thing, Pod)}
    if not wanted:
        return set()
    for key, thing in listed.items():
        if isinstance(thing, Pod) and thing.ip in wanted:
            at[thing.ip].append(key)
    return {
        key
        for key, thing in missing.items()
        if isinstance(thing, Pod)
        and any(replaces(listed[other], before.get(other), thing) for other in at[thing.ip])
    }


def replaces(new: Pod, new_before: object, old: Pod) -> bool:
    """Whether `new` can only have its address because `old` is gone.

    Pods on the host's network share an address, each with ports of its own. So of two that shared
    it before (`new_before` is what `new` was then, if it was) nothing follows but from a port.
    """
    if new.ip != old.ip or not new.ip or new.finished:
        return False
    ours, theirs = ({port.number for port in pod.ports} for pod in (new, old))
    if isinstance(new_before, Pod) and new_before.ip == old.ip:
        return not ours.isdisjoint(theirs)
    return not ours or not theirs or not ours.isdisjoint(theirs)


# --- what is held -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `confirm`: from which range the wait for the second list is drawn; a list that comes
    sooner than its lower end confirms nothing. `longest`: between two lists while something stays
    held; the wait doubles up to it.
    """

    confirm: tuple[float, float] = (2.0, 4.0)
    longest: float = 60.0


class Holding(Generic[Key, Thing]):
    """What is held, since when, and when a list is due because of it."""

    def __init__(self, patience: Patience, uniform: Callable[[float, float], float]) -> None:
        self._patience = patience
        self._uniform = uniform
        self._things: dict[Key, Thing] = {}
        self._since: dict[Key, float] = {}
        self._at: dict[str, set[Key]] = defaultdict(set)
        self._pause = 0.0
        self.due: float | None = None

    def __len__(self) -> int:
        return len(self._things)

    def __contains__(self, key: object) -> bool:
        return key in self._things

    @property
    def things(self) -> dict[Key, Thing]:
        """All that is held; a copy."""
        return dict(self._things)

    def hold(self, things: Mapping[Key, Thing], now: float) -> None:
        """Begin to hold these."""
        self._things.update(things)
        self._since.update(dict.fromkeys(things, now))
        for key, thing in things.items():
            if isinstance(thing, Pod):
                self._at[thing.ip].add(key)
        self.soon(now)

    def drop(self, key: Key) -> bool:
        """Hold it no longer; False when it was not held."""
        thing = self._things.pop(key, None)
        if thing is None:
            return False
        del self._since[key]
        if isinstance(thing, Pod):
            self._at[thing.ip].discard(key)
            if not self._at[thing.ip]:
                del self._at[thing.ip]
        if not self._things:
            self.due = None
        return True

    def confirmed(self, now: float) -> set[Key]:
        """What a list of `now` confirms, if it is not in it."""
        latest = now - self._patience.confirm[0]
        return {key for key, since in self._since.items() if since <= latest}

    def replaced_by(self, new: Pod, new_before: object) -> list[Key]:
        """The held pods that are gone, since this one has their address."""
        keys: Collection[Key] = self._at.get(new.ip, ())
        held = ((key, self._things[key]) for key in keys)
        return [k for k, old in held if isinstance(old, Pod) and replaces(new, new_before, old)]

    def soon(self, now: float) -> None:
        """A list is due after the shortest wait."""
        self._pause = self._uniform(*self._patience.confirm)
        self.due = now + self._pause if self._things else None

    def later(self, now: float) -> None:
        """A list is due after a longer wait than the last."""
        self._pause = min(self._pause * 2, self._patience.longest)
        self.due = now + self._pause if self._things else None
