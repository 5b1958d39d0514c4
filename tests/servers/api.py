"""A few lines of Kubernetes client for the tests themselves: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import urllib3

MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server's refusal: `status` is the HTTP status, `reason` its word such as NotFound."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class Api:
    """Requests by path (`/api/v1/pods`) as one user; safe to share between threads.

    Every call raises `ApiError` for an answer that is not 2xx, and urllib3's `HTTPError` if there
    is none within `timeout` seconds. Nothing is tried twice.
    """

    def __init__(self, url: str, ca: Path, token: str, *, timeout: float = 15.0) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._pool = urllib3.PoolManager(
            ca_certs=str(ca),
            headers=headers,
            timeout=urllib3.Timeout(timeout),
            retries=False,
            maxsize=8,
        )

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.request("POST", path, body)

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A JSON merge patch: given fields replace, null removes, lists are replaced whole."""
        return self.request("PATCH", path, body, content_type=MERGE_PATCH)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`body` may be DeleteOptions, such as `{"gracePeriodSeconds": 0}`."""
        return self.request("DELETE", path, body)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        target = self.url + path + (f"?{urlencode(query)}" if query else "")
        headers = {**self._pool.headers, "Content-Type": content_type}
        data = json.dumps(body).encode() if body is not None else None
        response = self._pool.request(method, target, body=data, headers=headers)
        answer = _decoded(response.data)
        if not 200 <= response.status < 300:
            reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
            raise ApiError(response.status, reason, message)
        return answer

    def close(self) -> None:
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _decoded(data: bytes) -> dict[str, Any]:
    """The answer's object; one of plain text (health checks, some refusals) as its message."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    return {"message": data.decode(errors="replace").strip()}
