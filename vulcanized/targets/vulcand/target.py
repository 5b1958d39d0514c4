"""The vulcand target: writes what `plan` decides, if it is the one that may.

Every daemon with the same leader key follows the tree and knows what it should hold; the elected
one writes, each transaction only while the key is still its own. The others say whether the tree is
as they would have it, and take over where the leader left off.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from vulcanized.errors import (
    Conflict,
    ProxyUnreachable,
    Rejected,
    SourceError,
    Uncertain,
)
from vulcanized.etcd import EtcdClient, Leadership
from vulcanized.model import (
    QUARANTINED,
    AppId,
    Applied,
    Change,
    DesiredApp,
    Outcome,
    Problem,
    Standing,
)
from vulcanized.settings import VulcandSettings
from vulcanized.slot import Clock
from vulcanized.targets import told
from vulcanized.targets.vulcand.desired import Desired
from vulcanized.targets.vulcand.follow import Follower
from vulcanized.targets.vulcand.foreign import Foreign
from vulcanized.targets.vulcand.keys import Keys
from vulcanized.targets.vulcand.parts import PROOF, proof, word_of
from vulcanized.targets.vulcand.plan import (
    Group,
    Touched,
    Wanted,
    detoured,
    is_kept,
    lost,
    plan,
)
from vulcanized.targets.vulcand.proof import Prover
from vulcanized.targets.vulcand.rivals import refusal, rivals
from vulcanized.targets.vulcand.tree import Tree
from vulcanized.targets.vulcand.write import Writer

log = structlog.get_logger(__name__)

CAPABILITIES: Final = frozenset(
    {
        "hosts",
        "paths",
        "port",
        "protocol.https",
        "timeouts.connect",
        "timeouts.server",
        "retries",
        "max_connections.app",
        "max_body_size",
        "keep_alive",
        "canary_match.header",
        "canary_match.cookie",
        "maintenance",
        # No fields, but what not every proxy can do either (docs/testing.md).
        "bodies.counted",
        "idle_connections",
        "paths.raw",
    }
)

LOOK_EVERY: Final = 5.0
"""Seconds between two looks though nothing was told: threads that ended, a leadership."""
STANDBY_EVERY: Final = 1.0
"""Seconds between two comparisons of a standby: what it would write is the leader's to write."""
AGAIN: Final = 0.05
"""Seconds until what somebody else changed in between is known and planned anew."""
CLOSE_SECONDS: Final = 2.0
MANY: Final = 1000
"""Objects from which on a standby compares them no more often than that."""
DETOUR: Final = 3.0
"""Seconds that frontends stay on the copy of a backend where no probe tells that it was seen."""
_MOST_TOLD: Final = 3
_MOST_WORDS: Final = 100


class VulcandTarget:
    """One vulcand tree in etcd. `apply` and `close` may be called from different threads.

    `wake` is called when something is to be done though no change came. Nothing is read before the
    first `apply`, `actual` or `verify`.
    """

    def __init__(
        self,
        settings: VulcandSettings,
        client: EtcdClient,
        *,
        etcd_prefix: str,
        instance: str,
        wake: Callable[[], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._client = client
        self._wake = wake
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._keys = Keys(settings.prefix, settings.leader)
        leader_key = f"{etcd_prefix}/leader/{settings.leader}"
        self._mark = leader_key
        self._tree = Tree(self._keys)
        self._desired = Desired(self._keys, self._mark)
        self._follower = Follower(client, self._tree, wake, clock=clock)
        self._writer = Writer(client, self._tree, self._follower, self._stop)
        self._leadership = Leadership(
            client, leader_key, instance.encode(), settings.lease, wake, clock
        )
        self._probed = f"{settings.leader.lower()}.proof.vulcanized.invalid"
        self._prover = Prover(settings.probe, self._probed, wake, clock)
        self._threads: dict[str, threading.Thread] = {}
        self._backends: set[str] = set()
        self._frontends: set[str] = set()
        self._generation = self._in_effect = 0
        self._words: dict[str, int] = {}
        self._proven = 0
        self._word = self._unproven = ""
        self._foreign = Foreign()
        self._held: dict[str, str] = {}
        self._problems: tuple[Problem, ...] = ()
        self._look_at = 0.0
        self._detours: dict[str, float] = {}
        self._neighbour = self._uncertain = self._not_written = ""
        self._begun = False

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> str:
        return "vulcand"

    @property
    def capabilities(self) -> frozenset[str]:
        """The app config fields that this target puts into effect."""
        return CAPABILITIES

    # --- commands that look, and change nothing ------------------------------------------------

    def rendered(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]:
        """The keys for these apps with their values. Raises Rejected."""
        desired = self._made_of(apps)
        return _shown(_flat(desired, self._keys))

    def actual(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]:
        """The keys that stand there now: ours, and those of others that these apps adopt.

        Raises ProxyUnreachable.
        """
        tree = self._read()
        adopt = [desired.policies.adopt for desired in apps.values()]
        frontends = {id_ for one in adopt for id_ in one.frontends}
        backends = {id_ for one in adopt for id_ in one.backends}
        # What only proves is written by who leads, another word each time.
        tree.frontends.pop(self._keys.proof_id, None)
        wanted = self._made_of(apps).wanted
        return _shown(
            {
                key: value
                for key, value in tree.owned(frontends, backends).items()
                if not _stays(self._keys, wanted, key, value)
            }
        )

    def verify(self, apps: Mapping[AppId, DesiredApp]) -> None:
        """Look for what is in the way of these apps. Raises Rejected, ProxyUnreachable."""
        desired = self._made_of(apps)
        refused = {str(app): why for app, why in desired.refused.items()}
        foreign = Foreign(self._read().foreign_routes())
        desired.adopt(foreign)
        for id_ in desired.wanted.frontends:
            if why := _in_the_way(desired, id_, foreign):
                refused.setdefault(str(desired.app_of(id_)), why)
        if refused:
            raise Rejected("; ".join(f"app {app}: {why}" for app, why in sorted(refused.items())))

    def _made_of(self, apps: Mapping[AppId, DesiredApp]) -> Desired:
        desired = Desired(self._keys, self._mark)
        desired.merge(apps, complete=True)
        return desired

    def _read(self) -> Tree:
        tree = Tree(self._keys)
        try:
            listing = self._client.list_prefix(self._keys.prefix, stop=self._stop)
        except SourceError as error:
            raise ProxyUnreachable(str(error)) from error
        tree.list(listing.items, listing.revision)
        return tree

    # --- apply ---------------------------------------------------------------------------------

    def apply(self, change: Change | None, now: float) -> Applied:
        """Bring the tree in step with all changes up to this one; see `Target` in the runner."""
        with self._lock:
            self._begin()
            if change is not None:
                self._generation = change.generation
                backends, frontends = self._desired.merge(change.apps, complete=change.complete)
                self._backends |= backends
                self._frontends |= frontends
            if self._follower.error:
                raise ProxyUnreachable(
                    "nothing is written to vulcand's tree, which goes on as it is: "
                    f"{self._follower.error}"
                )
            if self._tree.listed:
                self._uncertain = ""
            if self._uncertain:
                raise ProxyUnreachable(self._uncertain)
            if not (self._generation and self._tree.listed):
                # The follower wakes us when it has read the tree.
                return self._applied(Outcome.UNCHANGED, now + LOOK_EVERY)
            return self._bring(now)

    def _begin(self) -> None:
        """Start the threads; one that has ended by a fault of ours is started again."""
        if not self._begun:
            self._begun = True
            # Whatever is there and is not wanted is ours to look at, once.
            self._frontends |= {self._keys.proof_id}
            self._backends |= {self._keys.nowhere_id}
        work: dict[str, Callable[[threading.Event], None]] = {
            "tree": self._follower.run,
            "leadership": self._leadership.run,
        }
        if self._settings.probe:
            work["proof"] = self._prover.run
        for name, run in work.items():
            thread = self._threads.get(name)
            if self._stop.is_set() or (thread is not None and thread.is_alive()):
                continue
            if thread is not None:
                log.error("a thread ended; started again", target=self.name, thread=name)
            thread = threading.Thread(
                target=run, args=(self._stop,), name=f"{self.name} {name}", daemon=True
            )
            self._threads[name] = thread
            thread.start()

    def _bring(self, now: float) -> Applied:
        fence = self._leadership.fence
        touched = len(self._backends) + len(self._frontends)
        if fence is None and now < self._look_at and touched > MANY:
            return self._applied(Outcome.UNCHANGED, self._look_at, standby=True)
        with self._tree.lock:
            self._end_detours(now, leading=fence is not None)
            groups = self._plan(leading=fence is not None)
            looked = Touched(self._backends, self._frontends)
            others = rivals(self._tree, looked, self._mark) if groups else set()
        if fence is None:
            self._look_at = now + STANDBY_EVERY
            if self._leadership.error:
                raise ProxyUnreachable(
                    "nothing is written to vulcand's tree, since nobody can tell who leads: "
                    f"{self._leadership.error}"
                )
            if not groups:
                self._arrive()
            soon = groups or not self._leadership.leader
            due = self._look_at if soon else now + LOOK_EVERY
            return self._applied(Outcome.UNCHANGED, due, standby=True)
        if groups:
            try:
                self._raise_if_led(others)
                self._writer.write(groups, fence)
            except Conflict as error:
                # Either another leads, or somebody changed a frontend: the watch tells of both.
                if self._not_written != str(error):
                    log.warning("not written", target=self.name, reason=str(error))
                self._not_written = str(error)
                return self._applied(Outcome.UNCHANGED, self._clock() + AGAIN)
            except Uncertain as error:
                # It may have been made: only a list can tell.
                self._follower.list_anew()
                self._uncertain = (
                    "writing vulcand's tree failed; nothing more is written until it is read "
                    f"again: {error}"
                )
                raise ProxyUnreachable(self._uncertain) from error
            except SourceError as error:
                raise ProxyUnreachable(f"writing vulcand's tree failed: {error}") from error
        self._arrive()
        outcome = Outcome.UPDATED if groups else Outcome.UNCHANGED
        now = self._clock()
        ends = (at for at in self._detours.values() if at > now)
        return self._applied(outcome, min((now + LOOK_EVERY, *ends)))

    def _raise_if_led(self, rivals: Iterable[str]) -> None:
        """Raise Rejected when somebody holds one of these leader keys."""
        for key in sorted(rivals):
            held = self._client.get(key, self._stop)
            if held is not None:
                instance = held.value.decode(errors="replace")
                raise Rejected(refusal(self._settings.leader, key, instance))

    def _plan(self, *, leading: bool) -> tuple[Group, ...]:
        """What is to be written now, under the tree's lock. What it looked at stays touched."""
        tree, wanted = self._tree, self._desired.wanted
        if leading:
            self._see_drift()
        self._backends |= tree.dirty_backends
        self._frontends |= tree.dirty_frontends
        tree.dirty_backends, tree.dirty_frontends = set(), set()
        asked = self._frontends
        if tree.foreign_changed:
            tree.foreign_changed = False
            self._foreign = Foreign(tree.foreign_routes())
            asked = asked | wanted.frontends.keys()
            # What was refused may be possible now, and what is named may be there.
            self._frontends |= self._held.keys()
            # And what others used may be used no more.
            self._backends |= {
                id_
                for id_ in tree.backends
                if id_ not in wanted.backends
                and (self._keys.owns(id_) or id_ in wanted.adopted_backends)
            }
            self._see_neighbours()
        self._desired.adopt(self._foreign)
        self._frontends |= wanted.adopted_frontends
        self._backends |= wanted.adopted_backends
        if self._neighbour:
            raise Rejected(self._neighbour)
        self._look_for_others(asked)
        if leading:
            self._begin_detours()
            wanted = detoured(wanted, self._keys, self._detours.keys())
            self._backends |= {
                self._keys.alternate(id_) for id_ in self._backends & self._detours.keys()
            }
        frontends = self._frontends - self._held.keys() - {self._keys.proof_id}
        groups = plan(wanted, tree, Touched(self._backends, frontends))
        # The last of all: who sees it knows that the others have been seen.
        return groups + self._plan_proof(anew=bool(groups), leading=leading)

    def _begin_detours(self) -> None:
        """Have frontends whose backend was deleted under them led to a copy of it."""
        wanted = self._desired.wanted
        for backend, users in lost(wanted, self._tree).items():
            self._detours[backend] = self._clock() + DETOUR
            self._backends.add(backend)
            self._frontends |= users

    def _end_detours(self, now: float, *, leading: bool) -> None:
        """Have frontends led back from copies that vulcand must have seen by now."""
        if not leading:
            self._detours.clear()
        seen = bool(self._settings.probe) and self._prover.proven == self._word_there()
        for id_, at in list(self._detours.items()):
            if seen if self._settings.probe else now >= at:
                del self._detours[id_]
                copy = self._keys.alternate(id_)
                self._backends |= {id_, copy}
                self._frontends |= self._tree.users.get(copy, set())

    def _see_drift(self) -> None:
        """Say what somebody else has changed that is now put back."""
        tree = self._tree
        changed = Touched(
            tree.dirty_backends - self._backends,
            tree.dirty_frontends - self._frontends - {self._keys.proof_id},
        )
        groups = plan(self._desired.wanted, tree, changed)
        if groups:
            keys = [operation.key for group in groups for operation in group.operations]
            log.warning("drift", target=self.name, keys=len(keys), examples=keys[:_MOST_TOLD])

    def _plan_proof(self, *, anew: bool, leading: bool) -> tuple[Group, ...]:
        """The word that follows what is written. A standby wants the one that is there."""
        wanted, id_ = self._desired.wanted, self._keys.proof_id
        if self._settings.probe:
            if not leading:
                self._word = self._word_there()
            wanted.frontends[id_] = proof(self._keys, self._probed, self._word, self._mark)
        groups = plan(wanted, self._tree, Touched(set(), {id_}))
        if leading and self._settings.probe and (anew or groups):
            self._word = f"{self._generation}-{secrets.token_hex(4)}"
            wanted.frontends[id_] = proof(self._keys, self._probed, self._word, self._mark)
            groups = plan(wanted, self._tree, Touched(set(), {id_}))
        return groups

    def _arrive(self) -> None:
        """The tree is as it should be, as far as it was looked at."""
        self._backends, self._frontends = set(), set()
        self._in_effect = self._generation
        if self._settings.probe:
            word = self._word_there()
            if word:
                self._words[word] = self._in_effect
                for old in list(self._words)[:-_MOST_WORDS]:
                    del self._words[old]
                self._prover.want(word)

    def _word_there(self) -> str:
        """The word that stands in the tree, "" for none."""
        node = self._tree.frontends.get(self._keys.proof_id)
        words = (
            []
            if node is None
            else [
                (entry.revision, word_of(entry.value))
                for name, entry in list(node.parts.items())
                if name.startswith(PROOF)
            ]
        )
        return max(words, default=(0, ""))[1]

    def _applied(self, outcome: Outcome, due: float, *, standby: bool = False) -> Applied:
        self._tell()
        proven = self._words.get(self._prover.proven, 0)
        if proven > self._proven:
            self._proven = proven
            log.info("proven", target=self.name, generation=proven)
        reason = self._prover.reason if self._settings.probe else ""
        if reason != self._unproven and reason.startswith("vulcand at"):
            log.warning("unproven", target=self.name, reason=reason)
        self._unproven = reason
        return Applied(outcome, self._in_effect, due, standby=standby)

    # --- other people's objects ----------------------------------------------------------------

    def _see_neighbours(self) -> None:
        """Backends of other people that would be given our servers when vulcand starts again.

        Nothing is written beside one, unless it came later.
        """
        beginnings = self._keys.beginnings_of_ours(self._tree.backends)
        self._neighbour = ""
        if not beginnings:
            return
        text = (
            f"backend {beginnings[0]!r} is somebody else's, and its id is what all ids of "
            f"{self._settings.leader!r} begin with: at its next start vulcand would give it "
            "their servers; rename it, or set another `leader`"
        )
        if any(map(self._keys.owns, self._tree.backends)):
            log.error("a dangerous neighbour", target=self.name, reason=text)
        else:
            self._neighbour = text

    def _look_for_others(self, frontends: Iterable[str]) -> None:
        """Hold back frontends, not there yet, that would be in the way of other people's."""
        for id_ in frontends:
            self._held.pop(id_, None)
            node = self._tree.frontends.get(id_)
            if node is not None and node.own is not None:
                continue
            if why := _in_the_way(self._desired, id_, self._foreign):
                self._held[id_] = why

    # --- what is said of apps ------------------------------------------------------------------

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with single apps: refused, in somebody's way, weights not reached."""
        return self._problems

    def standing(self) -> Standing:
        """Who leads, and what is proven."""
        leader = self._leadership.leader.decode(errors="replace")
        if not self._settings.probe:
            return Standing(self._leadership.fence is not None, leader)
        reason = self._unproven if self._proven < self._in_effect else ""
        return Standing(self._leadership.fence is not None, leader, self._proven, reason)

    def _tell(self) -> None:
        """Say what is new since the last call, and what is over."""
        refused = {
            app: f"vulcand cannot do it: {why}" for app, why in self._desired.refused.items()
        }
        for id_, why in self._held.items():
            if (app := self._desired.app_of(id_)) is not None:
                refused.setdefault(app, why)
        now = [
            Problem(
                app,
                QUARANTINED,
                f"{why}; it stays as it was on target {self.name} until that is mended",
                target=self.name,
            )
            for app, why in refused.items()
        ]
        now += [
            Problem(
                app,
                "weights_rounded",
                f"vulcand has no weights, only servers: {mix.in_words()}; more pods come nearer",
                target=self.name,
            )
            for app, mix in self._desired.rounded.items()
        ]
        self._problems = told.tell(self.name, self._problems, now)

    # --- the end -------------------------------------------------------------------------------

    def close(self, *, stop_proxy: bool) -> None:
        """End the threads, and let another daemon lead. The tree stays as it is."""
        del stop_proxy
        self._stop.set()
        self._prover.close()
        deadline = self._clock() + CLOSE_SECONDS
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - self._clock()))


def _stays(keys: Keys, wanted: Wanted, key: str, value: bytes) -> bool:
    """Whether it is a middleware of other people's on a frontend that there should be."""
    place = keys.place(key)
    on_ours = place is not None and place.kind == "frontends" and place.id in wanted.frontends
    return on_ours and place is not None and is_kept(place.part, value)


def _in_the_way(desired: Desired, frontend: str, foreign: Foreign) -> str:
    """Why a frontend cannot be written beside those of other people; "": it can."""
    claim = desired.claim(frontend)
    if claim is None or not foreign:
        return ""
    adopted = desired.wanted.adopted_frontends
    found = [id_ for id_ in foreign.overlapping(claim.route, claim.text) if id_ not in adopted]
    if not found:
        return ""
    names = ", ".join(found[:_MOST_TOLD]) + (", ..." if len(found) > _MOST_TOLD else "")
    return (
        f"frontend {names} of vulcand, which is not ours, takes requests of "
        f"{claim.route.host}{claim.route.path}: write "
        f'"adopt": {{"frontends": ["{found[0]}"]}} to take its place, or remove one of the two'
    )


def _flat(desired: Desired, keys: Keys) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for id_, backend in desired.wanted.backends.items():
        found[keys.backend(id_)] = backend.value
        found |= {keys.server(id_, name): value for name, value in backend.servers.items()}
    for id_, frontend in desired.wanted.frontends.items():
        found[keys.frontend(id_)] = frontend.value
        found |= {keys.middleware(id_, name): v for name, v in frontend.middlewares.items()}
    return found


def _shown(keys: Mapping[str, bytes]) -> dict[str, str]:
    """Keys and values as text, each value a line."""
    return {key: value.decode(errors="backslashreplace") + "\n" for key, value in keys.items()}
