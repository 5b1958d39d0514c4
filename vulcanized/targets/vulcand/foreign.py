"""Frontends of other people, found by host: of thousands a few can be in a route's way. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vulcanized.model import Route
from vulcanized.targets.vulcand.routes import exact_host, overlaps


class Foreign(Mapping[str, str]):
    """The routes, as text, of frontends that are not ours, by their ids."""

    def __init__(self, routes: Mapping[str, str] | None = None) -> None:
        self._routes = dict(routes or {})
        self._by_host: dict[str, set[str]] = {}
        self._by_parent: dict[str, set[str]] = {}
        self._anywhere: set[str] = set()
        for id_, text in self._routes.items():
            host = exact_host(text)
            if not host:
                self._anywhere.add(id_)
            # A host is compared as it is written or in lower case, by which of the two comes first.
            for form in {host, host.lower()} - {""}:
                self._by_host.setdefault(form, set()).add(id_)
                self._by_parent.setdefault(form.partition(".")[2], set()).add(id_)

    def __getitem__(self, id_: str) -> str:
        return self._routes[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def overlapping(self, route: Route, text: str) -> list[str]:
        """Those that would take requests of this route, or lose some to it, sorted.

        `text` is the route as vulcand is told it.
        """
        return sorted(id_ for id_ in self._near(route) if overlaps(route, text, self[id_]))

    def _near(self, route: Route) -> set[str]:
        if not self._routes:
            return set()
        if route.host == "*":
            return set(self._routes)
        if route.host.startswith("*."):
            return self._anywhere | self._by_parent.get(route.host[2:], set())
        return self._anywhere | self._by_host.get(route.host, set())
