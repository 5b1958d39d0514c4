"""`vulcanized-deployer serve` on a stage, and who asks it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.deployer.stage import Stage
from tests.servers.ports import free_port

WRITER, READER, OTHER = "w" * 24, "r" * 24, "o" * 24


@dataclass
class Service:
    port: int
    namespace: str

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str = WRITER,
        headers: dict[str, str] | None = None,
        **query: str,
    ) -> tuple[int, Any, str]:
        """Status, document, and where it leads."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        asked = "&".join(f"{k}={v}" for k, v in {"namespace": self.namespace, **query}.items())
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else None
        try:
            given = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request(method, f"{path}?{asked}", data, {**given, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
            location = answer.headers.get("Location", "")
            return answer.status, json.loads(text) if text else None, location
        finally:
            connection.close()

    def events(self, id_: str) -> list[dict[str, Any]]:
        """All that is said about a deployment, to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        path = f"/deployments/{id_}/events?namespace={self.namespace}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {READER}"})
        text = connection.getresponse().read().decode()
        connection.close()
        lines = [line for line in text.splitlines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]


@contextmanager
def serving(stage: Stage) -> Iterator[Service]:
    tokens = stage.folder / "tokens"
    tokens.write_text(
        f"# who may\n{WRITER} {stage.namespace}\n{READER} {stage.namespace} read\n{OTHER} other\n"
    )
    tokens.chmod(0o600)
    port = free_port()
    more = f'\nlisten = "127.0.0.1:{port}"\ntokens = "{tokens}"\n'
    if "tokens" not in stage.config.read_text():
        stage.config.write_text(stage.config.read_text() + more)
    process = stage.start("serve")
    service = Service(port, stage.namespace)
    process.wait_until(lambda: service.ask("GET", "/healthz", token="")[0] == 200, 30)
    try:
        yield service
    finally:
        process.stop()
