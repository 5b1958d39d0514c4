"""Fixtures of the targets' tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.targets.edge import Edge
from tests.targets.nginxedge import NginxEdge


class NewEdge(Protocol):
    def __call__(self, **settings: Any) -> Edge: ...


class NewNginx(Protocol):
    def __call__(self, **settings: Any) -> NginxEdge: ...


@pytest.fixture
def new_edge() -> Iterator[NewEdge]:
    """Make an Edge with settings of one's own; it ends with the test."""
    _need_haproxy()
    with ExitStack() as stack:

        def make(**settings: Any) -> Edge:
            return stack.enter_context(Edge(**settings))

        yield make


@pytest.fixture
def edge(new_edge: NewEdge) -> Edge:
    """A target that starts its HAProxy with the first change."""
    return new_edge()


@pytest.fixture(scope="module")
def module_edge() -> Iterator[Edge]:
    """One Edge for all tests of a module: leave nothing behind."""
    _need_haproxy()
    with Edge() as edge:
        yield edge


def nginx_edge(**settings: Any) -> NginxEdge:
    """A target that starts its nginx with the first change; whoever makes it ends it."""
    _need("nginx")
    return NginxEdge(**settings)


@pytest.fixture
def new_nginx() -> Iterator[NewNginx]:
    """Make a NginxEdge with settings of one's own; it ends with the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> NginxEdge:
            return stack.enter_context(nginx_edge(**settings))

        yield make


@pytest.fixture
def nginx(new_nginx: NewNginx) -> NginxEdge:
    """A target that starts its nginx with the first change."""
    return new_nginx()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that every user can reach. Pytest's own are closed to others by each session that
    starts, also beside this one.
    """
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp", ignore_cleanup_errors=True) as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def _need_haproxy() -> None:
    _need("haproxy")


def _need(program: str) -> None:
    try:
        find_program(program)
    except ServerMissing as reason:
        missing(reason)
