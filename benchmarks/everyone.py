"""Every pod at once: one HTTP server for all addresses of 127/8.

    python -m benchmarks.everyone

It says its port on its standard output and ends with its standard input. `X-Pod` in its answers is
the address that was asked, so 50,000 pods need neither 50,000 processes nor 50,000 sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]


class _Connection(asyncio.Protocol):
    """Answers every head that comes in; requests have no bodies here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address = transport.get_extra_info("sockname")[0]
        self._answer = f"HTTP/1.1 200 OK\r\nX-Pod: {address}\r\nContent-Length: 0\r\n\r\n".encode()
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._seen = (self._seen + data).split(b"\r\n\r\n")
        self._transport.write(self._answer * len(heads))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("0.0.0.0", 0), backlog=1024)
    port = listener.getsockname()[1]
    await loop.create_server(_Connection, sock=listener, backlog=1024)
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def everyone() -> Iterator[int]:
    """Start it; the port that it has on every address of 127/8."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.everyone"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        process_group=0,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
