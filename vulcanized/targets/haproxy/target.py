"""The HAProxy target: hands what `plan` decides to the running proxy, then to the files.

What runs counts, not what we remember: everything is read back when we start, when the worker is
another one, when an answer is not the expected one, after a reload, and every now and then. In
between, `Running` is what was read plus what was done since and confirmed answer by answer.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from vulcanized.errors import (
    ProxyUnreachable,
    Rejected,
    ReloadFailed,
    SettingsError,
    TargetError,
    TemplateFailed,
)
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Applied,
    Change,
    DesiredApp,
    Outcome,
    Problem,
    Standing,
)
from vulcanized.settings import HaproxySettings
from vulcanized.slot import Clock, HoldOff
from vulcanized.targets import told
from vulcanized.targets.haproxy import judge, plan, process, words
from vulcanized.targets.haproxy.config import FILES, Config, Frame
from vulcanized.targets.haproxy.glance import Glance
from vulcanized.targets.haproxy.live import Live
from vulcanized.targets.haproxy.master import Disagreed
from vulcanized.targets.haproxy.parts import Part, Shape
from vulcanized.targets.haproxy.proxy import Proxy
from vulcanized.targets.haproxy.running import EVERYTHING, Running
from vulcanized.targets.haproxy.wanted import Wanted
from vulcanized.targets.render import Templates
from vulcanized.targets.staged import Folder

log = structlog.get_logger(__name__)

CAPABILITIES: Final = frozenset(
    {
        "hosts",
        "paths",
        "port",
        "protocol.http",
        "protocol.https",
        "balance",
        "balance.first",
        "timeouts.connect",
        "timeouts.server",
        "timeouts.queue",
        "timeouts.tunnel",
        "retries",
        "health_check",
        "max_connections.server",
        "max_connections.app",
        "max_body_size",
        "canary_match.header",
        "canary_match.cookie",
        "maintenance",
        "sticky",
        # No fields, but what not every proxy can do either (docs/testing.md).
        "headers.cleaned",
        "hosts.trailing_dot",
        "idle_connections",
        "paths.raw",
        "streaming",
        "weights",
    }
)

WRITE_AFTER: Final = 0.7
"""Seconds from the first change at run time to its files: what follows is gathered."""
LOOK_EVERY: Final = 1.0
LOOK_AT_LEAST_EVERY: Final = 15.0
LOOK_SHARE: Final = 50
"""What runs is read back once a second, or so seldom that it takes one 50th of the time."""
MANY_BACKENDS: Final = 500
"""From so many on, what runs is first looked at beside our thread."""
GLANCE_EVERY: Final = 0.1
"""Seconds between two questions whether that look has ended."""
LEAVING_EVERY: Final = 1.0
CLOSE_SECONDS: Final = 2.0
_ROUNDS: Final = 4


class HaproxyTarget:
    """One HAProxy and its directory. `apply` and `close` may be called from different threads.

    Nothing is touched before the first `apply`, so `rendered`, `actual` and `verify` can be asked
    beside a running daemon. The directory is locked from then on (DirectoryLocked).
    """

    def __init__(
        self,
        settings: HaproxySettings,
        *,
        hold_off: float,
        ceiling: float,
        stop: threading.Event,
        clock: Clock = time.monotonic,
    ) -> None:
        for name in ("directory", "master_socket"):
            try:
                words.file(str(getattr(settings, name)))
            except Rejected as error:
                raise SettingsError(f"target {settings.name}", (f"{name}: {error}",)) from error
        if settings.listen_tls:
            log.warning("listen_tls is not in effect yet; nothing is bound", target=settings.name)
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._folder = Folder(settings.directory)
        self._templates = Templates("haproxy", settings.templates, stop)
        self._config = Config(settings.directory, settings.listen, self._templates)
        self._proxy = Proxy(settings, self._config, self._folder, stop, clock)
        self._judge = self._proxy.judge
        self._wanted = Wanted(settings.name, self._config, self._judge)
        self._generation = self._in_effect = 0
        self._told: tuple[Problem, ...] = ()
        self._begun = False
        self._running: Running | None = None
        self._unseen: Live | None = None
        self._shapes: dict[str, Shape] = {}
        self._frames: dict[str, Frame] = {}
        self._gather = HoldOff(hold_off, ceiling)
        self._asked: object = None
        self._glance: Glance | None = None
        self._look_at = 0.0
        self._leave_at: float | None = None
        self._write_at: float | None = None

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> str:
        return "haproxy"

    @property
    def capabilities(self) -> frozenset[str]:
        """The app config fields that this target puts into effect."""
        return CAPABILITIES

    # --- commands that look, and change nothing ------------------------------------------------

    def rendered(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]:
        """The files for these apps. Raises Rejected, TemplateFailed."""
        config = Config(self._settings.directory, self._settings.listen, self._templates)
        parts = {app: config.part(desired, None) for app, desired in apps.items()}
        return config.files(parts, plan.tables_of(parts.values()))

    def actual(self, apps: Mapping[AppId, DesiredApp] | None = None) -> Mapping[str, str]:
        """The files that stand there now."""
        return self._folder.read(FILES)

    def verify(self, apps: Mapping[AppId, DesiredApp]) -> None:
        """Let HAProxy check the files for these apps.

        Raises Rejected, which names all apps that it refuses, TemplateFailed, ProxyUnreachable.
        """
        config = Config(self._settings.directory, self._settings.listen, self._templates)
        parts: dict[AppId, Part] = {}
        refused: dict[AppId, str] = {}
        for app, desired in sorted(apps.items()):
            try:
                parts[app] = config.part(desired, None)
            except (Rejected, TemplateFailed) as error:
                refused[app] = str(error)
                if len(refused) == len(apps):
                    raise
        with tempfile.TemporaryDirectory(prefix="vulcanized-") as folder:
            refused |= judge.culprits(config, parts, process.required_program(), Path(folder))
        if refused:
            told = "; ".join(f"{app}: {reason}" for app, reason in sorted(refused.items()))
            raise Rejected(f"HAProxy refuses the config of app {told}")

    # --- apply ---------------------------------------------------------------------------------

    def apply(self, change: Change | None, now: float) -> Applied:
        """Bring HAProxy in step with all changes up to this one; see `Target` in the runner.

        What is wrong with single apps is to be seen in `problems`; what fails for all of them
        is raised when all the rest is done.
        """
        with self._lock:
            self._begin()
            self._merge(change)
            if not self._generation:
                return Applied(Outcome.UNCHANGED, 0)
            try:
                applied = self._apply(now)
            except TargetError as error:
                self._leave_in_order(error)
                raise
            finally:
                self._tell()
            if broken := self._wanted.broken():
                raise broken.with_traceback(None)
            return applied

    def standing(self) -> Standing:
        """One daemon drives one HAProxy: nothing is shared."""
        return Standing()

    def problems(self) -> tuple[Problem, ...]:
        """The apps whose own config is refused, each with why and what goes on of it."""
        return self._told

    def sessions(self, versions: Mapping[AppId, frozenset[str]]) -> dict[AppId, dict[str, int]]:
        """The sessions that versions without traffic still have. Raises ProxyUnreachable.

        Those that came while every version had traffic count for each: they may be on any.
        """
        wanted = {
            (app, version): words.backend_id(app, version)
            for app, some in versions.items()
            for version in (*some, ANY_VERSION)
        }
        counts = self._proxy.master.sessions(list(wanted.values()))
        return {
            app: {
                version: counts[wanted[app, version]] + counts[wanted[app, ANY_VERSION]]
                for version in some
            }
            for app, some in versions.items()
        }

    def _tell(self) -> None:
        """Say who is quarantined since the last call, and who is not any more."""
        shown = self._running.shown if self._running is not None else {}
        held = self._judge.held.reasons().items()
        reasons = {app: f"HAProxy refuses it: {why}" for app, why in held}
        reasons |= self._wanted.reasons()
        routed = {app for app in reasons if app in shown and shown[app].pools}
        now = told.kept_back(self.name, reasons, routed)
        self._told = told.tell(self.name, self._told, now)

    def _begin(self) -> None:
        """Take the directory, and from it what HAProxy was given by the daemon before us."""
        self._folder.lock()
        if self._begun:
            return
        known = self._proxy.known()
        self._shapes, self._frames = known.shapes, known.frames
        self._templates.changed()  # a frame that failed may have been mended since
        self._wanted.begin(known.frames)
        self._begun = True

    def _apply(self, now: float) -> Applied:
        try:
            return self._pass(now)
        except ProxyUnreachable:
            if self._running is None:
                raise
            # It was there when we looked last: look again, which starts it or readies its files.
            self._running = None
        return self._pass(now)

    def _pass(self, now: float) -> Applied:
        running, started = self._attach(now)
        steps = self._bring(running)
        self._delete_leaving()
        self._try_again(running)
        cause = self._reload_if_due() or (plan.START if started else "")
        self._write_if_due()
        if not (self._lacking() or self._wanted.dirty or self._wanted.broken()):
            self._in_effect = self._generation
        outcome = Outcome.UPDATED if steps else Outcome.UNCHANGED
        return Applied(Outcome.RELOADED if cause else outcome, self._in_effect, self._due(), cause)

    def _leave_in_order(self, error: TargetError) -> None:
        """After an error the next call may be seconds away: what is at hand goes out now."""
        if isinstance(error, ProxyUnreachable):
            self._running = None
        elif self._write_at is not None:
            self._write_at = 0.0
            with contextlib.suppress(TargetError):
                self._write_if_due()

    def _due(self) -> float:
        """When something is to be done though nothing changes."""
        times = (
            self._look_at,
            self._leave_at,
            self._write_at,
            self._gather.due(),
            self._judge.due(),
            self._clock() if self._wanted.dirty else None,
        )
        return min(each for each in times if each is not None)

    def _merge(self, change: Change | None) -> None:
        if self._templates.changed():
            self._wanted.render_anew(self._shapes)
        if change is not None:
            self._generation = change.generation
            self._wanted.merge(change, self._shapes)

    # --- what runs -----------------------------------------------------------------------------

    def _attach(self, now: float) -> tuple[Running, bool]:
        """Look at what runs, when it is due; whether it had to be started."""
        running = self._running
        if running is not None and (now < self._look_at or self._at_a_glance(running, now)):
            return running, False
        try:
            live, started = self._proxy.attach(self._wanted.parts)
        except TargetError:
            self._running = None
            raise
        read = self._clock()
        running = self._compare(live)
        self._look_again(live.seconds + self._clock() - read)
        return running, started

    def _look_again(self, took: float) -> None:
        pause = max(LOOK_EVERY, min(LOOK_AT_LEAST_EVERY, LOOK_SHARE * took))
        self._look_at = self._clock() + pause

    def _at_a_glance(self, running: Running, now: float) -> bool:
        """Whether a glance is all the look that is needed now: it goes on, or was without doubt."""
        if not self._look_at or len(running.structure) < MANY_BACKENDS:
            return False
        glance, self._glance = self._glance, None
        if glance is None or glance.running is not running:
            glance = Glance(self._proxy.read_back, running)
        if not glance.ended:
            self._glance, self._look_at = glance, now + GLANCE_EVERY
        elif glance.doubt:
            return False
        else:
            self._proxy.tidy()
            self._watch_files()
            self._look_again(glance.seconds)
        return True

    def _compare(self, live: Live) -> Running:
        running = self._running
        if running is None:
            process_ = live.processes
            pids = {"version": process_.version, "pid": process_.master, "worker": process_.worker}
            log.info("haproxy found", target=self.name, **pids)
            return self._become(live)
        self._watch_files()
        if drift := running.differences(live):
            log.warning("drift", target=self.name, what=drift)
            return self._become(live, running.stuck)
        return running

    def _watch_files(self) -> None:
        if not self._folder.untouched():
            log.warning("files changed by someone else", target=self.name)
            self._write_at = self._clock()

    def _become(self, live: Live, stuck: Iterable[str] = ()) -> Running:
        """This is what runs now; every app is to be compared with it."""
        shown = self._running.shown if self._running is not None else {}
        for part in (*self._wanted.parts.values(), *shown.values()):
            self._shapes |= {pool.shape.digest: pool.shape for pool in part.pools}
        self._frames[self._config.frame.digest] = self._config.frame
        made_of = {value.partition(":")[0] for value in live.structure.values()}
        self._shapes = {digest: self._shapes[digest] for digest in self._shapes.keys() & made_of}
        self._frames = {digest: self._frames[digest] for digest in self._frames.keys() & made_of}
        self._running = Running(self._proxy.master, live, self._judge.held, stuck)
        self._unseen = live
        return self._running

    def _bring(self, running: Running) -> int:
        """Show by run time what can be shown; how many steps it took.

        What answers otherwise than expected is read back and planned anew. What does so again is
        left to a reload.
        """
        steps = 0
        suspects: set[str] = set()
        for attempt in range(_ROUNDS):
            try:
                steps += self._show(running)
            except Disagreed as error:
                log.warning("haproxy disagrees", target=self.name, reason=str(error))
                stuck = running.stuck | ({error.subject} & suspects)
                if error.subject:
                    suspects.add(error.subject)
                if attempt == _ROUNDS - 2:
                    stuck.add(EVERYTHING)
                running = self._become(self._proxy.read_back(), stuck)
            else:
                break
        return steps

    def _show(self, running: Running) -> int:
        live, self._unseen = self._unseen, None
        if live is not None:
            steps = running.show_all(live, self._wanted.parts, self._shapes)
            self._write_at = self._clock()
        elif self._wanted.dirty:
            if self._glance is not None:
                self._glance.touched |= self._wanted.dirty
            changed = {app: self._wanted.parts.get(app) for app in self._wanted.dirty}
            steps = running.show(changed, self._shapes)
            if self._write_at is None:
                self._write_at = self._clock() + WRITE_AFTER
        else:
            return 0
        self._wanted.dirty.clear()
        return steps

    def _lacking(self) -> str:
        """Why what runs is not all that is wanted, "" when it is."""
        running = self._running
        if running is None:
            return plan.OTHER_CONFIG
        frame = plan.frame_cause(running.structure, self._config.frame.structure)
        causes = {cause for cause, _ in running.behind.values()}
        if frame or not causes:
            return frame or (plan.REFUSED_AT_RUN_TIME if running.stuck else "")
        if self._wanted.rendered_anew:
            return plan.TEMPLATE
        return plan.NEW_BACKEND if plan.NEW_BACKEND in causes else plan.CHANGED_STRUCTURE

    def _reload_if_due(self) -> str:
        """Reload for what run time cannot do; why, or "" when there was none.

        The first after a calm is done at once, what follows is gathered.
        """
        running, cause = self._running, self._lacking()
        if not cause or running is None:
            self._asked, self._wanted.rendered_anew = None, False
            self._gather.withdraw()
            self._judge.abandon()
            return ""
        ground = running.ground(self._shapes)
        self._judge.raise_if_refused(self._wanted.parts, ground)
        asked = (cause, dict(running.behind), frozenset(running.stuck))
        due = self._gather.due()
        if due is None or asked != self._asked:
            self._asked = asked
            due = self._gather.request(self._clock())
        if due > self._clock():
            return ""
        parts = self._accepted(running)
        if parts is None:
            return ""
        try:
            live = self._proxy.reload(parts, running.structure, self._files(running))
        except ReloadFailed:
            self._running = None
            raise
        finally:
            self._gather.done(self._clock())
        self._asked, self._wanted.rendered_anew = None, False
        self._bring(self._become(live))
        return cause

    def _accepted(self, running: Running) -> Mapping[AppId, Part] | None:
        """What HAProxy's check accepts; None: it is still being looked for."""
        before = self._judge.held.apps()
        ground = running.ground(self._shapes)
        parts = self._judge.accepted(self._wanted.parts, ground, serving=bool(running.structure))
        self._show_held(running, before)
        return parts

    def _try_again(self, running: Running) -> None:
        """Let an app go whose time in quarantine is over, if HAProxy takes it now."""
        before = self._judge.held.apps()
        self._judge.retry(self._wanted.parts, running.ground(self._shapes))
        self._show_held(running, before)

    def _show_held(self, running: Running, before: frozenset[AppId]) -> None:
        changed = before ^ self._judge.held.apps()
        if changed:
            self._wanted.dirty |= changed
            # What was stuck may have been theirs.
            stuck = running.stuck
            self._bring(self._become(self._proxy.read_back()) if stuck else running)

    def _delete_leaving(self) -> None:
        """Try again to delete what had sessions still."""
        running, now = self._running, self._clock()
        if running is None or not running.leaving:
            self._leave_at = None
        elif self._leave_at is None:
            self._leave_at = now + LEAVING_EVERY
        elif self._leave_at <= now:
            try:
                running.delete_leaving()
            except Disagreed as error:
                log.warning("haproxy disagrees", target=self.name, reason=str(error))
                self._look_at = 0.0
            ended = self._clock()
            self._leave_at = ended + max(LEAVING_EVERY, LOOK_SHARE * (ended - now))

    # --- files ---------------------------------------------------------------------------------

    def _files(self, running: Running) -> Mapping[str, str] | None:
        """The files that make a process like the running one; None when it is not of ours."""
        frame = self._frames.get(running.structure.get(plan.FRAME_KEY, ""))
        if frame is None:
            return None
        return self._config.files(running.shown, running.tables, frame)

    def _write_if_due(self) -> None:
        if self._write_at is None or self._running is None or self._write_at > self._clock():
            return
        files = self._files(self._running)
        if files is not None:
            self._folder.write(files)
        self._write_at = None

    def close(self, *, stop_proxy: bool) -> None:
        """Bring the files up to date and let go of the directory; the last call.

        `stop_proxy`: also end an HAProxy that runs for `start = true`, within some 3 seconds.
        """
        if self._lock.acquire(timeout=CLOSE_SECONDS):
            try:
                if self._write_at is not None:
                    self._write_at = 0.0
                    self._write_if_due()
            finally:
                self._lock.release()
        else:
            log.warning("closing in the midst of an apply", target=self.name)
        self._templates.close()
        if stop_proxy and self._settings.start and self._generation and self._folder.locked:
            self._proxy.end()
        self._folder.close()
