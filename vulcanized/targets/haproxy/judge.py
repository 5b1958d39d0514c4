"""What HAProxy accepts by its own check, and what an app that is kept back stays on."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from vulcanized.model import AppId
from vulcanized.slot import Clock
from vulcanized.targets import judge as shared
from vulcanized.targets.haproxy import handover, plan, process
from vulcanized.targets.haproxy.config import Config, structure_digest
from vulcanized.targets.haproxy.handover import Ground
from vulcanized.targets.haproxy.parts import REGEX, Part
from vulcanized.targets.quarantine import Verdict
from vulcanized.targets.staged import Folder, write_candidate

NOTHING = Ground({}, {}, {}, lambda _: ())
"""Where no app has anything that it could stay on."""

Parts = Mapping[AppId, Part]


class Judge(shared.Judge[Part, Ground]):
    """Finds what of the wanted apps HAProxy takes; see the one that file targets share."""

    def __init__(self, config: Config, folder: Folder, clock: Clock) -> None:
        super().__init__(_Court(config, folder), clock)


class _Court:
    proxy = "HAProxy"
    frame = "haproxy.cfg.j2"
    nothing = NOTHING

    def __init__(self, config: Config, folder: Folder) -> None:
        self._config = config
        self._folder = folder

    def available(self) -> bool:
        return process.find_program() is not None

    def check(self, parts: Parts) -> Verdict:
        with self._folder.candidate() as at:
            return check(self._config, parts, process.required_program(), at)

    def digest(self, parts: Parts) -> str:
        structure = self._config.structure(parts.values())
        return structure_digest(structure, plan.tables_of(parts.values())[REGEX])

    def unknown(self, parts: Parts, ground: Ground) -> Parts:
        return parts

    def candidate(self, wanted: Parts, back: Container[AppId], ground: Ground) -> Parts:
        return candidate(wanted, back, ground)

    def can_stay_back(self, part: Part, ground: Ground) -> bool:
        reach = ground.reach(plan.kept_back(part, ground.tables))
        return not reach.untouched and reach.part.judged != part.judged


def check(config: Config, parts: Parts, program: str, at: Path) -> Verdict:
    """What HAProxy says of the files for these apps, in the directory `at`.

    Raises Rejected, ProxyUnreachable, NotWritten.
    """
    files = config.files(parts, plan.tables_of(parts.values()), config.frame_at(at))
    write_candidate(at, files)
    return process.check(program, at, files)


def culprits(config: Config, parts: Parts, program: str, at: Path) -> dict[AppId, str]:
    """All apps that HAProxy refuses, each with why.

    Raises as `check`, and Rejected where no app is at fault, or too many are.
    """
    return shared.culprits(parts, "HAProxy", lambda some: check(config, some, program, at))


def candidate(wanted: Parts, back: Container[AppId], ground: Ground) -> Parts:
    """`wanted`, but apps that are kept back as they are on the ground, or not at all.

    A route that one of these waits for stays with the app that has it.
    """
    kept = {app: part for app, part in wanted.items() if app in back}
    if not kept:
        return wanted
    parts = dict(wanted)
    for app, part in kept.items():
        reach = ground.reach(plan.kept_back(part, ground.tables))
        if reach.part.pools or reach.part.entries:
            parts[app] = reach.part
        else:
            del parts[app]
    waiting = [
        part for app, part in kept.items() if app not in parts or parts[app].entries != part.entries
    ]
    return parts | handover.lend(waiting, parts, ground).parts
