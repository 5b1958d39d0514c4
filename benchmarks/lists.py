"""Lists and watches without a daemon, each run in a process of its own.

    python -m benchmarks.lists raw PORT | ours KUBECONFIG | feed EVENTS

`raw`: every page of pods over a bare HTTP connection, decoded by msgspec into the fields that we
need, and no more. `ours`: all streams of the Kubernetes source until each of their stores is full.
`feed`: the bytes of a watch handed to one stream, until they are in its store. What it took stands
on standard output: seconds by the clock, and seconds of a processor.
"""

from __future__ import annotations

import gc
import http.client
import os
import random
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.fakes import manifests
from tests.fakes.faults import event_line
from vulcanized.daemon import tune
from vulcanized.listwatch import Codec
from vulcanized.objects import Labels, WirePod, pods
from vulcanized.reflector import Cache, Reflector
from vulcanized.settings import KubernetesSettings
from vulcanized.slot import DirtyApps
from vulcanized.sources.kubernetes import KubernetesSource

_ROOT = Path(__file__).parents[1]
_PAGE = 500
_CHUNK = 1 << 14  # what a read of a busy socket gives
_KNOWN = 20_000  # pods that the events of `feed` are about


class Took(NamedTuple):
    """Seconds: by the clock, and of a processor."""

    wall: float
    cpu: float


def run(*words: str) -> Took:
    """One of the three, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.lists", *words]
    ran = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=True, timeout=120)
    return Took(*map(float, ran.stdout.splitlines()[-1].split()))


class _Metadata(msgspec.Struct):
    more: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[WirePod]


def _raw(port: str) -> int:
    decoder = msgspec.json.Decoder(_List)
    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    kept: list[list[WirePod]] = []
    more: str | None = ""
    while more is not None:
        token = f"&continue={urllib.parse.quote(more)}" if more else ""
        connection.request("GET", f"/api/v1/pods?limit={_PAGE}{token}")
        page = decoder.decode(connection.getresponse().read())
        kept.append(page.items)
        more = page.metadata.more
    return sum(map(len, kept))


def _ours(kubeconfig: str) -> int:
    source = KubernetesSource(KubernetesSettings(kubeconfig=Path(kubeconfig)), DirtyApps())
    stop = threading.Event()
    for stream in source.streams:
        threading.Thread(target=stream.run, args=(stop,), daemon=True).start()
    while not all(stream.spoken for stream in source.streams):
        time.sleep(0.001)
    return sum(stream.state().records for stream in source.streams)


class _Fed:
    """A transport whose list is empty and whose watch is so many events; then it is over."""

    def __init__(self, events: int) -> None:
        lines = []
        at = random.Random(1)
        for number in range(events):
            # As in a cluster: pods that are there report again, now ready and now not.
            name = f"pod-{at.randrange(_KNOWN)}"
            pod = manifests.pod(
                name,
                f"app-{hash(name) % 4000}",
                ready=at.random() < 0.5,
                uid=f"uid-{name}",
                resourceVersion=str(1000 + number),
                annotations={"example.com/padding": "x" * 1000},
            )
            lines.append(event_line("MODIFIED", msgspec.json.encode(pod)))
        data = b"".join(lines)
        self.chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        self.began = Took(0.0, 0.0)
        self.took = Took(0.0, 0.0)
        self._stop = threading.Event()

    def start(self, stop: threading.Event) -> None:
        self._stop = stop

    def page(self, more: str) -> bytes:
        del more
        return b'{"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": []}'

    @contextmanager
    def watch(self, version: str, seconds: int) -> Iterator[Iterator[bytes]]:
        del version, seconds
        began = Took(time.monotonic(), time.thread_time())
        yield iter(self.chunks)
        self.took = Took(time.monotonic() - began.wall, time.thread_time() - began.cpu)
        self._stop.set()

    def check(self, version: str) -> None:
        del version


def _feed(events: str) -> Took:
    fed, cache = _Fed(int(events)), Cache()  # type: ignore[var-annotated]
    gc.collect()
    tune()
    Reflector("pods", fed, Codec(pods(Labels())), cache, DirtyApps()).run(threading.Event())
    return fed.took


def main(what: str, argument: str) -> None:
    """Do it, and say how long it took."""
    if what == "feed":
        took = _feed(argument)
    else:
        tune()
        work: Callable[[str], int] = _raw if what == "raw" else _ours
        began = Took(time.monotonic(), time.process_time())
        work(argument)
        took = Took(time.monotonic() - began.wall, time.process_time() - began.cpu)
    print(*took, flush=True)
    os._exit(0)  # threads may be in the midst of a watch


if __name__ == "__main__":
    main(*sys.argv[1:])
