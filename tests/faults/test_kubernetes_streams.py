"""Watches that end, fall silent or are spoiled, and lists that are odd."""

from __future__ import annotations

import json

import pytest

from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.faults import apifaults
from tests.faults.apifaults import Todo, broken, relists
from tests.faults.guarding import PODS, source
from tests.faults.stage import Stage
from tests.servers.wait import eventually


@pytest.mark.parametrize("fault", [faults.EndAfterEach(), faults.Unchunked(), faults.Compressed()])
def test_traefik_4797_streams_of_any_shape_bring_every_change(
    impatient: tuple[Stage, Todo], fault: Fault
) -> None:
    stage, todo = impatient
    before = relists(stage)
    with apifaults.unharmed(stage), broken(stage, fault):
        for _ in range(2):
            todo.replace()
            todo.served()
        stage.add_pod("todo-green-1", version="green")
        stage.activate("green")
        stage.served_by("todo-green-1")
        stage.activate("blue")
        todo.served()
        stage.remove_pod("todo-green-1")
    assert relists(stage) == before


def test_confd_629_a_stream_that_is_open_and_dead_is_given_up(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    with apifaults.unharmed(stage):
        with broken(stage, faults.HalfOpen(), verb="watch", plural="pods"):
            todo.replace()
            eventually(lambda: source(stage, PODS)["age"] > 1.5, 30, "its silence to show")
        todo.served()


def test_bookmarks_without_an_event_keep_a_quiet_stream_alive(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    with apifaults.unharmed(stage):
        watches = stage.cluster.count("watch")
        for number in range(15):
            stage.cluster.bookmark()
            eventually(lambda: source(stage, PODS)["age"] < 0.3, 10, f"bookmark {number}")
        assert stage.cluster.count("watch") - watches <= 4
        todo.replace()
        todo.served()


def test_garbage_in_one_object_costs_that_object_and_is_told(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    name = todo.names[1]

    def spoiled(item: bytes) -> bytes:
        return item.replace(b'"podIP":', b'"podIP":7,"was":')

    with apifaults.unharmed(stage):
        with broken(stage, faults.Garbage(name, spoiled), plural="pods"):
            stage.cluster.store.patch("pods", "default", name, {"metadata": {"note": "x"}})
            todo.replace()
            todo.served()  # the last good word about it holds
            assert source(stage, PODS)["state"] == "synced"
            metric = "vulcanized_source_skipped_objects_total"
            eventually(lambda: stage.daemon.metric(metric, source=PODS) >= 1, 30, metric)
        eventually(lambda: relists(stage, "unreadable") >= 1, 30, "a list about it")
    lines = stage.daemon.log_lines("object skipped")
    assert [line["error"].partition(":")[0] for line in lines] == [f"Pod default/{name}"]


def test_a_list_that_goes_back_in_time_is_caught_up_with_and_nobody_gone_is_asked(
    impatient: tuple[Stage, Todo],
) -> None:
    stage, todo = impatient
    version, items = stage.cluster.store.select("pods", "", lambda _: True)
    todo.replace()
    todo.served()
    with (
        apifaults.unharmed(stage),
        stage.cluster.suffering(
            faults.OldList(version, items), verb="list", plural="pods", times=1
        ),
    ):
        before = relists(stage)
        with broken(stage, faults.expired(), verb="watch", plural="pods", times=1):
            eventually(lambda: relists(stage) > before, 30, "the old list")
        todo.served()


def test_an_object_that_is_in_a_list_twice_is_there_once(impatient: tuple[Stage, Todo]) -> None:
    stage, todo = impatient

    class Twice(Fault):
        def page(self, body: bytes) -> bytes:
            page = json.loads(body)
            return json.dumps({**page, "items": [*page["items"], *page["items"]]}).encode()

    with apifaults.unharmed(stage), stage.cluster.suffering(Twice(), verb="list", plural="pods"):
        before = relists(stage)
        with broken(stage, faults.expired(), verb="watch", plural="pods", times=1):
            eventually(lambda: relists(stage) > before, 30, "the list")
        todo.replace()
        todo.served()
