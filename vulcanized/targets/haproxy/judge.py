"""What HAProxy accepts by its own check, and which apps are kept back so that the rest goes out.

A check costs 50 to 100 ms. While something runs, one call does one check at most, so that what run
time can do goes out in between; the next call goes on where it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from vulcanized.errors import Rejected, TargetError
from vulcanized.model import AppId
from vulcanized.slot import Clock
from vulcanized.targets.haproxy import handover, plan, process
from vulcanized.targets.haproxy.config import Config, structure_digest
from vulcanized.targets.haproxy.handover import Ground
from vulcanized.targets.haproxy.parts import REGEX, Part
from vulcanized.targets.quarantine import (
    Budget,
    NotTheirs,
    Quarantine,
    Search,
    TooMany,
    Verdict,
    search,
)
from vulcanized.targets.staged import Folder, Refusal, write_candidate

log = structlog.get_logger(__name__)

NOTHING = Ground({}, {}, {}, lambda _: ())
"""Where no app has anything that it could stay on."""

Parts = Mapping[AppId, Part]


@dataclass(slots=True)
class _Searching:
    """A search under way: for culprits among `suspects`, of what was `wanted` when it began.

    All suspects that are not in `subset` are to be kept back at the next check. `bare`: nobody
    stays on what is there, since that is refused too.
    """

    wanted: Parts
    digest: str
    refused: Verdict
    suspects: frozenset[AppId]
    steps: Search
    subset: frozenset[AppId]
    bare: bool = False


class Judge:
    """Finds what of the wanted apps can go into effect. Not thread-safe.

    `held` are the apps whose own config was refused. Each stays on what it has (`Ground`) with its
    servers followed, or is left out where it has nothing.
    """

    def __init__(self, config: Config, folder: Folder, clock: Clock) -> None:
        self.held = Quarantine()
        self._config = config
        self._folder = folder
        self._clock = clock
        self._budget = Budget()
        self._refusal = Refusal()
        self._checked = ""
        self._searching: _Searching | None = None

    # --- what goes out --------------------------------------------------------------------------

    def candidate(self, wanted: Parts, ground: Ground) -> Parts:
        """What of `wanted` is to go out, as far as is known."""
        return candidate(wanted, self.held, ground)

    def raise_if_refused(self, wanted: Parts, ground: Ground) -> None:
        """Raise what this was refused with, unless it is time to try it again."""
        if self._refusal.pending and self._searching is None:
            self._refuse_again(self._digest(self.candidate(wanted, ground)))

    def accepted(self, wanted: Parts, ground: Ground, *, serving: bool) -> Parts | None:
        """What of `wanted` HAProxy accepts; None: not known yet, call again at `due`.

        One check at most. `serving`: a worker runs what `ground` says, and must not lose any of
        it. Raises Rejected when no app can be kept back for it, ProxyUnreachable, NotWritten.
        """
        now = self._clock()
        if self._searching is not None:
            if self._budget.due(now) <= now or not serving:
                self._step(self._searching, wanted, ground, serving=serving)
            return None
        parts = self.candidate(wanted, ground)
        digest = self._digest(parts)
        self._refuse_again(digest)
        if digest == self._checked:
            return parts
        if process.find_program() is None:
            # A sidecar may have no haproxy of its own: the reload is the check then.
            log.warning("no haproxy program here: the config is not checked before a reload")
            return parts
        try:
            verdict = self._check(parts)
        except Rejected as error:
            self.refuse(parts, error)
            raise
        if verdict.passed:
            return parts
        self._begin(wanted, digest, ground, verdict)
        return None

    def settled(self, wanted: Parts, ground: Ground, stop: threading.Event) -> Parts:
        """What HAProxy accepts, where nothing runs that could wait. Raises as `accepted`."""
        self.retry(wanted, ground)
        while True:
            searching = self._searching
            parts = self.accepted(wanted, ground, serving=False)
            if parts is not None:
                return parts
            if searching is not None and searching.bare and self._searching is None:
                ground = NOTHING
            if stop.is_set():
                raise Rejected("HAProxy refuses the config; told to end while looking for the app")

    def retry(self, wanted: Parts, ground: Ground) -> None:
        """Check the app whose time has come together with the rest; let it go if that passes."""
        now, next_ = self._clock(), self.held.next_try()
        if next_ is None or self._searching is not None:
            return
        again, app = next_
        if max(again, self._budget.due(now)) > now or app not in wanted:
            return
        if process.find_program() is not None:
            try:
                verdict = self._check(candidate(wanted, self.held.apps() - {app}, ground))
            except Rejected as error:
                verdict = Verdict(passed=False, said=str(error))
            if not verdict.passed:
                reason = verdict.named.get(app, verdict.said)
                self.held.hold(app, wanted[app].judged, reason, self._clock())
                return
        self.held.release(app)

    def due(self) -> float | None:
        """When there is something to do here though nothing changes."""
        now = self._clock()
        if self._searching is not None:
            return self._budget.due(now)
        next_ = self.held.next_try()
        return max(next_[0], self._budget.due(now)) if next_ else None

    # --- what changes that ----------------------------------------------------------------------

    def changed(self, app: AppId, part: Part | None) -> None:
        """An app is wanted like this now; one that was kept back for something else is let go."""
        if part is None or not self.held.holds(app, part.judged):
            self.held.release(app)

    def renew(self) -> None:
        """Templates changed: whatever was refused may pass now."""
        for app in self.held.apps():
            self.held.release(app)
        self.forget()

    def abandon(self) -> None:
        """Nothing is wanted any more that would need HAProxy's word."""
        self._searching = None

    def forget(self) -> None:
        """What runs is another one by now."""
        self._refusal.forget()
        self._searching = None

    def refuse(self, parts: Parts, error: TargetError) -> None:
        """Remember that this was refused as a whole."""
        self._refusal.remember(self._digest(parts), error, self._clock())

    def blame(self, named: Mapping[AppId, str], parts: Parts) -> None:
        """Keep back the app that a failed reload names first, if it is one that can be."""
        for app, words in named.items():
            if app in parts and app not in self.held:
                self.held.hold(app, parts[app].judged, words, self._clock())
                return

    # --- one check ------------------------------------------------------------------------------

    def _check(self, parts: Parts) -> Verdict:
        self._budget.take(self._clock())
        with self._folder.candidate() as at:
            verdict = check(self._config, parts, process.required_program(), at)
        if verdict.passed:
            self._checked = self._digest(parts)
        return verdict

    def _digest(self, parts: Parts) -> str:
        structure = self._config.structure(parts.values())
        return structure_digest(structure, plan.tables_of(parts.values())[REGEX])

    def _refuse_again(self, digest: str) -> None:
        refused = self._refusal.of(digest, self._clock())
        if refused is not None:
            raise refused

    # --- a search -------------------------------------------------------------------------------

    def _begin(
        self, wanted: Parts, digest: str, ground: Ground, verdict: Verdict, *, bare: bool = False
    ) -> None:
        wanted = dict(wanted)
        suspects = [
            app
            for app, part in wanted.items()
            if app not in self.held and (bare or _can_stay_back(part, ground))
        ]
        steps = search(suspects, verdict)
        self._searching = _Searching(
            wanted, digest, verdict, frozenset(suspects), steps, next(steps), bare=bare
        )

    def _step(self, searching: _Searching, wanted: Parts, ground: Ground, *, serving: bool) -> None:
        ground = NOTHING if searching.bare else ground
        back = self.held.apps() | (searching.suspects - searching.subset)
        try:
            verdict = self._check(candidate(searching.wanted, back, ground))
            searching.subset = searching.steps.send(verdict)
        except StopIteration as end:
            self._searching = None
            for app, reason in end.value.items():
                part = searching.wanted[app]
                if app in wanted and wanted[app].judged == part.judged:
                    self.held.hold(app, part.judged, reason, self._clock())
        except NotTheirs as error:
            self._not_theirs(searching, error.verdict, serving=serving)
        except TooMany:
            said = searching.refused.said
            self._give_up(f"HAProxy refuses too many apps, look at the templates: {said}")
        except Rejected as error:
            self._give_up(str(error))

    def _not_theirs(self, searching: _Searching, verdict: Verdict, *, serving: bool) -> None:
        frame = self._check({})
        if not frame.passed:
            self._give_up(
                "HAProxy refuses the config also without any app, mend haproxy.cfg.j2 or listen: "
                f"{frame.said}"
            )
        if serving or searching.bare:
            # To leave out what is served now would be worse than to wait.
            self._give_up(f"{process.rejected(verdict)}; it runs like that, so it cannot be left")
        self._begin(searching.wanted, searching.digest, NOTHING, searching.refused, bare=True)

    def _give_up(self, why: str) -> None:
        searching, self._searching = self._searching, None
        error = Rejected(why)
        if searching is not None:
            self._refusal.remember(searching.digest, error, self._clock())
        raise error


def check(config: Config, parts: Parts, program: str, at: Path) -> Verdict:
    """What HAProxy says of the files for these apps, in the directory `at`.

    Raises Rejected, ProxyUnreachable, NotWritten.
    """
    files = config.files(parts, plan.tables_of(parts.values()), config.frame_at(at))
    write_candidate(at, files)
    return process.check(program, at, files)


def culprits(config: Config, parts: Parts, program: str, at: Path) -> dict[AppId, str]:
    """All apps that HAProxy refuses, each with why.

    Raises as `check`, and Rejected where no app is at fault, or too many are.
    """
    verdict = check(config, parts, program, at)
    if verdict.passed:
        return {}
    steps = search(list(parts), verdict)
    try:
        subset = next(steps)
        while True:
            some = {app: part for app, part in parts.items() if app in subset}
            subset = steps.send(check(config, some, program, at))
    except StopIteration as end:
        return dict(end.value)
    except (NotTheirs, TooMany):
        raise process.rejected(verdict) from None


def candidate(wanted: Parts, back: Container[AppId], ground: Ground) -> Parts:
    """`wanted`, but apps that are kept back as they are on the ground, or not at all.

    A route that one of these waits for stays with the app that has it.
    """
    kept = {app: part for app, part in wanted.items() if app in back}
    if not kept:
        return wanted
    parts = dict(wanted)
    for app, part in kept.items():
        reach = ground.reach(plan.kept_back(part, ground.tables))
        if reach.part.pools or reach.part.entries:
            parts[app] = reach.part
        else:
            del parts[app]
    waiting = [
        part for app, part in kept.items() if app not in parts or parts[app].entries != part.entries
    ]
    return parts | handover.lend(waiting, parts, ground).parts


def _can_stay_back(part: Part, ground: Ground) -> bool:
    """Whether it would look otherwise then, and nothing of it would be lost."""
    reach = ground.reach(plan.kept_back(part, ground.tables))
    return not reach.untouched and reach.part.judged != part.judged
