"""Regexes that explode, on a real HAProxy: none takes the time of other apps.

Without a limit of its own the first of them kept HAProxy's thread busy for 3 s a request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.badinput.stage import Stage, pod
from tests.daemons import Vulcanized, ask
from tests.servers.localpods import LocalPods
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")

# All of these pass the schema.
SLOW = (
    "/a*a*a*[bc]",
    "/a*a*a*a*a*a*[bc]",
    "/[ab]*[ad]*[ae]*[bc]",
    "/.*a.*a[bc]",
    "/" + "a?" * 60 + "[bc]",
    "/a{0,99}a{0,99}a{0,99}a{0,99}[bc]",
)
FRAME = {"hosts": ["slow.example.com"]}


@pytest.fixture
def daemon(stage: Stage) -> Iterator[Vulcanized]:
    config = {**FRAME, "paths": [{"regex": regex} for regex in SLOW]}
    stage.raw_config(json.dumps(config), "slow")
    stage.config("other", paths=[{"regex": "/[a-z]+/x$"}])
    with LocalPods() as pods, Vulcanized(stage.folder / "v", stage.sides) as daemon:
        for app in ("slow", "other"):
            stage.pod(pod(f"{app}-1", app, pods.start(f"{app}-1", "1")))
        yield daemon.start()


def test_an_apps_slow_regexes_cost_the_others_nothing(daemon: Vulcanized) -> None:
    assert daemon.app("default/slow")["problems"] == []
    # A path that was asked for before is answered from memory: each is another one.
    for length in range(12_000, 12_020):
        began = time.monotonic()
        assert ask(daemon.url, "slow.example.com", "/" + "a" * length)[0] == 404
        assert ask(daemon.url, "other.example.com", "/abc/x")[1]["pod"] == "other-1"
        assert time.monotonic() - began < 1
    assert ask(daemon.url, "slow.example.com", "/aaab")[1]["pod"] == "slow-1"


def test_a_regex_that_is_not_slow_matches_a_long_path(stage: Stage, daemon: Vulcanized) -> None:
    stage.config("other", paths=[{"regex": "/v[0-9]+/[a-z]+/.*[.](?:js|css)$"}])
    path = "/v12/assets/" + "some-folder/" * 300 + "main.css"
    eventually(
        lambda: ask(daemon.url, "other.example.com", path)[1].get("pod") == "other-1", 10, "it"
    )
