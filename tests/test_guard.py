"""Which removals are held: tables and properties, no clock and no I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factory import TODO, controller, pod
from vulcanized.guard import (
    CONTROLLERS,
    DOCUMENTS,
    PODS,
    Holding,
    Patience,
    Stored,
    excessive,
    replaced,
    takes_traffic,
)
from vulcanized.model import AppId, Document, Pod, Port

SHOP = AppId("default", "shop")


def crowd(app: AppId, count: int) -> dict[str, Pod]:
    made = (pod(f"{app.name}-{n}", ip=f"10.0.{len(app.name)}.{n}", app=app) for n in range(count))
    return {each.uid: each for each in made}


def held(before: dict[str, Pod], gone: set[str], most: float) -> set[str]:
    missing = {uid: before[uid] for uid in gone}
    tally = PODS.tally
    return excessive(missing, tally(before.values()), tally(missing.values()), PODS.groups, most)


@pytest.mark.parametrize(
    ("pods", "gone", "most", "expected"),
    [
        (8, 4, 0.5, 0),  # exactly the share is no more than it
        (8, 5, 0.5, 5),
        (1, 1, 0.5, 1),
        (2, 1, 0.5, 0),
        (8, 0, 0.0, 0),
        (8, 1, 0.0, 1),  # 0 holds every removal
        (8, 8, 1.0, 0),  # 1 holds none
        (8, 8, 0.99, 8),
    ],
)
def test_more_than_the_share_of_an_app_is_held(
    pods: int, gone: int, most: float, expected: int
) -> None:
    before = crowd(TODO, pods)
    # So many others that the whole is never at stake.
    others = crowd(SHOP, 100)
    assert len(held(before | others, set(list(before)[:gone]), most)) == expected


def test_an_app_that_loses_little_is_not_held_for_one_that_loses_much() -> None:
    todo, shop = crowd(TODO, 10), crowd(SHOP, 4)
    gone = {*list(todo)[:2], *list(shop)[:3]}
    assert held(todo | shop, gone, 0.5) == set(list(shop)[:3])


def test_more_than_the_share_of_all_is_held_whatever_each_app_loses() -> None:
    big, small = crowd(TODO, 10), crowd(SHOP, 4)
    gone = {*big, *list(small)[:1]}
    assert held(big | small, gone, 0.5) == gone


@given(st.data())
def test_whatever_vanishes_no_more_than_the_share_goes_at_once(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    before: dict[str, Pod] = {}
    for number, size in enumerate(sizes):
        before |= crowd(AppId("default", "a" * (number + 1)), size)
    gone = data.draw(st.sets(st.sampled_from(sorted(before)))) if before else set()
    most = data.draw(st.floats(0, 1))
    kept = held(before, gone, most)
    assert kept <= gone
    removed = gone - kept
    assert len(removed) <= most * len(before)
    for app in {(each.namespace, each.app) for each in before.values()}:
        of_app = {uid for uid, each in before.items() if (each.namespace, each.app) == app}
        assert len(removed & of_app) <= most * len(of_app)
        # Nothing is held without a reason.
        if kept & of_app and len(gone & of_app) <= most * len(of_app):
            assert len(gone) > most * len(before)


def test_only_pods_that_take_new_requests_count() -> None:
    assert takes_traffic(pod("a"))
    assert not takes_traffic(pod("a", ready=False))
    assert not takes_traffic(pod("a", ip=""))
    assert not takes_traffic(pod("a", terminating=True))
    assert not takes_traffic(pod("a", finished=True))


def test_one_controller_for_another_is_no_loss() -> None:
    assert CONTROLLERS.net
    blue, green = controller("todo-blue"), controller("todo-green", "green")
    known, listed = CONTROLLERS.tally([blue]), CONTROLLERS.tally([green])
    assert excessive({blue.uid: blue}, known, known - listed, CONTROLLERS.groups, 0.5) == set()


def test_documents_count_by_folder_not_by_app() -> None:
    apps = [AppId("default", f"app-{n}") for n in range(4)]
    stored = [Stored(folder, app, Document("{}", "")) for folder in ("a", "c") for app in apps]
    known = DOCUMENTS.tally(stored)
    missing = {DOCUMENTS.key(each): each for each in stored[:1]}
    lost = DOCUMENTS.tally(missing.values())
    assert excessive(missing, known, lost, DOCUMENTS.groups, 0.5) == set()
    missing = {DOCUMENTS.key(each): each for each in (*stored[:3], stored[4])}
    lost = DOCUMENTS.tally(missing.values())
    assert excessive(missing, known, lost, DOCUMENTS.groups, 0.5) == {
        ("a", app) for app in apps[:3]
    }


# --- addresses that are used again ------------------------------------------------------------


def taken(old: Pod, new: Pod, new_before: Pod | None = None) -> bool:
    before = {old.uid: old} | ({new_before.uid: new_before} if new_before else {})
    return replaced({old.uid: old}, before, {new.uid: new}) == {old.uid}


def test_a_pod_whose_address_is_anothers_is_gone() -> None:
    old = pod("old", ip="10.0.0.1")
    assert taken(old, pod("new", ip="10.0.0.1"))
    assert taken(old, pod("new", ip="10.0.0.1", ports=()))
    assert taken(old, pod("new", ip="10.0.0.1"), pod("new", ip=""))
    assert not taken(old, pod("new", ip="10.0.0.2"))
    assert not taken(old, pod("new", ip="10.0.0.1", finished=True))


def test_pods_on_the_hosts_network_share_an_address_and_prove_nothing() -> None:
    old = pod("old", ip="10.0.0.1", ports=(Port("", 80),))
    agent = pod("agent", ip="10.0.0.1", ports=(Port("", 9100),))
    assert not taken(old, agent, agent)
    assert not taken(old, agent)
    bare = pod("agent", ip="10.0.0.1", ports=())
    assert not taken(old, bare, bare)


# --- what is held -----------------------------------------------------------------------------


def made() -> Holding[str, Pod]:
    return Holding(Patience(confirm=(2.0, 4.0), longest=20.0), lambda low, high: high)


def test_a_list_is_due_soon_and_then_less_and_less_often() -> None:
    holding = made()
    holding.hold(crowd(TODO, 1), now=100.0)
    waits = [holding.due]
    for _ in range(4):
        holding.later(100.0)
        waits.append(holding.due)
    assert waits == [104.0, 108.0, 116.0, 120.0, 120.0]
    holding.soon(100.0)
    assert [holding.due] == [104.0]
    assert holding.drop("uid-todo-0")
    assert not holding.drop("uid-todo-0")
    assert [holding.due] == [None]


def test_a_list_that_comes_too_soon_confirms_nothing() -> None:
    holding = made()
    holding.hold(crowd(TODO, 1), now=100.0)
    assert holding.confirmed(101.9) == set()
    assert holding.confirmed(102.0) == {"uid-todo-0"}


def test_a_held_pod_is_found_by_its_address() -> None:
    holding = made()
    old = pod("old", ip="10.0.0.1")
    holding.hold({old.uid: old}, now=0.0)
    assert holding.replaced_by(pod("new", ip="10.0.0.1"), None) == [old.uid]
    assert holding.replaced_by(pod("new", ip="10.0.0.2"), None) == []
    holding.drop(old.uid)
    assert holding.replaced_by(pod("new", ip="10.0.0.1"), None) == []
