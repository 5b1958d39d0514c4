"""The nginx target: files for what is wanted, a reload that is proven, flags for what needs none.

What runs counts, not what we remember: nginx is asked for the digest of its config when we start,
after a reload, and every second. `http.json` says what that digest was made of.
"""

from __future__ import annotations

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
    TemplateFailed,
)
from vulcanized.model import (
    AppId,
    Applied,
    Change,
    DesiredApp,
    Outcome,
    Problem,
    Standing,
)
from vulcanized.settings import NginxSettings
from vulcanized.slot import Clock, HoldOff
from vulcanized.targets import judge as shared
from vulcanized.targets import told
from vulcanized.targets.nginx import process, words
from vulcanized.targets.nginx.config import FILES, FLAGS, MADE_OF, NOTHING, Config, MadeOf, Rendered
from vulcanized.targets.nginx.flags import Flags
from vulcanized.targets.nginx.judge import Ground, Judge, Parts, check
from vulcanized.targets.nginx.old import Old
from vulcanized.targets.nginx.parts import Part
from vulcanized.targets.nginx.proxy import Proxy
from vulcanized.targets.nginx.wanted import Wanted
from vulcanized.targets.render import Templates
from vulcanized.targets.staged import Folder, Refusal

log = structlog.get_logger(__name__)

CAPABILITIES: Final = frozenset(
    {
        "hosts",
        "paths",
        "port",
        "protocol.http",
        "protocol.https",
        "balance",
        "timeouts.connect",
        "timeouts.server",
        "timeouts.tunnel",
        "retries",
        "max_connections.server",
        "max_connections.app",
        "max_body_size",
        "canary_match.header",
        "canary_match.cookie",
        "maintenance",
        "sticky",
        # No fields, but what not every proxy can do either (docs/testing.md).
        "bodies.counted",
        "headers.cleaned",
        "hosts.trailing_dot",
        "paths.raw",
        "streaming",
        "weights",
    }
)

START: Final = "start"
OTHER_CONFIG: Final = "other_config"
LISTEN: Final = "listen"
TEMPLATE: Final = "template"
NEW_BACKEND: Final = "new_backend"
CHANGED_STRUCTURE: Final = "structure"
SERVERS: Final = "servers"
_OF_APPS: Final = frozenset({NEW_BACKEND, CHANGED_STRUCTURE, SERVERS})
"""Causes in which only apps differ from what runs."""

LOOK_EVERY: Final = 1.0
CLOSE_SECONDS: Final = 2.0


class NginxTarget:
    """One nginx and its directory. `apply` and `close` may be called from different threads.

    Nothing is touched before the first `apply`, so `rendered`, `actual` and `verify` can be asked
    beside a running daemon. The directory is locked from then on (DirectoryLocked).
    """

    def __init__(
        self,
        settings: NginxSettings,
        *,
        hold_off: float,
        ceiling: float,
        stop: threading.Event,
        clock: Clock = time.monotonic,
    ) -> None:
        try:
            words.file(str(settings.directory))
        except Rejected as error:
            raise SettingsError(f"target {settings.name}", (f"directory: {error}",)) from error
        if settings.listen_tls:
            log.warning("listen_tls is not in effect yet; nothing is bound", target=settings.name)
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._lock = threading.Lock()
        self._folder = Folder(settings.directory)
        self._flags = Flags(settings.directory / FLAGS)
        self._templates = Templates("nginx", settings.templates, stop)
        self._config = self._new_config()
        self._proxy = Proxy(settings, self._config, self._folder, stop, clock)
        self._judge = Judge(self._config, self._folder, clock)
        self._wanted = Wanted(settings.name, self._config, self._judge)
        self._refusal = Refusal()
        self._gather = HoldOff(hold_off, ceiling)
        self._old = Old(settings.name, ceiling, clock)
        self._generation = self._in_effect = 0
        self._told: tuple[Problem, ...] = ()
        self._begun = False
        self._running: MadeOf | None = None
        self._shapes: Ground = {}
        self._known: frozenset[str] = frozenset()
        self._switched = False
        self._good: Mapping[str, str] | None = None
        # What is to go out, and who changed since that was rendered, or since flags were looked
        # at; None: everybody may have.
        self._fresh_of: Parts = {}
        self._unrendered: set[AppId] | None = None
        self._unswitched: set[AppId] | None = None
        self._asked = ""
        self._look_at = 0.0
        self._reloaded_at = float("-inf")
        self._blind = self._deaf = False

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> str:
        return "nginx"

    @property
    def capabilities(self) -> frozenset[str]:
        """The app config fields that this target puts into effect."""
        return CAPABILITIES

    def _new_config(self) -> Config:
        settings = self._settings
        return Config(
            settings.directory,
            settings.listen,
            self._templates,
            keep_alive=settings.keep_alive,
            user=process.user_for(settings.directory) if settings.start else "",
        )

    # --- commands that look, and change nothing ------------------------------------------------

    def rendered(self, apps: Mapping[AppId, DesiredApp]) -> Mapping[str, str]:
        """The files for these apps. Raises Rejected, TemplateFailed."""
        config = self._new_config()
        return config.files({app: config.part(each, None) for app, each in apps.items()}).files

    def actual(self, apps: Mapping[AppId, DesiredApp] | None = None) -> Mapping[str, str]:
        """The files that stand there now."""
        return self._folder.read(FILES)

    def verify(self, apps: Mapping[AppId, DesiredApp]) -> None:
        """Let nginx check the files for these apps.

        Raises Rejected, which names all apps that it refuses, TemplateFailed, ProxyUnreachable.
        """
        config, program = self._new_config(), process.required_program()
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
            at = Path(folder)
            refused |= shared.culprits(
                parts, "nginx", lambda some: check(config, some, program, at)
            )
        if refused:
            told = "; ".join(f"{app}: {reason}" for app, reason in sorted(refused.items()))
            raise Rejected(f"nginx refuses the config of app {told}")

    # --- apply ---------------------------------------------------------------------------------

    def apply(self, change: Change | None, now: float) -> Applied:
        """Bring nginx in step with all changes up to this one; see `Target` in the runner.

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
            finally:
                self._tell()
            if broken := self._wanted.broken():
                raise broken.with_traceback(None)
            if self._blind:
                raise ProxyUnreachable(
                    f"nginx's workers cannot see {self._settings.directory / FLAGS}, so no switch "
                    "between versions reaches them: let their user reach it (chmod o+x), at the "
                    "same path"
                )
            return applied

    def standing(self) -> Standing:
        """One daemon drives one nginx: nothing is shared, but its old workers are to be told."""
        return Standing(old_workers=self._old.told())

    def problems(self) -> tuple[Problem, ...]:
        """The apps whose own config is refused, each with why and what goes on of it."""
        return self._told

    def _tell(self) -> None:
        """Say who is quarantined since the last call, and who is not any more."""
        held = self._judge.held.reasons().items()
        reasons = {app: f"nginx refuses it: {why}" for app, why in held}
        reasons |= self._wanted.reasons()
        now = told.kept_back(self.name, reasons, self._ground)
        self._told = told.tell(self.name, self._told, now)

    def _begin(self) -> None:
        """Take the directory, and from it what nginx was given by the daemon before us."""
        self._folder.lock()
        if self._begun:
            return
        if self._settings.start:
            # It may not have been there before.
            self._config.user = process.user_for(self._settings.directory)
            if self._config.user == process.ROOT:
                log.warning(
                    "the workers of nginx run as root: no user www-data can reach the directory, "
                    "see chmod o+x",
                    directory=str(self._settings.directory),
                )
        self._look(self._clock())
        self._templates.changed()  # a frame that failed may have been mended since
        self._wanted.begin(self._in_files())
        self._begun = True

    def _merge(self, change: Change | None) -> None:
        if self._templates.changed():
            self._wanted.render_anew(self._ground)
            self._begin_anew()
        if change is not None:
            self._generation = change.generation
            if change.complete or self._judge.held:
                self._begin_anew()
            self._wanted.merge(change, self._ground)
            for apps in (self._unrendered, self._unswitched):
                if apps is not None:
                    apps.update(change.apps)

    def _begin_anew(self) -> None:
        """Whoever goes out next may differ from before."""
        self._unrendered = self._unswitched = None

    def _apply(self, now: float) -> Applied:
        try:
            return self._pass(now)
        except ProxyUnreachable:
            if self._running is None:
                raise
            # It was there when we looked last. If it is gone, start it or ready its files.
            self._running = None
            self._look(now)
            if self._running is not None:
                raise
        return self._pass(now)

    def _pass(self, now: float) -> Applied:
        cause = self._attach(now)
        switched = self._switch()
        self._try_again()
        reloaded = self._reload_if_due()
        if reloaded:
            self._switch()
        cause = cause or reloaded
        if not self._lacking():
            self._keep_files()
            if self._switched:
                self._in_effect = self._generation
        outcome = Outcome.UPDATED if switched else Outcome.UNCHANGED
        return Applied(Outcome.RELOADED if cause else outcome, self._in_effect, self._due(), cause)

    def _due(self) -> float:
        times = (self._look_at, self._reload_at(), self._judge.due())
        return min(each for each in times if each is not None)

    # --- what is wanted ------------------------------------------------------------------------

    @property
    def _ground(self) -> Ground:
        """The shape of each app in what runs."""
        return self._shapes if self._running is not None else {}

    def _rendered(self) -> Rendered:
        """The files for what is to go out, as far as is known."""
        changed, self._unrendered = self._unrendered, None
        if changed is None:
            self._fresh_of = self._judge.candidate(self._wanted.parts, self._ground)
        rendered = self._config.files(self._fresh_of, changed)
        self._unrendered = set()
        return rendered

    # --- what runs -----------------------------------------------------------------------------

    def _attach(self, now: float) -> str:
        """Look at what runs, when it is due; `start` if it had to be started."""
        if self._running is None or now >= self._look_at:
            self._look(now)
        if self._running is not None:
            return ""
        if not self._settings.start:
            self._stage()
            # One that has not read our file yet answers nothing that would show that it is there.
            self._proxy.command_reload()
            raise ProxyUnreachable(self._proxy.absent())
        rendered = self._rendered()
        self._make_all_flags()
        self._become(self._proxy.start(rendered, self._settled))
        self._reloaded_at = self._clock()
        return START

    def _look(self, now: float) -> None:
        """Ask what runs; None in `_running`: nothing does."""
        self._look_at = now + LOOK_EVERY
        self._unswitched = None
        master = self._proxy.master()
        ask = self._proxy.found if self._running is None else self._proxy.generation
        answer = ask()
        self._proxy.tidy()
        self._old.look(master)
        hidden = bool(self._settings.reload_command) and answer is not None
        if master is None and not hidden:
            self._running = None
            return
        if answer is None and self._running is not None:
            log.warning("nginx does not answer", target=self.name)
            return
        if answer is not None and self._deaf:
            self._deaf = False
            self._refusal.forget()
        digest = answer.digest if answer is not None else ""
        self._blind = (
            answer is not None and bool(digest) and not answer.sees and self._flags.can_be_seen()
        )
        differs = self._running is None or self._running.digest != digest
        if differs and self._running is not None and self._proxy.in_upgrade():
            log.info("nginx is being upgraded: its old master answers too", target=self.name)
        elif differs:
            before, made_of = self._running, self._proxy.made_of(digest)
            if before is not None:
                log.warning("drift", target=self.name, what="nginx runs another config")
            else:
                log.info("nginx found", target=self.name, pid=master.pid if master else None)
            self._good = None
            self._become(made_of)
        if self._begun and not self._folder.untouched():
            log.warning("files changed by someone else", target=self.name)
            if self._good is not None:
                self._folder.write(self._good)

    def _become(self, made_of: MadeOf) -> None:
        self._running = made_of
        self._shapes, self._known = made_of.shapes, made_of.flags
        for app in self._judge.gone.keys() - self._shapes.keys():
            del self._judge.gone[app]
        self._begin_anew()

    def _keep_files(self) -> None:
        """See that the files are those of what runs, also where the daemon before us died."""
        if self._good is None:
            self._good = self._rendered().files
            self._folder.write(self._good)

    def _stage(self) -> None:
        """Have the files ready for an nginx that is not there."""
        settled = self._settled()
        self._make_all_flags()
        self._folder.write(settled.files)

    def _settled(self) -> Rendered:
        parts = self._judge.settled(self._wanted.parts, self._ground_of_files(), self._stop)
        self._begin_anew()
        return self._config.files(parts)

    def _ground_of_files(self) -> Ground:
        """What the files say that an nginx has which runs them."""
        return self._in_files().shapes

    def _in_files(self) -> MadeOf:
        return MadeOf.read(self._folder.read((MADE_OF,)).get(MADE_OF, "")) or NOTHING

    # --- flags ---------------------------------------------------------------------------------

    def _make_all_flags(self) -> None:
        """Those for what was rendered last, where nothing runs that could be led astray."""
        wanted = {*self._config.active().values()}
        self._flags.look()
        self._flags.make(wanted)
        self._flags.remove(self._flags.there - wanted)

    def _switch(self) -> bool:
        """Make the flags of what is active, then take others away; whether there were any to.

        What runs must know the version that it is sent to before the other one is taken from it:
        else that comes behind the reload which brings it.
        """
        rendered = self._rendered()
        apps, self._unswitched = self._unswitched, None
        if apps is None:
            self._flags.look()
        active, there = self._config.active(apps), self._flags.there
        wanted = {*active.values()}
        looked_at = there if apps is None else self._flags_of(apps)
        missing, old = wanted - there, (looked_at & there) - wanted
        if self._running is None or self._running.digest != rendered.made_of.digest:
            old &= self._flags_of(app for app, flag in active.items() if flag in self._known)
        if missing or not self._flags.can_be_seen():
            self._flags.make(missing)
        if old:
            self._flags.remove(old)
        self._switched = looked_at & there == wanted
        if self._switched:
            self._unswitched = set()
        return bool(missing or old)

    def _flags_of(self, apps: Iterable[AppId]) -> set[str]:
        """The flags of all versions of these apps."""
        parts = (self._fresh_of[app] for app in apps if app in self._fresh_of)
        return {
            words.flag(part.desired.app, backend.version)
            for part in parts
            for backend in part.desired.backends
        }

    # --- reload --------------------------------------------------------------------------------

    def _lacking(self) -> str:
        """Why what runs is not all that is wanted, "" when it is."""
        running, wanted = self._running, self._rendered().made_of
        if running is None or not running.digest:
            return OTHER_CONFIG
        if running.digest == wanted.digest:
            return ""
        if running.listen != wanted.listen:
            return LISTEN
        if running.frame != wanted.frame:
            return TEMPLATE
        before, after = self._shapes, wanted.shapes
        if after.keys() - before.keys() or wanted.flags - self._known:
            return NEW_BACKEND
        return SERVERS if before == after else CHANGED_STRUCTURE

    def _reload_at(self) -> float | None:
        """When a reload is due, None when none is wanted."""
        due = self._gather.due()
        if due is None:
            return None
        self._old.look(self._proxy.master())
        return max(due, self._reloaded_at + self._old.space())

    def _reload_if_due(self) -> str:
        """Reload if what runs is not what is wanted; why, or "" when there was none.

        The first after a calm is done at once, what follows is gathered.
        """
        running, cause = self._running, self._lacking()
        if not cause or running is None:
            self._asked = ""
            self._gather.withdraw()
            self._judge.abandon()
            return ""
        ground = self._ground
        self._judge.raise_if_refused(self._wanted.parts, ground)
        digest = self._rendered().made_of.digest
        refused = self._refusal.of(digest, self._clock())
        if refused is not None:
            raise refused
        if self._gather.due() is None or digest != self._asked:
            self._asked = digest
            self._gather.request(self._clock())
        due = self._reload_at()
        if due is not None and due > self._clock():
            return ""
        held = self._judge.held.apps()
        parts = self._judge.accepted(
            self._wanted.parts,
            ground,
            serving=bool(running.digest),
            in_part=cause in _OF_APPS,
        )
        if held != self._judge.held.apps():
            self._begin_anew()
        if parts is None:
            return ""
        return self._reload(parts, cause, running)

    def _reload(self, parts: Parts, cause: str, running: MadeOf) -> str:
        self._begin_anew()
        rendered = self._config.files(parts)
        if rendered.made_of.digest == running.digest:
            self._gather.done(self._clock())
            return ""
        try:
            made_of = self._proxy.reload(rendered, running, self._good)
        except ReloadFailed as error:
            self._running = None if not error.restored else running
            # With other pods it may pass; the same would be refused again, unless it was deaf, or
            # a check of all apps finds the one that cannot be beside the others.
            if not self._judge.doubt(parts):
                self._refusal.remember(rendered.made_of.digest, error, self._clock())
            self._deaf = self._proxy.generation() is None
            self._judge.blame(process.verdict(error.said, rendered).named, parts)
            raise
        finally:
            self._gather.done(self._clock())
            self._reloaded_at = self._clock()
        self._refusal.forget()
        self._judge.forget()
        self._judge.trust()
        self._judge.held.accepted()
        self._good = rendered.files
        self._asked = ""
        self._become(made_of)
        return cause

    def _try_again(self) -> None:
        """Let an app go whose time in quarantine is over, if nginx takes it now."""
        held = self._judge.held.apps()
        self._judge.retry(self._wanted.parts, self._ground)
        if held != self._judge.held.apps():
            self._begin_anew()

    # --- the end -------------------------------------------------------------------------------

    def close(self, *, stop_proxy: bool) -> None:
        """Let go of the directory; the last call.

        `stop_proxy`: also end an nginx that runs for `start = true`, within some 3 seconds.
        """
        if self._lock.acquire(timeout=CLOSE_SECONDS):
            self._lock.release()
        else:
            log.warning("closing in the midst of an apply", target=self.name)
        self._templates.close()
        if stop_proxy and self._settings.start and self._generation and self._folder.locked:
            self._proxy.end()
        self._folder.close()
