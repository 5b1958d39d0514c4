"""The HAProxy behind its files: found or started, checked, reloaded, put back."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from vulcanized.errors import ProxyUnreachable, Rejected, ReloadFailed, TargetError
from vulcanized.model import AppId
from vulcanized.settings import HaproxySettings
from vulcanized.slot import Clock
from vulcanized.targets.haproxy import plan, process, words
from vulcanized.targets.haproxy.config import (
    CONFIG,
    FILES,
    LAST_GOOD,
    Config,
    Frame,
    read_frame,
    structure_digest,
)
from vulcanized.targets.haproxy.live import Live, alerts
from vulcanized.targets.haproxy.master import Absent, Master
from vulcanized.targets.haproxy.parts import REGEX, STRUCTURE, Part, Shape, read_shapes
from vulcanized.targets.haproxy.plan import LISTEN_KEY
from vulcanized.targets.staged import Folder, Refusal, write_candidate

log = structlog.get_logger(__name__)

RELOAD_SECONDS: Final = 10.0
START_SECONDS: Final = 10.0
PATIENCE: Final = 1.0
"""Seconds that a running HAProxy may be deaf, as it is while it reloads."""

Files = Mapping[str, str]


class Known(NamedTuple):
    """Shapes and frames by digest; the ones that stand in the files now are the last."""

    shapes: dict[str, Shape]
    frames: dict[str, Frame]


class Proxy:
    """One HAProxy: what has to do with its process and its files, not with what it shows.

    Errors of `attach` and `reload` leave what served before serving, and its files in place.
    """

    def __init__(
        self,
        settings: HaproxySettings,
        config: Config,
        folder: Folder,
        stop: threading.Event,
        clock: Clock,
    ) -> None:
        self.master = Master(settings.master_socket, settings.directory)
        self._settings = settings
        self._config = config
        self._folder = folder
        self._stop = stop
        self._clock = clock
        self._child: process.Child | None = None
        self._pid: int | None = None
        self._refusal = Refusal()
        self._checked = ""

    # --- found or started -----------------------------------------------------------------------

    def attach(self, wanted: Mapping[AppId, Part]) -> tuple[Live, bool]:
        """What runs, and whether it had to be started.

        Raises ProxyUnreachable after the files were checked and put in place for the day that it
        is there; Rejected, NotWritten when that failed.
        """
        try:
            live, started = self.read_back(), False
        except ProxyUnreachable as error:
            if not (isinstance(error, Absent) and self._settings.start and not self._alive()):
                self._stage(wanted)
                raise
            live, started = self._start(wanted), True
        self._pid = live.processes.master
        self.tidy()
        return live, started

    def tidy(self) -> None:
        """Keep the log of an HAProxy that we started from growing without an end."""
        if self._settings.start:
            process.bound_log(self._folder.path)

    def read_back(self) -> Live:
        """What runs; a reload by someone else is waited for. Raises ProxyUnreachable."""
        deadline = self._clock() + PATIENCE
        while True:
            try:
                return self.master.read_back()
            except Absent:
                if not self._alive() or self._clock() > deadline or self._stop.wait(0.01):
                    raise

    def _alive(self) -> bool:
        """Whether the HAProxy that we know runs, whatever its socket says."""
        if self._child is not None and self._child.ended:
            self._child = None
        if self._child is not None:
            return True
        pid = process.pid_of(self._folder.path) if self._settings.start else self._pid
        if pid is None:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _start(self, wanted: Mapping[AppId, Part]) -> Live:
        """Start one with what is wanted; where that fails, with what stood there before."""
        program = process.required_program()
        structure, digest = self._identify(wanted)
        files, before = self._files(wanted), self._folder.read(FILES)
        fallback = before if CONFIG in before and before != files else None
        failed = self._refusal.of(digest, self._clock())
        if failed is None or fallback is None:
            self._folder.write(files)
            try:
                return self._launch(program, structure, files)
            except (Rejected, ProxyUnreachable) as error:
                failed = error
                self._refusal.remember(digest, error, self._clock())
        if fallback is None:
            raise failed
        log.error("haproxy starts with the files that stood there before", reason=str(failed))
        self._folder.write(fallback)
        return self._launch(program, {}, fallback)

    def _launch(self, program: str, structure: Mapping[str, str], files: Files) -> Live:
        """`structure`: what it must say that it is made of; empty: whatever it says."""
        child = process.Child(program, self._folder.path, self._settings.master_socket)
        deadline = self._clock() + START_SECONDS
        seen = ""
        while not child.ended:
            try:
                live = self.master.read_back()
            except ProxyUnreachable as error:
                seen = str(error)
            else:
                if live.structure and (live.structure == structure or not structure):
                    self._child = child
                    return live
                seen = "it runs something else"
            if self._clock() > deadline or self._stop.wait(0.004):
                process.stop(child.pid)
                raise ProxyUnreachable(f"HAProxy does not come up: {seen}")
        output = child.output()
        if f"{CONFIG}:" in output and "cannot bind" not in output:
            raise process.rejected(output, files)
        raise ProxyUnreachable(f"HAProxy does not start: {alerts(output)}")

    # --- files ----------------------------------------------------------------------------------

    def known(self) -> Known:
        """What the files say of what a running HAProxy may be made of.

        Only they know after a restart of ours, and of it only what it does not lack.
        """
        shapes: dict[str, Shape] = {}
        frames: dict[str, Frame] = {}
        found = self._folder.read((LAST_GOOD, CONFIG, STRUCTURE))
        listen = dict(line.split(" ", 1) for line in found.get(STRUCTURE, "").splitlines())
        for name in (LAST_GOOD, CONFIG):
            if name in found:
                shapes |= read_shapes(found[name])
                frame = read_frame(found[name], listen.get(LISTEN_KEY, ""))
                frames[frame.digest] = frame
        return Known(shapes, frames)

    def check(self, config: Config, parts: Mapping[AppId, Part], program: str, at: Path) -> None:
        """Let HAProxy check the files for these apps, in the directory `at`.

        Raises Rejected, ProxyUnreachable, NotWritten.
        """
        files = config.files(parts, plan.tables_of(parts.values()), config.frame_at(at))
        write_candidate(at, files)
        process.check(program, at, files)

    def _files(self, parts: Mapping[AppId, Part]) -> Files:
        return self._config.files(parts, plan.tables_of(parts.values()))

    def _identify(self, parts: Mapping[AppId, Part]) -> tuple[dict[str, str], str]:
        structure = self._config.structure(parts.values())
        return structure, structure_digest(structure, plan.tables_of(parts.values())[REGEX])

    def _stage(self, wanted: Mapping[AppId, Part]) -> None:
        _, digest = self._identify(wanted)
        self._accept(wanted, digest)
        self._folder.write(self._files(wanted))

    def _accept(self, wanted: Mapping[AppId, Part], digest: str) -> None:
        """Let HAProxy check what is wanted, unless it has. Raises Rejected."""
        refused = self._refusal.of(digest, self._clock())
        if refused is not None:
            raise refused
        program = process.find_program()
        if program is None:
            # A sidecar may have no haproxy of its own: the reload is the check then.
            log.warning("no haproxy program here: the config is not checked before a reload")
        elif digest != self._checked:
            try:
                with self._folder.candidate() as at:
                    self.check(self._config, wanted, program, at)
            except Rejected as error:
                self._refusal.remember(digest, error, self._clock())
                raise
        self._checked = digest

    # --- reload ---------------------------------------------------------------------------------

    def raise_if_refused(self, wanted: Mapping[AppId, Part]) -> None:
        """Raise what this was refused with, unless it is time to try it again."""
        if self._refusal.pending:
            refused = self._refusal.of(self._identify(wanted)[1], self._clock())
            if refused is not None:
                raise refused

    def reload(
        self, wanted: Mapping[AppId, Part], running: Mapping[str, str], good: Files | None
    ) -> Live:
        """Let it run what is wanted, by a reload that it confirms; what runs then.

        `running`: what the worker is made of now. `good`: files for that worker, None when it
        does not run ours. Raises Rejected, ReloadFailed, ProxyUnreachable.
        """
        structure, digest = self._identify(wanted)
        self._accept(wanted, digest)
        try:
            if running:
                known = running.get(LISTEN_KEY, "").split(",")
                listen = self._settings.listen
                process.refuse_taken(each for each in listen if words.listen(each) not in known)
            if good is not None:
                # Files may be behind run time: what is put back must not be.
                self._folder.write(good)
                self._folder.keep(CONFIG, LAST_GOOD)
            else:
                good = self._folder.read(FILES)
            self._folder.write(self._files(wanted))
            live = self._reload_confirmed(structure, running, good)
        except ReloadFailed as error:
            self._refusal.remember(digest, error, self._clock())
            raise
        self._refusal.forget()
        return live

    def _reload_confirmed(
        self, structure: Mapping[str, str], running: Mapping[str, str], good: Files
    ) -> Live:
        before = self.master.processes()
        log_end = process.log_size(self._folder.path)
        try:
            self.master.reload(before, RELOAD_SECONDS, self._stop)
            live = self.read_back()
            if live.structure == structure:
                return live
            failed: TargetError = ReloadFailed(
                "HAProxy was reloaded but does not run "
                f"{self._folder.path / CONFIG}: start it with -f and that file",
                restored=False,
            )
        except (ReloadFailed, ProxyUnreachable) as error:
            failed = error
        if self._stop.is_set():
            raise failed
        said = process.log_since(self._folder.path, log_end) if self._settings.start else ""
        why = f"{failed} ({alerts(said)})" if "[ALERT]" in said else str(failed)
        restored = self._put_back(running, good)
        state = "what ran before goes on" if restored else "what ran before is not back"
        raise ReloadFailed(f"{why}; {state}", restored=restored) from failed

    def _put_back(self, running: Mapping[str, str], good: Files) -> bool:
        """Files and, if it has to be, process as they were; whether they are."""
        self._folder.write(good)
        for again in (False, True):
            try:
                if again:
                    before = self.master.processes()
                    self.master.reload(before, RELOAD_SECONDS, self._stop)
                structure = self.master.read_back().structure
                if structure.items() <= running.items() and bool(structure) == bool(running):
                    return True
            except (ReloadFailed, ProxyUnreachable) as error:
                log.warning("putting back", reason=str(error))
        return False

    # --- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """Stop an HAProxy that `start = true` started, by us or by an earlier daemon."""
        try:
            process.stop(self.master.processes().master)
        except ProxyUnreachable:
            pid = process.pid_of(self._folder.path)
            if pid is not None:
                process.stop(pid)
