"""What goes to etcd and comes from it, as frozen values, and the pure parts of talking to it.

Keys are text: bytes that are no UTF-8 are shown as `\\xff`, so that every key can be printed. Such
a key can be told apart from ours, and that is all that anybody needs of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_OPERATIONS = 128
"""Operations in one transaction: etcd's `--max-txn-ops` unless told otherwise."""

MAX_TRANSACTION_BYTES = 1024 * 1024
"""Keys and values in one transaction, with room to etcd's `--max-request-bytes` (1.5 MiB)."""


class KeyValue(NamedTuple):
    """A key as it stands. `create_revision` changes when it is deleted and made anew."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


class Listing(NamedTuple):
    """All keys under a prefix as they were at `revision`, sorted by key."""

    items: tuple[KeyValue, ...]
    revision: int


class Event(NamedTuple):
    """A key was put, or deleted: then `value` is None and `create_revision` 0."""

    key: str
    value: bytes | None
    create_revision: int
    mod_revision: int


class Batch(NamedTuple):
    """What one message of a watch says: all under `prefix` up to `revision` has been delivered.

    Without events it is a sign of life; with an empty `prefix` it is no more than that.
    """

    prefix: str
    events: tuple[Event, ...]
    revision: int


class Compare(NamedTuple):
    """A condition: the key was last changed at `mod_revision`; 0: there is no such key."""

    key: str
    mod_revision: int


class Put(NamedTuple):
    """Write a key. With a `lease` it goes when the lease ends."""

    key: str
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """Delete a key; nothing happens if it is not there."""

    key: str


Operation = Put | Delete


def prefix_end(prefix: str) -> bytes:
    """The first key after all that start with `prefix`, which must not be empty."""
    # The last byte of UTF-8 is never 0xff.
    data = prefix.encode()
    return data[:-1] + bytes([data[-1] + 1])


def chunks(operations: Iterable[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Cut a row of operations into transactions that etcd takes, in order.

    A transaction has at most `MAX_OPERATIONS` and `MAX_TRANSACTION_BYTES` (an operation that is
    larger goes alone, for etcd to refuse), and no key twice: etcd takes that for a mistake.
    """
    chunk: list[Operation] = []
    keys: set[str] = set()
    size = 0
    for operation in operations:
        weight = len(operation.key.encode())
        weight += len(operation.value) if isinstance(operation, Put) else 0
        full = len(chunk) == MAX_OPERATIONS or size + weight > MAX_TRANSACTION_BYTES
        if chunk and (full or operation.key in keys):
            yield tuple(chunk)
            chunk, keys, size = [], set(), 0
        chunk.append(operation)
        keys.add(operation.key)
        size += weight
    if chunk:
        yield tuple(chunk)
