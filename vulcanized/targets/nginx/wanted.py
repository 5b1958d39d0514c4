"""All that is wanted, app by app in nginx's words; and what could not be put into words."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from msgspec.structs import replace

from vulcanized.errors import Rejected, TargetError, TemplateFailed
from vulcanized.model import AppId, Change, DesiredApp
from vulcanized.targets.nginx.config import Config, MadeOf
from vulcanized.targets.nginx.judge import Ground, Judge
from vulcanized.targets.nginx.parts import Part, make_part

log = structlog.get_logger(__name__)


class Wanted:
    """`parts` is what is wanted.

    An app that cannot be put into words, since one of its values or a template forbids it, stays
    in the shape that it had before, with its pods followed.
    """

    def __init__(self, target: str, config: Config, judge: Judge) -> None:
        self.parts: dict[AppId, Part] = {}
        self._target = target
        self._config = config
        self._judge = judge
        self._failed: dict[AppId, tuple[DesiredApp, TargetError]] = {}
        self._frame: TemplateFailed | None = None

    def begin(self, made_of: MadeOf) -> None:
        """Render the frame, or go on with that of the files. Raises TemplateFailed without one."""
        try:
            self._config.render_frame()
        except TemplateFailed as error:
            if not self._config.take_frame(made_of):
                raise
            self._frame = error

    def merge(self, change: Change, ground: Ground) -> None:
        """Take a change in. `ground`: the shapes in what runs, for what does not render now."""
        # Of two that cannot be together the first one has its way: let that not be by chance.
        for app in sorted(change.apps):
            desired, before = change.apps[app], self.parts.get(app)
            if desired is None:
                self._drop(app)
            elif before is None or before.desired != desired or app in self._failed:
                self._word(app, desired, before, ground, anew=app in self._failed)
        if change.complete:
            for app in (self.parts.keys() | self._failed.keys()) - change.apps.keys():
                self._drop(app)

    def render_anew(self, ground: Ground) -> None:
        """Templates changed. What does not render stays as it was rendered, and tells."""
        log.info("templates changed", target=self._target)
        self._judge.renew()
        self._frame = None
        try:
            self._config.render_frame()
        except TemplateFailed as error:
            self._frame = error
            return
        wanted = {app: part.desired for app, part in self.parts.items()}
        wanted |= {app: desired for app, (desired, _) in self._failed.items()}
        for app, desired in sorted(wanted.items()):
            self._word(app, desired, self.parts.get(app), ground, anew=True)

    def reasons(self) -> dict[AppId, str]:
        """The apps that could not be put into words, each with why."""
        return {app: str(error) for app, (_, error) in self._failed.items()}

    def broken(self) -> TargetError | None:
        """What is wrong with the templates rather than with one app."""
        if self._frame is None and self._failed:
            every = self._failed.keys() >= self.parts.keys()
            failures = (error for _, error in self._failed.values())
            templates = (each for each in failures if isinstance(each, TemplateFailed))
            return next(templates, None) if every else None
        return self._frame

    def _drop(self, app: AppId) -> None:
        self._failed.pop(app, None)
        self._judge.changed(app, None)
        part = self.parts.pop(app, None)
        if part is not None:
            self._judge.gone[app] = part

    def _word(
        self,
        app: AppId,
        desired: DesiredApp,
        before: Part | None,
        ground: Ground,
        *,
        anew: bool = False,
    ) -> None:
        part: Part | None
        try:
            part = self._config.part(desired, None if anew else before)
        except (Rejected, TemplateFailed) as error:
            # Without what was under way when it was raised: it is kept.
            self._failed[app] = (desired, type(error)(f"app {app}: {error}"))
            part = _as_before(desired, before, ground)
            if part is None:
                self.parts.pop(app, None)
                return
        else:
            self._failed.pop(app, None)
        self._judge.changed(app, part)
        self._judge.gone.pop(app, None)
        self.parts[app] = part


def _as_before(desired: DesiredApp, before: Part | None, ground: Ground) -> Part | None:
    """In the last good shape, with the pods of now; as it was where not even these can be said."""
    shape = before.shape if before is not None else ground.get(desired.app)
    if shape is None:
        return None
    good = before.desired.policies if before is not None else desired.policies
    try:
        return make_part(replace(desired, policies=good), before, shape)
    except Rejected:
        return before


def shapes_of(parts: Mapping[AppId, Part]) -> Ground:
    """The shape of each."""
    return {app: part.shape for app, part in parts.items()}
