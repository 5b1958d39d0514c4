"""Apps as one group of targets takes them: which config each has, which routes, what is built.

All targets that take whatever is written share one view. A strict target has one of its own: a
config with a field that it cannot put into effect is refused there as a broken one is, and the
last one that it could goes on, with the pods of today.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from msgspec.structs import replace

from vulcanized.appconfig import AppSpec
from vulcanized.build import Configured, build, configure
from vulcanized.claims import Claims
from vulcanized.model import AppId, Built, DesiredApp, Observed, Remembered


class View:
    """`target` and `capabilities` are those of a strict target; "": everything is taken.

    For the reconciler's thread only.
    """

    def __init__(self, target: str = "", capabilities: frozenset[str] = frozenset()) -> None:
        self.target = target
        self._desired: dict[AppId, DesiredApp] = {}
        self._capabilities = capabilities
        self._claims = Claims()
        self._configured: dict[AppId, Configured] = {}

    def configure(self, observed: Observed, remembered: Remembered) -> set[AppId]:
        """Decide the app's config and its claims; the other apps that this touches."""
        app = observed.app
        configured = configure(
            observed, self._own(remembered), self._configured.get(app), self._refuse
        )
        self._configured[app] = configured
        routes = configured.spec.routes if configured.spec else ()
        return self._claims.claim(app, routes, configured.order)

    def build(self, observed: Observed, remembered: Remembered) -> Built:
        """The app under the config that was decided."""
        app = observed.app
        configured = self._configured.get(app) or Configured()
        built = build(observed, configured, self._own(remembered), self._claims.taken(app))
        if not (self.target and configured.problems):
            return built
        named = tuple(
            dataclasses.replace(problem, target=self.target)
            if problem.code == "not_in_effect"
            else problem
            for problem in built.problems
        )
        return replace(built, problems=named)

    def take(self, built: Iterable[Built]) -> dict[AppId, DesiredApp | None]:
        """Take these as what the apps are now; what changed of the desired ones, None: gone."""
        changed: dict[AppId, DesiredApp | None] = {}
        for new in built:
            old = self._desired.get(new.app)
            if new.desired != old:
                changed[new.app] = new.desired
            if new.desired is None:
                self._desired.pop(new.app, None)
            else:
                self._desired[new.app] = new.desired
            if is_forgotten(new):
                self._configured.pop(new.app, None)
        return changed

    def _own(self, remembered: Remembered) -> Remembered:
        """What is remembered for this view's target."""
        own = dict(remembered.elsewhere).get(self.target) if self.target else None
        return replace(remembered, config=own or remembered.config, elsewhere=())

    def _refuse(self, spec: AppSpec) -> str:
        missing = sorted(spec.features - self._capabilities) if self.target else ()
        if not missing:
            return ""
        return (
            f"{', '.join(missing)}: not in effect on target {self.target}; the app is refused "
            "there, since it is strict"
        )


def is_forgotten(built: Built) -> bool:
    """Nothing mentions the app any more: memory would grow with every name ever seen."""
    return built.desired is None and not (built.versions or built.problems or built.wanted)
