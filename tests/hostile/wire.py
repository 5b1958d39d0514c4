"""Pods and controllers as somebody hostile would write them: on disk no API server checks them."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.hostile.documents import config_texts, versions, with_hostile_places
from tests.hostile.payloads import ALL, around

Json = Any

_NAMES = st.sampled_from(("todo-1", "todo-2", "a", "todo.example.com", "a" * 253))
_APPS = st.sampled_from(("todo", "todo", "Shop_1", "a" * 63))
_NAMESPACES = st.sampled_from(("default", "default", "kube-system", "a" * 63))
_UIDS = st.sampled_from(("5f6c1b4e-0a6f-4b0e-9d39-000000000001", "u1", "u2"))
_IPS = st.sampled_from(("10.0.0.1", "10.0.0.2", "fd00::1")) | st.sampled_from(
    (
        "10.0.0.1", "fd00::1", "FD00:0:0::2", "::ffff:10.0.0.1", "0.0.0.0", "::",
        "fe80::1%eth0", "010.0.0.1", "10.1", "0x0a000001", "2130706433", "127.0.0.1", "224.0.0.1",
        "255.255.255.255", "localhost", "",
    )
)  # fmt: skip
_TIMES = st.sampled_from(
    ("2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01")
)
_PORTS = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from((8080, 80, 65535, 1))},
        optional={
            "name": st.sampled_from(("http", "h2c", "healthcheck")),
            "protocol": st.sampled_from(("TCP", "UDP")),
        },
    ),
    max_size=2,
)
_LABELS = st.fixed_dictionaries(
    {"app": _APPS}, optional={"version": versions, "pod-template-hash": versions}
)
_METADATA = st.fixed_dictionaries(
    {"name": _NAMES, "labels": _LABELS},
    optional={
        "namespace": _NAMESPACES,
        "uid": _UIDS,
        "resourceVersion": st.just("7"),
        "creationTimestamp": _TIMES,
        "deletionTimestamp": _TIMES,
        "ownerReferences": st.just([{"name": "todo-rc", "controller": True}]),
        "annotations": st.just({"anything": "at all"}),
    },
)
pods = st.fixed_dictionaries(
    {
        "kind": st.just("Pod"),
        "metadata": _METADATA,
        "spec": _PORTS.map(lambda ports: {"containers": [{"ports": ports}]}),
        "status": st.builds(
            lambda ip, phase: {
                "phase": phase,
                "podIP": ip,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
            _IPS,
            st.sampled_from(("Running", "Running", "Running", "Pending", "Failed")),
        ),
    }
)  # fmt: skip
controllers = st.builds(
    lambda kind, meta, config, version, replicas: {
        "kind": kind,
        "metadata": {**meta, "annotations": {"vulcanized.io/config": config}},
        "spec": {
            "replicas": replicas,
            "template": {"metadata": {"labels": {"version": version}}},
        },
    },
    st.sampled_from(("ReplicationController", "ReplicaSet", "Deployment")),
    _METADATA,
    config_texts,
    versions,
    st.sampled_from((0, 1, 2, 2**40)),
)
objects = with_hostile_places(pods | pods | controllers)


def _list(items: list[Json]) -> Json:
    return {"kind": "List", "apiVersion": "v1", "items": items}


documents = st.one_of(objects, objects, st.lists(objects, max_size=3).map(_list))


def _as_yaml(made: list[Json], times_bare: bool) -> bytes:
    text = "---\n".join(yaml.safe_dump(each, allow_unicode=True) for each in made)
    if times_bare:  # a time without quotes is a time to YAML, not a text
        text = text.replace("'", "") if text.count("'") < 20 else text
    return text.encode(errors="surrogatepass")


def _as_json(made: Json, plainly: bool) -> bytes:
    return json.dumps(made, ensure_ascii=not plainly).encode(errors="surrogatepass")


_TAGS = st.builds(
    lambda tag, value: f"!!{tag} {value}\n".encode(),
    st.sampled_from(
        (
            "int", "float", "bool", "null", "timestamp", "binary", "set", "omap", "pairs", "str",
            "seq", "map", "merge", "value", "python/name:os.system",
        )
    ),
    st.sampled_from(
        (
            "x", "''", "[]", "{}", "[a]", "{a: b}", "0x1F", "1:60", "-", ".", "~", "2001-99-99",
            "2001-12-14t21:59:43.10-99:99", "[{a: b}]", '"\\x00"', "=", "<<",
        )
    ),
)  # fmt: skip
_LINES = st.builds(
    lambda lines: "\n".join(lines).encode(errors="surrogatepass"),
    st.lists(
        st.sampled_from(
            (
                "kind: Pod", "metadata:", "  name: a", "  labels: {app: todo}", "items: x", "- a",
                "? [a]", "? {a: b}", "<<: {kind: Pod}", "<<: 1", "a: &a [*a]", "--- !!set", "...",
                "%YAML 1.3", "%TAG ! tag:x,2000:", "  uid: 1", "  creationTimestamp: 2026-01-01",
                "status: {podIP: 1:2}", "\t", "kind: !!binary YQ==", "1: 2", "null: null",
            )
        ),
        max_size=6,
    ),
)  # fmt: skip

_ANY_BYTES = st.binary(max_size=40) | st.sampled_from(ALL).map(
    lambda text: text.encode(errors="surrogatepass")
)
files = st.one_of(
    st.tuples(
        st.just("a.yaml"), st.builds(_as_yaml, st.lists(documents, max_size=2), st.booleans())
    ),
    st.tuples(st.just("a.json"), st.builds(_as_json, documents, st.booleans())),
    st.tuples(st.just("a.yaml"), _TAGS | _LINES),
    st.tuples(st.sampled_from(("a.yaml", "a.json")), _ANY_BYTES),
)
"""Files of manifests: name and content."""


def _event(action: Json, thing: Json, plainly: bool) -> bytes:
    text = json.dumps({"type": action, "object": thing}, ensure_ascii=not plainly)
    return text.encode(errors="surrogatepass")


_ACTIONS = st.sampled_from(("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", None, 7))
_STATUS = with_hostile_places(
    st.just(
        {
            "kind": "Status",
            "code": 410,
            "reason": "Expired",
            "message": "too old",
            "details": {"retryAfterSeconds": 1, "causes": [{"reason": "x"}]},
        }
    )
)
events = st.one_of(
    st.builds(_event, _ACTIONS | st.just("ADDED"), objects, st.booleans()),
    st.builds(_event, _ACTIONS, _STATUS, st.booleans()),
    st.binary(max_size=40),
)
"""Lines of a watch."""


def _page(items: list[Json], plainly: bool, version: Json) -> bytes:
    body = {"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items}
    return json.dumps(body, ensure_ascii=not plainly).encode(errors="surrogatepass")


pages = st.builds(
    _page, st.lists(objects, max_size=3), st.booleans(), st.sampled_from(("7", "7", None, 7))
)
"""Answers to a list of pods."""

places = st.one_of(
    st.builds(
        lambda folder, namespace, app: f"{folder}/{namespace}/{app}",
        st.sampled_from(("apps", "active")),
        _NAMESPACES.flatmap(around) | _NAMESPACES,
        _APPS.flatmap(around) | _APPS,
    ),
    around("apps/default/todo"),
)
"""What stands behind the prefix of an etcd key, or the name of a file of the store."""
