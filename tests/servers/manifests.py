"""The Kubernetes objects that tests and benchmarks create, as small as they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def pod_spec(ports: Sequence[int] = (8080,), *, grace: int = 30) -> Json:
    """One container with these ports; `grace` is terminationGracePeriodSeconds."""
    container = {
        "name": "app",
        "image": "tests/app:1",
        "ports": [{"name": f"port-{port}", "containerPort": port} for port in ports],
    }
    return {"containers": [container], "terminationGracePeriodSeconds": grace}


def pod(
    name: str,
    labels: Mapping[str, str] | None = None,
    *,
    node: str = "",
    spec: Json | None = None,
) -> Json:
    """A pod without a controller; with `node`, it is bound without a scheduler."""
    bound = {"nodeName": node} if node else {}
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"metadata": metadata, "spec": {**(spec or pod_spec()), **bound}}


def replication_controller(
    app: str,
    version: str = "1",
    replicas: int = 1,
    *,
    annotations: Mapping[str, str] | None = None,
    spec: Json | None = None,
) -> Json:
    """Named `<app>-<version>`, its pods labelled with app and version."""
    labels = {"app": app, "version": version}
    return {
        "metadata": _metadata(f"{app}-{version}", labels, annotations),
        "spec": {
            "replicas": replicas,
            "selector": labels,
            "template": {"metadata": {"labels": labels}, "spec": spec or pod_spec()},
        },
    }


def deployment(
    app: str,
    version: str = "1",
    replicas: int = 1,
    *,
    annotations: Mapping[str, str] | None = None,
    spec: Json | None = None,
) -> Json:
    """Named `<app>`; to roll it, patch it with another version's `spec`."""
    labels = {"app": app, "version": version}
    return {
        "metadata": _metadata(app, labels, annotations),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": labels}, "spec": spec or pod_spec()},
        },
    }


def _metadata(name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None) -> Json:
    return {"name": name, "labels": dict(labels), "annotations": dict(annotations or {})}
