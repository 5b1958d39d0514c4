"""Apps whose own config a proxy refuses: who they are, and how long they are kept back. Pure.

What file targets share. Here nothing is known of a proxy but its verdict on some of the apps.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vulcanized.model import AppId
from vulcanized.targets.staged import FIRST_SECOND_TRY, LAST_SECOND_TRY

MOST_RUNS: Final = 64
"""Checks for one search. Whoever needs more has something wrong with the templates."""
CHECKS_A_MINUTE: Final = 40
"""Checks that searches and second tries may take, in the long run."""
_NAMED_ROUNDS: Final = 4
_MOST_NAMED: Final = 32


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proxy says of a candidate. `named`: the apps that its words point to, with those
    words, in its order; what it points to may be a victim, and need not be all.
    """

    passed: bool
    said: str = ""
    named: Mapping[AppId, str] = field(default_factory=dict)


class NotTheirs(Exception):
    """The proxy refuses what is there without any of the suspects too."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.said)
        self.verdict = verdict


class TooMany(Exception):
    """They were not found within MOST_RUNS checks."""


Search = Generator[frozenset[AppId], Verdict, dict[AppId, str]]
"""Yields the suspects to check together, is sent the verdict, returns culprit -> words."""


def search(suspects: Sequence[AppId], refused: Verdict, runs: int = MOST_RUNS) -> Search:
    """Find out which of the suspects are to be left out so that the proxy accepts all others.

    `refused` is the verdict on all of them together. Each that is left out was refused together
    with others that pass without it, and the others all pass together. Of two that are refused
    only together the later one in `suspects` is left out, unless the proxy's words point to the
    earlier. Takes 1 + c checks for c culprits that the proxy names, else up to 2 + c * (2 +
    log2(suspects)). Raises NotTheirs, TooMany.
    """
    checks = _Checks(runs)
    named = yield from _without_named(checks, suspects, refused)
    if named is not None:
        return named
    verdict = yield from checks.of(())
    if not verdict.passed:
        raise NotTheirs(verdict)
    found: dict[AppId, str] = {}
    left = list(suspects)
    good = 0
    while True:
        # The first `good` of those left pass, all of them do not.
        bad, words = len(left), ""
        while bad - good > 1:
            middle = (good + bad) // 2
            verdict = yield from checks.of(left[:middle])
            if verdict.passed:
                good = middle
            else:
                bad, words = middle, verdict.said
        found[left.pop(bad - 1)] = words or refused.said
        refused = yield from checks.of(left)
        if refused.passed:
            return found


def _without_named(
    checks: _Checks, suspects: Sequence[AppId], refused: Verdict
) -> Generator[frozenset[AppId], Verdict, dict[AppId, str] | None]:
    """The culprits if all are among those that the proxy names, else None."""
    out: dict[AppId, str] = {}
    verdict = refused
    for _ in range(_NAMED_ROUNDS):
        fresh = {app: verdict.named[app] for app in suspects if app in verdict.named.keys() - out}
        out |= fresh
        if not fresh or len(out) > _MOST_NAMED:
            return None
        verdict = yield from checks.of(app for app in suspects if app not in out)
        if verdict.passed:
            break
    else:
        return None
    if len(out) == 1:
        return out
    # Some of several may be named for what another one does.
    good = {app for app in suspects if app not in out}
    for app in list(out):
        verdict = yield from checks.of(good | {app})
        if verdict.passed:
            good.add(app)
            del out[app]
        else:
            out[app] = verdict.named.get(app, out[app])
    return out


class _Checks:
    def __init__(self, runs: int) -> None:
        self._left = runs

    def of(self, apps: Iterable[AppId]) -> Generator[frozenset[AppId], Verdict, Verdict]:
        if self._left == 0:
            raise TooMany
        self._left -= 1
        return (yield frozenset(apps))


class Budget:
    """So many of something a minute in the long run, and as many at once after a calm minute."""

    def __init__(self, a_minute: int = CHECKS_A_MINUTE) -> None:
        self._most = self._there = float(a_minute)
        self._since = float("-inf")

    def due(self, now: float) -> float:
        """When the next one may be taken; not after `now`: at once."""
        self._fill(now)
        return now + max(0.0, 1 - self._there) * 60 / self._most

    def take(self, now: float) -> None:
        """One was taken; those who cannot wait may overdraw it."""
        self._fill(now)
        self._there = max(-self._most, self._there - 1)

    def _fill(self, now: float) -> None:
        gained = (now - self._since) * self._most / 60
        self._there, self._since = min(self._most, self._there + gained), now


class Held(NamedTuple):
    """One app that is kept back: `what` of it was refused, and why; tried again at `again`."""

    what: Hashable
    reason: str
    again: float
    wait: float


class Quarantine:
    """The apps that are kept back."""

    def __init__(self) -> None:
        self._held: dict[AppId, Held] = {}
        self._released: dict[AppId, Held] = {}

    def __contains__(self, app: object) -> bool:
        return app in self._held

    def __bool__(self) -> bool:
        return bool(self._held)

    def reasons(self) -> dict[AppId, str]:
        """All of them, each with why."""
        return {app: held.reason for app, held in sorted(self._held.items())}

    def apps(self) -> frozenset[AppId]:
        """All of them."""
        return frozenset(self._held)

    def hold(self, app: AppId, what: Hashable, reason: str, now: float) -> bool:
        """Keep an app back; True if it was not. The same again waits twice as long each time."""
        known = app in self._held
        before = self._held.get(app) or self._released.get(app)
        wait = FIRST_SECOND_TRY
        if before is not None and before.what == what:
            wait = min(LAST_SECOND_TRY, before.wait * 2)
        self._held[app] = Held(what, reason, now + wait, wait)
        return not known

    def release(self, app: AppId) -> bool:
        """Let an app go; True if it was kept back."""
        held = self._held.pop(app, None)
        if held is not None:
            self._released[app] = held
        return held is not None

    def accepted(self) -> None:
        """The proxy runs what was let go: whoever is refused from now on waits as at first."""
        self._released.clear()

    def holds(self, app: AppId, what: Hashable) -> bool:
        """Whether an app is kept back for just this."""
        held = self._held.get(app)
        return held is not None and held.what == what

    def next_try(self) -> tuple[float, AppId] | None:
        """When which one is to be tried again first."""
        return min(((held.again, app) for app, held in self._held.items()), default=None)
