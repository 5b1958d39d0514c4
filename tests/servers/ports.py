"""Ports on loopback for servers, none handed out twice."""

from __future__ import annotations

import random
import socket
import threading

# Below the kernel's range for outgoing connections (from 32768), which would take one now and then.
_FIRST, _END = 15000, 32000

_lock = threading.Lock()
_handed_out: set[int] = set()


def free_port() -> int:
    """A TCP port free on 127.0.0.1, which no other caller gets while this process lives.

    Never one that was given before: a server that is stopping may hold its port for seconds.
    """
    with _lock:
        for _ in range(1000):
            port = random.randrange(_FIRST, _END)
            if port not in _handed_out and _is_free(port) and _claim(port):
                _handed_out.add(port)
                return port
    raise OSError(f"no free port between {_FIRST} and {_END}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _claim(port: int) -> bool:
    """Claim it among all test processes of this machine, by a name that goes when we go."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0vulcanized-tests-port-{port}")
    except OSError:
        claim.close()
        return False
    claim.detach()  # held open until this process ends
    return True
