"""Objects for tests, as an API server would have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.fakes.store import Item, Object

_PLACE = "@@@@"


def pod(
    name: str,
    app: str = "todo",
    version: str = "1",
    *,
    ip: str = "10.1.0.1",
    ready: bool = True,
    namespace: str = "default",
    **metadata: Any,
) -> Object:
    """A running pod, ports http (8080) and healthcheck (8081); `metadata` is added to its own."""
    ports = [
        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
        {"name": "healthcheck", "containerPort": 8081, "protocol": "TCP"},
    ]
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app": app, "version": version},
            **metadata,
        },
        "spec": {"containers": [{"name": "main", "image": "todo", "ports": ports}]},
        "status": status(ready=ready, ip=ip),
    }


def status(*, ready: bool = True, ip: str = "10.1.0.1", phase: str = "Running") -> Object:
    """A pod's status."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}


def controller(
    kind: str, name: str, app: str = "todo", version: str = "1", *, replicas: int = 1
) -> Object:
    """A ReplicationController, ReplicaSet or Deployment."""
    template = {"metadata": {"labels": {"app": app, "version": version}}, "spec": {}}
    return {
        "kind": kind,
        "apiVersion": "v1" if kind == "ReplicationController" else "apps/v1",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"replicas": replicas, "template": template},
        "status": {},
    }


def many_pods(
    count: int, *, apps: int = 1000, padding: int = 1000, network: int = 10
) -> Iterator[Item]:
    """`count` ready pods spread over `apps` apps, each `padding` bytes larger than it need be.

    Their addresses are in `network`/8: 127 where somebody answers. Their JSON is made when it is
    asked for: 50,000 take 30 MB and a second.
    """
    labels = [{"app": f"app-{number}", "version": "1"} for number in range(apps)]
    template = pod(_PLACE, _PLACE, uid=_PLACE, resourceVersion=_PLACE, ip=_PLACE)
    template["status"]["podIPs"] = []
    template["metadata"]["annotations"] = {"example.com/padding": "x" * padding}
    parts = json.dumps(template, separators=(",", ":")).split(_PLACE)
    for number in range(count):
        app = labels[number % apps]
        name = f"pod-{number:06}"
        ip = f"{network}.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        make: Callable[[int], bytes] = partial(_fill, parts, (name, app["app"], number, ip))
        yield Item("default", name, app, 0, make)


def _fill(parts: list[str], pod: tuple[str, str, int, str], version: int) -> bytes:
    name, app, number, ip = pod
    uid = f"00000000-0000-4000-8000-{number:012}"
    values = (name, app, uid, str(version), ip)
    text = parts[0]
    for value, part in zip(values, parts[1:], strict=True):
        text += value + part
    return text.encode()
