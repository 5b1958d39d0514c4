"""List and watch: what is kept, what is marked, and from where it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import SHOP, TODO, Server, bookmark, line, listed, wire
from vulcanized.errors import Expired, SourceError, Unreachable
from vulcanized.model import AppId, Pod, SourcePhase

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


def test_what_is_listed_again_unchanged_is_kept_as_it_was() -> None:
    again = listed(wire("a", at=8), wire("b", "shop"), version="200")
    server = Server(listed(wire("a"), wire("b", "shop")), Expired("410"), again)
    seen: list[tuple[Pod, ...]] = []
    page = server.page
    server.page = lambda more: seen.append(server.cache.all()) or page(more)  # type: ignore

    server.run()

    before = {pod.uid: pod for pod in seen[1]}
    assert len(before) == 2
    assert all(pod is before[pod.uid] for pod in server.cache.all())


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
