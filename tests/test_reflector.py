"""List, watch, resume, back off: every rule against a scripted server, with time in our hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import manifests
from vulcanized.errors import Expired, Refused, SourceError, Unreachable
from vulcanized.listwatch import Codec
from vulcanized.model import AppId, Pod, SourcePhase
from vulcanized.objects import Labels, pods
from vulcanized.reflector import Backoff, Cache, Lines, Reflector, Silent, Timing
from vulcanized.slot import DirtyApps

TODO = AppId("default", "todo")
SHOP = AppId("default", "shop")


def wire(name: str, app: str = "todo", uid: str = "", at: int = 7, **more: Any) -> dict[str, Any]:
    return manifests.pod(name, app, uid=uid or f"u-{name}", resourceVersion=str(at), **more)


def record(name: str, app: str = "todo", uid: str = "") -> Pod:
    [found] = Codec(pods(Labels())).page(listed(wire(name, app, uid))).records
    return found


def listed(*items: object, version: str = "100", more: str = "") -> bytes:
    metadata = {"resourceVersion": version, "continue": more}
    return json.dumps({"kind": "PodList", "metadata": metadata, "items": items}).encode()


def line(kind: str, thing: object) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


class Server:
    """A transport that plays a script, and the stop event and the clock that go with it.

    A step is a page's body, what a watch sends (bytes, errors to raise, seconds that pass), or an
    error. When the script is at its end, everything stops. `asked` has every request, `waits`
    every wait.
    """

    def __init__(self, *script: bytes | SourceError | list[bytes | float | SourceError]) -> None:
        self.script = list(script)
        self.now = 1000.0
        self.asked: list[tuple[str, ...]] = []
        self.waits: list[float] = []
        self.checks: list[SourceError | None] = []
        self.stop = _Stop(self)
        self.dirty = DirtyApps(clock=lambda: self.now)
        self.cache: Cache[Pod] = Cache()

    def start(self, stop: threading.Event) -> None:
        assert stop is self.stop

    def page(self, more: str) -> bytes:
        step = self._next("list", more)
        assert isinstance(step, bytes)
        return step

    @contextmanager
    def watch(self, version: str, seconds: int) -> Iterator[Iterator[bytes]]:
        step = self._next("watch", version)
        self.seconds = seconds
        assert isinstance(step, list)
        yield self._chunks(step)

    def check(self, version: str) -> None:
        self.asked.append(("check", version))
        error = self.checks.pop(0) if self.checks else None
        if error is not None:
            raise error

    def _next(self, *asked: str) -> object:
        self.asked.append(asked)
        if not self.script:
            self.stop.set()
            raise Unreachable("the script is at its end")
        step = self.script.pop(0)
        if isinstance(step, SourceError):
            raise step
        return step

    def _chunks(self, steps: Sequence[bytes | float | SourceError]) -> Iterator[bytes]:
        for step in steps:
            if isinstance(step, SourceError):
                raise step
            if isinstance(step, bytes):
                yield step
            else:
                self.now += step

    def run(
        self, timing: Timing | None = None, uniform: Any = lambda low, high: low
    ) -> Reflector[Pod]:
        reflector = Reflector(
            "pods",
            self,
            Codec(pods(Labels())),
            self.cache,
            self.dirty,
            timing=timing or Timing(),
            clock=lambda: self.now,
            uniform=uniform,
        )
        reflector.run(self.stop)
        return reflector

    def marked(self) -> tuple[set[AppId], bool]:
        """The apps marked, and whether a full pass was asked for."""
        taken = self.dirty.drain(0)
        assert taken is not None
        return set(taken[0]), taken[1] is not None

    def requests(self) -> list[str]:
        return [" ".join(asked).strip() for asked in self.asked]


class _Stop(threading.Event):
    """Waits by moving the server's clock."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "every wait has a limit"
        if timeout:
            self._server.waits.append(timeout)
            self._server.now += timeout
        return self.is_set()


# --- list -------------------------------------------------------------------------------------


def test_the_first_list_is_a_full_pass_and_the_watch_goes_on_from_its_version() -> None:
    server = Server(listed(wire("a"), wire("b", "shop")))

    reflector = server.run()

    assert server.marked() == (set(), True)
    assert server.cache.apps() == {TODO, SHOP}
    assert server.requests() == ["list", "watch 100"]
    assert reflector.spoken


def test_nothing_is_said_before_the_last_page() -> None:
    server = Server(listed(wire("a"), more="page-2"), Unreachable("cut off"))

    reflector = server.run()

    assert server.requests()[:3] == ["list", "list page-2", "list"]
    assert not reflector.spoken
    assert server.marked() == (set(), False)
    assert reflector.state().phase is SourcePhase.STARTING
    assert len(server.cache) == 0


def test_pages_are_one_list_and_the_first_says_from_where_to_watch() -> None:
    server = Server(
        listed(wire("a"), more="2", version="100"), listed(wire("b"), more="3"), listed(wire("c"))
    )

    server.run()

    assert [pod.name for pod in server.cache.of(TODO)] == ["a", "b", "c"]
    assert server.requests() == ["list", "list 2", "list 3", "watch 100"]


def test_a_token_that_grew_too_old_starts_the_list_again_at_once_and_then_with_waits() -> None:
    server = Server(
        listed(more="2"), Expired("410"), listed(more="2"), Expired("410"), listed(wire("a"))
    )

    server.run()

    assert server.requests() == ["list", "list 2", "list", "list 2", "list", "watch 100"]
    assert server.waits == [0.8]
    assert len(server.cache) == 1


def test_what_is_not_a_list_keeps_everything_and_waits() -> None:
    server = Server(listed(wire("a")), Expired("410"), b"{}", b"<html>", listed(wire("a")))

    reflector = server.run()

    assert len(server.cache) == 1
    assert len(server.waits) == 3
    assert reflector.state().relists == {"expired": 1}


def test_a_later_list_marks_what_it_changed_and_nothing_else() -> None:
    server = Server(
        listed(wire("a"), wire("b", "shop"), wire("c", "same")),
        Expired("410"),
        listed(wire("a", at=8), wire("c", "same"), wire("d", "new"), version="200"),
    )
    seen: list[set[AppId]] = []
    replace = server.cache.replace
    server.cache.replace = lambda records: seen.append(r := replace(records)) or r  # type: ignore

    server.run()

    assert seen[1:] == [{SHOP, AppId("default", "new")}]
    assert server.requests()[-1] == "watch 200"


# --- watch ------------------------------------------------------------------------------------


def after_list(*events: bytes, items: Sequence[object] = ()) -> Server:
    """A server whose watch has these events; the marks of its list are taken away."""
    server = Server(listed(*items), [*events])
    take = server._chunks

    def forgetting(steps: Sequence[bytes | float | SourceError]) -> Iterator[bytes]:
        server.marked()
        yield from take(steps)

    server._chunks = forgetting  # type: ignore[method-assign]
    return server


def test_added_modified_and_deleted_mark_their_app_and_move_the_place() -> None:
    server = after_list(
        line("ADDED", wire("a", at=101)),
        line("MODIFIED", wire("a", at=102, namespace="default") | {"status": {}}),
        line("DELETED", wire("b", "shop", at=103)),
        items=[wire("b", "shop")],
    )

    server.run()

    assert server.marked() == ({TODO, SHOP}, False)
    assert [pod.ready for pod in server.cache.of(TODO)] == [False]
    assert server.cache.of(SHOP) == ()
    assert server.requests()[-1] == "watch 103"


def test_an_event_that_changes_nothing_of_ours_marks_nothing() -> None:
    server = after_list(
        line("MODIFIED", wire("a", at=101, annotations={"kubelet": "was here"})),
        line("ADDED", wire("a", at=102)),
        line("DELETED", wire("unknown", at=103)),
        line("MODIFIED", wire("other", labels=None, at=104)),
        items=[wire("a")],
    )

    server.run()

    assert server.marked() == (set(), False)
    assert server.requests()[-1] == "watch 104"


def test_modified_of_an_unknown_uid_is_added() -> None:
    server = after_list(line("MODIFIED", wire("a")))

    server.run()

    assert server.marked() == ({TODO}, False)
    assert len(server.cache.of(TODO)) == 1


def test_a_name_used_again_is_another_pod_and_late_words_of_the_old_one_do_not_touch_it() -> None:
    server = after_list(
        line("DELETED", wire("a", uid="old", at=101)),
        line("ADDED", wire("a", uid="new", at=102)),
        line("DELETED", wire("a", uid="old", at=103)),
        items=[wire("a", uid="old")],
    )

    server.run()

    assert [pod.uid for pod in server.cache.of(TODO)] == ["new"]


def test_an_address_used_again_belongs_to_both_until_the_first_is_gone() -> None:
    server = after_list(
        line("ADDED", wire("b", "shop", at=101)),
        line("DELETED", wire("a", at=102)),
        items=[wire("a")],
    )

    server.run()

    assert server.cache.of(TODO) == ()
    assert [pod.ip for pod in server.cache.of(SHOP)] == ["10.1.0.1"]


def test_a_pod_that_changes_its_app_marks_both() -> None:
    server = after_list(line("MODIFIED", wire("a", "shop")), items=[wire("a")])

    server.run()

    assert server.marked() == ({TODO, SHOP}, False)
    assert server.cache.apps() == {SHOP}


def test_a_pod_that_leaves_every_app_is_gone() -> None:
    server = after_list(line("MODIFIED", wire("a", labels={})), items=[wire("a")])

    server.run()

    assert server.marked() == ({TODO}, False)
    assert len(server.cache) == 0


def test_a_bookmark_moves_the_place_and_marks_nothing() -> None:
    server = after_list(bookmark(555), items=[wire("a")])

    server.run()

    assert server.marked() == (set(), False)
    assert server.requests()[-1] == "watch 555"


def test_marks_carry_the_time_at_which_the_bytes_came_in() -> None:
    server = Server(listed(), [5.0, line("ADDED", wire("a")), 3.0])

    server.run()

    assert server.dirty.drain(0) == ({TODO: 1005.0}, 1000.0)


@given(st.data())
def test_however_the_bytes_are_cut_the_events_are_the_same(data: st.DataObject) -> None:
    events = [line("ADDED", wire(name, at=at)) for at, name in enumerate("abc", 101)]
    text = b"\n".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    server = Server(listed(), [chunk for chunk in chunks if chunk])

    server.run()

    assert [pod.name for pod in server.cache.of(TODO)] == ["a", "b", "c"]
    assert server.requests()[-1] == "watch 103"


def test_the_length_of_a_watch_is_drawn_from_its_range() -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return (low + high) / 2

    server = Server(listed(), [])
    server.run(uniform=uniform)

    assert drawn[0] == (300.0, 600.0)
    assert server.seconds == 450


# --- ends and failures ------------------------------------------------------------------------


def test_a_clean_end_is_watched_on_at_once() -> None:
    server = Server(listed(), [400.0], [400.0], [400.0])

    server.run()

    assert server.requests() == ["list"] + ["watch 100"] * 4
    assert server.waits == []


def test_a_clean_end_at_once_and_without_a_word_waits() -> None:
    server = Server(listed(), [], [], [])

    server.run()

    assert server.waits == [0.8, 1.6, 3.2]


def test_one_short_watch_with_an_event_does_not_wait_but_a_row_of_them_does() -> None:
    server = Server(listed())
    for at in range(101, 105):
        server.script.append([line("MODIFIED", wire("a", at=at))])

    server.run()

    assert server.requests()[1:] == [f"watch {version}" for version in range(100, 105)]
    assert server.waits == [0.8, 1.6, 3.2]


@pytest.mark.parametrize("error", [Unreachable("reset"), Refused("403: grant it")])
def test_a_failure_keeps_state_and_place_and_waits_longer_each_time(error: SourceError) -> None:
    server = Server(listed(wire("a")), *[error] * 8)

    reflector = server.run()

    assert server.waits == [0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0, 20.0]
    assert set(server.requests()[1:]) == {"check 100", "watch 100"}
    assert len(server.cache) == 1
    state = reflector.state()
    assert (state.phase, state.error) == (SourcePhase.STALE, str(error))


def test_waits_are_jittered_within_their_bounds() -> None:
    server = Server(listed(), *[Unreachable("reset")] * 8)

    server.run(uniform=lambda low, high: high)

    assert server.waits[0] == pytest.approx(1.2)
    assert max(server.waits) == pytest.approx(30.0)


def test_two_calm_minutes_make_the_next_failure_the_first() -> None:
    failure = Unreachable("reset")
    server = Server(listed(), failure, failure, [119.0, failure], failure, [121.0, failure])

    server.run()

    assert server.waits == [0.8, 1.6, 3.2, 6.4, 0.8]


def test_the_wait_is_never_less_than_the_server_asks_nor_more_than_a_minute() -> None:
    server = Server(
        listed(),
        Unreachable("429", retry_after=7),
        Unreachable("429", retry_after=0.1),
        Unreachable("429", retry_after=86400),
        Unreachable("429", retry_after=-5),
    )

    server.run()

    assert server.waits == [7, 1.6, 60, 6.4]


@pytest.mark.parametrize(
    "step",
    [
        Expired("410 as a status"),
        [line("ERROR", {"code": 410, "reason": "Expired", "message": "too old"})],
        [line("ERROR", {"code": 504, "message": "Too large resource version: 9, current: 7"})],
    ],
)
def test_a_lost_place_waits_and_lists_again_without_a_version(step: Any) -> None:
    server = Server(listed(wire("a")), step, listed(wire("b"), version="200"))

    reflector = server.run()

    assert server.requests() == ["list", "watch 100", "list", "watch 200"]
    assert server.waits == [0.8]
    assert [pod.name for pod in server.cache.of(TODO)] == ["b"]
    assert reflector.state().relists == {"expired": 1}


def test_an_error_event_that_is_not_about_the_place_keeps_it() -> None:
    busy = line("ERROR", {"code": 429, "details": {"retryAfterSeconds": 9}})
    server = Server(listed(wire("a")), [line("ADDED", wire("b", at=101)), busy])

    server.run()

    assert server.requests()[-1] == "watch 101"
    assert server.waits == [9]
    assert len(server.cache) == 2


def test_a_stream_cut_in_a_line_is_resumed_before_it() -> None:
    whole = line("ADDED", wire("b", at=102))
    server = Server(listed(), [line("ADDED", wire("a", at=101)), whole[:50]], [whole])

    server.run()

    assert server.requests()[-3:] == ["check 101", "watch 101", "watch 102"]
    assert server.waits == [0.8]
    assert len(server.cache) == 2


def test_after_a_failure_a_server_that_fell_behind_is_listed_again() -> None:
    server = Server(listed(wire("a")), Unreachable("gone"), listed(wire("b"), version="50"))
    server.checks = [Expired("Too large resource version")]

    reflector = server.run()

    assert server.requests() == ["list", "watch 100", "check 100", "list", "watch 50"]
    assert reflector.state().relists == {"expired": 1}


def test_silence_is_no_failure_but_the_server_is_asked_before_going_on() -> None:
    server = Server(listed(), [90.0, Silent("quiet")], [90.0, Silent("quiet")], [300.0])

    reflector = server.run()

    assert server.requests() == [
        "list",
        "watch 100",
        "check 100",
        "watch 100",
        "check 100",
        "watch 100",
        "watch 100",
    ]
    assert server.waits == []
    assert reflector.state().phase is SourcePhase.SYNCED


def test_what_is_not_foreseen_goes_through() -> None:
    class Broken(Server):
        def page(self, more: str) -> bytes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Broken().run()


def test_stopped_on_the_way_it_says_nothing_and_returns() -> None:
    server = Server(listed(more="2"))

    reflector = server.run()

    assert server.stop.is_set()
    assert reflector.state().error == ""


# --- unreadable objects -----------------------------------------------------------------------

BROKEN = {"spec": {"containers": 7}}


def test_an_unreadable_event_costs_itself_and_is_asked_about_by_a_list_later() -> None:
    server = Server(
        listed(),
        [
            line("ADDED", wire("a", at=101)),
            line("ADDED", wire("b", at=102) | BROKEN),
            b"garbage\n",
            line("ADDED", wire("c", at=103)),
            59.0,
            bookmark(104),
            2.0,
            bookmark(105),
            line("ADDED", wire("not read any more")),
        ],
        listed(wire("a"), wire("c"), version="200"),
    )

    reflector = server.run()

    assert server.requests() == ["list", "watch 100", "list", "watch 200"]
    assert server.waits == []
    state = reflector.state()
    assert (state.skipped, state.relists) == (2, {"unreadable": 1})
    assert len(server.cache) == 2


def test_an_object_that_stays_unreadable_is_asked_about_less_and_less_often() -> None:
    broken = listed(wire("b") | BROKEN)
    quiet: list[bytes | float | SourceError] = [10.0, bookmark(101)] * 100
    server = Server(*[step for _ in range(7) for step in (broken, quiet)])
    lists: list[float] = []
    page = server.page

    def noting(more: str) -> bytes:
        lists.append(server.now)
        return page(more)

    server.page = noting  # type: ignore[method-assign]

    server.run()

    pauses = [later - earlier for earlier, later in pairwise(lists)]
    assert pauses == [60, 120, 240, 480, 600, 600, 600]
    assert server.waits == []


def test_a_quiet_watch_is_shortened_to_the_list_that_is_due() -> None:
    server = Server(listed(wire("b") | BROKEN), [61.0], listed(), [1.0])

    server.run()

    assert server.requests() == ["list", "watch 100", "list", "watch 100", "watch 100"]


def test_a_known_object_that_became_unreadable_stays_as_it_was() -> None:
    server = Server(
        listed(wire("a"), wire("b")),
        Expired("410"),
        listed(wire("a") | BROKEN, version="200"),
    )

    server.run()

    assert [pod.name for pod in server.cache.of(TODO)] == ["a"]


def test_while_one_cannot_even_be_named_nothing_is_known_to_be_gone() -> None:
    server = Server(
        listed(wire("a"), wire("b")),
        Expired("410"),
        listed({"metadata": 7}, wire("a", "shop"), version="200"),
    )

    server.run()

    assert server.cache.apps() == {TODO, SHOP}
    assert [pod.name for pod in server.cache.of(SHOP)] == ["a"]
    assert [pod.name for pod in server.cache.of(TODO)] == ["b"]


# --- state ------------------------------------------------------------------------------------


def test_the_age_counts_from_the_last_word_of_the_server() -> None:
    server = Server(listed(), [7.0, bookmark(101), 11.0, Unreachable("cut off")])

    state = server.run().state()

    assert state.age == pytest.approx(11.0 + server.waits[0])
    assert (state.name, state.records) == ("pods", 0)


def test_a_recovered_stream_has_no_error() -> None:
    server = Server(listed(), Unreachable("cut off"), [400.0])
    states: list[tuple[SourcePhase, str]] = []
    reflector: list[Reflector[Pod]] = []
    chunks = server._chunks

    def watching(steps: Sequence[bytes | float | SourceError]) -> Iterator[bytes]:
        states.extend((r.state().phase, r.state().error) for r in reflector)
        yield from chunks(steps)

    server._chunks = watching  # type: ignore[method-assign]
    reflector.append(
        Reflector(
            "pods",
            server,
            Codec(pods(Labels())),
            server.cache,
            server.dirty,
            clock=lambda: server.now,
            uniform=lambda low, high: low,
        )
    )
    reflector[0].run(server.stop)

    assert states == [(SourcePhase.SYNCED, "")]


# --- the cache --------------------------------------------------------------------------------


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
    assert cache.replace([record("a"), record("b", "shop")]) == {TODO, SHOP}
    assert cache.replace([record("b", "shop"), record("a")]) == set()
    assert cache.replace([record("a", "shop"), record("b", "shop")]) == {TODO, SHOP}
    assert cache.replace([]) == {SHOP}
    assert (len(cache), cache.apps(), cache.all()) == (0, set(), ())


_RECORDS = st.builds(
    record, st.just("p"), st.sampled_from(["todo", "shop", "blog"]), st.sampled_from("abcd")
)
_CHANGES: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("put"), _RECORDS),
    st.tuples(st.just("remove"), st.sampled_from("abcd")),
    st.tuples(st.just("replace"), st.lists(_RECORDS, max_size=4)),
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
            truth = {pod.uid: pod for pod in argument}

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
        cache.replace(known)
        for pod in known:
            cache.remove(pod.uid)
        for pod in known:
            cache.put(pod)
    stop.set()
    for reader in readers:
        reader.join()

    assert failures == []


# --- small parts ------------------------------------------------------------------------------


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    lines = Lines()

    for _ in range(1024):
        assert lines.feed(b"x" * 65536) == []
    with pytest.raises(Unreachable, match="no end"):
        lines.feed(b"x")


def test_a_wait_never_leaves_its_bounds() -> None:
    backoff = Backoff(0.8, 30.0, 120.0, lambda low, high: high)

    waits = [backoff.after_failure(now=0.0) for _ in range(50)]

    assert all(0.8 <= wait <= 30.0 for wait in waits)


def test_a_list_that_has_no_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vulcanized.reflector._MOST_PAGES", 50)
    server = Server(*[listed(wire("a"), more="next")] * 50)

    reflector = server.run()

    assert "no end" in reflector.state().error
    assert not reflector.spoken
