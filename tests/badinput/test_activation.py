"""Activations: unparsable, weights negative, all zero or none; traffic stays where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.badinput.golden import agrees
from tests.badinput.stage import Stage, by_app, pod, problems_of, write
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")


def _weights(**weights: object) -> str:
    return json.dumps({"weights": weights})


REFUSED: tuple[tuple[str, str | bytes], ...] = (
    ("an empty file", ""),
    ("blanks", " \n\t\n"),
    ("two versions", "blue green"),
    ("two lines", "blue\ngreen\n"),
    ("a version in quotes", '"blue"'),
    ("a version with a slash", "../blue"),
    ("a version with a colon", "blue:1"),
    ("a version of 64 characters", "b" * 64),
    ("a version that begins with a dash", "-blue"),
    ("a zero byte", "blue\0"),
    ("an umlaut", "grün"),
    ("bytes that are no UTF-8", b"gr\xfcn"),
    ("a byte order mark", "\ufeffblue"),
    ("UTF-16", "blue".encode("utf-16")),
    ("a star", "*"),
    ("a shell's mistake", "$(cat version)"),
    ("a list", '["blue"]'),
    ("JSON that breaks off", '{"weights": {"blue": 1'),
    ("an empty object", "{}"),
    ("another field", '{"weight": {"blue": 1}}'),
    ("weights beside something else", '{"weights": {"blue": 1}, "comment": "x"}'),
    ("no weights", _weights()),
    ("weights that are a list", '{"weights": ["blue"]}'),
    ("a negative weight", _weights(blue=-1, green=2)),
    ("all weights zero", _weights(blue=0, green=0)),
    ("a weight as a text", _weights(blue="90", green=10)),
    ("a weight with a percent sign", _weights(blue="90%", green="10%")),
    ("a weight with a fraction", _weights(blue=0.9, green=0.1)),
    ("a weight beyond all bounds", '{"weights": {"blue": 1e308, "green": 1}}'),
    ("a weight that is too large", _weights(blue=10**12, green=1)),
    ("a weight that is true", _weights(blue=True)),
    ("a weight that is null", _weights(blue=None)),
    ("a weight that is not a number", '{"weights": {"blue": NaN}}'),
    ("one version twice", '{"weights": {"blue": 1, "green": 1, "blue": 99}}'),
    ("a version with a newline", '{"weights": {"blue\\nserver": 1}}'),
    ("a thousand versions", _weights(**{f"v{n}": 1 for n in range(1000)})),
    ("20 kB", "blue" * 5000),
    ("deep nesting", '{"weights":' * 1000),
    ("a version that nobody has", "gren"),
    ("a share for a version that nobody has", _weights(blue=90, gren=10)),
)
APPS = [f"case-{number:03}" for number in range(len(REFUSED))]


def spoil(stage: Stage) -> None:
    for app, (_, text) in zip(APPS, REFUSED, strict=True):
        write(stage.active_file(app), text)


def test_each_is_one_clear_line_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for app in APPS:
        stage.config(app)
        stage.pod(pod(f"{app}-blue", app, version="blue"))
    spoil(stage)
    check = stage.command("check")
    assert check.returncode == 1
    said = by_app(check.stderr)
    assert said.keys() == set(APPS)
    assert all(len(lines) == 1 for lines in said.values())
    agrees(
        "activation",
        [
            (title, text, [line.replace(app, "APP") for line in said[app]])
            for app, (title, text) in zip(APPS, REFUSED, strict=True)
        ],
    )


def test_each_leaves_traffic_where_it_was(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with LocalPods() as pods:
        blue, green = pods.start("blue", "blue"), pods.start("green", "green")
        for app in (*APPS, "good"):
            stage.config(app)
            stage.activate("blue", app)
            stage.pod(pod(f"{app}-blue", app, blue, "blue"))
            stage.pod(pod(f"{app}-green", app, green, "green"))
        with Vulcanized(tmp_path / "v", stage.sides) as daemon:
            daemon.start()
            spoil(stage)
            eventually(
                lambda: daemon.metric("vulcanized_apps_held") == len(APPS), 20, "all to be held"
            )
            status = daemon.status()
            for app in APPS:
                (problem,) = problems_of(status, app)
                assert "version blue stays in effect" in problem
                assert served_by(daemon.url, f"{app}.example.com", tries=2) == {"blue"}
            stage.activate("green", "good")
            eventually_served_by(daemon.url, "good.example.com", ["green"])
            stage.activate("green", APPS[0])
            eventually_served_by(daemon.url, f"{APPS[0]}.example.com", ["green"])
            assert not problems_of(daemon.status(), APPS[0])
