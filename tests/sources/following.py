"""A Kubernetes source that runs in threads for the time of a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.fakes import manifests
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.wait import eventually
from vulcanized.model import AppId, SourcePhase, SourceState
from vulcanized.reflector import Timing
from vulcanized.settings import KubernetesSettings
from vulcanized.slot import DirtyApps
from vulcanized.sources.kubernetes import KubernetesSource, Limits

TODO = AppId("default", "todo")

QUICK = Limits(connect=1.0, headers=0.3, page=0.6, gap=0.4)
"""Short enough for a test to see them pass; most tests never do."""

# Waits a tenth of the usual ones.
BRISK = Timing(backoff=(0.08, 3.0), calm=12.0, short=0.1, mend=(0.2, 0.4))


class Running:
    """A source whose streams run in threads until the end of the test."""

    def __init__(self, settings: KubernetesSettings, **options: Any) -> None:
        self.dirty = DirtyApps()
        self.source = KubernetesSource(settings, self.dirty, **({"timing": BRISK} | options))
        self.stop = threading.Event()
        self.crashes: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._run, args=(stream,), name=stream.name, daemon=True)
            for stream in self.source.streams
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, stream: Any) -> None:
        try:
            stream.run(self.stop)
        except BaseException as error:
            self.crashes.append(error)

    def end(self) -> float:
        """Stop; the seconds until the last stream had ended."""
        began = time.monotonic()
        self.stop.set()
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads)
        if self.crashes:
            raise AssertionError("a stream's thread ended") from self.crashes[0]
        return time.monotonic() - began

    def until_spoken(self) -> None:
        eventually(lambda: all(s.spoken for s in self.source.streams), 10, "all have spoken")

    def state(self, name: str = "kubernetes/pods") -> SourceState:
        return next(s.state() for s in self.source.streams if s.name == name)

    def until_error(self, text: str, name: str = "kubernetes/pods") -> SourceState:
        eventually(
            lambda: text in self.state(name).error, 10, lambda: f"{text!r} in {self.state(name)}"
        )
        return self.state(name)

    def until_synced(self) -> None:
        eventually(
            lambda: all(s.state().phase is SourcePhase.SYNCED for s in self.source.streams),
            10,
            lambda: f"synced: {[s.state() for s in self.source.streams]}",
        )

    def names(self, app: AppId = TODO) -> list[str]:
        return sorted(pod.name for pod in self.source.pods(app))

    def until_names(self, *names: str) -> None:
        eventually(lambda: self.names() == list(names), 10, lambda: f"{names}: {self.names()}")


@contextmanager
def following(
    settings: KubernetesSettings, *, within: float = 0.5, **options: Any
) -> Iterator[Running]:
    """Run a source; at the end of the block it stops within so many seconds."""
    running = Running(settings, **options)
    try:
        yield running
    finally:
        took = running.end()
    assert took < within, f"stopping took {took:.1f} s"


def add(server: FakeKubernetes, name: str, **options: Any) -> None:
    server.store.create("pods", manifests.pod(name, **options))
