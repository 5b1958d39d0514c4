"""A target's thread: what failed is handed in again, what is due is called, nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tests.factory import TODO
from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable
from vulcanized.model import AppId, Applied, Change, DesiredApp, Outcome, Problem, Standing
from vulcanized.slot import Slot
from vulcanized.targets.runner import MAX_WAITING, Runner

OTHER = AppId("default", "other")


class Scripted:
    """A target that answers as the test says and keeps what it was handed."""

    name = kind = "scripted"
    capabilities: frozenset[str] = frozenset()

    def __init__(self, answer: Callable[[int, Change | None], Applied]) -> None:
        self._answer = answer
        self.calls: list[Change | None] = []
        self.kept_back: tuple[Problem, ...] = ()

    def apply(self, change: Change | None, now: float) -> Applied:
        self.calls.append(change)
        return self._answer(len(self.calls), change)

    def problems(self) -> tuple[Problem, ...]:
        return self.kept_back

    def standing(self) -> Standing:
        return Standing()

    def rendered(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]:
        return {}

    def actual(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]:
        return {}

    def verify(self, apps: Mapping[AppId, DesiredApp]) -> None: ...

    def close(self, *, stop_proxy: bool) -> None: ...


class Heard:
    """An observer that counts."""

    def __init__(self) -> None:
        self.effects: list[float] = []
        self.failures: list[str] = []

    def applied(self, target: str, applied: Applied, seconds: float) -> None: ...

    def took_effect(self, target: str, seconds: float) -> None:
        self.effects.append(seconds)

    def failed(self, target: str, error: str) -> None:
        self.failures.append(error)


def change(generation: int, *apps: AppId, since: float = 0.0) -> Change:
    return Change(generation, {app: DesiredApp(app, (), (), ()) for app in apps}, False, since)


@contextmanager
def running(target: Scripted, heard: Heard) -> Iterator[tuple[Runner, Slot]]:
    slot = Slot()
    runner = Runner(target, slot, heard, uniform=lambda low, high: 0.05)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield runner, slot
    finally:
        slot.close()
        thread.join(5)
        assert not thread.is_alive()


def done(generation: int, **fields: object) -> Applied:
    return Applied(Outcome.UPDATED, generation, **fields)  # type: ignore[arg-type]


def test_a_failed_change_is_handed_in_again_together_with_what_came_since() -> None:
    release = threading.Event()

    def answer(call: int, given: Change | None) -> Applied:
        if not release.is_set():
            raise ProxyUnreachable("the proxy is away: start it")
        assert given is not None
        return done(given.generation)

    target, heard = Scripted(answer), Heard()
    with running(target, heard) as (runner, slot):
        slot.offer(change(1, TODO))
        eventually(lambda: runner.state().failures > 0, 5, "a failure")
        assert runner.state().error == "the proxy is away: start it"
        assert runner.state().exit_code == 3
        slot.offer(change(2, OTHER))
        release.set()
        eventually(lambda: runner.state().in_effect == 2, 5, "both in effect")
        last = target.calls[-1]
        assert last is not None
        assert set(last.apps) == {TODO, OTHER}
        assert runner.state().error == ""
        assert len(heard.effects) == 2


def test_who_is_quarantined_is_told_also_when_the_apply_fails() -> None:
    def answer(call: int, given: Change | None) -> Applied:
        if call == 1:
            return done(1)
        raise ProxyUnreachable("away")

    target = Scripted(answer)
    runner = Runner(target, Slot(), Heard())
    problem = Problem(TODO, "quarantined", "refused", target="scripted")
    for kept_back in ((problem,), ()):
        target.kept_back = kept_back
        runner.step(None)
        assert runner.state().quarantined == kept_back


def test_an_unexpected_fault_shows_and_is_tried_again() -> None:
    def answer(call: int, given: Change | None) -> Applied:
        if call == 1:
            raise KeyError("ours")
        return done(1)

    heard = Heard()
    with running(Scripted(answer), heard) as (runner, slot):
        slot.offer(change(1, TODO))
        eventually(lambda: runner.state().in_effect == 1, 5, "the second try")
        assert heard.failures == ["internal"]


def test_a_target_is_called_when_it_said_it_is_due() -> None:
    import time

    def answer(call: int, given: Change | None) -> Applied:
        return done(1, due=time.monotonic() + 0.01) if call < 4 else done(1)

    target = Scripted(answer)
    with running(target, Heard()) as (_, slot):
        slot.offer(change(1, TODO))
        eventually(lambda: len(target.calls) == 4, 5, "the calls that were due")
        assert target.calls[1:] == [None, None, None]


def test_effect_is_told_only_when_the_generation_is_in_effect() -> None:
    def answer(call: int, given: Change | None) -> Applied:
        return done(0) if call == 1 else done(2)

    heard = Heard()
    with running(Scripted(answer), heard) as (runner, slot):
        slot.offer(change(1, TODO))
        eventually(lambda: runner.state().outcomes.get("updated") == 1, 5, "the first apply")
        assert heard.effects == []
        slot.offer(change(2, TODO))
        eventually(lambda: len(heard.effects) == 2, 5, "both effects")


def test_a_target_that_is_away_for_long_costs_bounded_memory() -> None:
    def answer(call: int, given: Change | None) -> Applied:
        raise ProxyUnreachable("away")

    runner = Runner(Scripted(answer), Slot(), Heard())
    for generation in range(3 * MAX_WAITING):
        runner._expect(change(generation, TODO))
    assert len(runner._waiting) == MAX_WAITING
    assert runner._waiting[0][0] == 0
    assert runner._waiting[-1][0] == 3 * MAX_WAITING - 1
