"""HAProxy frozen, or its port taken: it is told, costs nothing, and ends when it ends."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.daemons import Vulcanized, eventually_served_by
from tests.faults.haproxyfaults import is_down, is_gone, mended, processes, with_green
from tests.faults.stage import OTHER_HOST, Stage
from tests.servers.wait import eventually


@pytest.mark.parametrize("who", ["worker", "master"])
def test_a_frozen_haproxy_is_told_costs_no_threads_and_is_in_step_once_it_thaws(
    stage: Stage, who: str
) -> None:
    before = with_green(stage)
    pid = before.worker if who == "worker" else before.master
    with mended(stage):
        threads = stage.usage().threads
        os.kill(pid, signal.SIGSTOP)
        try:
            assert "does not answer" in is_down(stage)
            stage.activate("green")
            seen = stage.daemon.metric("vulcanized_apply_failures_total")
            eventually(
                lambda: stage.daemon.metric("vulcanized_apply_failures_total") > seen + 1, 30
            )
            assert stage.usage().threads <= threads + 2
            assert stage.daemon.page("/healthz")[0] == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        with stage.load():
            stage.served_by("todo-green-1")
        assert processes(stage).worker == before.worker


def test_sigterm_ends_a_daemon_whose_haproxy_is_frozen(stage: Stage) -> None:
    """Within five seconds, and what a busy machine adds; and HAProxy with it."""
    before = processes(stage)
    for pid in (before.worker, before.master):
        os.kill(pid, signal.SIGSTOP)
    try:
        is_down(stage)
        began = time.monotonic()
        os.kill(stage.daemon.process.pid, signal.SIGTERM)
        eventually(lambda: not stage.daemon.process.running, 10, "the end of the daemon")
        assert time.monotonic() - began < 8.0
        eventually(lambda: is_gone(before.master), 10, "the end of HAProxy")
    finally:
        for pid in (before.worker, before.master):
            if not is_gone(pid):
                os.kill(pid, signal.SIGCONT)
    eventually(lambda: is_gone(before.worker), 10, "the end of the worker")


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_somebody_has_is_told_and_taken_when_it_is_free(
    stage: Stage, shared: bool
) -> None:
    """With SO_REUSEPORT, as HAProxy sets it, two would share the connections without a word."""
    sides = stage.sides([stage.etcd.endpoint])
    with Vulcanized(stage.folder / "second", sides) as second:
        with socket.create_server(("127.0.0.1", second.port), reuse_port=shared):
            second.start(ready=False)
            eventually(
                lambda: f"cannot listen on 127.0.0.1:{second.port}" in str(second.status()),
                30,
                second.process.log_tail,
                ignore=(OSError, ValueError),
            )
            failures = second.metric("vulcanized_apply_failures_total")
            looked = time.monotonic() + 2.0
            eventually(lambda: time.monotonic() > looked)
            assert second.metric("vulcanized_apply_failures_total") - failures < 12
            assert second.page("/readyz")[0] == 503
        second.wait_ready()
        eventually_served_by(second.url, OTHER_HOST, ["other-blue-1", "other-blue-2"])
