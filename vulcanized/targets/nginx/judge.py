"""What nginx accepts by its own check, and what an app that is kept back stays on."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from pathlib import Path

from vulcanized.model import AppId, Route
from vulcanized.slot import Clock
from vulcanized.targets import judge as shared
from vulcanized.targets.nginx import process
from vulcanized.targets.nginx.config import Config
from vulcanized.targets.nginx.parts import Part, Shape
from vulcanized.targets.quarantine import Verdict
from vulcanized.targets.staged import Folder, write_candidate

Parts = Mapping[AppId, Part]
Ground = Mapping[AppId, Shape]
"""The shape that each app has in the config that runs."""


class Judge(shared.Judge[Part, Ground]):
    """Finds what of the wanted apps nginx takes; see the one that file targets share.

    `gone`: apps that are wanted no more and may run still, as they were wanted last.
    """

    def __init__(self, config: Config, folder: Folder, clock: Clock) -> None:
        self.gone: dict[AppId, Part] = {}
        super().__init__(_Court(config, folder, self.gone), clock)


class _Court:
    proxy = "nginx"
    frame = "http.conf.j2, nginx.conf.j2"

    def __init__(self, config: Config, folder: Folder, gone: Parts) -> None:
        self.nothing: Ground = {}
        self._gone = gone
        self._config = config
        self._folder = folder

    def available(self) -> bool:
        return process.find_program() is not None

    def check(self, parts: Parts) -> Verdict:
        with self._folder.candidate() as at:
            return check(self._config, parts, process.required_program(), at)

    def digest(self, parts: Parts) -> str:
        told = hashlib.blake2b(self._config.frame_digest.encode(), digest_size=16)
        told.update("".join(self._config.judged(parts)).encode())
        return told.hexdigest()

    def unknown(self, parts: Parts, ground: Ground) -> Parts:
        return {app: part for app, part in parts.items() if ground.get(app) != part.shape}

    def candidate(self, wanted: Parts, back: Container[AppId], ground: Ground) -> Parts:
        return candidate(wanted, back, ground, self._gone)

    def can_stay_back(self, part: Part, ground: Ground) -> bool:
        return ground.get(part.desired.app) != part.shape


def check(config: Config, parts: Parts, program: str, at: Path) -> Verdict:
    """What nginx says of the files for these apps, in the directory `at`.

    Raises Rejected, ProxyUnreachable, NotWritten.
    """
    rendered = config.candidate(parts, at)
    write_candidate(at, rendered.files)
    return process.check(program, at, rendered)


def candidate(wanted: Parts, back: Container[AppId], ground: Ground, gone: Parts) -> Parts:
    """`wanted`, but apps that are kept back in the shape of the ground, or not at all.

    A route that another one owns by now is that one's. A route that one of these waits for stays
    with the app that has it, also with one that is wanted no more.
    """
    kept = [app for app in wanted if app in back]
    if not kept:
        return wanted
    parts = dict(wanted)
    owned = {
        route for app, part in wanted.items() if app not in back for route in part.shape.routes
    }
    awaited: set[Route] = set()
    for app in kept:
        awaited |= {*wanted[app].shape.routes} - owned
        shape = ground.get(app)
        if shape is None:
            del parts[app]
        else:
            stays = tuple(route for route in shape.routes if route not in owned)
            parts[app] = Part(wanted[app].desired, _routed(shape, stays))
    for app, shape in ground.items():
        lender = parts.get(app) or gone.get(app)
        lent = tuple(route for route in shape.routes if route in awaited)
        if not lent or lender is None:
            continue
        own = lender.shape.routes if app in parts else ()
        routes = tuple(sorted({*own, *lent}))
        parts[app] = Part(lender.desired, _routed(lender.shape, routes))
    return parts


def _routed(shape: Shape, routes: tuple[Route, ...]) -> Shape:
    if routes == shape.routes:
        return shape
    return Shape.of(routes, shape.head, shape.options, shape.passing, shape.tunnel)
