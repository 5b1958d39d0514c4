"""`Deployer.switch` in a process that is warm, as `vulcanized-deployer serve` is.

    python -m benchmarks.switcher CONFIG-AS-JSON

Each line is a version to switch to; the answer says when that was called, when the transaction was
handed to etcd and when it was made, and when all of it was over.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.children import serve
from vulcanized.deployer.cluster import Api, Cluster
from vulcanized.deployer.progress import JsonLines
from vulcanized.deployer.run import Deployer
from vulcanized.deployer.store import Store, app_id
from vulcanized.deployer.words import Status, Times
from vulcanized.etcd import connect
from vulcanized.log import configure_logging
from vulcanized.objects import Labels
from vulcanized.settings import SettingsOfDeployer


class Switching(msgspec.Struct, frozen=True):
    """The settings file of the deployer, and the app."""

    settings: str
    app: str


class _Noting(Store):
    """Notes when a switch is handed to etcd, and when etcd has made it."""

    handed = made = 0.0

    def switch(self, *arguments: Any) -> tuple[int, bool]:
        self.handed = time.monotonic()
        try:
            return super().switch(*arguments)
        finally:
            self.made = time.monotonic()


def main(encoded: str) -> None:
    """Switch until the input ends."""
    config = msgspec.json.decode(encoded, type=Switching)
    settings = SettingsOfDeployer.load(Path(config.settings), os.environ)
    configure_logging(settings.log.format, "warning")
    assert settings.etcd is not None
    assert settings.kubernetes is not None
    own, stop, app = settings.deployer, threading.Event(), app_id(config.app)
    labels = Labels(settings.kubernetes.app_label, settings.kubernetes.version_label)
    with connect(settings.etcd) as client, Path(os.devnull).open("w") as nowhere:
        store = _Noting(client, settings.etcd.prefix, own.app_settings, stop)
        cluster = Cluster(Api(settings.kubernetes, stop), labels)
        deployer = Deployer(store, cluster, JsonLines(nowhere), Times(drain=own.drain_timeout))

        def switch(version: str) -> dict[str, Any]:
            called = time.monotonic()
            record = deployer.switch(app, version)
            return {
                "called": called,
                "handed": store.handed,
                "made": store.made,
                "over": time.monotonic(),
                "reason": "" if record.status is Status.DEPLOYED else record.reason or "failed",
                "journal": [[e.step, e.began, e.ended] for e in record.journal],
            }

        serve(switch)
        stop.set()


if __name__ == "__main__":
    main(sys.argv[1])
