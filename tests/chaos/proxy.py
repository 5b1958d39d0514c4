"""What the running proxy knows: which pods it would send requests to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from vulcanized.targets.haproxy.master import Master

Address = tuple[str, int]


class Known(NamedTuple):
    """The worker that takes connections: its maps, and by backend the servers that it would use."""

    worker: int
    tables: Mapping[str, Mapping[str, str]]
    servers: Mapping[str, frozenset[Address]]

    def active(self, app: str) -> set[str]:
        """The backends that take an app's requests."""
        value = self.tables["active.map"].get(f"default/{app}", "")
        if value == "split":
            slots = self.tables["split.map"].items()
            return {id_ for key, id_ in slots if key.rpartition(":")[0] == f"default/{app}"}
        return {value} if ":" in value else set()


def known(master: Master) -> Known:
    """Ask it. Raises ProxyUnreachable."""
    live = master.read_back()
    servers: dict[str, set[Address]] = {id_: set() for id_ in live.servers}
    text = master.ask(f"@!{live.processes.worker} show servers state\n")
    for line in text.splitlines()[2:]:
        fields = line.split(" ")
        if len(fields) < 19 or fields[1] not in servers:
            continue
        runs, in_use, weight = fields[5] == "2", fields[6] == "0", int(fields[7])
        if runs and in_use and weight:
            servers[fields[1]].add((fields[4], int(fields[18])))
    frozen = {id_: frozenset(addresses) for id_, addresses in servers.items()}
    return Known(live.processes.worker, live.tables, frozen)


def files_say_the_same(known: Known, directory: Path) -> bool:
    """Whether a reload by somebody else would load what runs now."""
    for name in ("active.map", "split.map", "hosts.map", "routes-prefix.map"):
        entries = (line.partition(" ") for line in (directory / name).read_text().splitlines())
        if {key: value for key, _, value in entries} != dict(known.tables[name]):
            return False
    written = set(_servers((directory / "haproxy.cfg").read_text().splitlines()))
    running = {(id_, address) for id_, all_ in known.servers.items() for address in all_}
    return running <= written and {id_ for id_, _ in written} <= set(known.servers)


def _servers(lines: Iterable[str]) -> Iterable[tuple[str, Address]]:
    backend = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["backend"]:
            backend = words[1]
        if words[:1] == ["server"] and " weight 0" not in line:
            address, _, port = words[2].rpartition(":")
            yield backend, (address, int(port))
