"""What must be done so that a running HAProxy shows what is wanted. Pure.

Run time first: `reachable` says how much of an app the running process can show as it is, the
plans say by which commands, and what is left over needs a reload. The order keeps every moment
between two commands harmless:

1. servers come and are made ready, so that no switch points at an empty backend;
2. maps: first entries are added and changed, from the end of a request's way to its start, so that
   a route never leads to what is not there yet; then entries are removed the other way round;
3. servers drain and go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vulcanized.diff import key_changes
from vulcanized.model import (
    ANY_VERSION,
    DesiredApp,
    PathKind,
    Server,
    ServerState,
)
from vulcanized.targets.haproxy import words
from vulcanized.targets.haproxy.live import (
    ADDED,
    DELETED_OR_BUSY,
    DONE,
    LiveServer,
    limited_to,
    shows,
    stands_at,
)
from vulcanized.targets.haproxy.master import Command, Replacement
from vulcanized.targets.haproxy.parts import (
    ACTIVE,
    HOSTS,
    PINNED,
    PINS,
    PINS_REGEX,
    REGEX,
    REGEX_HOSTS,
    ROUTES,
    SHARED,
    SPLIT,
    STRUCTURE,
    TABLES,
    WHOLE,
    Entry,
    Part,
    Pool,
    Shape,
    server_arguments,
)
from vulcanized.targets.shares import SLOTS

NEW_BACKEND: Final = "new_backend"
CHANGED_STRUCTURE: Final = "structure"
LISTEN: Final = "listen"
TEMPLATE: Final = "template"
OTHER_CONFIG: Final = "other_config"
REFUSED_AT_RUN_TIME: Final = "runtime_refused"
START: Final = "start"

FRAME_KEY: Final = "config"
LISTEN_KEY: Final = "listen"
FRAME_KEYS: Final = (FRAME_KEY, LISTEN_KEY)

_MOST_SINGLE_CHANGES: Final = 50
"""A command costs about 0.09 ms, a whole map of 1,000 entries about 3 ms."""

Tables = Mapping[str, Mapping[str, str]]
TableChanges = Mapping[str, Mapping[str, str | None]]
Step = Command | Replacement


@dataclass(frozen=True, slots=True)
class Reach:
    """What of an app can be shown without a reload, and why not all of it ("" when all).

    `untouched` are backends of the app that must be left as they are: they may have traffic, and
    it is not known what they are made of.
    """

    part: Part
    cause: str = ""
    untouched: frozenset[str] = frozenset()


def reachable(
    part: Part, structure: Mapping[str, str], tables: Tables, shapes: Mapping[str, Shape]
) -> Reach:
    """How an app looks in a process made of `structure`, which shows `tables` now.

    `shapes` are those that the process may have been made with, by digest. A backend that the
    process has in another shape gets its servers all the same. Traffic stays where it is as long
    as it would be sent to a backend that is not there; where it stays, servers still come and go.
    """
    cause = ""
    wanted: dict[str, tuple[int, tuple[Server, ...]]] = {}
    for pool in part.pools:
        digest = structure.get(pool.shape.id, "").partition(":")[0]
        if not digest:
            cause = NEW_BACKEND
            continue
        if digest != pool.shape.digest:
            cause = cause or CHANGED_STRUCTURE
        wanted[pool.shape.id] = (pool.maxconn, pool.servers)
    if not cause:
        return Reach(part)
    entries, traffic = part.entries, part.traffic
    if any(":" in entry.value and entry.value not in structure for entry in traffic):
        traffic = traffic_now(words.app_key(part.desired.app), tables)
        if not traffic:
            entries = ()
        elif not any(":" in entry.value for entry in traffic):
            # It has nothing yet to answer with: the routes that others answer stay with them.
            entries = tuple(entry for entry in entries if not _is_anothers(entry, tables))
        for id_ in {entry.value for entry in traffic} & structure.keys() - wanted.keys():
            maxconn = structure[id_].partition(":")[2]
            wanted[id_] = (int(maxconn or 0), _servers_for(part.desired, id_))
    known = {**shapes, **{pool.shape.digest: pool.shape for pool in part.pools}}
    made_of = {id_: known.get(structure[id_].partition(":")[0]) for id_ in wanted}
    pools = [Pool(shape, *wanted[id_]) for id_, shape in made_of.items() if shape is not None]
    untouched = frozenset(id_ for id_, shape in made_of.items() if shape is None)
    return Reach(Part(part.desired, tuple(pools), entries, traffic), cause, untouched)


def _servers_for(desired: DesiredApp, id_: str) -> tuple[Server, ...]:
    """The servers of a backend that is wanted no more, but has the traffic until a reload."""
    servers = {server.name: server for backend in desired.backends for server in backend.servers}
    every = id_ == words.backend_id(desired.app, ANY_VERSION)
    return tuple(
        server
        for _, server in sorted(servers.items())
        if every or (server.version and id_ == words.backend_id(desired.app, server.version))
    )


def kept_back(part: Part, tables: Tables) -> Part:
    """An app whose own config was refused, without what of it no map can take: regexes.

    Those that `tables` have of it stay, with their hosts; so does every other route.
    """
    known = tables.get(REGEX, {})
    app = words.app_key(part.desired.app)
    if all(known.get(entry.key) == app for entry in part.entries if entry.table == REGEX):
        return part
    regexes = [key for key, value in known.items() if value == app]
    regex_hosts = {words.host_of_regex(key) for key in regexes}
    routes = part.desired.routes
    hosts = {route.host for route in routes if route.kind is not PathKind.REGEX} | regex_hosts
    entries = (
        *(Entry(HOSTS, host, host) for host in sorted(hosts)),
        *(Entry(REGEX_HOSTS, host, "yes") for host in sorted(regex_hosts)),
        *(entry for entry in part.entries if entry.table not in {HOSTS, REGEX_HOSTS, REGEX}),
        *(Entry(REGEX, key, app) for key in sorted(regexes)),
    )
    return Part(part.desired, part.pools, entries, part.traffic)


def _is_anothers(entry: Entry, tables: Tables) -> bool:
    routes = entry.table in ROUTES.values()
    return routes and tables.get(entry.table, {}).get(entry.key, entry.value) != entry.value


def traffic_now(app: str, tables: Tables) -> tuple[Entry, ...]:
    """Where `tables` send an app's traffic; nothing for an app that they do not know."""
    split = tables.get(SPLIT, {})
    keys = (f"{app}:{slot}" for slot in range(SLOTS))
    found = [Entry(SPLIT, key, split[key]) for key in keys if key in split]
    active = tables.get(ACTIVE, {}).get(app)
    return (*found, Entry(ACTIVE, app, active)) if active is not None else ()


def pins_now(app: str, tables: Tables) -> tuple[Entry, ...]:
    """By what `tables` let clients of an app ask for versions, and for which."""
    pin = tables.get(PINS, {}).get(app)
    if pin is None:
        return ()
    return (
        Entry(PINS, app, pin),
        *(
            Entry(PINS_REGEX, key, value)
            for key, value in tables.get(PINS_REGEX, {}).items()
            if words.is_pin_regex(key, pin)
        ),
        *(
            Entry(PINNED, key, value)
            for key, value in tables.get(PINNED, {}).items()
            if key.startswith(f"{app}:")
        ),
    )


def frame_cause(running: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Why everything but the backends needs a reload, "" when it does not."""
    if not running:
        return OTHER_CONFIG
    if running.get(LISTEN_KEY) != wanted[LISTEN_KEY]:
        return LISTEN
    return TEMPLATE if running.get(FRAME_KEY) != wanted[FRAME_KEY] else ""


# --- servers ----------------------------------------------------------------------------------


@dataclass(slots=True)
class ServerPlan:
    """Commands in the order of this module's head. `delete` may have to be tried again."""

    enter: list[Command] = field(default_factory=list)
    leave: list[Command] = field(default_factory=list)
    delete: list[Command] = field(default_factory=list)


def plan_servers(
    plan: ServerPlan, pool: Pool, structure: str, live: Mapping[str, LiveServer]
) -> None:
    """Add to `plan` what turns the servers of one backend into those of `pool`.

    `structure` is the backend's value in `structure.map` of the process.
    """
    id_ = pool.shape.id
    wanted = {server.name for server in pool.servers}
    ids = pool.ids if wanted - live.keys() else {}
    for server in pool.servers:
        running = live.get(server.name)
        if running is None:
            plan.enter += _add(pool, server, ids)
        else:
            into = plan.enter if server.state is ServerState.READY else plan.leave
            into += _change(id_, server, running)
    changed = structure != pool.structure
    plan.enter += [
        Command(f"set maxconn server {id_}/{name} {pool.maxconn}", id_, DONE)
        for name in sorted(wanted & live.keys())
        if changed or not limited_to(live[name], pool.limit)
    ]
    if changed:
        plan.enter.append(Command(f"set map {{map}} {id_} {pool.structure}", STRUCTURE))
    gone = {name: live[name] for name in live if name not in wanted | pool.shape.own}
    plan_removal(plan, id_, gone)


def plan_removal(plan: ServerPlan, id_: str, gone: Mapping[str, LiveServer]) -> None:
    """Add to `plan` what removes servers; what they are doing they finish."""
    for name, running in gone.items():
        if running.state is not ServerState.MAINT:
            plan.leave.append(Command(f"set server {id_}/{name} state maint", id_))
        plan.delete.append(Command(f"del server {id_}/{name}", id_, DELETED_OR_BUSY))


def _add(pool: Pool, server: Server, ids: Mapping[str, int]) -> list[Command]:
    id_ = pool.shape.id
    name = f"{id_}/{server.name}"
    weight = 0 if server.state is ServerState.DRAIN else server.weight
    arguments = server_arguments(pool, server, weight, ids)
    commands = [Command(f"add server {name} {arguments}", id_, ADDED)]
    if "check" in pool.shape.options.split():
        commands.append(Command(f"enable health {name}", id_))
    if server.state is not ServerState.MAINT:
        commands.append(Command(f"enable server {name}", id_))
    return commands


def _change(id_: str, server: Server, running: LiveServer) -> list[Command]:
    name = f"{id_}/{server.name}"
    commands = []
    if not stands_at(running, server):
        address = f"addr {words.ip(server.address)} port {server.port}"
        commands.append(Command(f"set server {name} {address}", id_, DONE))
    if shows(running, server):
        return commands
    if server.state is ServerState.READY and running.weight != server.weight:
        commands.append(Command(f"set server {name} weight {server.weight}", id_))
    if server.state is not running.state:
        commands.append(Command(f"set server {name} state {server.state.value}", id_))
    return commands


def live_servers(servers: Iterable[Server], leaving: Iterable[str] = ()) -> dict[str, LiveServer]:
    """How servers look in a process that shows them; `leaving` are some that cannot go yet."""
    live = {name: LiveServer("", 0, ServerState.MAINT, 0) for name in leaving}
    for server in servers:
        live[server.name] = LiveServer(server.address, server.port, server.state, server.weight)
    return live


def servers_of(live: Mapping[str, LiveServer]) -> tuple[Server, ...]:
    """Running servers as if they were wanted as they are."""
    return tuple(
        Server(name, each.address, each.port, each.state, each.weight)
        for name, each in live.items()
    )


# --- maps -------------------------------------------------------------------------------------


def tables_of(parts: Iterable[Part]) -> dict[str, dict[str, str]]:
    """The maps that these apps want."""
    tables: dict[str, dict[str, str]] = {name: {} for name in TABLES}
    for part in parts:
        for table, key, value in (*part.entries, *part.traffic):
            tables[table][key] = value
    return tables


def in_order(table: str, entries: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Entries as they stand in a map: the longest regex first, since the first match wins."""
    if table == REGEX:
        return tuple(sorted(entries, key=lambda entry: (-len(entry[0]), entry[0])))
    return tuple(sorted(entries))


def claims_of(parts: Iterable[Part]) -> Counter[tuple[str, str]]:
    """How many apps want each entry of the shared maps."""
    return Counter(
        (entry.table, entry.key)
        for part in parts
        for entry in part.entries
        if entry.table in SHARED
    )


def all_table_changes(live: Tables, wanted: Tables) -> dict[str, dict[str, str | None]]:
    """What turns maps that were read back into the wanted ones; only maps with changes."""
    found: dict[str, dict[str, str | None]] = {}
    for table in TABLES:
        changes = key_changes(live.get(table, {}), wanted[table])
        disordered = table == REGEX and list(live.get(table, {})) != [
            key for key, _ in in_order(table, wanted[table].items())
        ]
        if changes or disordered:
            found[table] = {
                **dict(changes.add),
                **dict(changes.change),
                **dict.fromkeys(changes.remove),
            }
    return found


def table_changes(
    olds: Iterable[Part], news: Iterable[Part], tables: Tables, claims: Counter[tuple[str, str]]
) -> dict[str, dict[str, str | None]]:
    """What some apps change in maps that show `tables`; only maps with changes.

    `claims` is brought up to date. An entry that another app has taken over is not removed.
    """
    wanted: dict[str, dict[str, str | None]] = {}
    for part in olds:
        for table, key, value in (*part.entries, *part.traffic):
            if table in SHARED:
                claims[table, key] -= 1
                if claims[table, key] > 0:
                    continue
                del claims[table, key]
            if tables[table].get(key) == value:
                wanted.setdefault(table, {})[key] = None
    for part in news:
        for table, key, value in (*part.entries, *part.traffic):
            if table in SHARED:
                claims[table, key] += 1
            wanted.setdefault(table, {})[key] = value
    return {
        table: changed
        for table, entries in wanted.items()
        if (changed := {k: v for k, v in entries.items() if tables[table].get(k) != v})
    }


def plan_tables(changes: TableChanges, tables: Tables) -> tuple[Step, ...]:
    """The steps that change maps which show `tables`."""
    steps: list[Step] = []
    for table in TABLES:
        put = _present(changes.get(table, {}))
        # Changed without a change of entries: only their order is wrong.
        if put or changes.get(table) == {}:
            steps += _put(table, put, tables.get(table, {}))
    for table in reversed(TABLES):
        gone = [key for key, value in changes.get(table, {}).items() if value is None]
        if gone:
            now = {**tables.get(table, {}), **_present(changes[table])}
            steps += _remove(table, gone, now)
    return tuple(steps)


def _present(changes: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in changes.items() if value is not None}


def _put(table: str, put: Mapping[str, str], now: Mapping[str, str]) -> list[Step]:
    if table in WHOLE or len(put) > _MOST_SINGLE_CHANGES:
        return [Replacement(table, in_order(table, {**now, **put}.items()))]
    return [
        Command(f"{'set' if key in now else 'add'} map {{map}} {key} {value}", table)
        for key, value in put.items()
    ]


def _remove(table: str, gone: Iterable[str], now: Mapping[str, str]) -> list[Step]:
    keys = set(gone)
    if table in WHOLE or len(keys) > _MOST_SINGLE_CHANGES:
        left = {key: value for key, value in now.items() if key not in keys}
        return [Replacement(table, in_order(table, left.items()))]
    return [Command(f"del map {{map}} {key}", table) for key in sorted(keys)]


def apply_changes(tables: Mapping[str, dict[str, str]], changes: TableChanges) -> None:
    """Let `tables` show what was changed."""
    for table, entries in changes.items():
        for key, value in entries.items():
            if value is None:
                tables[table].pop(key, None)
            else:
                tables[table][key] = value
