"""What a real HAProxy answers, written down so that tests can replay versions that are not here.

`python -m tests.targets.recording [PROGRAM]` asks the HAProxy at hand everything that the target
asks of one, and keeps its answers in `recorded/<version>.json`, each under the name of its step.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from tests.servers.wait import eventually
from vulcanized.errors import ProxyUnreachable
from vulcanized.targets.haproxy.live import Processes
from vulcanized.targets.haproxy.master import Master

FOLDER = Path(__file__).with_name("recorded")
BACKEND = "default:todo:1"
_MAP = "{folder}/a.map"

# To the worker; answers are kept in this order.
STEPS = {
    "add": f"add server {BACKEND}/new 127.0.0.1:9",
    "add again": f"add server {BACKEND}/new 127.0.0.1:9",
    "enable": f"enable server {BACKEND}/new",
    "delete what is ready": f"del server {BACKEND}/new",
    "address": f"set server {BACKEND}/new addr 127.0.0.2 port 8",
    "address again": f"set server {BACKEND}/new addr 127.0.0.2 port 8",
    "maxconn": f"set maxconn server {BACKEND}/new 5",
    "weight": f"set server {BACKEND}/new weight 7",
    "weight of nobody": f"set server {BACKEND}/nobody weight 7",
    "drain": f"set server {BACKEND}/one state drain",
    "servers": "show servers state",
    "ready": f"set server {BACKEND}/one state ready",
    "maint": f"set server {BACKEND}/new state maint",
    "delete": f"del server {BACKEND}/new",
    "delete again": f"del server {BACKEND}/new",
    "set map": f"set map {_MAP} a 2",
    "set map without the key": f"set map {_MAP} z 2",
    "add map": f"add map {_MAP} q two words",
    "show map": f"show map {_MAP}",
    "del map": f"del map {_MAP} q",
    "del map without the key": f"del map {_MAP} q",
    "prepare map": f"prepare map {_MAP}",
    "put": f"add map @1 {_MAP} <<\nx 1\ny 2\n",
    "show prepared": f"show map @1 {_MAP}",
    "commit map": f"commit map @1 {_MAP}",
    "unknown map": "show map /nowhere",
    "unknown command": "nonsense",
}

_CONFIG = f"""\
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
frontend f
  bind unix@{{folder}}/f.sock
  http-request set-header x %[path,map({_MAP})]
  default_backend {BACKEND}
backend {BACKEND}
  server one 127.0.0.1:{{port}}
"""


class Recording(NamedTuple):
    """One version's answers by step, with `{folder}` for the directory of its map."""

    version: str
    answers: dict[str, str]


def recordings() -> list[Recording]:
    """All that were kept, by version."""
    documents = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    return [Recording(document["version"], document["answers"]) for document in documents]


def record(program: str) -> Recording:
    """Ask a HAProxy of its own everything, reloads that succeed and fail among it."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as pod:
        folder, port = Path(name), pod.getsockname()[1]
        (folder / "a.map").write_text("a 1\n")
        (folder / "haproxy.cfg").write_text(_CONFIG.format(folder=folder, port=port))
        command = [program, "-W", "-S", f"{folder}/m.sock", "-f", f"{folder}/haproxy.cfg"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as it:
            try:
                return _record(Master(folder / "m.sock", folder), folder, pod)
            finally:
                it.terminate()


def _record(master: Master, folder: Path, pod: socket.socket) -> Recording:
    first = eventually(master.processes, 10, "a worker", ignore=ProxyUnreachable)
    eventually(lambda: "Name:" in master.ask(f"@!{first.worker} show info\n"), 10, "its answers")
    answers = {"calm": master.ask("show proc\n")}
    for step, text in STEPS.items():
        answers[step] = master.ask(f"@!{first.worker} {text.format(folder=folder)}\n")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "f.sock"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pod.accept()[0]:
            master.ask(f"@!{first.worker} set server {BACKEND}/one state maint\n")
            answers["delete what is busy"] = master.ask(
                f"@!{first.worker} del server {BACKEND}/one\n"
            )
    answers["unknown worker"] = master.ask("@!4194303 show info\n")
    answers["reload"] = master.ask("reload\n", 10)
    answers["reloaded"] = _after(master, first)
    config = folder / "haproxy.cfg"
    config.write_text(config.read_text() + "  nonsense\n")
    before = master.processes()
    answers["bad reload"] = master.ask("reload\n", 10)
    answers["reload failed"] = _after(master, before)
    shown = {step: answer.replace(str(folder), "{folder}") for step, answer in answers.items()}
    return Recording(first.version, shown)


def _after(master: Master, before: Processes) -> str:
    """`show proc` once a reload is over, whichever way."""

    def over() -> bool:
        now = master.processes()
        return now.reloads > before.reloads and (now.failed > 0 or now.worker != before.worker)

    eventually(over, 10, "the end of a reload", ignore=ProxyUnreachable)
    # The old worker may be listed for a moment.
    threading.Event().wait(0.5)
    return master.ask("show proc\n")


def main(program: str) -> None:
    recording = record(program)
    number = re.match(r"\d+\.\d+", recording.version)
    assert number, recording.version
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{number[0]}.json"
    path.write_text(json.dumps(recording._asdict(), indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "/usr/sbin/haproxy")
