"""Routes that go to an app whose backend only a reload can bring. Pure.

Until that reload the app that has them in the running process goes on answering them, also when it
is wanted no more; else they would answer 404 meanwhile. What nobody waits for is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from vulcanized.model import AppId, DesiredApp, Route, Server
from vulcanized.targets.haproxy import words
from vulcanized.targets.haproxy.parts import (
    LIMITS,
    ROUTES,
    SIZES,
    STICKY,
    Entry,
    Part,
    Pool,
    Shape,
    route_entries,
    sticky_entries,
)
from vulcanized.targets.haproxy.plan import Reach, Tables, pins_now, reachable, traffic_now


class Ground(NamedTuple):
    """What is there: in a worker, or in the files. `servers` gives those of a backend."""

    structure: Mapping[str, str]
    tables: Tables
    shapes: Mapping[str, Shape]
    servers: Callable[[str], Iterable[Server]]

    def reach(self, part: Part) -> Reach:
        """How an app looks there."""
        return reachable(part, self.structure, self.tables, self.shapes)


def awaited(waiting: Iterable[Part], tables: Tables) -> dict[AppId, list[Route]]:
    """The routes that these apps wait for and others have in `tables`, by who has them."""
    found: dict[AppId, list[Route]] = {}
    for part in waiting:
        for route in part.desired.routes:
            owner = tables.get(ROUTES[route.kind], {}).get(words.route_key(route))
            if owner is not None and owner != words.app_key(part.desired.app):
                namespace, _, name = owner.partition("/")
                found.setdefault(AppId(namespace, name), []).append(route)
    return found


class Lent(NamedTuple):
    """Apps with the routes that others wait for; `untouched` backends must stay as they are."""

    parts: dict[AppId, Part]
    untouched: frozenset[str]


def lend(
    waiting: Iterable[Part],
    shown: Mapping[AppId, Part],
    ground: Ground,
) -> Lent:
    """What goes on for the apps that wait: parts to show in place of those in `shown`."""
    parts: dict[AppId, Part] = {}
    untouched: set[str] = set()
    for app, routes in awaited(waiting, ground.tables).items():
        own = shown.get(app)
        if own is not None:
            lent = lending(app, own, routes)
        else:
            reach = left(app, routes, *ground)
            if reach is None:
                continue
            lent = reach.part
            untouched |= reach.untouched
        if lent is not own:
            parts[app] = lent
    return Lent(parts, frozenset(untouched))


def lending(app: AppId, own: Part, routes: Collection[Route]) -> Part:
    """`own`, what is wanted of an app, with further routes. `own` itself where it has them."""
    known = set(own.entries)
    more = [entry for entry in route_entries(app, routes) if entry not in known]
    if not more:
        return own
    return Part(own.desired, own.pools, (*own.entries, *more), own.traffic)


def left(
    app: AppId,
    routes: Collection[Route],
    structure: Mapping[str, str],
    tables: Tables,
    shapes: Mapping[str, Shape],
    servers: Callable[[str], Iterable[Server]],
) -> Reach | None:
    """What goes on of an app that is gone: these routes, to where its traffic goes now.

    `servers` gives those of one backend as they run, which is how they stay. None: it has no
    traffic, so that there is nothing to go on.
    """
    key = words.app_key(app)
    traffic, pins = traffic_now(key, tables), pins_now(key, tables)
    if not {entry.value for entry in traffic} & structure.keys():
        return None
    backends = sorted({entry.value for entry in (*traffic, *pins)} & structure.keys())
    made_of = {id_: shapes.get(structure[id_].partition(":")[0]) for id_ in backends}
    pools = tuple(
        Pool(
            shape,
            int(structure[id_].partition(":")[2] or 0),
            tuple(sorted(each for each in servers(id_) if each.name not in shape.own)),
        )
        for id_, shape in made_of.items()
        if shape is not None
    )
    bounds = ((name, tables.get(name, {}).get(key)) for name in (LIMITS, SIZES))
    limits = (Entry(name, key, bound) for name, bound in bounds if bound is not None)
    sticky = tables.get(STICKY, {}).get(key)
    cookie = sticky_entries(app, sticky) if sticky is not None else ()
    entries = (*route_entries(app, routes), *limits, *cookie, *pins)
    part = Part(DesiredApp(app, (), (), ()), pools, entries, traffic)
    untouched = frozenset(id_ for id_, shape in made_of.items() if shape is None)
    return Reach(part, untouched=untouched)
