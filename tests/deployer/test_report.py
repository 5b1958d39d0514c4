"""What daemons say of themselves: never too much."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.deployer.stage import Stage
from tests.servers.etcd import Etcd
from tests.servers.manifests import replication_controller
from tests.servers.wait import eventually
from vulcanized.deployer.words import Report
from vulcanized.errors import ProxyUnreachable
from vulcanized.etcd import EtcdClient
from vulcanized.model import (
    AppId,
    Applied,
    Backend,
    Built,
    DesiredApp,
    Outcome,
    Reached,
    Share,
    Standing,
)
from vulcanized.report import GATHER, MOST_APPS, Ledger, Reporter
from vulcanized.targets.runner import RunnerState

APP = AppId("default", "todo")


def built(versions: str, active: str, held: bool = False, app: AppId = APP) -> Built:
    split = tuple(Share(version, 1) for version in active.split())
    backends = tuple(Backend(version) for version in versions.split())
    desired = DesiredApp(app, (), split, backends)
    return Built(app, desired, held=held, versions=tuple(versions.split()))


def test_a_revision_is_in_effect_once_the_generation_with_it_is() -> None:
    ledger = Ledger(lambda: None)
    assert ledger.in_effect(5) == Reached()
    ledger.settled(Reached(10, 1), 1)
    ledger.settled(Reached(11, 1), 2)
    ledger.settled(Reached(11, 1), 9)  # later changes are none of it
    ledger.settled(Reached(12, 2), 9)
    assert ledger.in_effect(0) == Reached()
    assert ledger.in_effect(1) == Reached(10, 1)
    assert ledger.in_effect(2) == Reached(11, 1)
    assert ledger.in_effect(8) == Reached(11, 1)
    assert ledger.in_effect(9) == Reached(12, 2)
    ledger.settled(Reached(3, 3), 10)  # etcd was restored from a backup
    assert ledger.in_effect(10) == Reached(3, 3)


def test_versions_with_pods_and_without_traffic_are_counted() -> None:
    ledger = Ledger(lambda: None)
    ledger.took(None, built("1 2", "1"))
    assert ledger.left() == {APP: frozenset({"2"})}
    ledger.took(None, built("1 2", "2"))
    assert ledger.left() == {APP: frozenset({"1"})}
    ledger.took(None, built("1 2", "*"))
    assert ledger.left() == {}
    ledger.took(None, built("2", "2"))
    assert ledger.left() == {}


def test_held_apps_are_listed_up_to_a_bound() -> None:
    ledger = Ledger(lambda: None)
    for number in range(3 * MOST_APPS):
        ledger.took(None, built("1", "1", held=True, app=AppId("default", f"a{number}")))
    assert len(ledger.held()) == MOST_APPS + 1
    for number in range(3 * MOST_APPS - 1):
        ledger.took(None, built("1", "1", app=AppId("default", f"a{number}")))
    assert ledger.held() == [AppId("default", f"a{3 * MOST_APPS - 1}")]


def state(**fields: Any) -> RunnerState:
    usual: dict[str, Any] = {
        "name": "edge",
        "kind": "haproxy",
        "wanted": 1,
        "in_effect": 1,
        "applied_once": True,
        "error": "",
        "exit_code": 0,
        "outcomes": {},
        "reloads": {},
        "failures": 0,
    }
    return RunnerState(**(usual | fields))


@dataclass
class Desk:
    """A reporter on a real etcd, over targets that say what they are told to."""

    etcd: Etcd
    client: EtcdClient
    states: list[RunnerState] = field(default_factory=lambda: [state()])
    sessions: dict[AppId, dict[str, int]] | None = field(default_factory=dict)
    reporter: Reporter = field(init=False)

    def __post_init__(self) -> None:
        desk = self

        class Target:
            name = "edge"

            def sessions(self, versions: object) -> dict[AppId, dict[str, int]]:
                if desk.sessions is None:
                    raise ProxyUnreachable("away")
                return desk.sessions

        targets = cast("Any", (Target(),))
        blank = Report("infra-1", version="1.0", namespaces=("a", "b"))
        self.reporter = Reporter(self.client, "/of-desk", blank, targets, lambda: self.states)

    def report(self) -> Report | None:
        found = self.etcd.get("/of-desk/instances/infra-1")
        return None if found is None else msgspec.json.decode(found, type=Report)

    def says(self, **fields: Any) -> None:
        """Wait until the report has these fields."""

        def said() -> bool:
            report = self.report()
            return report is not None and all(
                getattr(report, name) == value for name, value in fields.items()
            )

        eventually(said, 10, lambda: f"{fields} in {self.report()}")


@pytest.fixture
def desk(etcd_server: Etcd) -> Iterator[Desk]:
    stop = threading.Event()
    with EtcdClient([etcd_server.endpoint]) as client:
        desk = Desk(etcd_server, client)
        thread = threading.Thread(target=desk.reporter.run, args=(stop,))
        thread.start()
        yield desk
        stop.set()
        thread.join(10)
    assert desk.report() is None
    etcd_server.delete_prefix("/of-desk")


def test_what_is_reported_follows_what_is_in_effect(desk: Desk) -> None:
    desk.says(revision=0, namespaces=("a", "b"), version="1.0", measures=True)
    desk.reporter.ledger.settled(Reached(7, 6), 2)
    desk.states = [state(wanted=2, error="busy")]
    desk.reporter.ring()
    desk.says(
        revision=0,
        targets={
            "edge": msgspec.convert(
                {"kind": "haproxy", "generation": 1, "error": "busy"}, type(_target(desk))
            )
        },
    )
    desk.states = [state(wanted=2, in_effect=2)]
    desk.reporter.ring()
    desk.says(revision=7, configs=6, generation=2)


def _target(desk: Desk) -> Any:
    report = desk.report()
    assert report is not None
    return report.targets["edge"]


def test_the_slowest_target_counts_and_one_that_waits_behind_a_leader_does_not(desk: Desk) -> None:
    desk.reporter.ledger.settled(Reached(7, 7), 2)
    desk.states = [state(in_effect=2), state(name="other")]
    desk.reporter.ring()
    desk.says(revision=0)
    desk.states = [
        state(in_effect=2),
        state(name="other", wanted=2, in_effect=0, standing=Standing(leading=False)),
    ]
    desk.reporter.ring()
    desk.says(revision=7)
    desk.reporter.ledger.settled(Reached(8, 8), 3)
    desk.states = [state(in_effect=3, standing=Standing(leading=True, proven=2))]
    desk.reporter.ring()
    desk.says(revision=7)
    desk.states = [state(in_effect=3, standing=Standing(leading=True, proven=3))]
    desk.reporter.ring()
    desk.says(revision=8)


def test_a_target_that_is_about_to_apply_is_not_asked_meanwhile() -> None:
    nobody = cast("Any", None)
    target = cast("Any", SimpleNamespace(name="edge"))
    reporter = Reporter(nobody, "/of-desk", Report("infra-1"), (target,), list)
    reporter.ledger.settled(Reached(7, 7), 2)
    assert not reporter._bell.is_set()
    reporter.applied("edge", Applied(Outcome.UPDATED, 2))
    assert reporter._bell.is_set()
    reporter._bell.clear()
    reporter.ledger.settled(Reached(8, 7), 2)  # an event that changed nothing
    assert reporter._bell.is_set()
    reporter.applied("edge", Applied(Outcome.UNCHANGED, 2, standby=True))
    reporter._bell.clear()
    reporter.ledger.settled(Reached(9, 7), 3)  # for whoever leads
    assert reporter._bell.is_set()


def test_a_report_waits_a_moment_for_what_comes_with_it(etcd_server: Etcd) -> None:
    drawn: list[tuple[float, float]] = []
    stop, states = threading.Event(), [state()]

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        states[:] = [state(in_effect=3)]  # another apply while it waits
        return low

    with EtcdClient([etcd_server.endpoint]) as client:
        reporter = Reporter(
            client, "/of-moment", Report("infra-1"), (), lambda: states, uniform=uniform
        )
        thread = threading.Thread(target=reporter.run, args=(stop,))
        thread.start()
        key = "/of-moment/instances/infra-1"

        def generation() -> int:
            return msgspec.json.decode(etcd_server.get(key) or b"", type=Report).generation

        try:
            eventually(lambda: etcd_server.get(key), 10)
            assert drawn == []  # the first one is due at once
            states[:] = [state(in_effect=2)]
            reporter.ring()
            eventually(lambda: generation() != 1, 10)
            assert generation() == 3
            assert drawn == [GATHER]
        finally:
            stop.set()
            thread.join(10)


def test_sessions_are_told_while_there_are_any(desk: Desk) -> None:
    desk.sessions = {APP: {"1": 3, "2": 0}}
    desk.reporter.ledger.took(None, built("1 2", "2"))
    desk.reporter.ring()
    desk.says(draining={"default/todo": {"1": 3}}, measures=True)
    desk.sessions = {APP: {"1": 0}}
    desk.says(draining={}, measures=True)
    desk.sessions = None
    desk.reporter.ring()
    desk.says(draining={}, measures=False)


def test_a_report_whose_lease_was_taken_away_is_written_again(desk: Desk) -> None:
    desk.says(revision=0)
    lease = desk.reporter._lease
    assert lease is not None
    desk.client.revoke(lease.id)
    eventually(lambda: desk.report() is None, 5)
    desk.says(revision=0)
    assert desk.reporter._lease is not lease


def test_a_switch_by_hand_shows_in_the_daemons_report(stage: Stage) -> None:
    key = f"{stage.prefix}/instances/"

    def report() -> Report:
        (found,) = stage.etcd.list(key).values()
        return msgspec.json.decode(found, type=Report)

    eventually(lambda: stage.etcd.list(key), 10)
    assert report().namespaces == (stage.namespace,)
    path = f"/api/v1/namespaces/{stage.namespace}/replicationcontrollers"
    for version in ("1", "2"):
        stage.cluster.api.post(path, replication_controller("todo", version))
    stage.nodes.wait_pods(2, stage.namespace, {"app": "todo"})
    configured = stage.etcd.put(
        f"{stage.prefix}/apps/{stage.app}", f'{{"hosts": ["{stage.host}"]}}'
    )
    eventually(lambda: report().configs >= configured, 10, lambda: str(report()))
    for version in ("1", "2"):
        put = stage.etcd.put(f"{stage.prefix}/active/{stage.app}", version)
        eventually(lambda: report().revision >= put, 10, lambda: str(report()))  # noqa: B023
        assert report().held == ()
    put = stage.etcd.put(f"{stage.prefix}/active/{stage.app}", "none-of-these")
    eventually(lambda: report().held == (stage.app,), 10, lambda: str(report()))
    assert report().revision >= put
    stage.daemon.process.stop()
    assert stage.etcd.list(key) == {}
