"""One worker of HAProxy: what it has in effect, and how it comes to show something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vulcanized.model import AppId, Server
from vulcanized.targets.haproxy import plan
from vulcanized.targets.haproxy.live import Live, LiveServer, shows, stands_at
from vulcanized.targets.haproxy.master import Master
from vulcanized.targets.haproxy.parts import REGEX, TABLES, Part, Pool, Shape
from vulcanized.targets.haproxy.plan import ServerPlan, TableChanges

EVERYTHING: Final = "*"
"""In `stuck`: run time is not used at all until the next reload."""


class Running:
    """Begins as what was read back; afterwards what was done and confirmed, answer by answer.

    `shown` are the apps as this worker shows them, `behind` those that it cannot show wholly
    without a reload, each with the cause and the shapes that it lacks. `stuck` are backends and
    maps that refused a command; they are left alone until the next reload.

    After Disagreed or ProxyUnreachable from `show_all` or `show` it is not known what is in
    effect: make another one from what is read back.
    """

    def __init__(self, master: Master, live: Live, stuck: Iterable[str] = ()) -> None:
        self.processes = live.processes
        self.structure = dict(live.structure)
        self.tables = {name: dict(live.tables.get(name, {})) for name in TABLES}
        self.shown: dict[AppId, Part] = {}
        self.behind: dict[AppId, tuple[str, tuple[str, ...]]] = {}
        self.stuck = set(stuck)
        self._master = master
        self._servers: dict[str, tuple[Server, ...]] = {}
        self._leaving: dict[str, set[str]] = {}
        self._claims = plan.claims_of(())

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
        reaches = {
            app: plan.reachable(part, self.structure, self.tables, shapes)
            for app, part in wanted.items()
        }
        self._settle(wanted, reaches)
        parts = self.shown.values()
        servers = ServerPlan()
        pools = {pool.shape.id: pool for part in parts for pool in part.pools}
        untouched = {id_ for reach in reaches.values() for id_ in reach.untouched}
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
        olds = [self.shown[app] for app in wanted if app in self.shown]
        reaches = {
            app: plan.reachable(part, self.structure, self.tables, shapes)
            for app, part in wanted.items()
            if part is not None
        }
        self._settle(wanted, reaches)
        news = [reach.part for reach in reaches.values()]
        pools = {pool.shape.id: pool for part in news for pool in part.pools}
        before = {pool.shape.id for part in olds for pool in part.pools}
        servers = ServerPlan()
        untouched = {id_ for reach in reaches.values() for id_ in reach.untouched}
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

    def _settle(
        self, wanted: Mapping[AppId, Part | None], reaches: Mapping[AppId, plan.Reach]
    ) -> None:
        for app, part in wanted.items():
            self.behind.pop(app, None)
            if part is None:
                self.shown.pop(app, None)
                continue
            reach = reaches[app]
            self.shown[app] = reach.part
            if reach.cause:
                digests = tuple(pool.shape.digest for pool in part.pools)
                self.behind[app] = (reach.cause, digests)

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
        changes = {name: each for name, each in changes.items() if not self._is_stuck(name)}
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

    def differences(self, live: Live) -> str:
        """What is not as we left it, "" when all is: for a log line."""
        if live.processes.worker != self.processes.worker:
            return "worker"
        if live.structure != self.structure:
            return "structure"
        for name, table in self.tables.items():
            other = live.tables.get(name, {})
            if other != table or (name == REGEX and not _ordered(other)):
                return name
        for id_, servers in self._servers.items():
            if not self._is_stuck(id_) and not self._same(id_, servers, live.servers[id_]):
                return id_
        return ""

    def _same(self, id_: str, servers: tuple[Server, ...], live: Mapping[str, LiveServer]) -> bool:
        for server in servers:
            running = live.get(server.name)
            if running is None or not shows(running, server) or not stands_at(running, server):
                return False
        rest = live.keys() - {server.name for server in servers} - self._leaving.get(id_, set())
        return not rest or rest <= self._own(id_)

    def _own(self, id_: str) -> frozenset[str]:
        for part in self.shown.values():
            for pool in part.pools:
                if pool.shape.id == id_:
                    return pool.shape.own
        return frozenset()


def _ordered(table: Mapping[str, str]) -> bool:
    return tuple(table.items()) == plan.in_order(REGEX, table.items())
