"""One worker of HAProxy: what it has in effect, and how it comes to show something else."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

import structlog

from vulcanized.model import AppId, Server
from vulcanized.targets.haproxy import handover, plan
from vulcanized.targets.haproxy.handover import Ground
from vulcanized.targets.haproxy.live import Live, LiveServer, limited_to, shows, stands_at
from vulcanized.targets.haproxy.master import Master
from vulcanized.targets.haproxy.parts import REGEX, TABLES, Part, Pool, Shape, app_of
from vulcanized.targets.haproxy.plan import ServerPlan, TableChanges

log = structlog.get_logger(__name__)

EVERYTHING: Final = "*"
"""In `stuck`: run time is not used at all until the next reload."""


class Running:
    """Begins as what was read back; afterwards what was done and confirmed, answer by answer.

    `shown` are the apps as this worker shows them, `behind` those that it cannot show wholly
    without a reload, each with the cause and the shapes that it lacks. Routes that one of these
    waits for stay with the app that has them, which is shown until then though it may be gone.
    `held` are apps whose own config HAProxy refuses: they are not behind, they stay as they are.
    `stuck` are backends and maps that refused a command; they are left alone until the next reload.
    So are maps that the process does not have, since its template leaves them out or is an older
    one; but no reload is asked for: it would not bring them.

    After Disagreed or ProxyUnreachable from `show_all` or `show` it is not known what is in
    effect: make another one from what is read back.
    """

    def __init__(
        self,
        master: Master,
        live: Live,
        held: Container[AppId] = frozenset(),
        stuck: Iterable[str] = (),
    ) -> None:
        self.processes = live.processes
        self.structure = dict(live.structure)
        self.tables = {name: dict(live.tables.get(name, {})) for name in TABLES}
        self.shown: dict[AppId, Part] = {}
        self.behind: dict[AppId, tuple[str, tuple[str, ...]]] = {}
        self.stuck = set(stuck)
        self._without = frozenset(TABLES) - live.tables.keys()
        self._master = master
        self._held = held
        self._servers: dict[str, tuple[Server, ...]] = {}
        self._leaving: dict[str, set[str]] = {}
        self._claims = plan.claims_of(())
        self._waiting: dict[AppId, Part] = {}
        self._lending: dict[AppId, Part | None] = {}

    @property
    def leaving(self) -> bool:
        """Whether there are servers that only wait for the end of their sessions."""
        return any(self._leaving.values())

    def show_all(
        self, live: Live, wanted: Mapping[AppId, Part], shapes: Mapping[str, Shape]
    ) -> int:
        """Show all of `wanted` and nothing else, as far as run time goes; how many steps it took.

        To be called once, before `show`, with what was read back. Raises Disagreed,
        ProxyUnreachable.
        """
        if not self.structure:
            return 0
        ground = Ground(
            self.structure, self.tables, shapes, lambda id_: plan.servers_of(live.servers[id_])
        )
        untouched = self._settle(wanted, ground)
        parts = self.shown.values()
        servers = ServerPlan()
        pools = {pool.shape.id: pool for part in parts for pool in part.pools}
        for id_, those in live.servers.items():
            if id_ not in untouched:
                self._plan(servers, id_, pools.get(id_), those)
        changes = plan.all_table_changes(self.tables, plan.tables_of(parts))
        self._claims = plan.claims_of(parts)
        self._servers = {
            id_: pools[id_].servers if id_ in pools else ()
            for id_ in live.servers.keys() - untouched
        }
        return self._carry_out(servers, changes, pools.values())

    def show(self, wanted: Mapping[AppId, Part | None], shapes: Mapping[str, Shape]) -> int:
        """Show these apps, None: no longer; how many steps it took.

        Raises Disagreed, ProxyUnreachable.
        """
        if not self.structure:
            return 0
        # Whoever lends a route may have it back, or be rid of it.
        wanted = {**self._lending, **wanted}
        olds = [self.shown[app] for app in wanted if app in self.shown]
        untouched = self._settle(wanted, self.ground(shapes))
        news = [self.shown[app] for app in wanted if app in self.shown]
        pools = {pool.shape.id: pool for part in news for pool in part.pools}
        before = {pool.shape.id for part in olds for pool in part.pools}
        servers = ServerPlan()
        for id_ in (before | pools.keys()) - untouched:
            pool = pools.get(id_)
            now = self._servers.get(id_, ())
            same = pool is not None and pool.servers == now
            if same and pool is not None and self.structure.get(id_) == pool.structure:
                continue
            live = plan.live_servers(now, self._leaving.get(id_, ()))
            self._plan(servers, id_, pool, live)
            self._servers[id_] = () if pool is None else pool.servers
            if id_ in self._leaving:
                self._leaving[id_] -= {server.name for server in self._servers[id_]}
        changes = plan.table_changes(olds, news, self.tables, self._claims)
        return self._carry_out(servers, changes, pools.values())

    def delete_leaving(self) -> None:
        """Try again to delete the servers that had sessions. Raises as `show`."""
        servers = ServerPlan()
        for id_, names in self._leaving.items():
            plan.plan_removal(servers, id_, plan.live_servers((), names))
        self._delete(servers)

    def ground(self, shapes: Mapping[str, Shape]) -> Ground:
        """What this worker has."""
        return Ground(self.structure, self.tables, shapes, lambda id_: self._servers.get(id_, ()))

    def _settle(self, wanted: Mapping[AppId, Part | None], ground: Ground) -> frozenset[str]:
        """Let `shown` be what is to be shown; the backends that must be left as they are."""
        untouched: set[str] = set()
        for app, part in wanted.items():
            self.behind.pop(app, None)
            self._waiting.pop(app, None)
            if part is None:
                self.shown.pop(app, None)
                continue
            held = app in self._held
            reach = ground.reach(plan.kept_back(part, self.tables) if held else part)
            self.shown[app] = reach.part
            untouched |= reach.untouched
            if reach.cause and not held:
                digests = tuple(pool.shape.digest for pool in part.pools)
                self.behind[app] = (reach.cause, digests)
            if reach.part.entries != part.entries:
                self._waiting[app] = part
        lent = handover.lend(self._waiting.values(), self.shown, ground)
        self.shown |= lent.parts
        self._lending = {app: wanted.get(app) for app in lent.parts}
        return lent.untouched | untouched

    def _plan(
        self, servers: ServerPlan, id_: str, pool: Pool | None, live: Mapping[str, LiveServer]
    ) -> None:
        if self._is_stuck(id_):
            return
        if pool is None:
            plan.plan_removal(servers, id_, live)
        else:
            plan.plan_servers(servers, pool, self.structure[id_], live)

    def _is_stuck(self, subject: str) -> bool:
        return subject in self.stuck or EVERYTHING in self.stuck

    def _carry_out(self, servers: ServerPlan, changes: TableChanges, pools: Iterable[Pool]) -> int:
        if lacking := sorted(changes.keys() & self._without):
            log.warning("haproxy has not all maps: see haproxy.cfg.j2", maps=lacking)
        left_alone = {name for name in changes if self._is_stuck(name)} | self._without
        changes = {name: each for name, each in changes.items() if name not in left_alone}
        tables = plan.plan_tables(changes, self.tables)
        # One after the other: what follows must not be done when something before was refused.
        for steps in (servers.enter, tables, servers.leave):
            self._master.carry_out(self.processes.worker, steps)
        plan.apply_changes(self.tables, changes)
        for pool in pools:
            if not self._is_stuck(pool.shape.id):
                self.structure[pool.shape.id] = pool.structure
        self._delete(servers)
        return sum(map(len, (servers.enter, tables, servers.leave, servers.delete)))

    def _delete(self, servers: ServerPlan) -> None:
        answers = self._master.carry_out(self.processes.worker, servers.delete)
        for command, answer in answers:
            name = command.text.rpartition("/")[2]
            if answer.startswith("Server still"):
                self._leaving.setdefault(command.subject, set()).add(name)
            else:
                self._leaving.get(command.subject, set()).discard(name)

    # --- drift --------------------------------------------------------------------------------

    def differences(self, live: Live, but: Container[AppId] = ()) -> str:
        """What is not as we left it, "" when all is: for a log line. `but`: apps to leave out."""
        if live.processes.worker != self.processes.worker:
            return "worker"
        if live.structure != self.structure:
            return "structure"
        for name, table in self.tables.items():
            other = live.tables.get(name, {})
            if other != table or (name == REGEX and not _ordered(other)):
                return name
        for id_, servers in list(self._servers.items()):
            same = self._is_stuck(id_) or self._same(id_, servers, live.servers[id_])
            if not same and app_of(id_) not in but:
                return id_
        return ""

    def _same(self, id_: str, servers: tuple[Server, ...], live: Mapping[str, LiveServer]) -> bool:
        maxconn = int(self.structure[id_].partition(":")[2] or 0)
        for server in servers:
            running = live.get(server.name)
            if running is None or not shows(running, server) or not stands_at(running, server):
                return False
            if running.maxconn != maxconn and not limited_to(running, self._limit(id_)):
                return False
        rest = live.keys() - {server.name for server in servers} - self._leaving.get(id_, set())
        return not rest or rest <= self._own(id_)

    def _own(self, id_: str) -> frozenset[str]:
        pool = self._pool(id_)
        return pool.shape.own if pool else frozenset()

    def _limit(self, id_: str) -> int:
        pool = self._pool(id_)
        return pool.limit if pool else 0

    def _pool(self, id_: str) -> Pool | None:
        part = self.shown.get(app_of(id_))
        return next((pool for pool in (part.pools if part else ()) if pool.shape.id == id_), None)


def _ordered(table: Mapping[str, str]) -> bool:
    return tuple(table.items()) == plan.in_order(REGEX, table.items())
