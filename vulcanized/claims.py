"""Who owns a route: of all apps that name it, the one whose config is the oldest.

The answer depends only on the claims that stand, never on the order in which they came, so a fresh
start reaches the same one.
"""

from __future__ import annotations

from collections.abc import Iterable

from vulcanized.model import AppId, Route

Order = tuple[int, AppId]


class Claims:
    """Claims on routes by app. Not thread-safe: the reconciler's own."""

    def __init__(self) -> None:
        # Tuples: nearly every route has one claim, and nearly every app a few routes.
        self._by_route: dict[Route, tuple[Order, ...]] = {}
        self._by_app: dict[AppId, tuple[Route, ...]] = {}

    def claim(self, app: AppId, routes: Iterable[Route], order: Order) -> set[AppId]:
        """Replace all claims of an app, whose name `order` ends with; no routes: it has none.

        Returns the other apps that gained or lost a route by it and must be built again. Work is
        proportional to the app's own routes.
        """
        claimed = tuple(routes)
        wanted = frozenset(claimed)
        held = frozenset(self._by_app.get(app, ()))
        old_order = self._order(app, held, order)
        if held == wanted and old_order == order:
            return set()
        before = {route: self.owner(route) for route in held | wanted}
        for route in held:
            self._put(route, tuple(each for each in self._by_route[route] if each != old_order))
        for route in wanted:
            self._put(route, (*self._by_route.get(route, ()), order))
        if wanted:
            self._by_app[app] = claimed
        else:
            self._by_app.pop(app, None)
        touched: set[AppId] = set()
        for route, owner in before.items():
            now = self.owner(route)
            if owner != now:
                touched |= {other for other in (owner, now) if other is not None}
        return touched - {app}

    def owner(self, route: Route) -> AppId | None:
        """The app that answers this route, None when nobody claims it."""
        claims = self._by_route.get(route)
        return min(claims)[1] if claims else None

    def taken(self, app: AppId) -> list[tuple[Route, AppId]]:
        """The routes that this app claims and another owns, each with its owner."""
        routes = dict.fromkeys(self._by_app.get(app, ()))
        owners = ((route, self.owner(route)) for route in routes)
        return [(route, owner) for route, owner in owners if owner is not None and owner != app]

    def _order(self, app: AppId, held: Iterable[Route], default: Order) -> Order:
        """How the claims of an app are ordered now, the same on all that it holds."""
        orders = (each for route in held for each in self._by_route[route] if each[1] == app)
        return next(orders, default)

    def _put(self, route: Route, claims: tuple[Order, ...]) -> None:
        if claims:
            self._by_route[route] = claims
        else:
            del self._by_route[route]
