"""The HAProxy behind its files: found or started, checked, reloaded, put back."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from typing import Final, NamedTuple

import structlog

from vulcanized.errors import ProxyUnreachable, Rejected, ReloadFailed, TargetError
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
)
from vulcanized.targets.haproxy.handover import Ground
from vulcanized.targets.haproxy.judge import Judge, Parts
from vulcanized.targets.haproxy.live import Live, alerts
from vulcanized.targets.haproxy.master import Absent, Master, Starting
from vulcanized.targets.haproxy.parts import STRUCTURE, TABLES, Shape, read_servers, read_shapes
from vulcanized.targets.haproxy.plan import LISTEN_KEY
from vulcanized.targets.programs import taken
from vulcanized.targets.staged import Folder

log = structlog.get_logger(__name__)

RELOAD_SECONDS: Final = 10.0
START_SECONDS: Final = 10.0
ANSWER_AT_THE_END: Final = 0.5
PATIENCE: Final = 1.0
"""Seconds that a running HAProxy may be deaf, as it is while it reloads."""

Files = Mapping[str, str]


class Known(NamedTuple):
    """Shapes and frames by digest; the ones that stand in the files now are the last."""

    shapes: dict[str, Shape]
    frames: dict[str, Frame]


class Proxy:
    """One HAProxy: what has to do with its process and its files, not with what it shows.

    `judge` knows which apps it refuses.

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
        self.judge = Judge(config, folder, clock)

    # --- found or started -----------------------------------------------------------------------

    def attach(self, wanted: Parts) -> tuple[Live, bool]:
        """What runs, and whether it had to be started.

        Raises ProxyUnreachable after the files were checked and put in place for the day that it
        is there; Rejected, NotWritten when that failed.
        """
        try:
            live, started = self.read_back(), False
        except ProxyUnreachable as error:
            if not (isinstance(error, Absent) and self._settings.start):
                self._stage(wanted)
                raise
            pid = self._running_as()
            if pid is None:
                live = self._start(wanted)
            elif self._settings.master_socket.exists():
                self._stage(wanted)
                raise
            else:
                live = self._reach_again(pid, wanted)
            started = True
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
            except Absent as error:
                # A master that answers is alive, whoever started it.
                alive = isinstance(error, Starting) or self._alive()
                if not alive or self._clock() > deadline or self._stop.wait(0.01):
                    raise

    def _alive(self) -> bool:
        """Whether the HAProxy that we know runs, whatever its socket says."""
        if self._settings.start:
            return self._running_as() is not None
        if self._pid is None:
            return False
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _running_as(self) -> int | None:
        """The process that one of ours in this directory runs as, None when there is none."""
        if self._child is not None and self._child.ended:
            self._child = None
        if self._child is not None:
            return self._child.pid
        return process.pid_of(self._folder.path, self._pid)

    def _reach_again(self, pid: int, wanted: Parts) -> Live:
        """One of ours whose socket was deleted, most likely with the whole directory.

        It serves, and binds its socket anew when it reads its files again. Where it does not, it
        is replaced.
        """
        log.warning("haproxy's socket was deleted; it is made to bind it again", pid=pid)
        self._stage(wanted)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)
        deadline = self._clock() + RELOAD_SECONDS
        while self._running_as() is not None and self._clock() < deadline:
            with contextlib.suppress(ProxyUnreachable):
                return self.master.read_back()
            if self._stop.wait(0.01):
                raise ProxyUnreachable("told to end while HAProxy was to bind its socket again")
        process.stop(pid)
        return self._start(wanted)

    def _start(self, wanted: Parts) -> Live:
        """Start one with what is wanted; where that fails, with what stood there before.

        Where that fails too there is nothing to lose: with all apps that it does not refuse.
        """
        program = process.required_program()
        if why := taken(self._settings.listen):
            raise ProxyUnreachable(f"{why}; HAProxy was not started")
        before, ground = self._folder.read(FILES), self.ground()
        parts = self.judge.candidate(wanted, ground)
        files = self._files(parts)
        fallback = before if CONFIG in before and before != files else None
        try:
            if fallback is not None:
                self.judge.raise_if_refused(wanted, ground)
            self._folder.write(files)
            return self._launch(program, self._config.structure(parts.values()), files)
        except TargetError as error:
            # Whatever is wrong, a reload that failed too: nothing serves now.
            failed = error
        if fallback is not None:
            log.error("haproxy starts with the files that stood there before", reason=str(failed))
            self._folder.write(fallback)
            try:
                return self._launch(program, {}, fallback)
            except (Rejected, ProxyUnreachable) as error:
                log.error("haproxy does not start with these either", reason=str(error))
        settled = self.judge.settled(wanted, ground, self._stop)
        if settled == parts:
            raise failed
        files = self._files(settled)
        self._folder.write(files)
        return self._launch(program, self._config.structure(settled.values()), files)

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
            raise process.rejected(process.verdict(output, files))
        raise ProxyUnreachable(f"HAProxy does not start: {alerts(output)}")

    # --- files ----------------------------------------------------------------------------------

    def known(self) -> Known:
        """What the files say of what a running HAProxy may be made of.

        Only they know after a restart of ours, and of it only what it does not lack.
        """
        shapes: dict[str, Shape] = {}
        frames: dict[str, Frame] = {}
        found = self._folder.read((LAST_GOOD, CONFIG, STRUCTURE))
        listen = parse_entries(found.get(STRUCTURE, ""))
        for name in (LAST_GOOD, CONFIG):
            if name in found:
                shapes |= read_shapes(found[name])
                frame = read_frame(found[name], listen.get(LISTEN_KEY, ""))
                frames[frame.digest] = frame
        return Known(shapes, frames)

    def ground(self) -> Ground:
        """What the files say that a HAProxy has which runs them."""
        known = self.known()
        found = self._folder.read((CONFIG, *TABLES, STRUCTURE))
        servers = read_servers(found.pop(CONFIG, ""))
        tables = {name: parse_entries(text) for name, text in found.items()}
        structure = tables.pop(STRUCTURE, {})
        return Ground(structure, tables, known.shapes, lambda id_: servers.get(id_, ()))

    def _files(self, parts: Parts) -> Files:
        return self._config.files(parts, plan.tables_of(parts.values()))

    def _stage(self, wanted: Parts) -> None:
        self._folder.write(self._files(self.judge.settled(wanted, self.ground(), self._stop)))

    # --- reload ---------------------------------------------------------------------------------

    def reload(self, parts: Parts, running: Mapping[str, str], good: Files | None) -> Live:
        """Let it run what its check accepts, by a reload that it confirms; what runs then.

        `running`: what the worker is made of now. `good`: files for that worker, None when it
        does not run ours. Raises ReloadFailed, ProxyUnreachable.
        """
        structure = self._config.structure(parts.values())
        try:
            if running:
                known = running.get(LISTEN_KEY, "").split(",")
                listen = self._settings.listen
                why = taken(each for each in listen if words.listen(each) not in known)
                if why:
                    raise ReloadFailed(f"{why}; HAProxy was not reloaded", restored=True)
            if good is not None:
                # Files may be behind run time: what is put back must not be.
                self._folder.write(good)
                self._folder.keep(CONFIG, LAST_GOOD)
            else:
                good = self._folder.read(FILES)
            self._folder.write(self._files(parts))
            live = self._reload_confirmed(structure, running, good)
        except ReloadFailed as error:
            self.judge.refuse(parts, error)
            self.judge.blame(process.verdict(error.said, self._files(parts)).named, parts)
            raise
        self.judge.forget()
        self.judge.held.accepted()
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
        if isinstance(failed, ReloadFailed):
            said += failed.said
        restored = self._put_back(running, good)
        state = "what ran before goes on" if restored else "what ran before is not back"
        raise ReloadFailed(f"{why}; {state}", restored=restored, said=said) from failed

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
        """Stop an HAProxy that `start = true` started, by us or by an earlier daemon.

        One that does not answer has nothing to finish, and we have no time to wait for it.
        """
        pid, frozen = self._running_as(), False
        try:
            pid = self.master.answering(ANSWER_AT_THE_END).master
        except Absent:
            pass
        except ProxyUnreachable:
            frozen = True
        if pid is not None:
            process.stop(pid, at_once=frozen)


def parse_entries(text: str) -> dict[str, str]:
    """The entries of a map that we wrote."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {key: value for key, _, value in pairs}
