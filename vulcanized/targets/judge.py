"""Which apps are kept back so that the rest goes out, whoever the proxy is.

A check costs 10 to 110 ms. While something runs, one call does one check at most, so that what
needs none can go out in between; the next call goes on where it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from vulcanized.errors import Rejected, TargetError
from vulcanized.model import AppId
from vulcanized.slot import Clock
from vulcanized.targets.quarantine import (
    Budget,
    NotTheirs,
    Quarantine,
    Search,
    TooMany,
    Verdict,
    search,
)
from vulcanized.targets.staged import Refusal

log = structlog.get_logger(__name__)


class Judged(Protocol):
    """One app in a proxy's words. `judged`: what of it the proxy may refuse."""

    @property
    def judged(self) -> Hashable: ...


P = TypeVar("P", bound=Judged)
G = TypeVar("G")


class Court(Protocol[P, G]):
    """What only a target knows: how its apps are put together, and what its proxy says of them.

    A ground says what each app has already, so what it can stay on; on `nothing` nobody has any.
    """

    proxy: str
    frame: str
    nothing: G

    def available(self) -> bool:
        """Whether there is a program that can check."""

    def check(self, parts: Mapping[AppId, P]) -> Verdict:
        """What the proxy says of these. Raises Rejected, ProxyUnreachable, NotWritten."""

    def digest(self, parts: Mapping[AppId, P]) -> str:
        """Tells candidates apart whose check or reload may end differently."""

    def unknown(self, parts: Mapping[AppId, P], ground: G) -> Mapping[AppId, P]:
        """Those of which the ground, if it runs, does not show already that they pass."""

    def candidate(
        self, wanted: Mapping[AppId, P], back: Container[AppId], ground: G
    ) -> Mapping[AppId, P]:
        """`wanted`, but those in `back` as they are on the ground, or not at all."""

    def can_stay_back(self, part: P, ground: G) -> bool:
        """Whether it would look otherwise then, and nothing of it would be lost."""


@dataclass(slots=True)
class _Searching(Generic[P]):
    """A search under way: for culprits among `suspects`, of what was `wanted` when it began.

    All suspects that are not in `subset` are to be kept back at the next check. `bare`: nobody
    stays on what is there, since that is refused too.
    """

    wanted: Mapping[AppId, P]
    digest: str
    refused: Verdict
    suspects: frozenset[AppId]
    steps: Search
    subset: frozenset[AppId]
    bare: bool = False


class Judge(Generic[P, G]):
    """Finds what of the wanted apps can go into effect. Not thread-safe.

    `held` are the apps whose own config was refused. Each stays on what it has (the ground) with
    its servers followed, or is left out where it has nothing.
    """

    def __init__(self, court: Court[P, G], clock: Clock) -> None:
        self.held = Quarantine()
        self._court = court
        self._clock = clock
        self._budget = Budget()
        self._refusal = Refusal()
        self._checked = self._checked_in_part = ""
        self._distrusts = False
        self._searching: _Searching[P] | None = None

    # --- what goes out --------------------------------------------------------------------------

    def candidate(self, wanted: Mapping[AppId, P], ground: G) -> Mapping[AppId, P]:
        """What of `wanted` is to go out, as far as is known."""
        return self._court.candidate(wanted, self.held, ground)

    def raise_if_refused(self, wanted: Mapping[AppId, P], ground: G) -> None:
        """Raise what this was refused with, unless it is time to try it again."""
        if self._refusal.pending and self._searching is None:
            self._refuse_again(self._court.digest(self.candidate(wanted, ground)))

    def accepted(
        self, wanted: Mapping[AppId, P], ground: G, *, serving: bool, in_part: bool = False
    ) -> Mapping[AppId, P] | None:
        """What of `wanted` the proxy accepts; None: not known yet, call again at `due`.

        One check at most. `serving`: a process runs what `ground` says, and must not lose any of
        it. `in_part`: nothing but apps differs from that, so only those that do are checked; where
        they pass and the reload fails all the same, `doubt` has all of them checked. Raises
        Rejected when no app can be kept back for it, ProxyUnreachable, NotWritten.
        """
        now = self._clock()
        if self._searching is not None:
            if self._budget.due(now) <= now or not serving:
                self._step(self._searching, wanted, ground, serving=serving)
            return None
        parts = self.candidate(wanted, ground)
        digest = self._court.digest(parts)
        self._refuse_again(digest)
        in_part = in_part and serving and not self._distrusts
        if digest == self._checked or (in_part and digest == self._checked_in_part):
            return parts
        if not self._court.available():
            # A sidecar may have no proxy's program of its own: the reload is the check then.
            log.warning(
                "no program here that could check: the config is not checked before a reload",
                proxy=self._court.proxy,
            )
            return parts
        checked = self._court.unknown(parts, ground) if in_part else parts
        try:
            verdict = self._check(checked) if checked else Verdict(passed=True)
        except Rejected as error:
            self.refuse(parts, error)
            raise
        if verdict.passed:
            self._checked_in_part = digest
            return parts
        self._begin(wanted, digest, ground, verdict)
        return None

    def settled(
        self, wanted: Mapping[AppId, P], ground: G, stop: threading.Event
    ) -> Mapping[AppId, P]:
        """What the proxy accepts, where nothing runs that could wait. Raises as `accepted`."""
        self.retry(wanted, ground)
        while True:
            searching = self._searching
            parts = self.accepted(wanted, ground, serving=False)
            if parts is not None:
                return parts
            if searching is not None and searching.bare and self._searching is None:
                ground = self._court.nothing
            if stop.is_set():
                raise Rejected(
                    f"{self._court.proxy} refuses the config; told to end while looking for the app"
                )

    def retry(self, wanted: Mapping[AppId, P], ground: G) -> None:
        """Check the app whose time has come together with the rest; let it go if that passes."""
        now, next_ = self._clock(), self.held.next_try()
        if next_ is None or self._searching is not None:
            return
        again, app = next_
        if max(again, self._budget.due(now)) > now or app not in wanted:
            return
        if self._court.available():
            try:
                back = self.held.apps() - {app}
                verdict = self._check(self._court.candidate(wanted, back, ground))
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

    def changed(self, app: AppId, part: P | None) -> None:
        """An app is wanted like this now; one that was kept back for something else is let go."""
        if part is None or not self.held.holds(app, part.judged):
            self.held.release(app)

    def renew(self) -> None:
        """Templates changed: whatever was refused may pass now."""
        for app in self.held.apps():
            self.held.release(app)
        self.forget()

    def abandon(self) -> None:
        """Nothing is wanted any more that would need the proxy's word."""
        self._searching = None

    def forget(self) -> None:
        """What runs is another one by now."""
        self._refusal.forget()
        self._searching = None

    def doubt(self, parts: Mapping[AppId, P]) -> bool:
        """A reload of these failed: until one succeeds all apps are checked.

        Whether such a check, where there was none, refuses them: then `accepted` finds out whom.
        """
        self._distrusts = True
        if self._court.digest(parts) == self._checked or not self._court.available():
            return False
        try:
            return not self._check(parts).passed
        except TargetError:
            return False

    def trust(self) -> None:
        """A reload succeeded."""
        self._distrusts = False

    def refuse(self, parts: Mapping[AppId, P], error: TargetError) -> None:
        """Remember that this was refused as a whole."""
        self._refusal.remember(self._court.digest(parts), error, self._clock())

    def blame(self, named: Mapping[AppId, str], parts: Mapping[AppId, P]) -> None:
        """Keep back the app that a failed reload names first, if it is one that can be."""
        for app, words in named.items():
            if app in parts and app not in self.held:
                self.held.hold(app, parts[app].judged, words, self._clock())
                return

    # --- one check ------------------------------------------------------------------------------

    def _check(self, parts: Mapping[AppId, P]) -> Verdict:
        self._budget.take(self._clock())
        verdict = self._court.check(parts)
        if verdict.passed:
            self._checked = self._court.digest(parts)
        return verdict

    def _refuse_again(self, digest: str) -> None:
        refused = self._refusal.of(digest, self._clock())
        if refused is not None:
            raise refused

    # --- a search -------------------------------------------------------------------------------

    def _begin(
        self,
        wanted: Mapping[AppId, P],
        digest: str,
        ground: G,
        verdict: Verdict,
        *,
        bare: bool = False,
    ) -> None:
        wanted = dict(wanted)
        suspects = [
            app
            for app, part in wanted.items()
            if app not in self.held and (bare or self._court.can_stay_back(part, ground))
        ]
        steps = search(suspects, verdict)
        self._searching = _Searching(
            wanted, digest, verdict, frozenset(suspects), steps, next(steps), bare=bare
        )

    def _step(
        self, searching: _Searching[P], wanted: Mapping[AppId, P], ground: G, *, serving: bool
    ) -> None:
        ground = self._court.nothing if searching.bare else ground
        back = self.held.apps() | (searching.suspects - searching.subset)
        try:
            verdict = self._check(self._court.candidate(searching.wanted, back, ground))
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
            self._give_up(
                f"{self._court.proxy} refuses too many apps, look at the templates: {said}"
            )
        except Rejected as error:
            self._give_up(str(error))

    def _not_theirs(self, searching: _Searching[P], verdict: Verdict, *, serving: bool) -> None:
        frame = self._check({})
        if not frame.passed:
            self._give_up(
                f"{self._court.proxy} refuses the config also without any app, mend "
                f"{self._court.frame} or listen: {frame.said}"
            )
        if serving or searching.bare:
            # To leave out what is served now would be worse than to wait.
            refused = rejected(self._court.proxy, verdict)
            self._give_up(f"{refused}; it runs like that, so it cannot be left")
        self._begin(
            searching.wanted, searching.digest, self._court.nothing, searching.refused, bare=True
        )

    def _give_up(self, why: str) -> None:
        searching, self._searching = self._searching, None
        error = Rejected(why)
        if searching is not None:
            self._refusal.remember(searching.digest, error, self._clock())
        raise error


def rejected(proxy: str, verdict: Verdict) -> Rejected:
    """A proxy's refusal as an error, with the app that its words point to first."""
    app = next(iter(verdict.named), None)
    whom = f"the config of app {app}" if app else "the config"
    return Rejected(f"{proxy} refuses {whom}, change what it names: {verdict.said}")


def culprits(
    parts: Mapping[AppId, P], proxy: str, check: Callable[[Mapping[AppId, P]], Verdict]
) -> dict[AppId, str]:
    """All apps that the proxy refuses, each with why.

    Raises as `check`, and Rejected where no app is at fault, or too many are.
    """
    verdict = check(parts)
    if verdict.passed:
        return {}
    steps = search(list(parts), verdict)
    try:
        subset = next(steps)
        while True:
            subset = steps.send(check({app: parts[app] for app in parts if app in subset}))
    except StopIteration as end:
        return dict(end.value)
    except (NotTheirs, TooMany):
        raise rejected(proxy, verdict) from None
