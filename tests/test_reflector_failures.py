"""Resume and back off: every failure of a server, against a script."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.scripted import SHOP, TODO, Server, bookmark, line, listed, wire
from vulcanized.errors import Expired, Refused, SourceError, Unreachable
from vulcanized.listwatch import Codec
from vulcanized.model import Pod, SourcePhase
from vulcanized.objects import Labels, pods
from vulcanized.reflector import Backoff, Lines, Reflector, Silent, Timing

# --- ends and failures ------------------------------------------------------------------------


def test_a_place_that_was_lost_while_the_server_was_away_is_found_again_soon() -> None:
    """It answers by now: how long it did not is no reason to wait."""
    server = Server(listed(), *[Unreachable("refused")] * 6, Expired("410"), listed())

    reflector = server.run()

    assert server.waits == [0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 0.8]
    assert server.requests()[-2:] == ["list", "watch 100"]
    assert reflector.state().phase is SourcePhase.SYNCED


def test_a_place_that_is_lost_over_and_over_is_looked_for_more_seldom() -> None:
    steps: list[bytes | SourceError | list[bytes | float | SourceError]]
    steps = [Expired("410"), listed()] * 4
    server = Server(listed(), *steps)

    server.run()

    assert server.waits == [0.8, 1.6, 3.2, 6.4]


@pytest.mark.parametrize("kind", [Unreachable, Expired])
def test_what_was_listed_before_a_failure_is_not_kept_alive_by_it(kind: type[SourceError]) -> None:
    """The script's error refers to itself, by a local variable, as those of HTTP libraries do."""
    first, second = kind("in the first list"), kind("in the second")
    lost = [weakref.ref(first), weakref.ref(second)]
    server = Server(listed(more="2"), first, listed(more="2"), second, listed(wire("a")))
    del first, second
    gc.disable()  # it would find them as well, but late
    try:
        server.run()
        kept = [error() for error in lost]
    finally:
        gc.enable()

    assert kept == [None, None]


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
    assert server.waits == [0.8, 0.8, 0.8]


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

    server.run(Timing(steady=1000.0))

    assert server.waits == [0.8, 1.6, 3.2, 6.4, 0.8]


def test_a_stream_that_is_cut_now_and_then_is_opened_again_soon_each_time() -> None:
    server = Server(listed())
    for _ in range(5):
        server.script.append([50.0, Unreachable("cut off by a proxy")])
    server.script.append(Unreachable("500"))

    server.run()

    assert server.waits == [0.8, 0.8, 0.8, 0.8, 0.8, 1.6]


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


# --- small parts ------------------------------------------------------------------------------


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    lines = Lines()

    for _ in range(256):
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
