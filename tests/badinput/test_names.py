"""Names that would escape a key, a file or a directive: of apps, versions, pods, from every side.

Files have no API server in front of them that would check; etcd takes any bytes for a key.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.badinput.golden import agrees, without
from tests.badinput.stage import Stage, by_app, pod, write
from tests.daemons import Vulcanized, ask, eventually_served_by, served_by
from tests.servers.etcd import Etcd
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")

GOOD = json.dumps({"hosts": ["evil.example.com"]})

# Below the store.
FILES = (
    "apps/default/a b.json",
    "apps/default/a\nb.json",
    "apps/default/a\tb.json",
    "apps/default/a:b.json",
    "apps/default/a;b.json",
    "apps/default/a%2fb.json",
    "apps/default/-a.json",
    "apps/default/a_.json",
    "apps/default/..a.json",
    "apps/default/" + "a" * 64 + ".json",
    "apps/default/$(id).json",
    "apps/default/{{x}}.json",
    'apps/default/a"b.json',
    "apps/default/ümlaut.json",
    "apps/default/caf\udce9.json",
    "apps/default/noext",
    "apps/default/deep/er.json",
    "apps/short.json",
    "apps/Default/a.json",
    "apps/..default/a.json",
    "other/default/a.json",
    "active/default/a.json",
    "active/default/a b",
    "active/default/a\nb",
)

# A pod's metadata.
OBJECTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a name that climbs", {"name": "../../etc/passwd"}),
    ("a name with a space", {"name": "a b"}),
    ("a name with a directive", {"name": "a\n    server evil 6.6.6.6:80"}),
    ("a name with a colon", {"name": "a:b"}),
    ("a name with a zero byte", {"name": "a\0b"}),
    ("a name of 300 characters", {"name": "a" * 300}),
    ("no name", {"name": None}),
    ("an empty name", {"name": ""}),
    ("a number for a name", {"name": 5}),
    ("a namespace that climbs", {"namespace": ".."}),
    ("a namespace with a slash", {"namespace": "a/b"}),
    ("a namespace with a newline", {"namespace": "a\n"}),
    ("an app with a slash", {"labels": {"app": "a/b"}}),
    ("an app that climbs", {"labels": {"app": ".."}}),
    ("an app with a colon", {"labels": {"app": "a:b"}}),
    ("an app with a directive", {"labels": {"app": "a\nserver evil 6.6.6.6:80"}}),
    ("an app with a zero byte", {"labels": {"app": "a\0"}}),
    ("an app of 64 characters", {"labels": {"app": "a" * 64}}),
    ("a number for an app", {"labels": {"app": 5}}),
    ("labels that are a list", {"labels": ["app"]}),
    ("a version with a slash", {"labels": {"app": "todo", "version": "1/2"}}),
    ("a version with a star", {"labels": {"app": "todo", "version": "*"}}),
    ("a version with a newline", {"labels": {"app": "todo", "version": "1\n2"}}),
    ("a truth for a version", {"labels": {"app": "todo", "version": True}}),
    ("a uid with a newline", {"uid": "a\nb"}),
    ("metadata that are a text", {}),
)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # Its path is short, and pytest's folders are long.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


# What stands in the place of store/apps/default/todo.json.
Put = Callable[[Path], object]
IN_PLACE: tuple[tuple[str, Put], ...] = (
    ("a directory", lambda path: path.mkdir()),
    ("a pipe", os.mkfifo),
    ("a socket", _socket),
    ("a link out of the store", lambda path: path.symlink_to("/etc/hostname")),
    ("a link to nowhere", lambda path: path.symlink_to("nowhere")),
    ("a link to itself", lambda path: path.symlink_to(path.name)),
    ("a device", lambda path: path.symlink_to("/dev/zero")),
    ("a file of 3 MB", lambda path: path.write_text("a" * 3_000_000)),
)


def test_files_that_name_no_app_are_told_and_touch_nobody(stage: Stage) -> None:
    stage.config("good")
    stage.pod_of("good")
    for file in FILES:
        path = stage.store / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GOOD)
    check = stage.command("check")
    assert check.stdout == "1 apps, 1 routed, 1 targets: problems found\n"
    lines = check.stderr.splitlines()
    # A leading dot says that a tool is about to rename it.
    assert len(lines) == len([file for file in FILES if "/.." not in file])
    assert "evil" not in stage.command("render").stdout
    agrees("names-of-files", [("files of the store", "", lines)])


def test_objects_with_names_that_kubernetes_does_not_allow_are_told(stage: Stage) -> None:
    stage.config("good")
    stage.pod_of("good")
    for number, (_, change) in enumerate(OBJECTS):
        manifest = pod(f"pod-{number}", "todo")
        manifest["metadata"] = {**manifest["metadata"], **change} if change else "todo"
        write(stage.manifests / f"{number:02}.json", json.dumps(manifest))
    check = stage.command("check")
    assert check.stdout == "1 apps, 1 routed, 1 targets: problems found\n"
    lines = check.stderr.splitlines()
    assert len(lines) == len(OBJECTS)
    agrees(
        "names-of-objects",
        [
            (title, json.dumps(change), [line for line in lines if f"/{number:02}.json" in line])
            for number, (title, change) in enumerate(OBJECTS)
        ],
    )


@pytest.mark.parametrize("folder", ["apps", "active"])
def test_what_stands_in_the_place_of_a_file_is_told_for_its_app(stage: Stage, folder: str) -> None:
    apps = [f"case-{number}" for number in range(len(IN_PLACE))]
    for app, (_, put) in zip(apps, IN_PLACE, strict=True):
        stage.pod_of(app)
        if folder == "active":
            stage.config(app)
        put(stage.app_file(app) if folder == "apps" else stage.active_file(app))
    check = stage.command("check")
    assert check.returncode == 1
    said = by_app(check.stderr)
    assert said.keys() == set(apps)
    agrees(
        f"in-place-of-{folder}",
        [
            (
                title,
                "",
                [without(line, {app: "APP", str(stage.store): "STORE"}) for line in said[app]],
            )
            for app, (title, _) in zip(apps, IN_PLACE, strict=True)
        ],
    )


@pytest.fixture
def running(stage: Stage) -> Iterator[tuple[Vulcanized, LocalPods]]:
    with LocalPods() as pods, Vulcanized(stage.folder / "v", stage.sides) as daemon:
        address = pods.start("p", "1")
        for number in range(len(IN_PLACE)):
            stage.config(f"case-{number}")
            stage.activate("1", f"case-{number}")
            stage.pod_of(f"case-{number}", address)
        yield daemon.start(), pods


def test_whatever_takes_the_place_of_a_file_the_app_goes_on_with_the_last_good_one(
    stage: Stage, running: tuple[Vulcanized, LocalPods]
) -> None:
    daemon, _ = running
    for number, (_, put) in enumerate(IN_PLACE):
        for path in (stage.app_file(f"case-{number}"), stage.active_file(f"case-{number}")):
            path.unlink()
            put(path)
    count = len(IN_PLACE)
    eventually(lambda: daemon.metric("vulcanized_apps_quarantined") == count, 20, "the refusals")
    eventually(lambda: daemon.metric("vulcanized_apps_held") == count, 20, "the activations held")
    for number in range(count):
        assert served_by(daemon.url, f"case-{number}.example.com", tries=1) == {"p"}
    assert daemon.page("/healthz")[0] == 200
    # A link may lead somewhere again, a directory may go.
    for path in (stage.app_file("case-0"), stage.active_file("case-0")):
        path.rmdir()
    stage.activate("1", "case-0")
    stage.config("case-0", hosts=["mended.example.com"])
    eventually_served_by(daemon.url, "mended.example.com", ["p"])


KEYS: tuple[str | bytes, ...] = (
    "apps/default",
    "apps/default/",
    "apps//todo",
    "apps/default/todo/more",
    "apps/default/../../etc",
    "apps/Default/todo",
    "apps/default/a b",
    "apps/default/a\nserver evil 6.6.6.6:80",
    "apps/default/a:b",
    "apps/default/a\0",
    "apps/default/" + "a" * 64,
    b"apps/default/caf\xe9",
    "active/default/todo/more",
)


def test_keys_of_etcd_that_name_no_app_are_told_and_touch_nobody(
    stage: Stage, new_etcd: Callable[..., Etcd]
) -> None:
    etcd = new_etcd()
    for key in KEYS:
        name = b"/vulcanized/" + (key.encode() if isinstance(key, str) else key)
        value = base64.b64encode(GOOD.encode()).decode()
        etcd.call("kv/put", {"key": base64.b64encode(name).decode(), "value": value})
    etcd.put("/vulcanized/apps/default/good", json.dumps({"hosts": ["good.example.com"]}))
    sides = f'[directory]\nmanifests = "{stage.manifests}"\n[etcd]\nendpoints = ["{etcd.endpoint}"]'
    with LocalPods() as pods, Vulcanized(stage.folder / "v", sides) as daemon:
        stage.pod_of("good", pods.start("p", "1"))
        daemon.start()
        check = daemon.command("check")
        agrees("names-of-keys", [("keys of etcd", "", check.stderr.splitlines())])
        assert served_by(daemon.url, "good.example.com", tries=1) == {"p"}
        assert ask(daemon.url, "evil.example.com")[0] == 404
        assert [app["app"] for app in daemon.status()["apps"]] == ["default/good"]
        source = next(each for each in daemon.status()["sources"] if each["name"] == "etcd")
        assert source["skipped"] == len(source["left_out"]) == len(KEYS)
