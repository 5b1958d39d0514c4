"""The nginx behind its files: found or started, reloaded, proven, put back."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from vulcanized.errors import ProxyUnreachable, Rejected, ReloadFailed, TargetError
from vulcanized.settings import NginxSettings
from vulcanized.slot import Clock
from vulcanized.targets import programs
from vulcanized.targets.nginx import process, words
from vulcanized.targets.nginx.config import (
    FILES,
    HTTP,
    LAST_GOOD,
    MADE_OF,
    NOTHING,
    Config,
    MadeOf,
    Rendered,
)
from vulcanized.targets.nginx.endpoint import Generation, generation
from vulcanized.targets.nginx.process import Master
from vulcanized.targets.staged import Folder

log = structlog.get_logger(__name__)

RELOAD_SECONDS: Final = 10.0
START_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 0.15
"""So long the new config must answer without a break where workers cannot be seen: old ones go on
accepting for some 100 ms."""
_EVERY: Final = 0.005
_ORPHANS_SECONDS: Final = 3.0
_EMERGENCY: Final = re.compile(r"\[emerg\] (\d+)#\d+: (.*)")
_TRIED_AGAIN: Final = re.compile(r"bind\(\) to .* failed")

Files = Mapping[str, str]


class Proxy:
    """One nginx: what has to do with its processes and files, not with what it shows.

    Errors of `start` and `reload` leave what served before serving, and its files in place.
    """

    def __init__(
        self,
        settings: NginxSettings,
        config: Config,
        folder: Folder,
        stop: threading.Event,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._config = config
        self._folder = folder
        self._stop = stop
        self._clock = clock
        self._child: process.Child | None = None
        self._pid: int | None = None

    # --- what is there --------------------------------------------------------------------------

    def master(self) -> Master | None:
        """The master that runs, None where none can be seen."""
        found = self._find()
        if found is not None:
            self._pid = found.pid
        return found

    def _find(self) -> Master | None:
        if not self._settings.start:
            return process.by_pid_file(self._settings.pid)
        if self._child is not None and self._child.ended:
            self._child = None
        # After a USR2 the pid file names another one than we started.
        noted = process.by_pid_file(self._folder.path / process.PID_FILE)
        if noted is not None and self._child is not None and noted.pid == self._child.pid:
            return noted
        return process.child_of(self._folder.path)

    def in_upgrade(self) -> bool:
        """Whether the master that a USR2 replaced takes connections still, with what it ran."""
        path = self._settings.pid
        old = process.by_pid_file(path.with_name(f"{path.name}.oldbin"))
        return old is not None and bool(process.workers(old).active)

    def generation(self, of: MadeOf = NOTHING) -> Generation | None:
        """What answers where clients ask, or did of a config, None where nobody does."""
        listen = of.listen and words.listened(of.listen[0])
        return generation(listen or self._settings.listen[0])

    def found(self) -> Generation | None:
        """What answers, also where only the daemon before us had it listen."""
        answer = self.generation()
        texts = self._folder.read((MADE_OF, MADE_OF + LAST_GOOD)) if answer is None else {}
        for text in texts.values():
            answer = answer or self.generation(MadeOf.read(text) or NOTHING)
        return answer

    def made_of(self, digest: str) -> MadeOf:
        """What the config with this digest was made of, as far as the files tell."""
        names = (MADE_OF, MADE_OF + LAST_GOOD)
        for text in self._folder.read(names).values():
            found = MadeOf.read(text)
            if found is not None and found.digest == digest and digest:
                return found
        return NOTHING

    def good(self, digest: str) -> Files:
        """The files that make an nginx with this digest, where they are still there."""
        for suffix in ("", LAST_GOOD):
            found = self._folder.read([name + suffix for name in (HTTP, MADE_OF)])
            made_of = MadeOf.read(found.get(MADE_OF + suffix, ""))
            if made_of is not None and made_of.digest == digest in found.get(HTTP + suffix, ""):
                own = {name.removesuffix(LAST_GOOD): text for name, text in found.items()}
                return {**self._folder.read(FILES), **own}
        return self._folder.read(FILES)

    def tidy(self) -> None:
        """Keep the log of an nginx that we started from growing without an end."""
        if self._settings.start:
            programs.bound_log(self._folder.path / process.LOG_FILE)

    # --- start ----------------------------------------------------------------------------------

    def start(self, rendered: Rendered, settle: Callable[[], Rendered]) -> MadeOf:
        """Start one with what is wanted; where that fails, with what stood there before.

        Where that fails too there is nothing to lose: with what `settle` finds that it accepts.
        """
        program = process.required_program()
        self._free_the_port()
        if why := programs.taken(self._settings.listen):
            raise ProxyUnreachable(f"{why}; nginx was not started")
        before = self._folder.read(FILES)
        fallback = before if before.keys() >= {*FILES} and before != rendered.files else None
        try:
            self._folder.write(rendered.files)
            return self._launch(program, rendered)
        except TargetError as error:
            failed = error
        if fallback is not None:
            log.error("nginx starts with the files that stood there before", reason=str(failed))
            self._folder.write(fallback)
            known = MadeOf.read(fallback[MADE_OF]) or NOTHING
            try:
                return self._launch(program, Rendered(fallback, known, ()))
            except (Rejected, ProxyUnreachable) as error:
                log.error("nginx does not start with these either", reason=str(error))
        settled = settle()
        if settled.made_of == rendered.made_of:
            raise failed
        self._folder.write(settled.files)
        return self._launch(program, settled)

    def _launch(self, program: str, rendered: Rendered) -> MadeOf:
        child = process.Child(program, self._folder.path)
        deadline = self._clock() + START_SECONDS
        while not child.ended:
            answer = self.generation()
            if answer is not None and answer.digest == rendered.made_of.digest:
                self._child, self._pid = child, child.pid
                return rendered.made_of
            if self._clock() > deadline or self._stop.wait(_EVERY):
                process.stop([child.pid])
                raise ProxyUnreachable(f"nginx does not come up: {process.faults(child.output())}")
        output = child.output()
        if f"{HTTP}:" in output and "bind()" not in output:
            raise process.rejected(process.verdict(output, rendered))
        raise ProxyUnreachable(f"nginx does not start: {process.faults(output)}")

    def _free_the_port(self) -> None:
        """Workers of one of ours that was killed serve on; now another one is to."""
        noted = process.pid_in(self._folder.path / process.PID_FILE)
        groups = {pid for pid in (self._pid, noted) if pid is not None}
        left = frozenset[int]().union(*(process.orphans(group) for group in groups))
        if not left:
            return
        log.warning("workers of a killed nginx give way to a new one", pids=sorted(left))
        for pid in left:
            process.quit_worker(pid)
        deadline = self._clock() + _ORPHANS_SECONDS
        while programs.taken(self._settings.listen) and self._clock() < deadline:
            if self._stop.wait(_EVERY):
                return
        if programs.taken(self._settings.listen):
            process.stop(left)

    # --- reload ---------------------------------------------------------------------------------

    def reload(self, rendered: Rendered, running: MadeOf, good: Files | None) -> MadeOf:
        """Let it run these files, by a reload that is proven; what runs then.

        `running`: what runs now; `good`: its files, None where they are not known. Raises
        ReloadFailed, ProxyUnreachable, NotWritten.
        """
        if running.digest:
            why = programs.taken(
                each for each in self._settings.listen if words.listen(each) not in running.listen
            )
            if why:
                raise ReloadFailed(f"{why}; nginx was not reloaded", restored=True)
        good = self.good(running.digest) if good is None else good
        for name in (HTTP, MADE_OF):
            self._folder.keep(name, name + LAST_GOOD)
        self._folder.write(rendered.files)
        try:
            self._reload_proven(rendered.made_of, RELOAD_SECONDS)
        except ProxyUnreachable:
            # It was told nothing.
            self._folder.write(good)
            raise
        except ReloadFailed as error:
            if self._stop.is_set():
                raise
            restored = self._put_back(running, good, error)
            state = "what ran before goes on" if restored else "what ran before is not back"
            raise ReloadFailed(f"{error}; {state}", restored=restored, said=error.said) from error
        return rendered.made_of

    def _put_back(self, running: MadeOf, good: Files, error: ReloadFailed) -> bool:
        """Files and, if it has to be, process as they were; whether they are."""
        self._folder.write(good)
        answer = self.generation(running)
        same = answer is not None and answer.digest == running.digest
        if same and (error.said or not running.digest):
            return True
        try:
            # It may only have been slow: what it reads last must be what ran before.
            self._reload_proven(running, RELOAD_SECONDS)
        except TargetError as again:
            log.warning("putting back", reason=str(again))
            # One that took neither goes on with what it ran, and whatever it reads later is that.
            answer = self.generation(running)
            return answer is not None and answer.digest == running.digest
        return True

    def _reload_proven(self, made_of: MadeOf, seconds: float) -> None:
        """Have the files read, and see that nothing accepts any more that has not."""
        master, path = self.master(), self._log_path()
        log_end = programs.log_size(path)
        before = process.workers(master).active if master is not None else frozenset[int]()
        if self._settings.reload_command:
            self.command_reload()
        elif master is None:
            raise ProxyUnreachable(self.absent())
        else:
            process.signal_to(master, signal.SIGHUP)
        deadline = self._clock() + seconds
        right_since: float | None = None
        while True:
            asked = self._clock()
            visible = master is not None and bool(before)
            if visible and master is not None and not _handed_over(master, before):
                right = False
            else:
                answer = self.generation(made_of)
                right = answer is not None and answer.digest == made_of.digest
            right_since = (right_since or asked) if right else None
            if right_since is not None and (
                visible or self._clock() - right_since >= STEADY_SECONDS
            ):
                return
            said = programs.log_since(path, log_end)
            if why := _emergency(said, master):
                raise ReloadFailed(f"nginx refuses to reload: {why}", restored=False, said=said)
            if self._clock() > deadline:
                deaf = master is not None and before <= process.workers(master).active
                why = self._not_proven(made_of.digest, seconds, deaf=visible and deaf)
                raise ReloadFailed(why, restored=False)
            if self._stop.wait(_EVERY):
                raise ReloadFailed("told to end while nginx reloads", restored=False)

    def command_reload(self) -> None:
        """Run `reload_command`, where there is one. Raises ReloadFailed, ProxyUnreachable."""
        if self._settings.reload_command:
            environment = {"VULCANIZED_DIRECTORY": str(self._folder.path)}
            process.run(self._settings.reload_command, environment, COMMAND_SECONDS)

    def _not_proven(self, digest: str, seconds: float, *, deaf: bool) -> str:
        """`deaf`: its workers are those that there were."""
        answer, path = self.generation(), self._log_path()
        if deaf and answer is not None and answer.digest != digest:
            readable = os.access(path, os.R_OK)
            where = f"see {path}" if readable else f"its log {path} cannot be read, mend that"
            return (
                f"nginx was told to reload and goes on with what it ran, {seconds:g} s later: "
                f"try `nginx -t`; {where}"
            )
        if answer is not None and answer.digest != digest:
            return (
                f"nginx was reloaded but does not run {self._folder.path / HTTP} after "
                f"{seconds:g} s: include it in its http block, and let nothing else listen on "
                f"{self._settings.listen[0]}"
            )
        if answer is None:
            return f"nothing answers on {self._settings.listen[0]} {seconds:g} s after a reload"
        return f"old workers of nginx still accept {seconds:g} s after a reload"

    def absent(self) -> str:
        """Why there is nothing to be reloaded, and what to do."""
        if self._settings.start:
            return "nginx is gone"
        if self._settings.reload_command:
            return (
                f"nothing answers on {self._settings.listen[0]} behind reload_command: start "
                f"nginx, and include {self._folder.path / HTTP} in its http block"
            )
        return (
            f"no nginx runs with the pid file {self._settings.pid}: start it, mend `pid`, or set "
            "reload_command where its processes cannot be seen"
        )

    def _log_path(self) -> Path:
        if self._settings.start:
            return self._folder.path / process.LOG_FILE
        return self._settings.error_log

    # --- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """Stop an nginx that `start = true` started, by us or by an earlier daemon."""
        master = self.master()
        with contextlib.suppress(TargetError):
            if master is not None:
                process.stop([master.pid])
            else:
                self._free_the_port()


def _handed_over(master: Master, before: frozenset[int]) -> bool:
    """Whether none of the workers before accepts any more, and others do."""
    now = process.workers(master).active
    return bool(now) and not now & before


def _emergency(said: str, master: Master | None) -> str:
    """What a master says that refuses its files, "" when it does not."""
    for pid, text in _EMERGENCY.findall(said):
        ours = master is None or int(pid) == master.pid
        # It tries to bind for some two seconds, and says so each time.
        if ours and not _TRIED_AGAIN.match(text):
            return text if "still could not bind" not in text else _first_bind(said) or text
    return ""


def _first_bind(said: str) -> str:
    found = (text for _, text in _EMERGENCY.findall(said) if _TRIED_AGAIN.match(text))
    return next(found, "")
