"""The store of records: what every change answers, and the index by app."""

from __future__ import annotations

import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import SHOP, TODO, record
from vulcanized.model import AppId, Pod
from vulcanized.reflector import Cache


def test_records_of_an_app_are_sorted_by_uid() -> None:
    cache: Cache[Pod] = Cache()
    for uid in ("c", "a", "b"):
        cache.put(record(f"pod-{uid}", uid=uid))

    assert [pod.uid for pod in cache.of(TODO)] == ["a", "b", "c"]
    assert cache.of(SHOP) == ()


def test_every_change_answers_with_the_apps_that_it_touched() -> None:
    cache: Cache[Pod] = Cache()

    assert cache.put(record("a")) == (TODO,)
    assert cache.put(record("a")) == ()
    assert set(cache.put(record("a", "shop"))) == {TODO, SHOP}
    assert cache.remove("u-a") == (SHOP,)
    assert cache.remove("u-a") == ()
    assert cache.replace(_by_uid([record("a"), record("b", "shop")])) == {TODO, SHOP}
    assert cache.replace(_by_uid([record("b", "shop"), record("a")])) == set()
    assert cache.replace(_by_uid([record("a", "shop"), record("b", "shop")])) == {TODO, SHOP}
    assert cache.replace({}) == {SHOP}
    assert (len(cache), cache.apps(), cache.all()) == (0, set(), ())


def _by_uid(records: list[Pod]) -> dict[str, Pod]:
    return {pod.uid: pod for pod in records}


_RECORDS = st.builds(
    record, st.just("p"), st.sampled_from(["todo", "shop", "blog"]), st.sampled_from("abcd")
)
_CHANGES: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("put"), _RECORDS),
    st.tuples(st.just("remove"), st.sampled_from("abcd")),
    st.tuples(st.just("replace"), st.lists(_RECORDS, max_size=4).map(_by_uid)),
)


@given(st.lists(_CHANGES, max_size=30))
def test_the_index_is_always_that_of_the_records(changes: list[tuple[str, Any]]) -> None:
    cache: Cache[Pod] = Cache()
    truth: dict[str, Pod] = {}
    for name, argument in changes:
        before = index(truth)
        if name == "put":
            truth[argument.uid] = argument
        elif name == "remove":
            truth.pop(argument, None)
        else:
            truth = dict(argument)

        touched = set(getattr(cache, name)(argument))

        after = index(truth)
        assert {app: cache.of(app) for app in cache.apps()} == after
        assert touched == {a for a in before.keys() | after if before.get(a) != after.get(a)}
        assert len(cache) == len(truth)


def index(records: dict[str, Pod]) -> dict[AppId, tuple[Pod, ...]]:
    found: dict[AppId, tuple[Pod, ...]] = {}
    for _, pod in sorted(records.items()):
        app = AppId(pod.namespace, pod.app)
        found[app] = (*found.get(app, ()), pod)
    return found


def test_readers_and_the_writer_do_not_disturb_each_other() -> None:
    cache: Cache[Pod] = Cache()
    known = [record(f"p{number}", uid=f"u{number:03}") for number in range(200)]
    stop, failures = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                pods = cache.of(TODO)
                assert list(pods) == sorted(pods, key=lambda pod: pod.uid)
                cache.apps()
                cache.all()
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(20):
        cache.replace(_by_uid(known))
        for pod in known:
            cache.remove(pod.uid)
        for pod in known:
            cache.put(pod)
    stop.set()
    for reader in readers:
        reader.join()

    assert failures == []
