"""App configs: bad JSON, wrong types, 1 MB values, hosts, regexes; each costs its own app nothing.

The whole program is run on all of them at once: every one is an app.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.badinput.appconfigs import REFUSED
from tests.badinput.golden import agrees
from tests.badinput.stage import Stage, by_app, problems_of, write
from tests.daemons import Vulcanized, ask, eventually_served_by, served_by
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")

APPS = [f"case-{number:03}" for number in range(len(REFUSED))]


def spoil(stage: Stage) -> None:
    for app, (_, text) in zip(APPS, REFUSED, strict=True):
        write(stage.app_file(app), text)


def test_each_is_one_clear_line_with_its_place_and_what_to_do(stage: Stage) -> None:
    spoil(stage)
    stage.config("good")
    stage.pod_of("good")
    check = stage.command("check")
    assert check.returncode == 1
    assert check.stdout == f"{len(REFUSED) + 1} apps, 1 routed, 1 targets: problems found\n"
    said = by_app(check.stderr)
    assert said.keys() == set(APPS)
    assert all(len(lines) == 1 for lines in said.values())
    assert max(len(line) for (line,) in said.values()) < 1000
    assert "hunter2" not in check.stderr
    agrees(
        "appconfig",
        [
            (title, text, [line.replace(app, "APP") for line in said[app]])
            for app, (title, text) in zip(APPS, REFUSED, strict=True)
        ],
    )
    render = stage.command("render")
    assert render.returncode == 1
    assert "default:good" in render.stdout
    assert "default:case" not in render.stdout


@pytest.fixture
def daemon(stage: Stage) -> Iterator[Vulcanized]:
    with LocalPods() as pods, Vulcanized(stage.folder / "v", stage.sides) as daemon:
        address = pods.start("p", "1")
        for app in (*APPS, "good"):
            stage.config(app)
            stage.pod_of(app, address)
        yield daemon.start()


def test_each_leaves_its_app_on_its_last_good_config_and_all_others_free(
    stage: Stage, daemon: Vulcanized
) -> None:
    reloads = daemon.metric("vulcanized_reloads_total")
    spoil(stage)
    eventually(
        lambda: daemon.metric("vulcanized_apps_quarantined") == len(APPS), 20, "all refusals"
    )
    status = daemon.status()
    for app in APPS:
        (problem,) = problems_of(status, app)
        assert problem.startswith("config_invalid: ")
        assert "its last good config stays in effect" in problem
        assert f"(store/apps/default/{app}.json)" in problem
        assert served_by(daemon.url, f"{app}.example.com", tries=1) == {"p"}
    assert daemon.metric("vulcanized_problems", code="config_invalid") == len(APPS)
    stage.config("good", hosts=["moved.example.com"])
    eventually_served_by(daemon.url, "moved.example.com", ["p"])
    assert daemon.metric("vulcanized_reloads_total") == reloads
    lines = [line["app"] for line in daemon.log_lines("problem")]
    more = daemon.log_lines("more changes than are worth a line each: see status")
    assert more or sorted(lines) == [f"default/{app}" for app in APPS]

    stage.config(APPS[0], hosts=["mended.example.com"])
    eventually_served_by(daemon.url, "mended.example.com", ["p"])
    assert ask(daemon.url, f"{APPS[0]}.example.com")[0] == 404
    assert not problems_of(daemon.status(), APPS[0])
