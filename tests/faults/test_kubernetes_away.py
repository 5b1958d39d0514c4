"""The API server away for a while: the proxy goes on, and what was missed is made up for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.fakes import faults
from tests.faults import apifaults
from tests.faults.apifaults import Todo, broken, is_stale, relists
from tests.faults.stage import Stage


@contextlib.contextmanager
def killed(stage: Stage) -> Iterator[None]:
    stage.cluster.stop()
    yield
    stage.cluster.start()


@contextlib.contextmanager
def frozen(stage: Stage) -> Iterator[None]:
    stage.cluster.freeze()
    yield
    stage.cluster.thaw()


OUTAGES: dict[str, tuple[Callable[[Stage], contextlib.AbstractContextManager[None]], str]] = {
    "killed": (killed, "Connection refused"),
    "frozen": (frozen, "no answer within"),
    "mute": (lambda s: broken(s, faults.Mute()), "no answer within"),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_ingress_nginx_3337_3639_while_it_is_away_its_last_word_holds_and_dead_pods_cost_a_retry(
    impatient: tuple[Stage, Todo], outage: str
) -> None:
    stage, todo = impatient
    begin, told = OUTAGES[outage]
    before = relists(stage)
    with apifaults.unharmed(stage):
        with begin(stage):
            todo.replace()
            stage.served_by(todo.names[0])  # the one that is known of and lives
            is_stale(stage, told)
        todo.served()
    assert relists(stage) == before


def test_a_server_that_forgot_our_place_while_etcd_is_away_too_is_listed_again(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    stage.add_pod("todo-green-1", version="green")
    with apifaults.unharmed(stage):
        stage.cluster.stop()
        stage.etcd.kill()
        todo.replace()
        stage.cluster.store.compact()
        is_stale(stage)
        is_stale(stage, name="etcd")
        stage.cluster.start()
        todo.served()
        assert relists(stage) == 1
        stage.etcd.start()
        stage.activate("green")
        stage.served_by("todo-green-1")
