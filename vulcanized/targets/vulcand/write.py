"""Writes what is planned in as many transactions as it takes, each under the leader's fence."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby, islice
from typing import Final

from vulcanized.etcd import Compare, EtcdClient, Put
from vulcanized.targets.vulcand.follow import Follower
from vulcanized.targets.vulcand.plan import Group, transactions
from vulcanized.targets.vulcand.tree import Tree

MANY: Final = 1000
"""Groups from which on they are not watched while they are written."""
AT_ONCE: Final = 4
"""Transactions that are on their way to etcd together, where their order does not matter."""


class Writer:
    """Writes to one tree, which knows of each transaction that was made."""

    def __init__(
        self, client: EtcdClient, tree: Tree, follower: Follower, stop: threading.Event
    ) -> None:
        self._client = client
        self._tree = tree
        self._follower = follower
        self._stop = stop

    def write(self, groups: Sequence[Group], fence: Compare) -> None:
        """Write all, in their order. Raises Conflict, SourceError; what was made by then stays."""
        self._tree.quiet.clear()
        if len(groups) > MANY:
            self._follower.rest()
        try:
            for kind, some in groupby(transactions(groups), self._free):
                if kind:
                    self._transact_at_once(some, fence)
                else:
                    for group in some:
                        self._transact(group, fence)
        finally:
            self._tree.quiet.set()

    def _free(self, group: Group) -> str:
        """What it is all of, backends or servers, if it may come before or after its like; else "".

        Backends need nothing that is not there, and where servers come their backends are there.
        """
        if group.compares:
            return ""
        kinds = {
            self._tree.keys.free(operation.key) if isinstance(operation, Put) else ""
            for operation in group.operations
        }
        return kinds.pop() if len(kinds) == 1 else ""

    def _transact_at_once(self, groups: Iterator[Group], fence: Compare) -> None:
        """Make some transactions in any order. All have ended when this raises what one raised."""
        first, *second = islice(groups, 2)
        if not second:
            self._transact(first, fence)
            return
        with ThreadPoolExecutor(AT_ONCE, "write") as pool:
            every = chain((first, *second), groups)
            made = [pool.submit(self._transact, group, fence) for group in every]
        for each in made:
            each.result()

    def _transact(self, group: Group, fence: Compare) -> None:
        revision = self._client.transact((fence, *group.compares), group.operations, self._stop)
        with self._tree.lock:
            self._tree.made(group.operations, revision)
