"""Lists that lie, as users of similar systems met them: what they would remove stays.

consul-template #1131, #1098 and #21: an empty but valid answer wipes the config. ingress-nginx
#3337 and haproxytech #257: trouble of the API server turns into 503.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.network import Network
from tests.scripted import SHOP, TODO, Server, line, listed, wire
from vulcanized.errors import Expired
from vulcanized.guard import PODS, takes_traffic
from vulcanized.holds import Guarding, Holds, NoBaseline
from vulcanized.listwatch import Codec
from vulcanized.model import AppId, Pod, SourceState
from vulcanized.model import Server as Placed
from vulcanized.objects import Labels, pods
from vulcanized.reflector import Reflector


class Remembered(NoBaseline):
    def __init__(self, found: Sequence[Pod]) -> None:
        self.found = found

    def pods(self, namespace: str) -> Sequence[Pod]:
        return self.found


def ip(number: int) -> str:
    return f"10.2.0.{number}"


def one(number: int, app: str = "todo", **more: Any) -> dict[str, Any]:
    """A ready pod with an address of its own, and a port."""
    more.setdefault("ip", ip(number))
    return wire(f"{app}-{number}", app, **more)


def records(*objects: dict[str, Any]) -> tuple[Pod, ...]:
    return Codec(pods(Labels())).page(listed(*objects)).records


class Guarded(Server):
    """A scripted server whose lists are guarded; `servers` is what the targets have in effect."""

    def __init__(
        self, *script: Any, network: Network | None = None, remembered: Sequence[Pod] = ()
    ) -> None:
        super().__init__(*script)
        self.network = network or Network()
        self.servers: dict[AppId, list[Placed]] = {}
        self.most = 0.5
        self.remembered = remembered
        self.seen: list[tuple[float, list[str]]] = []

    def follow(self) -> SourceState:
        guarding = Guarding(
            self.most,
            Remembered(self.remembered),
            self.network,
            servers=lambda app: self.servers.get(app, []),
        )
        low = lambda low, high: low  # noqa: E731
        holds = Holds(
            "pods",
            PODS,
            guarding,
            lambda: self.remembered,
            clock=lambda: self.now,
            uniform=low,
        )
        self.reflector = Reflector(
            "pods",
            self,
            Codec(pods(Labels())),
            self.cache,
            self.dirty,
            holds=holds,
            clock=lambda: self.now,
            uniform=low,
        )
        self.reflector.run(self.stop)
        return self.reflector.state()

    def names(self, app: AppId = TODO) -> list[str]:
        return [pod.name for pod in self.cache.of(app)]

    def watch(self, version: str, seconds: int) -> Any:
        self.seen.append((self.now, self.names()))
        return super().watch(version, seconds)


FOUR = [one(number) for number in range(1, 5)]
LOST = Expired("410")


def test_consul_template_1131_an_empty_list_takes_nothing_away() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(), network=Network(map(ip, range(1, 5))))

    state = server.follow()

    assert len(server.names()) == 4
    assert state.held == 4
    assert "default/todo-1, default/todo-2, default/todo-3, ..." in state.holding
    assert "--kill-whom=main -s USR1" in state.holding


def test_half_a_list_adds_what_is_new_and_takes_no_more_than_its_share() -> None:
    half = listed(*FOUR[:1], one(9), one(10, "shop"))
    server = Guarded(listed(*FOUR), LOST, half, network=Network(map(ip, range(1, 5))))

    state = server.follow()

    assert server.names() == ["todo-1", "todo-2", "todo-3", "todo-4", "todo-9"]
    assert server.names(SHOP) == ["shop-10"]
    assert state.held == 3


def test_up_to_the_share_a_list_is_believed() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(*FOUR[:2]))
    assert server.follow().held == 0
    assert server.names() == ["todo-1", "todo-2"]


def test_a_second_list_soon_confirms_and_what_does_not_answer_goes() -> None:
    network = Network([ip(1)])
    server = Guarded(listed(*FOUR), LOST, listed(), [2.0], listed(), network=network)

    state = server.follow()

    assert [seen for _, seen in server.seen[1:]] == [
        ["todo-1", "todo-2", "todo-3", "todo-4"],
        ["todo-1"],
    ]
    assert server.seconds >= 2
    assert state.held == 1
    assert "still answered" in state.holding
    assert state.relists == {"expired": 1, "held": 1}
    assert server.marked()[0] == {TODO}


def test_a_list_that_comes_too_soon_confirms_nothing() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(), LOST, listed())
    server.follow()
    assert server.waits[-1] < 2
    assert len(server.names()) == 4


def test_while_what_is_held_answers_lists_come_less_and_less_often() -> None:
    network = Network(map(ip, range(1, 5)))
    idle = [
        step for _ in range(9) for step in ([100.0, line("BOOKMARK", {"metadata": {}})], listed())
    ]
    server = Guarded(listed(*FOUR), LOST, listed(), *idle, network=network)
    lengths: list[int] = []
    watch = server.watch

    def noting(version: str, seconds: int) -> Any:
        lengths.append(seconds)
        return watch(version, seconds)

    server.watch = noting  # type: ignore[method-assign]
    assert server.follow().held == 4
    assert lengths[1:] == [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


def test_a_record_that_a_list_shows_again_is_held_no_more() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(), [2.0], listed(*FOUR))
    state = server.follow()
    assert len(server.names()) == 4
    assert (state.held, state.holding) == (0, "")
    assert server.network.asked == []


def test_events_flow_meanwhile_and_say_what_is_true_of_what_is_held() -> None:
    network = Network(map(ip, range(1, 5)))
    events = [
        line("DELETED", one(1, at=201)),
        line("MODIFIED", one(2, at=202, ready=False)),
        line("ADDED", one(5, at=203)),
    ]
    server = Guarded(listed(*FOUR), LOST, listed(), events, network=network)

    state = server.follow()

    assert server.names() == ["todo-2", "todo-3", "todo-4", "todo-5"]
    assert [takes_traffic(pod) for pod in server.cache.of(TODO)] == [False, True, True, True]
    assert state.held == 2


def test_a_held_pod_goes_at_once_when_another_gets_its_address() -> None:
    taker = line("ADDED", one(7, "shop", ip=ip(1), at=201))
    server = Guarded(listed(*FOUR), LOST, listed(), [taker], network=Network([ip(1), ip(2)]))

    state = server.follow()

    assert server.names() == ["todo-2", "todo-3", "todo-4"]
    assert server.names(SHOP) == ["shop-7"]
    assert state.held == 3


def test_a_missing_pod_whose_address_is_anothers_is_never_held() -> None:
    new = [one(number + 10, ip=ip(number)) for number in range(1, 5)]
    server = Guarded(listed(*FOUR), LOST, listed(*new), network=Network(map(ip, range(1, 5))))
    assert server.follow().held == 0
    assert server.names() == ["todo-11", "todo-12", "todo-13", "todo-14"]


def test_pods_all_replaced_while_nobody_watched_are_not_kept_when_they_refuse() -> None:
    new = [one(number + 10) for number in range(1, 5)]
    network = Network(map(ip, range(11, 15)), refusing=map(ip, range(1, 5)))
    server = Guarded(listed(*FOUR), LOST, listed(*new), network=network)
    assert server.follow().held == 0
    assert server.names() == ["todo-11", "todo-12", "todo-13", "todo-14"]


def test_refusals_prove_nothing_where_no_listed_pod_answers_either() -> None:
    everyone = Network(refusing=map(ip, range(1, 20)))
    server = Guarded(listed(*FOUR), LOST, listed(one(11)), network=everyone)
    assert server.follow().held == 4


def test_silence_alone_is_no_proof_before_the_second_list() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(one(11)), network=Network([ip(11)]))
    assert server.follow().held == 4


def test_where_nothing_can_be_asked_the_second_list_alone_decides() -> None:
    bare = [one(number) | {"spec": {"containers": None}} for number in range(1, 5)]
    server = Guarded(listed(*bare), LOST, listed(), [2.0], listed())
    assert server.follow().held == 0
    assert server.network.asked == []
    assert server.names() == []


def test_the_port_in_effect_is_asked_before_those_that_a_pod_names() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(), [2.0], listed())
    server.servers[TODO] = [Placed(f"s{n}", ip(n), 9999) for n in range(1, 5)]
    server.follow()
    assert {endpoint.port for endpoint in server.network.asked} == {9999}


def test_a_great_many_are_asked_in_several_goes() -> None:
    network = Network()
    network.room = 4  # two ports of two pods
    steps = [step for _ in range(2) for step in ([2.0], listed())]
    server = Guarded(listed(*FOUR), LOST, listed(), *steps, network=network)
    assert server.follow().held == 0
    assert [len(seen) for _, seen in server.seen[1:]] == [4, 2, 0]


def test_where_of_a_great_many_not_one_answers_the_others_are_not_waited_for() -> None:
    many = [one(number % 250, ip=f"10.3.{number // 250}.{number % 250}") for number in range(300)]
    for number, each in enumerate(many):
        each["metadata"]["uid"] = f"u-{number}"
    network = Network()
    network.room = 250
    server = Guarded(listed(*many), LOST, listed(), [2.0], listed(), network=network)
    assert server.follow().held == 0
    network.accepting = {f"10.3.0.{number}" for number in range(250)}
    again = Guarded(listed(*many), LOST, listed(), [2.0], listed(), network=network)
    assert again.follow().held > 200


def test_pods_that_take_no_traffic_go_as_ever() -> None:
    idle = [one(number, ready=False) for number in range(1, 5)]
    ending = one(9, deletionTimestamp="2026-01-01T00:00:00Z")
    server = Guarded(listed(*idle, ending), LOST, listed())
    assert server.follow().held == 0
    assert server.names() == []


def test_0_holds_every_removal_by_a_list_and_1_none() -> None:
    for most, held in ((0.0, 1), (1.0, 0)):
        server = Guarded(listed(*FOUR), LOST, listed(*FOUR[1:]), network=Network([ip(1)]))
        server.most = most
        assert server.follow().held == held


def test_an_operator_has_what_is_held_taken_over() -> None:
    server = Guarded(listed(*FOUR), LOST, listed(), network=Network(map(ip, range(1, 5))))
    server.follow()
    server.marked()

    assert server.reflector.accept() == 4

    assert server.names() == []
    assert server.marked()[0] == {TODO}
    assert server.reflector.state().held == 0
    assert server.reflector.accept() == 0


def test_it_is_said_once_with_what_to_do() -> None:
    script = [step for _ in range(3) for step in ([2.0, 60.0], listed())]
    network = Network(map(ip, range(1, 5)))
    server = Guarded(listed(*FOUR), LOST, listed(), *script, network=network)
    with structlog.testing.capture_logs() as lines:
        server.follow()
    [held] = [each for each in lines if each["event"] == "held"]
    assert (held["objects"], held["cause"]) == (4, "expired")
    assert "--kill-whom=main -s USR1" in held["hint"]


# --- the first list of a start ----------------------------------------------------------------


def test_consul_template_1098_an_empty_list_at_a_start_takes_nothing_away() -> None:
    server = Guarded(listed(), remembered=records(*FOUR), network=Network(map(ip, range(1, 5))))
    assert server.follow().held == 4
    assert len(server.names()) == 4
    assert server.reflector.spoken


def test_at_a_start_only_a_net_loss_counts_since_what_is_remembered_may_be_old() -> None:
    new = [one(number + 10) for number in range(1, 4)]
    server = Guarded(listed(*new), remembered=records(*FOUR), network=Network(map(ip, range(20))))
    assert server.follow().held == 0
    assert server.names() == ["todo-11", "todo-12", "todo-13"]


def test_at_a_start_an_app_of_which_nothing_is_remembered_is_no_loss() -> None:
    server = Guarded(listed(one(1, "shop")), remembered=())
    assert server.follow().held == 0


def test_at_a_start_dead_pods_go_at_once_where_a_listed_one_answers() -> None:
    network = Network([ip(1)], refusing=map(ip, range(2, 5)))
    server = Guarded(listed(FOUR[0]), remembered=records(*FOUR), network=network)
    assert server.follow().held == 0
    assert server.names() == ["todo-1"]


# --- convergence ------------------------------------------------------------------------------


class Lying(Guarded):
    """Answers every list with the present one of `lists`; each watch ends by losing its place."""

    def __init__(self, lists: Sequence[set[int]], **more: Any) -> None:
        super().__init__(**more)
        self.lists = lists
        self.at = 0
        self.watches = 0

    def page(self, more: str) -> bytes:
        return listed(*(one(number, APPS[number % 2]) for number in sorted(self.lists[self.at])))

    @contextmanager
    def watch(self, version: str, seconds: int) -> Iterator[Iterator[bytes]]:
        self.now += seconds
        self.watches += 1
        if self.at + 1 < len(self.lists):
            self.at += 1
            raise LOST
        if self.watches > len(self.lists) + 4:
            self.stop.set()
        yield iter(())


APPS = ("todo", "shop")
SOME = st.sets(st.integers(1, 12))


@given(st.lists(SOME, min_size=1, max_size=5), SOME, st.floats(0, 1), SOME)
def test_whatever_lists_said_the_end_is_the_last_one_and_who_answers(
    lists: list[set[int]], answering: set[int], most: float, old: set[int]
) -> None:
    remembered = records(*(one(number, APPS[number % 2]) for number in sorted(old)))
    server = Lying(lists, network=Network(map(ip, answering)), remembered=remembered)
    server.most = most

    held = server.follow().held

    known = {int(pod.name.partition("-")[2]) for pod in server.cache.all()}
    assert lists[-1] <= known
    # What is left over answers, is held, and was there once.
    assert known - lists[-1] <= answering & old.union(*lists)
    assert held == len(known - lists[-1])
    server.reflector.accept()
    assert len(server.cache) == len(lists[-1])
