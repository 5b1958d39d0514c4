"""An API server that sends too much, too slowly, or anything at all: bounded, and by its name.

Whatever is raised but a `SourceError` would end the daemon.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import attacks
from tests.fakes.kubernetes import FakeKubernetes
from tests.sources.following import QUICK
from vulcanized.errors import Invalid, SourceError
from vulcanized.listwatch import Codec
from vulcanized.objects import Labels, pods
from vulcanized.reflector import Lines
from vulcanized.settings import KubernetesSettings
from vulcanized.sources.kubernetes import Credentials, Limits, ResourceTransport, Served, Server

# Long enough for every bound of bytes to be reached before that of time.
ROOMY = Limits(connect=2.0, headers=1.0, page=4.0, gap=2.0)

POD = Served("pods", "", "Pod")


@contextlib.contextmanager
def transport(settings: KubernetesSettings, limits: Limits) -> Iterator[ResourceTransport]:
    """The pods of this server, for the test's own thread."""
    stop = threading.Event()
    server = Server(Credentials(settings, {}, Path("/nowhere")), limits, connections=1)
    made = ResourceTransport(server, POD, "", "")
    made.start(stop)
    try:
        yield made
    finally:
        stop.set()


def ask(asked: ResourceTransport, verb: str) -> None:
    """A list or a watch, to its end; what comes is cut into lines and decoded as ever."""
    codec = Codec(pods(Labels()))
    if verb == "list":
        codec.page(asked.page(""))
        return
    lines = Lines()
    with asked.watch("1", 600) as chunks:
        for chunk in chunks:
            for line in lines.feed(chunk):
                codec.event(line)


def peak() -> int:
    """The most memory of this process since `forget_peak`, in MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) >> 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# --- too much ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["list", "watch"])
@pytest.mark.parametrize("name", attacks.FLOODS)
def test_a_flood_is_given_up_in_bounded_time_and_memory(
    server: FakeKubernetes, settings: KubernetesSettings, name: str, verb: str
) -> None:
    with (
        server.suffering(attacks.FLOODS[name], verb=verb),
        transport(settings, ROOMY) as asked,
    ):
        forget_peak()
        before, began = peak(), time.monotonic()
        with pytest.raises((SourceError, Invalid)) as raised:
            ask(asked, verb)

    assert time.monotonic() - began < 15
    assert peak() - before < 250
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("a line", "watch"),
        ("a chunk", "watch"),
        ("trailers", "watch"),
        ("headers", "watch"),
        ("a chunk", "list"),
        ("a body", "list"),
        ("trailers", "list"),
        ("headers", "list"),
    ],
)
def test_a_drip_is_given_up_though_no_silence_is_long(
    server: FakeKubernetes, settings: KubernetesSettings, name: str, verb: str
) -> None:
    with (
        server.suffering(attacks.DRIPS[name], verb=verb),
        transport(settings, QUICK) as asked,
    ):
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"not complete after 0\.[67] s|no answer within"):
            ask(asked, verb)

    assert time.monotonic() - began < 5


# --- anything ---------------------------------------------------------------------------------

_LIST = b'{"kind":"PodList","metadata":{"resourceVersion":"9"},"items":[{"metadata":{}},null]}'
_LINE = b'{"type":"BOOKMARK","object":{"metadata":{}}}\n'


def _answer(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"", body])


HONEST = [
    _answer(_LIST, b"Content-Type: application/json", b"Content-Length: %d" % len(_LIST)),
    _answer(b"%x\r\n%s\r\n0\r\n\r\n" % (len(_LINE), _LINE), b"Transfer-Encoding: chunked"),
    _answer(gzip.compress(_LINE), b"Content-Encoding: gzip"),
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}",
]
SPLICES = [
    b"\r\n",
    b"\n",
    b"\0",
    b"-",
    b":",
    b"\xff",
    b"9" * 30,
    b"chunked",
    b"gzip",
    b",",
    b" ",
    b"0x",
]


def test_no_answer_that_is_bent_raises_what_nobody_foresaw(
    server: FakeKubernetes, settings: KubernetesSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "urllib3")  # as the daemon has it
    chance = random.Random(7)
    outcomes: dict[str, int] = {}
    with transport(settings, Limits(connect=2.0, headers=0.5, page=0.5, gap=0.5)) as asked:
        for _ in range(1000):
            answer = bytearray(chance.choice(HONEST))
            for _ in range(chance.randint(1, 4)):
                start = chance.randrange(len(answer))
                end = start + chance.choice((0, 0, 1, 1, 2, 20))
                answer[start:end] = chance.choice((*SPLICES, b"", bytes([chance.randrange(256)])))
            verb = chance.choice(("list", "watch"))
            with server.suffering(attacks.Raw(bytes(answer))):
                try:
                    ask(asked, verb)
                    outcome = "taken"
                except (SourceError, Invalid) as error:
                    outcome = type(error).__name__
                except Exception as error:
                    raise AssertionError(f"{verb} of {bytes(answer)!r}") from error
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    assert min(outcomes.get(name, 0) for name in ("taken", "Unreachable", "Invalid")) > 20, outcomes
