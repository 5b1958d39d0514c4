"""Fixtures of the targets' tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.targets.edge import Edge


class NewEdge(Protocol):
    def __call__(self, **settings: Any) -> Edge: ...


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


def _need_haproxy() -> None:
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
