"""What must change between what is there and what should be. Pure.

Targets put the changes into an order that is safe for their proxy: what is added goes first, what
is removed last, and whatever sends traffic somewhere changes in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Entries to add, entries with another value, and keys to remove; each in order of `wanted`
    or, for `remove`, of what is there.
    """

    add: tuple[tuple[str, str], ...] = ()
    change: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.remove)

    def __len__(self) -> int:
        return len(self.add) + len(self.change) + len(self.remove)


def key_changes(actual: Mapping[str, str], wanted: Mapping[str, str]) -> KeyChanges:
    """What turns `actual` into `wanted`."""
    return KeyChanges(
        tuple((key, value) for key, value in wanted.items() if key not in actual),
        tuple((key, value) for key, value in wanted.items() if actual.get(key, value) != value),
        tuple(key for key in actual if key not in wanted),
    )
