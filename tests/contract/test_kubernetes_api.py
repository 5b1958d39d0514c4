"""What we rely on in the Kubernetes API: one suite, on the real server and on the fake.

The fake carries the faults in our other tests; that it is otherwise like the real one is known from
here. Where this suite says less than the documentation does, clients may not rely on more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.api import Api, ApiError
from tests.servers.controlplane import ControlPlane
from tests.servers.fixtures import NewControlPlane
from tests.servers.wait import eventually

ALL = {
    "apiGroups": ["", "apps"],
    "resources": ["pods", "replicationcontrollers", "replicasets", "deployments"],
    "verbs": ["get", "list", "watch", "create", "patch", "delete"],
}

Line = dict[str, Any]


@dataclass
class Cluster:
    """A server, a namespace of one's own, and who may do what: all, nothing, not even log in."""

    api: Api
    namespace: str
    stranger: Api
    intruder: Api

    def path(self, plural: str = "pods", name: str = "") -> str:
        group = "/api/v1" if plural in ("pods", "replicationcontrollers") else "/apis/apps/v1"
        return f"{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def create(self, name: str, **labels: str) -> Line:
        # Named to a scheduler that there is none of, it stays as it is.
        return self.api.post(self.path(), pod(name, labels, schedulerName="nobody"))

    def label(self, name: str, **labels: str) -> Line:
        return self.api.patch(self.path(name=name), {"metadata": {"labels": labels}})

    def pods(self, **query: str | int) -> Line:
        return self.api.get(self.path(), **query)

    def version(self) -> str:
        return str(self.pods(limit=1)["metadata"]["resourceVersion"])

    def watch(
        self, until: tuple[str, str] | None = None, plural: str = "pods", **query: str | int
    ) -> list[Line]:
        """The lines of a watch up to the first of this (type, name), without one of a second."""
        query = {"watch": "true", "timeoutSeconds": 10 if until else 1, **query}
        url = f"{self.api.url}{self.path(plural)}?{urlencode(query)}"
        response = self.api._pool.request("GET", url, preload_content=False)
        try:
            assert response.status == 200
            assert response.headers["Transfer-Encoding"] == "chunked"
            lines = []
            for text in response:
                lines.append(json.loads(text))
                if seen(lines[-1:]) == [until]:
                    break
            return lines
        finally:
            response.close()


def pod(name: str, labels: dict[str, str], **spec: Any) -> Line:
    containers = [{"name": "main", "image": "todo"}]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": containers, **spec},
    }


def names(thing: Line) -> list[str]:
    return [item["metadata"]["name"] for item in thing["items"]]


def seen(lines: list[Line]) -> list[tuple[str, str]]:
    return [(line["type"], line["object"]["metadata"].get("name", "")) for line in lines]


def refusal(call: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as raised:
        call()
    return raised.value


class Contract:
    """The suite; below, the servers that it runs on."""

    # --- lists --------------------------------------------------------------------------------

    def test_a_list_has_its_kind_its_version_and_its_objects(self, cluster: Cluster) -> None:
        cluster.create("b")
        cluster.create("a")

        answer = cluster.pods()

        assert answer["kind"] == "PodList"
        assert int(answer["metadata"]["resourceVersion"]) > 0
        assert names(answer) == ["a", "b"]
        assert "continue" not in answer["metadata"]

    @pytest.mark.parametrize(
        ("plural", "kind"),
        [
            ("replicationcontrollers", "ReplicationControllerList"),
            ("replicasets", "ReplicaSetList"),
            ("deployments", "DeploymentList"),
        ],
    )
    def test_a_list_of_nothing_has_its_version_too(
        self, cluster: Cluster, plural: str, kind: str
    ) -> None:
        answer = cluster.api.get(cluster.path(plural))

        assert (answer["kind"], answer["items"]) == (kind, [])
        assert answer["metadata"]["resourceVersion"]

    def test_pages_show_one_moment_though_objects_come_and_go(self, cluster: Cluster) -> None:
        for name in "abcde":
            cluster.create(name)

        first = cluster.pods(limit=2)
        cluster.api.delete(cluster.path(name="e"))
        cluster.create("aa")
        second = cluster.pods(limit=2, **{"continue": first["metadata"]["continue"]})
        third = cluster.pods(limit=2, **{"continue": second["metadata"]["continue"]})

        assert [*names(first), *names(second), *names(third)] == list("abcde")
        assert first["metadata"]["remainingItemCount"] == 3
        assert "continue" not in third["metadata"]
        versions = {page["metadata"]["resourceVersion"] for page in (first, second, third)}
        assert len(versions) == 1

    def test_a_list_is_of_its_namespace_or_of_all(self, cluster: Cluster) -> None:
        cluster.create("mine")

        everywhere = cluster.api.get("/api/v1/pods")
        elsewhere = cluster.api.get("/api/v1/namespaces/kube-system/pods")

        assert "mine" in names(everywhere)
        assert "mine" not in names(elsewhere)

    @pytest.mark.parametrize(
        ("selector", "found"),
        [
            ("app=a", ["1", "2"]),
            ("app==a,tier=x", ["1"]),
            ("app!=a", ["3", "4"]),
            ("app in (a, b),tier", ["1", "3"]),
            ("app notin (a)", ["3", "4"]),
            ("!app", ["4"]),
            ("", ["1", "2", "3", "4"]),
        ],
    )
    def test_a_label_selector_selects(
        self, cluster: Cluster, selector: str, found: list[str]
    ) -> None:
        cluster.create("1", app="a", tier="x")
        cluster.create("2", app="a")
        cluster.create("3", app="b", tier="x")
        cluster.create("4", other="z")

        assert names(cluster.pods(labelSelector=selector)) == found

    def test_a_version_that_is_not_reached_is_refused_in_a_list(self, cluster: Cluster) -> None:
        error = refusal(
            lambda: cluster.pods(
                limit=1, resourceVersion="999999999999", resourceVersionMatch="NotOlderThan"
            )
        )

        assert (error.status, error.reason) == (504, "Timeout")
        assert "Too large resource version" in str(error)

    def test_a_version_that_is_none_is_refused_and_a_list_says_why(self, cluster: Cluster) -> None:
        what: dict[str, Any] = {"resourceVersion": "what"}
        listed = refusal(lambda: cluster.pods(limit=1, resourceVersionMatch="NotOlderThan", **what))
        watched = refusal(lambda: cluster.pods(watch="true", **what))

        assert (listed.status, listed.reason) == (400, "BadRequest")
        assert (watched.status, watched.reason) == (500, "")

    def test_a_version_that_is_reached_is_not_refused(self, cluster: Cluster) -> None:
        cluster.create("a")

        answer = cluster.pods(
            limit=1, resourceVersion=cluster.version(), resourceVersionMatch="NotOlderThan"
        )

        assert names(answer) == ["a"]

    # --- refusals -----------------------------------------------------------------------------

    def test_refusals_are_status_objects(self, cluster: Cluster) -> None:
        cluster.create("a")
        calls: list[tuple[Callable[[], object], int, str]] = [
            (lambda: cluster.api.get(cluster.path(name="nope")), 404, "NotFound"),
            (lambda: cluster.create("a"), 409, "AlreadyExists"),
            (lambda: cluster.pods(labelSelector="a in ("), 400, "BadRequest"),
            (lambda: cluster.pods(limit=1, **{"continue": "garbage"}), 400, "BadRequest"),
            (lambda: cluster.intruder.get("/api/v1/pods"), 401, "Unauthorized"),
            (lambda: cluster.stranger.get("/api/v1/pods"), 403, "Forbidden"),
            (lambda: cluster.stranger.get("/api/v1/pods", watch="true"), 403, "Forbidden"),
        ]

        for call, status, reason in calls:
            error = refusal(call)
            assert (error.status, error.reason) == (status, reason)

    def test_a_status_object_has_this_shape(self, cluster: Cluster) -> None:
        api = cluster.api
        response = api._pool.request("GET", api.url + cluster.path(name="nope"))

        assert json.loads(response.data) == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'pods "nope" not found',
            "reason": "NotFound",
            "details": {"name": "nope", "kind": "pods"},
            "code": 404,
        }

    @pytest.mark.parametrize(
        ("path", "what"),
        [
            ("/api/v1/pods", 'cannot list resource "pods" in API group "" at the cluster scope'),
            (
                "/apis/apps/v1/namespaces/default/replicasets",
                'cannot list resource "replicasets" in API group "apps" in the namespace "default"',
            ),
        ],
    )
    def test_what_is_forbidden_is_named(self, cluster: Cluster, path: str, what: str) -> None:
        assert what in str(refusal(lambda: cluster.stranger.get(path)))

    # --- watches ------------------------------------------------------------------------------

    def test_a_watch_shows_what_happened_after_its_version_in_order(self, cluster: Cluster) -> None:
        cluster.create("before")
        version = cluster.version()
        cluster.create("a")
        cluster.label("a", app="todo")
        cluster.create("b")

        lines = cluster.watch(("ADDED", "b"), resourceVersion=version)

        assert seen(lines) == [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b")]
        versions = [int(line["object"]["metadata"]["resourceVersion"]) for line in lines]
        assert versions == sorted(versions)
        assert versions[0] > int(version)
        assert all(line["object"]["kind"] == "Pod" for line in lines)

    def test_a_watch_without_a_version_begins_with_what_is_there(self, cluster: Cluster) -> None:
        cluster.create("a")
        cluster.create("b")

        assert seen(cluster.watch(("ADDED", "b"))) == [("ADDED", "a"), ("ADDED", "b")]

    def test_a_watch_ends_cleanly_when_its_time_is_up(self, cluster: Cluster) -> None:
        assert cluster.watch(resourceVersion=cluster.version()) == []

    def test_a_watch_from_a_version_not_reached_waits_in_silence(self, cluster: Cluster) -> None:
        beyond = int(cluster.version()) + 1_000_000
        cluster.create("a")

        assert cluster.watch(resourceVersion=beyond) == []

    def test_a_change_that_changes_nothing_is_no_event(self, cluster: Cluster) -> None:
        cluster.create("a", app="todo")
        version = cluster.version()

        cluster.label("a", app="todo")

        assert cluster.watch(resourceVersion=version) == []

    def test_a_deletion_shows_the_last_state_under_a_new_version(self, cluster: Cluster) -> None:
        uid = cluster.create("a", app="todo")["metadata"]["uid"]
        version = cluster.version()

        cluster.api.delete(cluster.path(name="a"), {"gracePeriodSeconds": 0})
        *before, last = cluster.watch(("DELETED", "a"), resourceVersion=version)

        assert seen(before) in ([("MODIFIED", "a")], [])
        assert seen([last]) == [("DELETED", "a")]
        metadata = last["object"]["metadata"]
        assert (metadata["uid"], metadata["labels"]) == (uid, {"app": "todo"})
        assert int(metadata["resourceVersion"]) > int(version)

    def test_a_bound_pod_is_terminating_first_and_deleted_when_its_node_says_so(
        self, cluster: Cluster
    ) -> None:
        cluster.api.post(cluster.path(), pod("a", {}, nodeName="nowhere"))
        version = cluster.version()

        answer = cluster.api.delete(cluster.path(name="a"))
        assert answer["metadata"]["deletionTimestamp"]
        lines = cluster.watch(("MODIFIED", "a"), resourceVersion=version)
        assert seen(lines) == [("MODIFIED", "a")]
        version = cluster.version()
        cluster.api.delete(cluster.path(name="a"), {"gracePeriodSeconds": 0})

        lines = cluster.watch(("DELETED", "a"), resourceVersion=version)
        assert seen(lines)[-1] == ("DELETED", "a")
        assert names(cluster.pods()) == []

    def test_a_name_that_is_used_again_has_another_uid(self, cluster: Cluster) -> None:
        first = cluster.create("a")["metadata"]["uid"]
        version = cluster.version()
        cluster.api.delete(cluster.path(name="a"), {"gracePeriodSeconds": 0})
        second = cluster.create("a")["metadata"]["uid"]

        lines = cluster.watch(("ADDED", "a"), resourceVersion=version)

        events = [(line["type"], line["object"]["metadata"]["uid"]) for line in lines]
        assert first != second
        assert events[-2:] == [("DELETED", first), ("ADDED", second)]

    def test_a_deletion_may_name_the_uid_that_it_means(self, cluster: Cluster) -> None:
        uid = cluster.create("a")["metadata"]["uid"]
        other = "00000000-0000-0000-0000-000000000000"

        error = refusal(
            lambda: cluster.api.delete(
                cluster.path(name="a"), {"gracePeriodSeconds": 0, "preconditions": {"uid": other}}
            )
        )
        assert (error.status, error.reason) == (409, "Conflict")

        cluster.api.delete(
            cluster.path(name="a"), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        )
        assert names(cluster.pods()) == []

    def test_to_leave_a_selection_is_to_be_deleted(self, cluster: Cluster) -> None:
        cluster.create("a", app="todo")
        version = cluster.version()
        left = cluster.label("a", app="other")["metadata"]["resourceVersion"]
        cluster.label("a", app="todo")

        lines = cluster.watch(("ADDED", "a"), resourceVersion=version, labelSelector="app=todo")

        assert seen(lines) == [("DELETED", "a"), ("ADDED", "a")]
        assert lines[0]["object"]["metadata"]["labels"] == {"app": "todo"}
        assert lines[0]["object"]["metadata"]["resourceVersion"] == left

    def test_status_and_the_rest_are_patched_apart(self, cluster: Cluster) -> None:
        cluster.create("a", app="todo")
        assert cluster.api.get(cluster.path(name="a"))["status"]["phase"] == "Pending"
        status = {"phase": "Running", "podIP": "127.1.2.3"}

        cluster.api.patch(cluster.path(name="a"), {"status": status})
        assert cluster.api.get(cluster.path(name="a"))["status"]["phase"] == "Pending"
        cluster.api.patch(cluster.path(name="a") + "/status", {"status": status, "spec": {"x": 1}})

        changed = cluster.api.get(cluster.path(name="a"))
        assert changed["status"]["podIP"] == "127.1.2.3"
        assert "x" not in changed["spec"]

    def test_a_bookmark_after_an_event_brings_the_version(self, cluster: Cluster) -> None:
        version = cluster.version()
        cluster.create("a")

        def watched_to_a_bookmark() -> list[Line]:
            # Due two seconds before the end, and not promised: a busy server leaves it out.
            asked: dict[str, Any] = {
                "timeoutSeconds": 4,
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
            }
            lines = cluster.watch(("BOOKMARK", ""), **asked)
            return lines if lines[-1]["type"] == "BOOKMARK" else []

        *events, bookmark = eventually(watched_to_a_bookmark, 30, "a bookmark")

        assert seen(events) == [("ADDED", "a")]
        metadata = bookmark["object"]["metadata"]
        assert int(metadata["resourceVersion"]) > int(version)
        assert not metadata.get("uid")

    @pytest.mark.parametrize("plural", ["replicationcontrollers", "replicasets", "deployments"])
    def test_controllers_are_watched_like_pods(self, cluster: Cluster, plural: str) -> None:
        version = cluster.api.get(cluster.path(plural))["metadata"]["resourceVersion"]
        labels = {"app": "todo"}
        template = {"metadata": {"labels": labels}, "spec": pod("", {})["spec"]}
        selector = labels if plural == "replicationcontrollers" else {"matchLabels": labels}
        spec = {"replicas": 0, "selector": selector, "template": template}
        cluster.api.post(cluster.path(plural), {"metadata": {"name": "a"}, "spec": spec})
        cluster.api.delete(cluster.path(plural, "a"))

        lines = cluster.watch(("DELETED", "a"), plural, resourceVersion=version)

        assert seen(lines)[0] == ("ADDED", "a")
        assert seen(lines)[-1] == ("DELETED", "a")
        assert lines[0]["object"]["spec"]["replicas"] == 0


class TestFake(Contract):
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Cluster]:
        with FakeKubernetes() as server:
            everything = server.user(tmp_path, [ALL])
            nothing = server.user(tmp_path, [])
            with (
                server.client(everything.token) as api,
                server.client(nothing.token) as stranger,
                server.client("wrong") as intruder,
            ):
                yield Cluster(api, "test", stranger, intruder)

    def test_a_forgotten_version_is_an_expired_error_event(self, tmp_path: Path) -> None:
        with FakeKubernetes() as server, server.client() as api:
            cluster = Cluster(api, "default", api, api)
            forgotten_version_is_an_expired_error_event(cluster, server.store.compact)


class TestReal(Contract):
    @pytest.fixture
    def cluster(self, control_plane: ControlPlane, namespace: str) -> Iterator[Cluster]:
        with (
            control_plane.client(control_plane.user()) as stranger,
            Api(control_plane.url, control_plane.ca, "wrong") as intruder,
        ):
            yield Cluster(control_plane.api, namespace, stranger, intruder)

    def test_a_forgotten_version_is_an_expired_error_event(
        self, new_control_plane: NewControlPlane
    ) -> None:
        # An API server answers watches from memory, which begins at its start.
        plane = new_control_plane(controllers=False, scheduler=False)
        cluster = Cluster(plane.api, "default", plane.api, plane.api)
        forgotten_version_is_an_expired_error_event(cluster, plane.restart_apiserver)


def forgotten_version_is_an_expired_error_event(
    cluster: Cluster, forget: Callable[[], object]
) -> None:
    version = cluster.version()
    cluster.create("a")
    cluster.label("a", app="todo")
    forget()

    [line] = cluster.watch(("ERROR", ""), resourceVersion=version)

    assert line["type"] == "ERROR"
    status = line["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert "too old resource version" in status["message"]
    assert seen(cluster.watch(resourceVersion=cluster.version())) == []
