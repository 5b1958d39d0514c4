"""Sample pods: a real HTTP server for each pod manifest in a folder, as a kubelet would run it.

A page for browsers, `{"app": ..., "pod": ..., "version": ...}` for everybody else.
"""

from __future__ import annotations

import html
import json
import socket
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from string import Template
from typing import Any

import yaml

Address = tuple[str, int]

LINGER = 3.0
"""Seconds that a pod goes on after its manifest is gone: it answers what it was asked before."""

PAGE = Template((Path(__file__).parent / "page.html").read_text())
COLOURS = {"blue": "#2f6fde", "green": "#22a35a", "red": "#d4495b"}


@dataclass(frozen=True)
class SamplePod:
    """Who answers, and where."""

    name: str
    app: str
    version: str
    address: Address


def pods_in(folder: Path) -> dict[Address, SamplePod]:
    """The pods of a folder's manifests that run on this machine's loopback addresses.

    A file that cannot be read now is left out: it is read again soon.
    """
    found: dict[Address, SamplePod] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.json")]):
        try:
            documents = list(yaml.safe_load_all(path.read_text()))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for document in documents:
            for item in (document or {}).get("items", [document]):
                pod = _pod(item)
                if pod is not None:
                    found.setdefault(pod.address, pod)
    return found


def _pod(document: Any) -> SamplePod | None:
    try:
        if document["kind"] != "Pod" or not ip_address(document["status"]["podIP"]).is_loopback:
            return None
        labels = document["metadata"]["labels"]
        port = int(document["spec"]["containers"][0]["ports"][0]["containerPort"])
        address = (document["status"]["podIP"], port)
        return SamplePod(
            document["metadata"]["name"], labels["app"], str(labels["version"]), address
        )
    except (KeyError, IndexError, TypeError, ValueError):
        return None


class SamplePods(threading.Thread):
    """Keeps one server for each pod in `folder`, until `close`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="sample pods", daemon=True)
        self._folder = folder
        self._ended = threading.Event()
        self._servers: dict[Address, _Server] = {}
        self._leaving: dict[Address, int] = {}

    def look(self) -> None:
        """Start and end servers as the manifests say. Raises OSError for an address in use."""
        pods = pods_in(self._folder)
        for address, pod in pods.items():
            self._leaving.pop(address, None)
            if address in self._servers:
                self._servers[address].pod = pod
            else:
                self._servers[address] = _Server(pod)
        for address in self._servers.keys() - pods.keys():
            self._leaving[address] = self._leaving.get(address, 0) + 1
            if self._leaving[address] * 0.1 > LINGER:
                del self._leaving[address]
                self._servers.pop(address).end()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            try:
                self.look()
            except OSError as error:
                print(f"a sample pod cannot start: {error}", flush=True)
                self._ended.wait(5)

    def close(self) -> None:
        """End all servers."""
        self._ended.set()
        if self.is_alive():
            self.join()
        for server in self._servers.values():
            server.end()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, pod: SamplePod) -> None:
        self.pod = pod
        self.answered = 0
        if ":" in pod.address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(pod.address, _Handler)
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to tell."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        pod = self.server.pod
        if self.path != "/health":
            self.server.answered += 1
        if "text/html" in self.headers.get("Accept", ""):
            body, kind = _page(pod, self.server.answered), "text/html; charset=utf-8"
        else:
            answer = {"app": pod.app, "version": pod.version, "pod": pod.name}
            body, kind = json.dumps(answer) + "\n", "application/json"
        content = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Not a line for each request."""


def colour_of(version: str) -> str:
    """Blue is blue; versions of other names get one that stays theirs."""
    hue = 0
    for character in version:  # as page.html does it
        hue = (hue * 31 + ord(character)) % 360
    return COLOURS.get(version) or f"hsl({hue} 55% 45%)"


def _page(pod: SamplePod, answered: int) -> str:
    return PAGE.substitute(
        app=html.escape(pod.app),
        pod=html.escape(pod.name),
        version=html.escape(pod.version),
        colour=colour_of(pod.version),
        colours=json.dumps(COLOURS),
        answered=answered,
    )
