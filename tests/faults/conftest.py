"""One stage for each test of a fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.apifaults import Todo
from tests.faults.impatient import PROGRAM as IMPATIENT
from tests.faults.killing import Killer
from tests.faults.stage import Stage
from tests.faults.stage import stage as made
from tests.servers.fixtures import NewEtcd, missing
from tests.servers.programs import ServerMissing, find_program


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Two apps served, the daemon ready, nothing failing yet."""
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    with made(tmp_path) as started:
        yield started


@pytest.fixture
def stage_of_three(tmp_path: Path, new_etcd: NewEtcd) -> Iterator[Stage]:
    """An etcd of three members, all known to the daemon, which talks to the first."""
    try:
        find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    with made(tmp_path, etcd=new_etcd(members=3)) as started:
        started.add_pod("todo-green-1", version="green")
        yield started


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Todo]]:
    """One for a whole file, whose daemon soon gives an API server up; and the pods of `todo`."""
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    with made(tmp_path_factory.mktemp("stage"), program=IMPATIENT) as started:
        yield started, Todo(started)


@pytest.fixture
def impatient_stage(tmp_path: Path) -> Iterator[Stage]:
    """The stage with a daemon that soon gives an API server up."""
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    with made(tmp_path, program=IMPATIENT) as started:
        yield started


@pytest.fixture
def killer(tmp_path: Path) -> Killer:
    """Says when the daemon of `mortal_stage` is to die."""
    return Killer(tmp_path / "killer")


@pytest.fixture
def mortal_stage(tmp_path: Path, killer: Killer) -> Iterator[Stage]:
    """The stage with a daemon that can be killed; templates can be overridden in `templates`."""
    try:
        find_program("haproxy")
        find_program("etcd")
    except ServerMissing as reason:
        missing(reason)
    templates = tmp_path / "templates"
    templates.mkdir()
    target = f'start = true\ntemplates = "{templates}"'
    with made(tmp_path, program=killer.program, target=target) as started:
        yield started
