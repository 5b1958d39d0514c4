"""Lists of nothing at a start, beside a HAProxy that serves: it goes on serving.

consul-template #1098 and #21: an empty but valid answer wipes the config.
"""

from __future__ import annotations

import os
import shutil
import signal

from tests.daemons import served_by
from tests.fakes.faults import EmptyList
from tests.faults.guarding import held, source, still_answered, told
from tests.faults.stage import OTHER_HOST, TODO_HOST, Stage
from tests.servers.wait import eventually


def test_consul_template_1098_an_empty_list_at_a_restart_takes_no_server_away(
    stage: Stage,
) -> None:
    # What is written lazily has to be there: killed, it has no time to write.
    stage.daemon.wait_remembered("todo", "other")
    stage.daemon.process.kill()
    with (
        stage.load(),
        stage.load(TODO_HOST),
        stage.cluster.suffering(EmptyList(), verb="list", plural="pods"),
    ):
        stage.daemon.start()
        held(stage, 4)
        still_answered(stage)
        assert stage.daemon.metric("vulcanized_reloads_total") == 0
        os.kill(stage.daemon.process.pid, signal.SIGHUP)
        # What is held stays so under other settings.
        eventually(lambda: stage.daemon.log_lines("settings reread"), 10)
        stage.daemon.wait_ready()
        held(stage, 4)
    held(stage, 0)
    stage.like_a_fresh_start()


def test_a_signal_with_nothing_held_changes_nothing(stage: Stage) -> None:
    with stage.load():
        told(stage)
        eventually(lambda: stage.daemon.log_lines("told to take what the sources say as it is"), 10)
    assert served_by(stage.daemon.url, OTHER_HOST) == {"other-blue-1", "other-blue-2"}


def test_consul_template_21_an_etcd_wiped_while_we_were_away_takes_nothing_away(
    stage: Stage,
) -> None:
    stage.daemon.wait_remembered("todo", "other")
    stage.daemon.process.kill()
    stage.etcd.kill()
    shutil.rmtree(stage.etcd.folder / "m1")
    stage.etcd.start()
    with stage.load(), stage.load(TODO_HOST):
        stage.daemon.start()
        held(stage, 4, "etcd")
        still_answered(stage, "etcd")
        assert source(stage, "etcd")["held"] == 4
        # Written again, nothing is held any more.
        for app in ("todo", "other"):
            stage.configure(app)
            stage.activate("blue", app)
        held(stage, 0, "etcd")
    stage.like_a_fresh_start()
