"""An API server that answers with too little, under load: what it would take away stays.

ingress-nginx #3337 and haproxytech #257: trouble of the API server turns into 503. consul-template
#1131: an empty but valid answer wipes the config.
"""

from __future__ import annotations

from tests.daemons import ask, served_by
from tests.fakes.faults import EmptyList, HalfList
from tests.faults.guarding import PODS, held, listing, source, still_answered, told
from tests.faults.stage import OTHER_HOST, TODO_HOST, Stage
from tests.servers.wait import eventually


def test_ingress_nginx_3337_an_empty_list_after_410_takes_no_server_away(stage: Stage) -> None:
    with stage.load(), stage.load(TODO_HOST), listing(stage, EmptyList()):
        held(stage, 4)
        still_answered(stage)
        assert source(stage)["held"] == 4
        assert stage.daemon.metric("vulcanized_source_held_objects", source=PODS) == 4
        assert stage.daemon.page("/readyz")[0] == 200
        assert b"held: 4" in stage.daemon.page("/")[1]
        [line] = stage.daemon.log_lines("held")
        assert "--kill-whom=main -s USR1" in line["hint"]
        assert stage.daemon.command("status").returncode == 1
        # Events go on meanwhile.
        stage.add_pod("todo-blue-3")
        stage.served_by("todo-blue-1", "todo-blue-2", "todo-blue-3")
    held(stage, 0)
    stage.like_a_fresh_start()


def test_half_a_list_takes_no_server_away_and_a_told_one_does(stage: Stage) -> None:
    with listing(stage, HalfList()):  # by name: without both of todo's
        with stage.load():
            held(stage, 2)
            assert served_by(stage.daemon.url, TODO_HOST) == {"todo-blue-1", "todo-blue-2"}
            told(stage)
            held(stage, 0)
            eventually(lambda: ask(stage.daemon.url, TODO_HOST)[0] == 503, 10)
        assert served_by(stage.daemon.url, OTHER_HOST) == {"other-blue-1", "other-blue-2"}
        assert stage.daemon.log_lines("told to take what the sources say as it is")


def test_pods_that_are_really_gone_go_when_a_second_list_says_so(stage: Stage) -> None:
    stage.add_pod("todo-blue-3")
    with stage.load(), listing(stage, EmptyList()):
        held(stage, 5)
        for name in ("todo-blue-1", "todo-blue-2"):
            stage.pods.stop(name)
        held(stage, 3)
        assert served_by(stage.daemon.url, TODO_HOST, tries=8) == {"todo-blue-3"}


def test_pods_replaced_while_the_watch_was_lost_are_gone_at_once(stage: Stage) -> None:
    stage.cluster.stop()
    for number in (1, 2):
        stage.pods.stop(f"todo-blue-{number}")
        stage.cluster.store.delete("pods", "default", f"todo-blue-{number}")
        stage.add_pod(f"todo-blue-{number + 2}")
    stage.cluster.store.compact()
    with stage.load():
        stage.cluster.start()
        stage.served_by("todo-blue-3", "todo-blue-4")
    held(stage, 0)
    stage.like_a_fresh_start()
