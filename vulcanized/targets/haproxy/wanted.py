"""All that is wanted, app by app in HAProxy's words; and what could not be put into words."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from msgspec.structs import replace

from vulcanized.errors import Rejected, TargetError, TemplateFailed
from vulcanized.model import ANY_VERSION, AppId, Backend, Change, DesiredApp, Server, Share
from vulcanized.targets.haproxy import words
from vulcanized.targets.haproxy.config import Config, Frame
from vulcanized.targets.haproxy.judge import Judge
from vulcanized.targets.haproxy.parts import Part, Shape, app_of, make_part

log = structlog.get_logger(__name__)


class Wanted:
    """`parts` is what is wanted, `dirty` names the apps of which it was not shown yet.

    An app that cannot be put into words, since one of its values or a template forbids it, stays
    as it was before, with its pods followed.
    """

    def __init__(self, target: str, config: Config, judge: Judge) -> None:
        self.parts: dict[AppId, Part] = {}
        self.dirty: set[AppId] = set()
        self.rendered_anew = False
        self._target = target
        self._config = config
        self._judge = judge
        self._failed: dict[AppId, tuple[DesiredApp, TargetError]] = {}
        self._stale: dict[AppId, TargetError] = {}
        self._frame: TemplateFailed | None = None

    def begin(self, frames: Mapping[str, Frame]) -> None:
        """Render the frame, or go on with the last of these. Raises TemplateFailed without one."""
        try:
            self._config.render_frame()
        except TemplateFailed as error:
            if not frames:
                raise
            self._config.take_frame([*frames.values()][-1])
            self._frame = error

    def merge(self, change: Change, shapes: Mapping[str, Shape]) -> None:
        """Take a change in. `shapes`: what the running HAProxy may be made of, by digest."""
        # Of two that cannot be together the first one has its way: let that not be by chance.
        for app in sorted(change.apps):
            desired, before = change.apps[app], self.parts.get(app)
            if desired is None:
                self._drop(app)
            elif before is None or before.desired != desired or app in self._failed:
                self._word(app, desired, before, shapes)
        if change.complete:
            for app in (self.parts.keys() | self._failed.keys()) - change.apps.keys():
                self._drop(app)

    def render_anew(self, shapes: Mapping[str, Shape]) -> None:
        """Templates changed. What does not render stays as it was rendered, and tells."""
        log.info("templates changed", target=self._target)
        self._stale.clear()
        self._judge.renew()
        self.rendered_anew, self._frame = True, None
        try:
            self._config.render_frame()
        except TemplateFailed as error:
            self._frame = error
        for app, part in list(self.parts.items()):
            try:
                self.parts[app] = self._config.part(part.desired, None)
            except (Rejected, TemplateFailed) as error:
                self._stale[app] = _told_of(app, error)
            else:
                self.dirty.add(app)
        for app, (desired, _) in list(self._failed.items()):
            self._word(app, desired, None, shapes)

    def reasons(self) -> dict[AppId, str]:
        """The apps that could not be put into words, each with why."""
        failed = {app: str(error) for app, (_, error) in self._failed.items()}
        return {app: str(error) for app, error in self._stale.items()} | failed

    def broken(self) -> TargetError | None:
        """What is wrong with the templates rather than with one app."""
        failures = [*self._stale.values(), *(error for _, error in self._failed.values())]
        if self._frame is None and failures:
            every = len(self.reasons()) == len(self.parts.keys() | self._failed.keys())
            templates = (each for each in failures if isinstance(each, TemplateFailed))
            return next(templates, None) if every else None
        return self._frame

    def _drop(self, app: AppId) -> None:
        self._failed.pop(app, None)
        self._stale.pop(app, None)
        self._judge.changed(app, None)
        if self.parts.pop(app, None):
            self.dirty.add(app)

    def _word(
        self, app: AppId, desired: DesiredApp, before: Part | None, shapes: Mapping[str, Shape]
    ) -> None:
        part: Part | None
        try:
            part = self._config.part(desired, before)
        except (Rejected, TemplateFailed) as error:
            self._failed[app] = (desired, _told_of(app, error))
            before = before or self.parts.get(app)
            part = _as_before(before, desired) if before else _as_given(desired, shapes, error)
            if part is None:
                return
        else:
            self._failed.pop(app, None)
        self._judge.changed(app, part)
        self.parts[app] = part
        self.dirty.add(app)


def _as_before(before: Part, desired: DesiredApp) -> Part | None:
    """The last good one with the pods of now; None where not even that can be said."""
    known = {backend.version for backend in before.desired.backends}
    backends = tuple(backend for backend in desired.backends if backend.version in known)
    there = {backend.version for backend in backends}
    splits = (desired.split, before.desired.split)
    split = next((each for each in splits if {share.version for share in each} <= there), None)
    if split is None:
        return None
    shapes = {pool.shape.id: pool.shape for pool in before.pools}
    backends = _without_pins(desired.app, backends, shapes)
    good = replace(before.desired, backends=backends, split=split)
    try:
        return make_part(good, before, lambda v: shapes[words.backend_id(good.app, v)])
    except (Rejected, KeyError):
        return None


def _as_given(
    desired: DesiredApp, shapes: Mapping[str, Shape], error: Rejected | TemplateFailed
) -> Part | None:
    """With what the daemon before us rendered: that must not go for want of a template.

    Traffic that is to go to none of them goes to all that have a pod: which of them had it before
    is not known here, and the app is not to vanish.
    """
    if isinstance(error, Rejected):
        return None
    given = {shape.id: shape for shape in shapes.values() if app_of(shape.id) == desired.app}
    versions = [id_.split(":")[2] if id_.count(":") > 1 else ANY_VERSION for id_ in sorted(given)]
    backends = tuple(backend for backend in desired.backends if backend.version in versions)
    split = tuple(share for share in desired.split if share.version in versions)
    if desired.split and not split:
        everyone = {server.name: server for each in desired.backends for server in each.servers}
        pods = tuple(sorted(everyone.values(), key=lambda server: server.name))
        backends = tuple(
            Backend(version, tuple(pod for pod in pods if version in (pod.version, ANY_VERSION)))
            for version in versions
        )
        split = tuple(Share(backend.version, 1) for backend in backends if backend.servers)
    if not split and desired.split:
        return None
    backends = _without_pins(desired.app, backends, given)
    try:
        return make_part(
            replace(desired, backends=backends, split=split),
            None,
            lambda version: given[words.backend_id(desired.app, version)],
        )
    except Rejected:
        return None


def _without_pins(
    app: AppId, backends: tuple[Backend, ...], shapes: Mapping[str, Shape]
) -> tuple[Backend, ...]:
    """The servers of no version in particular where nothing was rendered for theirs alone."""

    def known(server: Server) -> Server:
        there = not server.version or words.backend_id(app, server.version) in shapes
        return server if there else replace(server, version="")

    return tuple(
        Backend(each.version, tuple(map(known, each.servers)))
        if each.version == ANY_VERSION
        else each
        for each in backends
    )


def _told_of(app: AppId, error: Rejected | TemplateFailed) -> TargetError:
    """Without what was under way when it was raised: it is kept."""
    return type(error)(f"app {app}: {error}")
