"""Holds removals back for one stream: `guard` decides, `probe` asks, people are told.

A stream hands in each complete list before it takes it over (`judge`), then has asked what is to be
asked (`verify`), which takes seconds. What it decides is in `guard`. Whoever owns a `Holds` keeps
it and its own store under one lock, `verify` apart: `accept` comes from another thread.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

import structlog

from vulcanized.guard import (
    RECORDS,
    Holding,
    Key,
    Kind,
    Patience,
    Stored,
    Thing,
    excessive,
    replaced,
    takes_traffic,
)
from vulcanized.model import AppId, Controller, Endpoint, Pod, Server, ServerState
from vulcanized.probe import Answer, Prober
from vulcanized.slot import Clock

log = structlog.get_logger(__name__)

# To the daemon alone: HAProxy takes this signal for "stop", and may be in the same control group.
OVERRIDE = "systemctl kill --kill-whom=main -s USR1 vulcanized (kill -USR1 1 in a container)"

_MOST_PORTS = 3  # of one pod
_MOST_SERVERS = 5  # of one app
_CONTROLS = 16  # listed pods that are asked too, to tell a dead pod from a network that refuses all
_SAMPLE = 200  # places to ask of which not one answers, before the others are not waited for
_NAMES = 3


class Baseline(Protocol):
    """What the sources said last before this start; empty where nothing is known."""

    def pods(self, namespace: str) -> Iterable[Pod]: ...
    def controllers(self, namespace: str) -> Iterable[Controller]: ...
    def documents(self) -> Iterable[Stored]: ...


class NoBaseline:
    """Nothing is known."""

    def pods(self, namespace: str) -> Iterable[Pod]:
        """None."""
        return ()

    def controllers(self, namespace: str) -> Iterable[Controller]:
        """None."""
        return ()

    def documents(self) -> Iterable[Stored]:
        """None."""
        return ()


def _unknown(app: AppId) -> Sequence[Server] | None:
    return None


@dataclass(slots=True)
class Guarding:
    """What all streams are guarded by.

    `servers`: those that the targets have in effect for an app, None while that is not known yet;
    it is set late, since who knows it comes after the sources. `most` 1 holds nothing.
    """

    most: float = 1.0
    baseline: Baseline = field(default_factory=NoBaseline)
    prober: Prober = field(default_factory=Prober)
    patience: Patience = field(default_factory=Patience)
    servers: Callable[[AppId], Sequence[Server] | None] = _unknown

    def endpoints(self, thing: object) -> Sequence[Endpoint] | None:
        """Where to ask whether a thing still serves; None: that is not known yet."""
        if isinstance(thing, Pod):
            return self._of_pod(thing)
        if isinstance(thing, Controller):
            servers = self.servers(AppId(thing.namespace, thing.app))
            if servers is not None and thing.version:
                servers = [server for server in servers if server.version == thing.version]
        elif isinstance(thing, Stored):
            servers = self.servers(thing.app)
        else:
            raise TypeError(f"not guarded: {type(thing).__name__}")
        if servers is None:
            return None
        first = sorted(servers, key=lambda server: server.state is not ServerState.READY)
        spread = first[:: max(1, len(first) // _MOST_SERVERS)]
        return [server.endpoint for server in spread[:_MOST_SERVERS]]

    def _of_pod(self, pod: Pod) -> Sequence[Endpoint] | None:
        servers = self.servers(AppId(pod.namespace, pod.app))
        found = [s.endpoint for s in servers or () if s.address == pod.ip]
        if found:
            return found[:_MOST_PORTS]
        if servers is None and not pod.ports:
            return None
        return [Endpoint(pod.ip, port.number) for port in pod.ports[:_MOST_PORTS]]


class Holds(Generic[Key, Thing]):
    """What one stream holds. `remembered`: what it knew before this start."""

    def __init__(
        self,
        source: str,
        kind: Kind[Key, Thing],
        guarding: Guarding,
        remembered: Callable[[], Iterable[Thing]],
        *,
        clock: Clock = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._source = source
        self._kind = kind
        self._guarding = guarding
        self._remembered = remembered
        self._clock = clock
        self._holding: Holding[Key, Thing] = Holding(guarding.patience, uniform)
        self._new: dict[Key, Thing] = {}
        self._confirmed: dict[Key, Thing] = {}
        self._controls: list[Endpoint] = []
        self._known = 0
        self._still = ""

    def __len__(self) -> int:
        return len(self._holding)

    def __contains__(self, key: object) -> bool:
        return key in self._holding

    @property
    def due(self) -> float | None:
        """When the next list should come because something is held; None: nothing is."""
        return self._holding.due

    @property
    def things(self) -> dict[Key, Thing]:
        """All that is held; a copy."""
        return self._holding.things

    def message(self) -> str:
        """What is held and what to do, for people; empty when nothing is."""
        things = self._holding.things
        if not things:
            return ""
        return (
            f"{len(things)} {self._kind.what} ({self._names(things.values())}) are missing from a "
            f"list that would have removed too many at once, and stay: {self._still}. If they are "
            f"meant to go: {OVERRIDE}"
        )

    # --- a list ---

    def judge(
        self, before: Mapping[Key, Thing] | None, listed: Mapping[Key, Thing], cause: str
    ) -> dict[Key, Thing]:
        """What stays although a complete list is without it.

        `before`: all that was known, what is held included; None for the first list, which is
        judged by what is remembered.
        """
        if self._guarding.most >= 1:
            return {}
        now = self._clock()
        missing, known, lost = self._missing(before, listed)
        kept = self._holding.things.keys() & missing.keys()
        back = self._holding.things.keys() - missing.keys()
        for key in back:
            self._holding.drop(key)
        if back:
            log.info("held no more", source=self._source, objects=len(back), reason="listed again")
        fresh = {key: thing for key, thing in missing.items() if key not in kept}
        over = excessive(fresh, known, lost, self._kind.groups, self._guarding.most)
        ripe = self._holding.confirmed(now) & kept
        self._confirmed = {key: missing[key] for key in ripe}
        self._new = {key: fresh[key] for key in over}
        if self._new:
            self._known = len(listed) + len(missing)
            self._still = "a second list has to confirm it, and direct connects to fail"
            self._holding.hold(self._new, now)
            self._controls = self._listening(listed)
            self._tell(cause)
        return {key: missing[key] for key in kept | over}

    def _missing(
        self, before: Mapping[Key, Thing] | None, listed: Mapping[Key, Thing]
    ) -> tuple[dict[Key, Thing], Counter[Hashable], Counter[Hashable]]:
        """What is missing without being certainly gone; what was known, and is lost, by group."""
        kind = self._kind
        if before is None:
            # What is remembered may be old, and each pod another by now: only how many matters.
            missing = {}

            def remembered() -> Iterator[Thing]:
                for thing in self._remembered():
                    if (key := kind.key(thing)) not in listed and kind.serves(thing):
                        missing[key] = thing
                    yield thing

            known = kind.tally(remembered())
            lost = known - kind.tally(listed.values())
        else:
            gone = ((key, before[key]) for key in before.keys() - listed.keys())
            missing = {key: thing for key, thing in gone if kind.serves(thing)}
            if not missing:
                return {}, Counter(), Counter()
            known = kind.tally(before.values())
            left = known - kind.tally(listed.values()) if kind.net else None
            lost = kind.tally(missing.values()) if left is None else left
        for key in replaced(missing, before or {}, listed):
            del missing[key]
        return missing, known, lost

    def _listening(self, listed: Mapping[Key, Thing]) -> list[Endpoint]:
        """Where listed pods should answer: first those of the apps that lost some."""
        apps = {self._kind.app(thing) for thing in self._new.values()}
        found: list[Endpoint] = []
        others: list[Endpoint] = []
        for thing in listed.values():
            if len(found) >= _CONTROLS:
                break
            if not isinstance(thing, Pod) or not takes_traffic(thing):
                continue
            of_these = self._kind.app(thing) in apps
            if of_these or len(others) < _CONTROLS:
                (found if of_these else others).extend(self._guarding.endpoints(thing) or ())
        return (found + others)[:_CONTROLS]

    def _tell(self, cause: str) -> None:
        log.warning(
            "held",
            source=self._source,
            objects=len(self._new),
            known=self._known,
            cause=cause,
            example=self._names(self._new.values()),
            reason="a list would remove too many at once (guard.max_removed); they stay until a "
            "second one confirms it and direct connects fail",
            hint=f"if they are meant to go: {OVERRIDE}",
        )

    # --- what is asked ---

    def verify(self, stop: threading.Event) -> set[Key]:
        """Ask the servers of what the last list holds or confirms; which may go now.

        Bounded by the prober's limit. To be told to `release`, under the owner's lock.
        """
        new, confirmed = self._new, self._confirmed
        self._new, self._confirmed = {}, {}
        controls, self._controls = self._controls, []
        proof = {key: t for key, t in new.items() if isinstance(t, Pod)} if controls else {}
        where = {key: self._guarding.endpoints(thing) for key, thing in (proof | confirmed).items()}
        # Those for whom there is time should be a fair sample of all.
        order = random.sample(list(where), len(where))
        asked = [*controls, *(each for key in order for each in where[key] or ())]
        answers = self._guarding.prober.ask(asked, stop)
        if stop.is_set():
            return set()
        now = self._clock()
        # Where not even a listed pod answers, to be refused proves nothing about a missing one.
        listening = any(answers[each] is Answer.ACCEPTED for each in controls)
        gone = {key for key in proof if listening and _refused(where[key], answers)}
        left = {key for key in confirmed if not _silent(where[key], answers)}
        counts = Counter(answers[each] for some in where.values() for each in some or ())
        if not counts[Answer.ACCEPTED] and counts.total() - counts[Answer.UNASKED] >= _SAMPLE:
            # Nothing answers at all: the second list alone decides.
            left = {key for key in left if where[key] is None}
        gone |= confirmed.keys() - left
        if confirmed:
            unasked = any(_unasked(where[key], answers) for key in left)
            unknown = unasked or any(where[key] is None for key in left)
            self._still = (
                "their servers could not all be asked yet"
                if unknown
                else "connects to their servers are still answered"
            )
            # Soon while there is progress: a great many cannot be asked in one go.
            if unasked or new:
                self._holding.soon(now)
            else:
                self._holding.later(now)
        if gone:
            log.info(
                "removal confirmed",
                source=self._source,
                objects=len(gone),
                still_held=len(self._holding) - len(gone),
                reason="a second list, and nothing answers"
                if confirmed
                else "connects are refused there, while listed pods answer",
            )
        return gone

    def release(self, keys: Iterable[Key]) -> set[Key]:
        """Hold these no longer; those that were held."""
        return {key for key in keys if self._holding.drop(key)}

    # --- an event, an operator ---

    def seen(self, key: Key, new: object = None, before: object = None) -> set[Key]:
        """An event tells of a thing: it is held no longer. Those are gone whose address it has."""
        self._holding.drop(key)
        if not isinstance(new, Pod):
            return set()
        return self.release(self._holding.replaced_by(new, before))

    def accept(self) -> set[Key]:
        """Somebody says that the sources are right: nothing is held any more. What was."""
        keys = set(self._holding.things)
        if keys:
            log.warning(
                "held no more",
                source=self._source,
                objects=len(keys),
                reason="told to take what the source says as it is",
            )
        return self.release(keys)

    def _names(self, things: Iterable[Thing]) -> str:
        names = heapq.nsmallest(_NAMES + 1, map(self._kind.name, things))
        return ", ".join(names[:_NAMES] + (["..."] if len(names) > _NAMES else []))


def _refused(where: Sequence[Endpoint] | None, answers: Mapping[Endpoint, Answer]) -> bool:
    """Whether each place to ask says that nothing is there."""
    return bool(where) and all(answers[each] is Answer.REFUSED for each in where or ())


def _silent(where: Sequence[Endpoint] | None, answers: Mapping[Endpoint, Answer]) -> bool:
    """Whether nothing answers at any place to ask, all of them asked; also if there is none."""
    return where is not None and all(
        answers[each] in (Answer.REFUSED, Answer.SILENT) for each in where
    )


def _unasked(where: Sequence[Endpoint] | None, answers: Mapping[Endpoint, Answer]) -> bool:
    """Whether there was no time to ask."""
    return any(answers[each] is Answer.UNASKED for each in where or ())


def unguarded(source: str) -> Holds[Any, Any]:
    """Holds nothing."""
    return Holds(source, RECORDS, Guarding(), tuple)
