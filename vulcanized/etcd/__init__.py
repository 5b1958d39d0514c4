"""python-etcd3 made safe: the only package that imports `etcd3`.

Its endpoints, stubs and messages are used; what its client does with them is not. That shares one
mutable "current endpoint" between threads, loses what etcd said about an error, never logs in
again, and has a watch that neither resumes nor tells of a refusal. So deadlines, fail-over, login,
paging, watching and leases are ours: `docs/decisions/etcd.md`.
"""

import os

# Its core writes lines of its own to standard error, among ours; its errors reach us all the same.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from vulcanized.etcd.client import EtcdClient, connect
from vulcanized.etcd.leases import Held, Leadership, Lease, acquire
from vulcanized.etcd.values import (
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    Batch,
    Compare,
    Delete,
    Event,
    KeyValue,
    Listing,
    Operation,
    Put,
)
from vulcanized.etcd.watch import Watch

__all__ = [
    "MAX_OPERATIONS",
    "MAX_TRANSACTION_BYTES",
    "Batch",
    "Compare",
    "Delete",
    "EtcdClient",
    "Event",
    "Held",
    "KeyValue",
    "Leadership",
    "Lease",
    "Listing",
    "Operation",
    "Put",
    "Watch",
    "acquire",
    "connect",
]
