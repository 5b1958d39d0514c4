"""All that the tree should hold, kept up app by app. Pure.

What changes with one app costs one app.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from vulcanized.errors import Rejected
from vulcanized.model import Adoption, AppId, DesiredApp, Route
from vulcanized.targets.vulcand.foreign import Foreign
from vulcanized.targets.vulcand.keys import Keys
from vulcanized.targets.vulcand.mix import Mix
from vulcanized.targets.vulcand.parts import Claim, Part, make_part, not_found, nowhere
from vulcanized.targets.vulcand.plan import Wanted
from vulcanized.targets.vulcand.routes import covering, is_whole, not_found_text, overlaps


def _routes(part: Part) -> Iterable[Route]:
    """Each route once, however many versions can be asked for on it."""
    return {claim.route for claim in part.claims.values()}


class Desired:
    """The objects of all apps, and those that no single app has.

    `parts` is what each app is in vulcand's words, `refused` why an app cannot be said in them: its
    last part stays. `rounded`: the apps whose weights could not be reached. `adopting`: those that
    name objects of other people; which of them they may take is decided where those are known.
    """

    def __init__(self, keys: Keys, mark: str) -> None:
        self.wanted = Wanted()
        self.parts: dict[AppId, Part] = {}
        self.refused: dict[AppId, str] = {}
        self.rounded: dict[AppId, Mix] = {}
        self.adopting: dict[AppId, Adoption] = {}
        self._keys = keys
        self._mark = mark
        self._owners: dict[str, AppId] = {}
        self._hosts: dict[str, Counter[bool]] = {}
        self._guards: dict[str, str] = {}
        self.wanted.backends[keys.nowhere_id] = nowhere(mark)

    def merge(
        self, apps: Mapping[AppId, DesiredApp | None], *, complete: bool
    ) -> tuple[set[str], set[str]]:
        """Take over what apps should be now; the backends and frontends that this touches."""
        gone = self.parts.keys() - apps.keys() if complete else set()
        fresh: dict[AppId, Part | None] = dict.fromkeys(gone)
        for app, desired in apps.items():
            self.refused.pop(app, None)
            if desired is None:
                fresh[app] = None
                continue
            try:
                fresh[app] = make_part(desired, self._keys, self._mark)
            except Rejected as error:
                self.refused[app] = str(error)
        if complete:
            for app in self.refused.keys() - apps.keys():
                del self.refused[app]
        backends: set[str] = set()
        frontends: set[str] = set()
        hosts: set[str] = set()
        # All that goes before all that comes: a route may move from one of these to another.
        before = {app: self.parts.pop(app, None) for app in fresh}
        for app, part in before.items():
            if part is not None:
                self._forget(app, part)
        for app, part in fresh.items():
            if part is not None:
                self._keep(app, part)
        for part in (*before.values(), *fresh.values()):
            if part is None:
                continue
            backends |= part.backends.keys()
            frontends |= part.frontends.keys()
            hosts |= {claim.route.host for claim in part.claims.values()}
        return backends, frontends | self._guard(hosts)

    def _forget(self, app: AppId, part: Part) -> None:
        wanted = self.wanted
        self.rounded.pop(app, None)
        self.adopting.pop(app, None)
        for id_ in part.backends:
            wanted.backends.pop(id_, None)
        for id_ in part.frontends:
            if self._owners.get(id_) == app:
                del self._owners[id_]
                wanted.frontends.pop(id_, None)
        for route in _routes(part):
            self._count(route, -1)

    def _keep(self, app: AppId, part: Part) -> None:
        wanted = self.wanted
        self.parts[app] = part
        if part.mix is not None and part.mix.error:
            self.rounded[app] = part.mix
        wanted.backends.update(part.backends)
        wanted.frontends.update(part.frontends)
        self._owners.update(dict.fromkeys(part.frontends, app))
        for route in _routes(part):
            self._count(route, 1)
        if part.desired.policies.adopt != Adoption():
            self.adopting[app] = part.desired.policies.adopt

    def _count(self, route: Route, by: int) -> None:
        counts = self._hosts.setdefault(route.host, Counter())
        counts[is_whole(route)] += by
        if not counts.total():
            del self._hosts[route.host]

    def _guard(self, touched: Iterable[str]) -> set[str]:
        """Keep up the frontends that answer 404; those that this touches."""
        hosts = set(touched)
        if any(host.startswith("*") for host in hosts):
            hosts |= self._hosts.keys()
        changed = set()
        for host in hosts:
            counts = self._hosts.get(host)
            needed = counts is not None and not counts[True]
            if needed and any(each in self._hosts for each in covering(host)):
                id_ = self._keys.frontend_id(host, not_found_text(host, self._keys.owner))
                self._guards[host] = id_
                self.wanted.frontends[id_] = not_found(self._keys, host, self._mark)
                changed.add(id_)
            elif id_ := self._guards.pop(host, ""):
                del self.wanted.frontends[id_]
                changed.add(id_)
        return changed

    def adopt(self, foreign: Foreign) -> None:
        """Decide which objects of other people may be taken.

        Only a frontend that is in the way of the app that names it: an app config must not be a way
        to take away what has nothing to do with it.
        """
        self.wanted.adopted_frontends = {
            id_
            for app, adoption in self.adopting.items()
            for id_ in adoption.frontends
            if id_ in foreign
            and any(
                overlaps(claim.route, claim.text, foreign[id_])
                for claim in self.parts[app].claims.values()
            )
        }
        self.wanted.adopted_backends = {
            id_ for adoption in self.adopting.values() for id_ in adoption.backends
        }

    def app_of(self, frontend: str) -> AppId | None:
        """Whose frontend it is; None for those of no single app."""
        return self._owners.get(frontend)

    def claim(self, frontend: str) -> Claim | None:
        """What a frontend of an app is for."""
        app = self._owners.get(frontend)
        return None if app is None else self.parts[app].claims[frontend]
