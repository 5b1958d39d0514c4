"""One app's observed parts -> its desired part: who takes traffic, and what is held."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factory import built, config, controller, observed, pod
from vulcanized.build import build, configure
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Built,
    Document,
    Endpoint,
    PathKind,
    Pod,
    Port,
    Remembered,
    Route,
    ServerState,
    Share,
)

ROUTE = Route("todo.example.com", PathKind.PREFIX, "/")


def servers(result: Built, version: str = ANY_VERSION) -> dict[str, str]:
    """address -> state of one backend."""
    assert result.desired is not None
    backend = result.desired.backend(version)
    assert backend is not None, result.desired.backends
    return {server.address: server.state.value for server in backend.servers}


def codes(result: Built) -> list[str]:
    return sorted(problem.code for problem in result.problems)


@pytest.mark.parametrize(
    ("each", "state"),
    [
        (pod("ready"), "ready"),
        (pod("running but not ready", ready=False), None),
        (pod("terminating", terminating=True), "drain"),
        (pod("terminating and no more ready", ready=False, terminating=True), "drain"),
        (pod("succeeded or failed", ready=False, finished=True), None),
        (pod("failed while terminating", terminating=True, finished=True), None),
        (pod("without address", ip=""), None),
        (pod("without ports", ports=()), None),
    ],
    ids=lambda value: value.name if isinstance(value, Pod) else "",
)
def test_which_pods_take_traffic(each: Pod, state: str | None) -> None:
    result = built(observed(each, config=config()))
    assert servers(result) == ({} if state is None else {"10.0.0.1": state})


@pytest.mark.parametrize(
    ("ports", "wanted", "number"),
    [
        ((Port("http", 8080), Port("admin", 9000)), None, 8080),
        ((Port("healthcheck", 9999), Port("http", 8080)), None, 8080),
        ((Port("healthcheck", 9999),), None, None),
        ((Port("http", 8080), Port("admin", 9000)), "admin", 9000),
        ((Port("http", 8080),), "nobody", None),
        ((), 7000, 7000),
        ((Port("http", 8080),), 7000, 7000),
        ((), None, None),
    ],
)
def test_which_port_takes_traffic(
    ports: tuple[Port, ...], wanted: int | str | None, number: int | None
) -> None:
    document = config() if wanted is None else config(port=wanted)
    result = built(observed(pod("a", ports=ports), config=document))
    assert result.desired is not None
    found = [server.port for server in result.desired.backends[0].servers]
    assert found == ([] if number is None else [number])
    assert ("no_port" in codes(result)) == (number is None)


def test_without_an_activation_pods_of_every_version_form_one_backend() -> None:
    result = built(observed(pod("a", "blue"), pod("b", "green", ip="10.0.0.2"), config=config()))
    assert result.desired is not None
    assert result.desired.split == (Share(ANY_VERSION, 1),)
    assert servers(result) == {"10.0.0.1": "ready", "10.0.0.2": "ready"}


def test_an_activation_sends_traffic_to_its_version_and_keeps_a_backend_for_the_others() -> None:
    result = built(
        observed(
            pod("a", "blue"),
            pod("b", "green", ip="10.0.0.2"),
            controllers=(controller("todo-red", "red"),),
            config=config(),
            activation="green\n",
        )
    )
    assert result.desired is not None
    assert result.desired.split == (Share("green", 1),)
    assert [backend.version for backend in result.desired.backends] == ["blue", "green", "red"]
    assert servers(result, "green") == {"10.0.0.2": "ready"}
    assert result.remember.activation == "green"
    assert not result.held


def test_weights_name_their_versions_and_zero_leaves_one_out() -> None:
    result = built(
        observed(
            pod("a", "41"),
            pod("b", "42", ip="10.0.0.2"),
            config=config(),
            activation='{"weights": {"42": 10, "41": 90, "40": 0}}',
        )
    )
    assert result.desired is not None
    assert result.desired.split == (Share("41", 90), Share("42", 10))


def test_a_weighted_version_that_loses_its_pods_gives_its_share_to_the_others() -> None:
    remembered = Remembered(config(), '{"weights": {"41": 90, "42": 10}}')
    result = built(
        observed(pod("a", "41"), config=config(), activation=remembered.activation), remembered
    )
    assert result.desired is not None
    assert result.desired.split == (Share("41", 90),)
    assert not result.held


def test_an_activation_without_ready_pods_is_held_and_the_last_good_one_stays() -> None:
    remembered = Remembered(config(), "blue")
    result = built(
        observed(
            pod("a", "blue"),
            pod("b", "green", ready=False, ip="10.0.0.2"),
            config=config(),
            activation="green",
        ),
        remembered,
    )
    assert result.held
    assert result.desired is not None
    assert result.desired.split == (Share("blue", 1),)
    assert codes(result) == ["activation_held"]
    assert result.remember.activation == "blue"
    assert result.wanted == "green"


def test_a_held_activation_with_nothing_to_fall_back_on_leaves_every_version_in_traffic() -> None:
    result = built(observed(pod("a", "blue"), config=config(), activation="gren"))
    assert result.held
    assert result.desired is not None
    assert result.desired.split == (Share(ANY_VERSION, 1),)
    assert servers(result) == {"10.0.0.1": "ready"}


def test_an_activation_in_effect_stays_in_effect_when_its_pods_go() -> None:
    remembered = Remembered(config(), "green")
    result = built(observed(pod("a", "blue"), config=config(), activation="green"), remembered)
    assert not result.held
    assert result.desired is not None
    assert result.desired.split == (Share("green", 1),)
    assert codes(result) == ["no_servers"]


@pytest.mark.parametrize(
    "text", ["", "a b", "{", '{"weights": {}}', '{"weights": {"blue": -1}}', "\0", "x" * 20000]
)
def test_an_activation_that_cannot_be_read_keeps_the_last_good_one(text: str) -> None:
    remembered = Remembered(config(), "blue")
    result = built(observed(pod("a", "blue"), config=config(), activation=text), remembered)
    assert result.held
    assert codes(result) == ["activation_invalid"]
    assert result.desired is not None
    assert result.desired.split == (Share("blue", 1),)
    assert len(result.wanted) <= 200


def test_a_refused_config_leaves_the_last_good_one_in_effect() -> None:
    good = config(balance="leastconn")
    bad = Document('{"hosts": ["two words"]}', good.origin, 1)
    result = built(observed(pod("a"), config=bad), Remembered(good, ""))
    assert result.quarantined
    assert result.desired is not None
    assert result.desired.routes == (ROUTE,)
    assert result.desired.policies.balance == "leastconn"
    (problem,) = result.problems
    assert problem.code == "config_invalid"
    assert problem.where == "etcd /vulcanized/apps/default/todo"
    assert "hosts.0" in problem.message
    assert "last good config stays" in problem.message
    assert result.remember.config == good


def test_a_refused_config_without_a_last_good_one_routes_nothing() -> None:
    result = built(observed(pod("a"), config=Document("{", "file a.json")))
    assert result.desired is None
    assert codes(result) == ["config_invalid"]


def test_an_app_whose_config_is_taken_away_is_gone_and_forgotten() -> None:
    result = built(observed(pod("a")), Remembered(config(), "blue"))
    assert result.desired is None
    assert result.problems == ()
    assert result.remember == Remembered()


def test_the_store_wins_over_an_annotation_and_the_newest_annotation_over_older_ones() -> None:
    old = controller("old", config={"hosts": ["old.example.com"]}, created="2026-01-01T00:00:00Z")
    new = controller("new", config={"hosts": ["new.example.com"]}, created="2026-01-02T00:00:00Z")
    annotated = built(observed(pod("a"), controllers=(new, old)))
    assert annotated.desired is not None
    assert annotated.desired.routes[0].host == "new.example.com"
    stored = built(observed(pod("a"), controllers=(new, old), config=config()))
    assert stored.desired is not None
    assert stored.desired.routes == (ROUTE,)


def test_a_new_version_does_not_make_an_app_a_younger_claimant_of_its_routes() -> None:
    old = controller("v1", config={"hosts": ["a.example.com"]}, created="2026-01-01T00:00:00Z")
    new = controller("v2", config={"hosts": ["b.example.com"]}, created="2026-03-01T00:00:00Z")
    before = configure(observed(controllers=(old,)), Remembered())
    after = configure(observed(controllers=(old, new)), Remembered(), before)
    assert after.spec is not None
    assert after.spec.routes[0].host == "b.example.com"
    assert after.order == before.order


def test_a_claim_by_annotation_stays_as_old_as_it_was_when_the_oldest_controller_goes() -> None:
    old = controller("old", created="2026-01-01T00:00:00Z", config={"hosts": ["a.example.com"]})
    new = controller("new", created="2026-02-01T00:00:00Z", config={"hosts": ["a.example.com"]})
    before = configure(observed(controllers=(old, new)), Remembered())
    after = configure(observed(controllers=(new,)), Remembered(before.document), before)
    assert after.order == before.order


def test_a_bad_annotation_is_told_with_its_place() -> None:
    bad = controller("rc", config={"hosts": 1})
    (problem,) = built(observed(pod("a"), controllers=(bad,))).problems
    assert problem.where == ("annotation vulcanized.io/config of ReplicationController default/rc")


def test_a_route_that_another_app_owns_is_left_out_and_told() -> None:
    parts = observed(pod("a"), config=config(paths=["/", "/api"]))
    taken = Route("todo.example.com", PathKind.PREFIX, "/api")
    result = build(
        parts, configure(parts, Remembered()), Remembered(), [(taken, AppId("default", "first"))]
    )
    assert result.desired is not None
    assert result.desired.routes == (ROUTE,)
    assert codes(result) == ["route_taken"]
    assert "default/first" in result.problems[0].message


def test_an_app_without_hosts_is_told_to_name_one() -> None:
    result = built(observed(pod("a"), config=Document("{}", "file a.json")))
    assert result.desired is None
    assert codes(result) == ["no_hosts"]


def test_a_server_changes_its_name_with_uid_address_and_port() -> None:
    base = built(observed(pod("a"), config=config()))
    others = [
        built(observed(pod("a", uid="other"), config=config())),
        built(observed(pod("a", ip="10.0.0.9"), config=config())),
        built(observed(pod("a"), config=config(port=99))),
    ]
    names = set()
    for result in [base, *others]:
        assert result.desired is not None
        names.add(result.desired.backends[0].servers[0].name)
    assert len(names) == 4


def test_a_version_scaled_to_nothing_is_history() -> None:
    result = built(
        observed(
            pod("a", "blue"),
            controllers=(controller("rc-old", "old", desired=0), controller("rc", "blue")),
            config=config(),
            activation="blue",
        )
    )
    assert result.versions == ("blue",)
    assert result.desired is not None
    assert [backend.version for backend in result.desired.backends] == ["blue"]


def test_fields_in_use_are_named_for_the_targets() -> None:
    result = built(observed(pod("a"), config=config(sticky=True, protocol="grpc")))
    assert result.desired is not None
    assert result.desired.features == {"hosts", "sticky", "protocol.grpc"}


def test_an_ipv6_pod_keeps_its_address_bare() -> None:
    result = built(observed(pod("a", ip="fd00::1"), config=config()))
    assert result.desired is not None
    (server,) = result.desired.backends[0].servers
    assert server.endpoint == Endpoint("fd00::1", 8080)
    assert str(server.endpoint) == "[fd00::1]:8080"


VERSIONS = st.sampled_from(["blue", "green", "red"])
PODS = st.lists(
    st.builds(
        lambda number, version, ready, terminating, finished: pod(
            f"p{number}",
            version,
            ip=f"10.0.0.{number}",
            ready=ready,
            terminating=terminating,
            finished=finished,
        ),
        st.integers(1, 250),
        VERSIONS,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.name,
)
ACTIVATIONS = st.one_of(
    st.none(),
    VERSIONS,
    st.text(max_size=12),
    st.dictionaries(VERSIONS, st.integers(-1, 100), max_size=3).map(
        lambda weights: json.dumps({"weights": weights})
    ),
)
MEMORY = st.builds(Remembered, st.sampled_from([None, config()]), st.sampled_from(["", "blue"]))


@given(PODS, ACTIVATIONS, MEMORY)
def test_whatever_comes_in_the_split_names_backends_and_a_ready_version_wins(
    pods: list[Pod], text: str | None, remembered: Remembered
) -> None:
    parts = observed(*pods, config=config(), activation=text)
    result = built(parts, remembered)
    assert result.desired is not None
    assert result.desired.split
    for share in result.desired.split:
        assert share.weight > 0
        assert result.desired.backend(share.version) is not None
    placed = {s.address for b in result.desired.backends for s in b.servers}
    assert placed == {
        each.ip for each in pods if not each.finished and (each.ready or each.terminating)
    }
    # Building again with what it remembers changes nothing: a restart reaches the same state.
    again = built(parts, result.remember)
    assert again.desired == result.desired
    assert again.held == result.held


@given(PODS, ACTIVATIONS)
def test_no_pod_takes_traffic_that_is_not_ready(pods: list[Pod], text: str | None) -> None:
    result = built(observed(*pods, config=config(), activation=text))
    assert result.desired is not None
    serving = {
        server.address
        for backend in result.desired.backends
        for server in backend.servers
        if server.state is ServerState.READY
    }
    assert serving <= {
        each.ip for each in pods if each.ready and not each.terminating and not each.finished
    }
