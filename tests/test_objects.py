"""Kubernetes objects as they are written -> lean records: what counts, what costs one object."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vulcanized.errors import Invalid
from vulcanized.model import Controller, Pod, Port
from vulcanized.objects import (
    CONFIG_ANNOTATION,
    KINDS,
    UNVERSIONED,
    Labels,
    Manifests,
    controllers,
    pods,
)

LABELS = Labels()
READY = {"type": "Ready", "status": "True"}


def wire_pod(**changes: Any) -> dict[str, Any]:
    """A whole pod; each change replaces a top-level field, None takes it away."""
    whole = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata(),
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "10.1.2.3", "conditions": [READY]},
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def metadata(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "name": "todo-1",
        "namespace": "default",
        "uid": "u-1",
        "resourceVersion": "7",
        "labels": {"app": "todo", "version": "green"},
    }
    return whole | changes


def wire_controller(kind: str = "ReplicationController", **changes: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "todo", "version": "green"}}, "spec": {}}
    whole = {
        "kind": kind,
        "metadata": metadata(creationTimestamp="2026-01-02T03:04:05Z"),
        "spec": {"replicas": 3, "template": template},
    }
    return whole | changes


def read_pod(wire: object, labels: Labels = LABELS) -> Pod | None:
    resource = pods(labels)
    return resource.lean(msgspec.json.decode(json.dumps(wire).encode(), type=resource.wire))


def some_pod(wire: object, labels: Labels = LABELS) -> Pod:
    pod = read_pod(wire, labels)
    assert pod is not None
    return pod


def read_controller(wire: dict[str, Any], labels: Labels = LABELS) -> Controller | None:
    resource = controllers(wire["kind"], labels)
    return resource.lean(msgspec.json.decode(json.dumps(wire).encode(), type=resource.wire))


def some_controller(wire: dict[str, Any], labels: Labels = LABELS) -> Controller:
    controller = read_controller(wire, labels)
    assert controller is not None
    return controller


# --- pods -------------------------------------------------------------------------------------


def test_a_whole_pod_becomes_a_lean_record() -> None:
    assert read_pod(wire_pod()) == Pod(
        uid="u-1",
        namespace="default",
        name="todo-1",
        app="todo",
        version="green",
        ip="10.1.2.3",
        ports=(Port("http", 8080),),
        ready=True,
        terminating=False,
        finished=False,
    )


@pytest.mark.parametrize(
    "labels", [None, {}, {"tier": "web"}, {"app": ""}], ids=["null", "none", "others", "empty"]
)
def test_an_object_without_the_app_label_is_no_apps(labels: object) -> None:
    assert read_pod(wire_pod(metadata=metadata(labels=labels))) is None


def test_the_labels_that_count_are_a_setting() -> None:
    wire = wire_pod(metadata=metadata(labels={"service": "shop", "release": "42", "app": "no"}))

    pod = some_pod(wire, Labels(app="service", version="release"))

    assert (pod.app, pod.version) == ("shop", "42")


OWNER = {"kind": "ReplicationController", "name": "todo-rc", "uid": "x", "controller": True}


@pytest.mark.parametrize(
    ("labels", "owners", "version"),
    [
        ({"version": "green", "pod-template-hash": "abc"}, [OWNER], "green"),
        ({"pod-template-hash": "abc"}, [OWNER], "abc"),
        ({"version": ""}, [OWNER], "todo-rc"),
        ({}, [{**OWNER, "controller": False}], UNVERSIONED),
        ({}, [{"name": "other"}, OWNER], "todo-rc"),
        ({}, None, UNVERSIONED),
    ],
)
def test_the_version_is_the_label_else_the_hash_else_the_controller(
    labels: dict[str, str], owners: object, version: str
) -> None:
    wire = wire_pod(metadata=metadata(labels={"app": "todo", **labels}, ownerReferences=owners))

    assert some_pod(wire).version == version


@pytest.mark.parametrize(
    ("status", "ready", "finished"),
    [
        ({"phase": "Running", "conditions": [READY]}, True, False),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}, False, False),
        (
            {"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}]},
            False,
            False,
        ),
        ({"phase": "Running", "conditions": None}, False, False),
        ({"phase": "Pending", "conditions": [READY]}, False, False),
        ({"phase": "Succeeded", "conditions": [READY]}, False, True),
        ({"phase": "Failed"}, False, True),
        ({}, False, False),
        (None, False, False),
    ],
)
def test_ready_is_running_with_the_condition_and_finished_frees_the_address(
    status: object, ready: bool, finished: bool
) -> None:
    pod = some_pod(wire_pod(status=status))

    assert (pod.ready, pod.finished) == (ready, finished)


def test_a_deletion_timestamp_is_terminating() -> None:
    assert some_pod(
        wire_pod(metadata=metadata(deletionTimestamp="2026-01-01T00:00:00Z"))
    ).terminating


@pytest.mark.parametrize(
    ("written", "ip"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("127.1.1.1", "127.1.1.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", ""),
        ("10.1.2", ""),
        ("010.1.2.3", ""),
        ("10.1.2.3\n", ""),
        ("10.1.2.3 weight 9", ""),
        ("a\0b", ""),
        ("\u0661.1.1.1", ""),
        ("example.com", ""),
        ("0.0.0.0", ""),
        ("::", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_what_is_no_address_to_send_traffic_to_is_none(written: str | None, ip: str) -> None:
    assert some_pod(wire_pod(status={"phase": "Running", "podIP": written})).ip == ip


def test_ports_are_tcp_of_containers_and_then_of_native_sidecars() -> None:
    spec = {
        "initContainers": [
            {"ports": [{"containerPort": 1}]},
            {"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 2}]},
        ],
        "containers": [
            {"ports": [{"name": "http", "containerPort": 3, "protocol": "TCP"}]},
            {
                "ports": [
                    {"containerPort": 4, "protocol": "UDP"},
                    {"containerPort": 5},
                    {"name": "x"},
                ]
            },
            {"ports": None},
            {},
        ],
    }

    assert some_pod(wire_pod(spec=spec)).ports == (Port("http", 3), Port("", 5), Port("proxy", 2))


@pytest.mark.parametrize("spec", [None, {}, {"containers": None}, {"containers": []}])
def test_a_pod_without_containers_has_no_ports(spec: object) -> None:
    assert some_pod(wire_pod(spec=spec)).ports == ()


def test_what_many_pods_have_in_common_is_kept_once() -> None:
    one, other = some_pod(wire_pod()), some_pod(wire_pod(metadata=metadata(uid="u-2")))

    assert one.ports is other.ports
    assert one.app is other.app
    assert one.version is other.version
    assert one.namespace is other.namespace


# --- controllers ------------------------------------------------------------------------------


def test_a_whole_controller_becomes_a_lean_record() -> None:
    wire = wire_controller()
    wire["metadata"]["annotations"] = {CONFIG_ANNOTATION: '{"hosts": []}', "other": "x"}

    assert read_controller(wire) == Controller(
        uid="u-1",
        kind="ReplicationController",
        namespace="default",
        name="todo-1",
        app="todo",
        version="green",
        desired=3,
        created="2026-01-02T03:04:05Z",
        config='{"hosts": []}',
    )


def test_the_app_is_the_controllers_own_label_else_its_templates() -> None:
    wire = wire_controller(metadata=metadata(labels=None))
    assert some_controller(wire).app == "todo"
    wire = wire_controller(metadata=metadata(labels={"app": "own"}))
    assert some_controller(wire).app == "own"
    wire = wire_controller(metadata=metadata(labels=None), spec=None)
    assert read_controller(wire) is None


@pytest.mark.parametrize(
    ("kind", "labels", "version"),
    [
        ("ReplicaSet", {"version": "7", "pod-template-hash": "abc"}, "7"),
        ("ReplicaSet", {"pod-template-hash": "abc"}, "abc"),
        ("ReplicaSet", {}, "todo-1"),
        ("ReplicationController", {}, "todo-1"),
        ("Deployment", {}, ""),
        ("Deployment", {"version": "7"}, "7"),
    ],
)
def test_a_controllers_version_is_its_templates(
    kind: str, labels: dict[str, str], version: str
) -> None:
    wire = wire_controller(kind, spec={"template": {"metadata": {"labels": labels}}})

    assert some_controller(wire).version == version


@pytest.mark.parametrize(("replicas", "desired"), [(0, 0), (5, 5), (None, 1)])
def test_replicas_unset_means_one(replicas: int | None, desired: int) -> None:
    assert some_controller(wire_controller(spec={"replicas": replicas})).desired == desired


# --- hostile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": metadata(name=None)},
        {"metadata": metadata(name="../../etc")},
        {"metadata": metadata(name="a\nserver evil")},
        {"metadata": metadata(name="a" * 254)},
        {"metadata": metadata(namespace=None)},
        {"metadata": metadata(namespace="UPPER")},
        {"metadata": metadata(uid=None)},
        {"metadata": metadata(uid="a b")},
        {"metadata": metadata(uid="u" * 601)},
        {"metadata": metadata(labels={"app": "todo; drop"})},
        {"metadata": metadata(labels={"app": "a/b"})},
        {"metadata": metadata(labels={"app": "todo", "version": "*"})},
        {"metadata": metadata(labels={"app": "todo", "version": "1\n"})},
        {"metadata": metadata(labels={"app": "x" * 64})},
        {"spec": {"containers": [{"ports": [{"name": "a b", "containerPort": 1}]}]}},
    ],
)
def test_what_kubernetes_would_not_allow_is_refused_with_the_objects_name(
    change: dict[str, Any],
) -> None:
    with pytest.raises(Invalid, match=r"^Pod .*: ") as refused:
        read_pod(wire_pod(**change))

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_an_owner_with_an_odd_name_is_no_version() -> None:
    owners = [{**OWNER, "name": "a b"}]

    wire = wire_pod(metadata=metadata(labels={"app": "todo"}, ownerReferences=owners))

    assert some_pod(wire).version == UNVERSIONED


# --- files ------------------------------------------------------------------------------------


def test_a_manifest_as_kubectl_prints_it_gives_the_record_of_the_wire() -> None:
    manifests = Manifests(LABELS)

    assert manifests.record(yaml.safe_load(yaml.safe_dump(wire_pod()))) == read_pod(wire_pod())
    for kind in KINDS[1:]:
        wire = wire_controller(kind)
        assert manifests.record(json.loads(json.dumps(wire))) == read_controller(wire)


def test_what_a_server_would_have_given_is_made_up() -> None:
    document = wire_pod(metadata={"name": "a", "labels": {"app": "todo"}})

    record = Manifests(LABELS).record(document)

    assert isinstance(record, Pod)
    assert (record.uid, record.namespace) == ("Pod/default/a", "default")
    assert document["metadata"] == {"name": "a", "labels": {"app": "todo"}}, "not changed"


@pytest.mark.parametrize(
    ("loaded", "created"),
    [
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05Z"),
        (
            dt.datetime(2026, 1, 2, 4, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            "2026-01-02T03:04:05Z",
        ),
        (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05Z"),  # noqa: DTZ001
        (dt.date(2026, 1, 2), "2026-01-02T00:00:00Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        (None, ""),
    ],
)
def test_times_may_come_as_yaml_loads_them(loaded: object, created: str) -> None:
    wire = wire_controller()
    wire["metadata"]["creationTimestamp"] = loaded

    record = Manifests(LABELS).record(wire)

    assert isinstance(record, Controller)
    assert record.created == created


@pytest.mark.parametrize("document", [{"kind": "Service"}, {"kind": None}, {}, {"kind": ["Pod"]}])
def test_other_kinds_are_not_ours(document: object) -> None:
    assert Manifests(LABELS).record(document) is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("text", "manifest: expected an object, got str"),
        (None, "manifest: expected an object, got NoneType"),
        (wire_pod(metadata=metadata(labels={"version": 1})), "Pod default/todo-1: .*labels"),
        (wire_pod(metadata="x"), "Pod without a name: .*metadata"),
        (wire_pod(spec={"containers": [{"ports": [{"containerPort": 0}]}]}), "Pod .*containerPort"),
        (wire_pod(spec={"containers": [{"ports": [{"containerPort": "80"}]}]}), "containerPort"),
        (wire_pod(status={"conditions": {}}), "conditions"),
        (wire_controller(spec={"replicas": -1}), "ReplicationController .*replicas"),
        (wire_controller(spec={"replicas": True}), "replicas"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(document: object, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Manifests(LABELS).record(document)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_PLACES = (
    ("metadata",),
    ("metadata", "labels"),
    ("metadata", "labels", "app"),
    ("metadata", "name"),
    ("metadata", "uid"),
    ("metadata", "ownerReferences"),
    ("metadata", "creationTimestamp"),
    ("spec",),
    ("spec", "containers"),
    ("spec", "template"),
    ("spec", "replicas"),
    ("status",),
    ("status", "podIP"),
    ("status", "conditions"),
)


@given(kind=st.sampled_from(KINDS), place=st.sampled_from(_PLACES), value=_JSON)
def test_anything_anywhere_is_a_record_none_or_invalid(
    kind: str, place: tuple[str, ...], value: object
) -> None:
    document = wire_pod() if kind == "Pod" else wire_controller(kind)
    inner = document
    for step in place[:-1]:
        inner = inner.setdefault(step, {})
    inner[place[-1]] = value

    try:
        record = Manifests(LABELS).record(document)
    except Invalid as error:
        texts = [str(error)]
    else:
        texts = [record.uid, record.name, record.app, record.version] if record else []
        if isinstance(record, Controller):
            texts.append(record.created)
    assert all(text.isprintable() for text in texts)
