"""Descriptors: ours, Amdatu's, and hostile ones."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vulcanized.deployer.descriptor import (
    Draft,
    Lookup,
    Release,
    app_settings,
    controller_name,
    descriptor_schema,
    environment_of,
    health_port,
    read,
    redacted,
)
from vulcanized.deployer.words import Stage, Times
from vulcanized.errors import DescriptorInvalid, Invalid
from vulcanized.model import AppId
from vulcanized.objects import Labels

MINIMAL = {"app": "todo", "podspec": {"containers": [{"name": "app", "image": "todo:1"}]}}

# As Amdatu's documentation has it.
AMDATU = {
    "namespace": "default",
    "appName": "nginx-demo",
    "newVersion": "#",
    "replicas": 1,
    "frontend": "demo.example.com",
    "useHealthCheck": True,
    "healthCheckPort": 80,
    "healthCheckPath": "/",
    "healthCheckType": "simple",
    "podspec": {
        "containers": [
            {
                "name": "nginx-demo",
                "image": "nginx",
                "ports": [{"name": "http", "containerPort": 80}],
            }
        ]
    },
}


def draft(**fields: Any) -> Draft:
    return read(json.dumps({**MINIMAL, **fields}).encode(), "todo.json")


def values(**known: object) -> Lookup:
    return known.get


def release(read_: Draft, version: str = "1", **known: object) -> Release:
    return read_.release(version, "d1", values(**known), (), Labels(), Times())


def test_the_least_descriptor_is_app_and_containers() -> None:
    made = release(draft())
    assert made.app == AppId("default", "todo")
    assert made.name == "todo-1"
    assert made.kind == "ReplicationController"
    assert made.stages == (Stage(1),)
    assert made.health is None
    assert made.config == ""
    jsonschema.Draft202012Validator(descriptor_schema()).validate(MINIMAL)


def test_the_controller_has_labels_spread_environment_and_says_whose_it_is() -> None:
    fields = {
        "controller": "ReplicaSet",
        "labels": {"team": "shop"},
        "environment": {"A": "1"},
        "spread": "required",
        "health": {"path": "/health", "port": 8080},
    }
    manifest = release(draft(**fields), "v1.2_X").manifest(3)
    chosen = {"app": "todo", "version": "v1.2_X"}
    assert manifest["metadata"]["labels"] == {"team": "shop", **chosen}
    assert manifest["metadata"]["annotations"]["vulcanized.io/deployment"] == "d1"
    assert manifest["spec"]["selector"] == {"matchLabels": chosen}
    assert manifest["spec"]["replicas"] == 3
    spec = manifest["spec"]["template"]["spec"]
    assert spec["topologySpreadConstraints"] == [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": chosen},
        }
    ]
    names = [each["name"] for each in spec["containers"][0]["env"]]
    assert names == ["APP_NAME", "POD_NAMESPACE", "APP_VERSION", "POD_NAME", "A"]


def test_a_spread_of_ones_own_stays() -> None:
    own = [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]
    spec = {**MINIMAL["podspec"], "topologySpreadConstraints": own}  # type: ignore[dict-item]
    made = release(draft(podspec=spec)).manifest(1)
    assert made["spec"]["template"]["spec"]["topologySpreadConstraints"] == own


def test_names_are_filled_in_and_numbers_stay_numbers() -> None:
    container = {
        "name": "app",
        "image": "todo:${tag}-${version}",
        "args": ["$${tag}", "$(POD_NAME)", "${app}.${namespace}/${deployment}"],
        "ports": [{"containerPort": "${port}"}],
    }
    made = release(
        draft(podspec={"containers": [container]}, version="${build}"),
        "7",
        tag="x",
        port=80,
        build=7,
    )
    (filled,) = made.descriptor.podspec["containers"]
    assert filled["image"] == "todo:x-7"
    assert filled["args"] == ["${tag}", "$(POD_NAME)", "todo.default/d1"]
    assert filled["ports"] == [{"containerPort": 80}]


def test_all_names_without_a_value_are_told_at_once() -> None:
    spec = {"containers": [{"name": "a", "image": "${x}:${y}", "args": ["${bad name}", "${x}"]}]}
    with pytest.raises(DescriptorInvalid, match=r"\$\{bad name\}; \$\{x\}; \$\{y\}: no value"):
        release(draft(podspec=spec))


def test_a_value_is_not_filled_in_again() -> None:
    made = release(draft(environment={"A": "${x}"}), x="${y}")
    assert made.descriptor.environment == {"A": "${y}"}


def test_amdatus_form_is_taken_as_it_is() -> None:
    extra = {"ID": "x", "created": "y", "webhooks": [{"key": "k"}], "unheardOf": {}}
    for text in (AMDATU, {key.upper(): value for key, value in AMDATU.items()}, AMDATU | extra):
        read_ = read(json.dumps(text).encode(), "it")
        assert read_.identity(values()) == (AppId("default", "nginx-demo"), "#")
        made = release(read_)
        assert json.loads(made.config) == {"hosts": ["demo.example.com"]}
        assert made.health is not None
        assert (made.health.kind, made.health.port, made.health.path) == ("http", 80, "/")
        spec = made.manifest(1)["spec"]["template"]["spec"]
        assert (spec["restartPolicy"], spec["dnsPolicy"]) == ("Always", "ClusterFirst")
        assert spec["containers"][0]["imagePullPolicy"] == "Always"


def test_amdatus_wishes_become_ours() -> None:
    text = AMDATU | {
        "appName": "My.App_x",
        "newVersion": 12,
        "redirectWww": True,
        "useCompression": True,
        "useStickySessions": True,
        "tlsSecretName": "shop",
        "additionHttpHeaders": [
            {"Header": "x-a", "Value": "a"},
            {"Header": "X-A", "Value": "b\\ c"},
            {"header": "X-Age", "value": 1},
        ],
        "healthCheckType": "probe",
        "environment": {"A": "b"},
    }
    read_ = read(json.dumps(text).encode(), "it")
    assert read_.identity(values()) == (AppId("default", "my-app-x"), "12")
    made = release(read_, "12")
    assert json.loads(made.config) == {
        "hosts": ["demo.example.com"],
        "redirect_www": True,
        "compression": True,
        "sticky": True,
        "tls": {"certificate": "shop"},
        "response_headers": {"set": {"X-A": "b c", "X-Age": "1"}},
    }
    assert made.health is not None
    assert made.health.kind == "probe"
    assert made.descriptor.environment == {"A": "b"}
    ignored = read(json.dumps(AMDATU | {"ignoreHealthCheck": True}).encode(), "it")
    assert release(ignored).health is None
    for headers in ("X-A: b", ["X-A: b"], [{"Header": "X-A"}], [{"X-A": 1}], {"X-A": "b"}):
        with pytest.raises(DescriptorInvalid, match="additionHttpHeaders: must be a list of"):
            read(json.dumps(AMDATU | {"additionHttpHeaders": headers}).encode(), "it")
    with pytest.raises(DescriptorInvalid, match="deploymentType"):
        read(json.dumps(AMDATU | {"deploymentType": "red"}).encode(), "it")


@pytest.mark.parametrize(
    ("ports", "port"),
    [
        ([], 9999),
        ([{"containerPort": 80}], 80),
        ([{"containerPort": 80}, {"containerPort": 81}], 80),
        ([{"containerPort": 80}, {"containerPort": 81, "name": "healthcheck"}], 81),
    ],
)
def test_the_health_port_is_the_one_that_amdatus_deployer_chose(
    ports: list[dict[str, Any]], port: int
) -> None:
    assert health_port({"containers": [{"name": "a", "ports": ports}]}) == port


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"app": ""}, "app: must be at most 63 small letters"),
        ({"app": "a/b"}, "app: must be"),
        ({"namespace": ".."}, "namespace: must be"),
        ({"version": ""}, "version"),
        ({"version": "a/b"}, "version"),
        ({"replica": 2}, "replica: unknown field; did you mean replicas?"),
        ({"nothing_like_it": 2}, "see `vulcanized-deployer schema`"),
        ({"replicas": "many"}, "replicas: must be a whole number"),
        ({"podspec": {}}, "podspec.containers must be a list"),
        ({"podspec": {"containers": ["x"]}}, "each container must be an object with a name"),
        ({"podspec": {"containers": [{"name": "a", "env": {"b": 1}}]}}, "env of a container"),
        ({"strategy": "canary"}, "canary needs steps"),
        ({"strategy": {"type": "rolling", "steps": [{"weight": 5}]}}, "for canary only"),
        (
            {"strategy": {"type": "canary", "steps": [{"weight": 50}, {"weight": 10}]}},
            "must rise",
        ),
        ({"health": {"headers": {"Authorization": "x"}}}, "looks like a secret"),
        ({"config": {"hosts": ["a b"]}}, "config.hosts.0"),
        ({"config": {"host": "x"}}, "config.host: unknown field; did you mean hosts?"),
        ({"environment": {"A=B": "x"}}, "must be the name of an environment variable"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DescriptorInvalid) as caught:
        release(draft(**fields))
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "one object"),
        (b"[]", "one object"),
        (b"a: 1\n---\nb: 2\n", "one object"),
        (b"{", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"a: &x [1]\nb: *x\n", "aliases are not supported"),
        (b"app: todo\nwhen: 2026-01-01\n", "put it in quotes"),
        (b"1: 2\n", "is not a text"),
        (b'{"a": [' + b"1," * 30_000 + b"1]}", "more than 20000 values"),
        (b" " * (1 << 20) + b"{}", "larger than 1 MiB"),
    ],
)
def test_what_is_no_descriptor_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(DescriptorInvalid, match=words):
        read(content, "it.yaml")


def test_yaml_is_read_too() -> None:
    text = b"app: todo\nversion: 1.5\npodspec:\n  containers:\n  - {name: a, image: 'b:${t}'}\n"
    assert read(text, "x").identity(values()).version == "1.5"


@given(st.text(max_size=80), st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True))
def test_a_controllers_name_is_one_that_kubernetes_takes_and_no_other_version_has(
    version: str, app: str
) -> None:
    import re

    name = controller_name(app, version)
    label = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", version)
    if label:
        parts = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        assert re.fullmatch(rf"{parts}(\.{parts})*", name), name
        assert len(name) <= 253
    assert name != controller_name(app, version + "x")


def test_versions_that_differ_in_case_have_controllers_of_their_own() -> None:
    assert controller_name("todo", "v1") == "todo-v1"
    assert len({controller_name("todo", v) for v in ("v1", "V1", "v_1", "v-1", "v.-1")}) == 5


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from([*MINIMAL, *AMDATU, "health", "config", "strategy", "spread", "environment"]),
)
def test_whatever_stands_in_a_field_is_taken_or_refused_and_nothing_else(
    value: object, name: str
) -> None:
    for form in (MINIMAL, AMDATU):
        try:
            made = release(read(json.dumps({**form, name: value}).encode(), "it"))
        except DescriptorInvalid:
            continue
        json.dumps(made.manifest(1))
        assert made.app.name
        assert made.app.namespace


def test_what_may_be_secret_is_hidden() -> None:
    document: dict[str, Any] = {
        "env": [{"name": "A", "value": "geheim"}, {"name": "P", "valueFrom": {"x": "y"}}],
        "environment": {"A": "geheim"},
        "basic_auth": {"users": {"a": "geheim"}},
        "apiToken": "geheim",
        "nested": [{"dbPassword": "geheim", "topologyKey": "zone"}],
    }
    hidden = redacted(document)
    assert "geheim" not in json.dumps(hidden)
    assert hidden["nested"][0]["topologyKey"] == "zone"
    assert hidden["env"][1] == document["env"][1]


def test_environment_from_etcd() -> None:
    items = [("db-host", "h"), ("a/b", "no"), ("1x", "no"), ("B", "2")]
    assert environment_of(items) == (("B", "2"), ("DB_HOST", "h"))
    assert app_settings('[{"name": "A", "value": "b", "more": 1}]', "x") == (("A", "b"),)
    for text in ("{}", '[{"name": "A"}]', '[{"name": "A=", "value": ""}]', "["):
        with pytest.raises(Invalid):
            app_settings(text, "x")
