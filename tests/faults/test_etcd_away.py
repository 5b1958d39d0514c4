"""etcd away for a while: the proxy goes on, and what was missed is made up for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.faults.etcdfaults import is_stale, relists, unharmed
from tests.faults.stage import Stage


class Outage(NamedTuple):
    """`reachable`: by others, while it is away for us."""

    begin: Callable[[Stage], None]
    end: Callable[[Stage], object]
    reachable: bool


OUTAGES = {
    "killed and started with its data": Outage(
        lambda s: s.etcd.kill(), lambda s: s.etcd.start(), reachable=False
    ),
    "frozen": Outage(lambda s: s.etcd.pause(), lambda s: s.etcd.resume(), reachable=False),
    "cut off": Outage(lambda s: s.relay.refuse(), lambda s: s.relay.restore(), reachable=True),
    "in a black hole": Outage(
        lambda s: s.relay.mute(), lambda s: s.relay.restore(), reachable=True
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_while_etcd_is_away_pods_come_and_go_and_a_switch_takes_effect_on_its_return(
    stage: Stage, outage: str
) -> None:
    """python-etcd3 #134 #291: a watch whose server was away says nothing ever after.
    confd #671: a change between two watches is missed.
    """
    begin, end, reachable = OUTAGES[outage]
    stage.add_pod("todo-green-1", version="green")
    with unharmed(stage):
        begin(stage)
        assert "etcd at http://127.0.0.1:" in is_stale(stage)
        stage.add_pod("todo-blue-3")
        stage.remove_pod("todo-blue-1")
        stage.served_by("todo-blue-2", "todo-blue-3")
        if reachable:
            stage.activate("green")
        is_stale(stage, 3.0)
        end(stage)
        if not reachable:
            stage.activate("green")
        stage.served_by("todo-green-1")
    assert relists(stage) == 0
