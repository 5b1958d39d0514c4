"""Values for tests, with everything that a test does not speak of at a sensible default."""

from __future__ import annotations

import json
from typing import Any

from vulcanized.build import Configured, build, configure
from vulcanized.model import (
    AppId,
    Built,
    Controller,
    Document,
    Observed,
    Pod,
    Port,
    Remembered,
)

TODO = AppId("default", "todo")


def pod(
    name: str,
    version: str = "blue",
    *,
    ip: str = "10.0.0.1",
    app: AppId = TODO,
    ports: tuple[Port, ...] = (Port("http", 8080),),
    ready: bool = True,
    terminating: bool = False,
    finished: bool = False,
    uid: str | None = None,
) -> Pod:
    """A ready pod, its uid made from its name."""
    return Pod(
        uid=uid or f"uid-{name}",
        namespace=app.namespace,
        name=name,
        app=app.name,
        version=version,
        ip=ip,
        ports=ports,
        ready=ready,
        terminating=terminating,
        finished=finished,
    )


def controller(
    name: str,
    version: str = "blue",
    *,
    app: AppId = TODO,
    kind: str = "ReplicationController",
    desired: int = 1,
    created: str = "2026-01-01T00:00:00Z",
    config: dict[str, Any] | None = None,
) -> Controller:
    """A controller of one replica."""
    return Controller(
        uid=f"uid-{kind}-{name}",
        kind=kind,
        namespace=app.namespace,
        name=name,
        app=app.name,
        version=version,
        desired=desired,
        created=created,
        config=None if config is None else json.dumps(config),
    )


def config(created: int = 1, **fields: Any) -> Document:
    """An app config that answers todo.example.com, and more."""
    text = json.dumps({"hosts": ["todo.example.com"], **fields})
    return Document(text, "etcd /vulcanized/apps/default/todo", created)


def observed(
    *pods: Pod,
    controllers: tuple[Controller, ...] = (),
    config: Document | None = None,
    activation: str | None = None,
    app: AppId = TODO,
) -> Observed:
    """What the sources say of one app."""
    document = None
    if activation is not None:
        document = Document(activation, f"etcd /vulcanized/active/{app}")
    return Observed(app, pods, controllers, config, document)


def built(parts: Observed, remembered: Remembered | None = None) -> Built:
    """Configure and build in one go."""
    memory = remembered or Remembered()
    configured: Configured = configure(parts, memory)
    return build(parts, configured, memory)
