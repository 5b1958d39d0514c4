"""What an API server asks a kubelet for, over TLS: the logs of its pods' containers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Logs(NamedTuple):
    """The log of each container of a pod, by name; `waiting`: why none of them has begun."""

    containers: Mapping[str, Sequence[str]]
    waiting: str = ""


class KubeletApi:
    """`GET /containerLogs/NAMESPACE/POD/CONTAINER?tailLines=` on a free port of 127.0.0.1.

    `find` gives the logs of a pod, None where there is no such pod.
    """

    def __init__(self, cert: str, key: str, find: Callable[[str, str], Logs | None]) -> None:
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(cert, key)
        self._find = find
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Answer from now on: the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            status, text = self._answer(head.split(b" ")[1].decode("latin-1"))
            body = text.encode()
            writer.write(
                f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()

    def _answer(self, target: str) -> tuple[HTTPStatus, str]:
        url = urlsplit(target)
        kind, *place = [unquote(part) for part in url.path.strip("/").split("/")]
        if kind != "containerLogs" or len(place) != 3:
            return HTTPStatus.NOT_FOUND, "only logs are here"
        namespace, pod, container = place
        logs = self._find(namespace, pod)
        if logs is None or container not in logs.containers:
            return HTTPStatus.NOT_FOUND, f'container "{container}" of pod "{pod}" not found'
        if logs.waiting:
            what = f'container "{container}" in pod "{pod}"'
            return HTTPStatus.BAD_REQUEST, f"{what} is waiting to start: {logs.waiting}"
        lines = logs.containers[container]
        last = int(parse_qs(url.query).get("tailLines", [str(len(lines))])[0])
        return HTTPStatus.OK, "".join(f"{line}\n" for line in lines[max(0, len(lines) - last) :])
