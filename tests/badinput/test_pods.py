"""Pods and controllers as they should not be: no address, no ports, no containers, wrong types."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.badinput.golden import agrees
from tests.badinput.stage import Stage, by_app, pod, problems_of, write
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")

Json = dict[str, Any]
PORT = {"containerPort": 8080}


def _spec(**fields: Any) -> Callable[[Json], Json]:
    return lambda pod: {**pod, "spec": {**pod["spec"], **fields}}


def _status(**fields: Any) -> Callable[[Json], Json]:
    return lambda pod: {**pod, "status": {**pod["status"], **fields}}


def _ports(*ports: Any) -> Callable[[Json], Json]:
    return _spec(containers=[{"name": "c", "ports": list(ports)}])


def _config(text: Any) -> Callable[[Json], Json]:
    """Not a pod but a controller with this annotation."""
    return lambda pod: {
        "kind": "ReplicaSet",
        "metadata": {**pod["metadata"], "annotations": {"vulcanized.io/config": text}},
        "spec": {"replicas": 1, "template": {"metadata": {"labels": pod["metadata"]["labels"]}}},
    }


# What it is, how a good pod becomes it, and the app's config (-: none but what it brings).
CASES: tuple[tuple[str, Callable[[Json], Any], Json], ...] = (
    ("no address", _status(podIP=None), {}),
    ("an empty address", _status(podIP=""), {}),
    ("a name for an address", _status(podIP="pod-1.example.com"), {}),
    ("an address with a directive", _status(podIP="10.0.0.1\n server evil 6.6.6.6:80"), {}),
    ("an address with a port", _status(podIP="10.0.0.1:80"), {}),
    ("an address that means any", _status(podIP="0.0.0.0"), {}),
    ("an IPv6 address that means any", _status(podIP="::"), {}),
    ("an IPv6 address with a zone", _status(podIP="fe80::1%eth0"), {}),
    ("a number for an address", _status(podIP=167772161), {}),
    ("no ports", _spec(containers=[{"name": "c"}]), {}),
    ("ports that are null", _spec(containers=[{"name": "c", "ports": None}]), {}),
    ("no containers", _spec(containers=[]), {}),
    ("containers that are null", _spec(containers=None), {}),
    ("a container that is null", _spec(containers=[None]), {}),
    ("containers that are a text", _spec(containers="c"), {}),
    ("a port that is null", _ports(None), {}),
    ("a port without a number", _ports({"name": "http"}), {}),
    ("port 0", _ports({"containerPort": 0}), {}),
    ("port 65536", _ports({"containerPort": 65536}), {}),
    ("a text for a port", _ports({"containerPort": "http"}), {}),
    ("a port of UDP only", _ports({**PORT, "protocol": "UDP"}), {}),
    ("only a health check's port", _ports({**PORT, "name": "healthcheck"}), {}),
    ("a port name with a newline", _ports({**PORT, "name": "a\nb"}), {}),
    ("a port name that nobody has", _ports({**PORT, "name": "web"}), {"port": "http"}),
    (
        "a port name that only an init container has",
        _spec(initContainers=[{"name": "i", "ports": [{**PORT, "name": "http"}]}]),
        {"port": "http"},
    ),
    ("no spec", lambda pod: {**pod, "spec": None}, {}),
    ("no status", lambda pod: {**pod, "status": None}, {}),
    ("conditions that are null", _status(conditions=None), {}),
    ("a condition that is null", _status(conditions=[None]), {}),
    ("a readiness that is true", _status(conditions=[{"type": "Ready", "status": True}]), {}),
    ("a phase that is a number", _status(phase=1), {}),
    ("a pod that is a list", lambda pod: [pod], {}),
    ("a pod without a kind", lambda pod: {**pod, "kind": None}, {}),
    ("a list without items", lambda _: {"kind": "List"}, {}),
    ("a list whose items are a text", lambda _: {"kind": "PodList", "items": "pods"}, {}),
    ("replicas below 0", lambda pod: {**_config("{}")(pod), "spec": {"replicas": -1}}, {}),
    ("an annotation that is no JSON", _config("hosts: [a]"), {"-": 0}),
    ("an annotation that is no text", _config({"hosts": ["a"]}), {}),
    ("an annotation of 300 kB", _config("a" * 300_000), {"-": 0}),
)
LEFT_OUT = 16  # of them are no usable objects at all
APPS = [f"case-{number:03}" for number in range(len(CASES))]

FINE: tuple[tuple[str, Callable[[Json], Json]], ...] = (
    ("a hundred containers", _spec(containers=[{"ports": [PORT]}] + [{"name": "c"}] * 100)),
    ("a port without a protocol", _ports({**PORT, "protocol": None})),
    ("a host's network", _spec(hostNetwork=True)),
    ("fields of a later Kubernetes", _status(resizeOfTomorrow={"a": [1, None]})),
    ("IPv6", _status(podIP="fd00::1")),
)


def spoil(stage: Stage, app: str, change: Callable[[Json], Any], good: Json) -> None:
    write(stage.manifests / f"{good['metadata']['name']}.json", json.dumps(change(good)))


def test_each_is_one_clear_line_with_its_place_and_what_to_do(stage: Stage) -> None:
    for app, (_, change, config) in zip(APPS, CASES, strict=True):
        if "-" not in config:
            stage.config(app, **config)
        spoil(stage, app, change, pod(f"{app}-1", app, ("10.0.0.1", 8080)))
    check = stage.command("check")
    assert check.returncode == 1
    said = by_app(check.stderr)
    agrees(
        "pods",
        [
            (
                title,
                json.dumps(change(pod("APP-1", "APP", ("10.0.0.1", 8080)))),
                [
                    line.replace(app, "APP")
                    for line in (*(each for each in said[""] if app in each), *said.get(app, ()))
                ],
            )
            for app, (title, change, _) in zip(APPS, CASES, strict=True)
        ],
    )


def test_what_only_looks_odd_is_served(stage: Stage) -> None:
    for number, (_, change) in enumerate(FINE):
        stage.config(f"fine-{number}")
        spoil(stage, "", change, pod(f"fine-{number}-1", f"fine-{number}", ("10.0.0.1", 8080)))
    check = stage.command("check")
    assert (check.returncode, check.stderr) == (0, "")
    rendered = stage.command("render").stdout
    for number in range(len(FINE)):
        assert f"server fine-{number}-1-" in rendered


def test_one_object_in_two_files_is_told_and_the_first_file_holds(stage: Stage) -> None:
    stage.config("todo")
    first, second = (pod("todo-1", "todo", ("10.0.0.1", port)) for port in (8081, 8082))
    write(stage.manifests / "a.json", json.dumps(first))
    write(stage.manifests / "b.json", json.dumps(second))
    check = stage.command("check")
    agrees("pods-twice", [("a pod in two files", "", check.stderr.splitlines())])
    assert "10.0.0.1:8081" in stage.command("render").stdout


def test_each_that_goes_bad_leaves_traffic_where_it_was_or_takes_its_own_pod_only(
    stage: Stage,
) -> None:
    """Every app has a pod that stays good: no request is answered with less than that."""
    with LocalPods() as pods:
        good, other = pods.start("good", "1"), pods.start("other", "1")
        for app, (_, _, config) in zip(APPS, CASES, strict=True):
            stage.config(app, **{k: good[1] for k in config if k == "port"})
            stage.pod_of(app, good)
            stage.pod(pod(f"{app}-2", app, other))
        with Vulcanized(stage.folder / "v", stage.sides) as daemon:
            daemon.start()
            before = {app: served_by(daemon.url, f"{app}.example.com") for app in APPS[:1]}
            assert before == {APPS[0]: {"good", "other"}}
            for app, (_, change, _) in zip(APPS, CASES, strict=True):
                spoil(stage, app, change, copy.deepcopy(pod(f"{app}-2", app, other)))
            eventually(
                lambda: len(daemon.status()["sources"][0]["left_out"]) == LEFT_OUT,
                20,
                "what is left out",
            )
            eventually(lambda: problems_of(daemon.status(), APPS[0]), 10, "the first problem")
            for app in APPS:
                served = served_by(daemon.url, f"{app}.example.com", tries=4)
                assert served <= {"good", "other"}, app
                assert served, app
            stage.pod(pod(f"{APPS[0]}-2", APPS[0], other))
            stage.manifests.joinpath(f"{APPS[0]}-1.json").unlink()
            eventually_served_by(daemon.url, f"{APPS[0]}.example.com", ["other"])
            assert not problems_of(daemon.status(), APPS[0])
