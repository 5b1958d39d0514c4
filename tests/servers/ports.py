"""Ports on loopback for servers, none handed out twice."""

from __future__ import annotations

import random
import socket
import threading

# Below the kernel's range for outgoing connections (from 32768), which would take one now and then.
_FIRST, _END = 15000, 32000
_BLOCK = 25
"""Ports that are claimed at once: each claim is a descriptor, and many systems allow 1024."""

_lock = threading.Lock()
_claimed: list[int] = []


def free_port() -> int:
    """A TCP port free on 127.0.0.1, which no other caller gets while this process lives.

    Never one that was given before: a server that is stopping may hold its port for seconds.
    """
    with _lock:
        while _claimed or _claim():
            port = _claimed.pop()
            if _is_free(port):
                return port
    raise OSError(f"no free port between {_FIRST} and {_END}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _claim() -> bool:
    """Claim some among all test processes of this machine, by a name that goes when we go."""
    starts = list(range(_FIRST, _END, _BLOCK))
    random.shuffle(starts)
    for start in starts:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0vulcanized-tests-ports-{start}")
        except OSError:
            claim.close()
            continue
        claim.detach()  # held open until this process ends
        _claimed.extend(range(start, start + _BLOCK))
        random.shuffle(_claimed)
        return True
    return False
