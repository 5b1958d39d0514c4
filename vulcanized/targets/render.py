"""Templates of file targets: the shipped ones, overridden file by file by a directory.

The shipped ones are rendered here. With an override everything is rendered apart (`renderer`),
where a template that loops or eats memory costs its own text and nothing else.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from vulcanized.doorbell import Doorbell
from vulcanized.errors import TemplateFailed
from vulcanized.renderer import Broken, Renderer
from vulcanized.resources import templates_directory
from vulcanized.templating import Library

MOST_BROKEN: Final = 2
"""Texts of one template that may break their renderer: then it is the template that is broken."""


class Templates:
    """The templates of one kind of target (`templates/<kind>/`), compiled once and on a change.

    `stop`: what is waited for when it is set is left.
    """

    def __init__(
        self, kind: str, override: Path | None = None, stop: threading.Event | None = None
    ) -> None:
        shipped = templates_directory() / kind
        self._bell = None if override is None else Doorbell(override)
        self._renderer: Library | Renderer = (
            Library([shipped])
            if override is None
            else Renderer([override, shipped], stop or threading.Event())
        )
        self._broken: dict[str, dict[str, Broken]] = {}

    def render(self, template: str, **values: object) -> str:
        """The text of a template. Raises TemplateFailed with the file and the line.

        What broke its renderer is not tried again before the templates change.
        """
        broken = self._broken.get(template, {})
        which = repr(values) if broken else ""
        if which in broken or len(broken) >= MOST_BROKEN:
            error = broken.get(which) or next(iter(broken.values()))
            raise TemplateFailed(str(error))
        try:
            return self._renderer.render(template, values)
        except Broken as error:
            self._broken.setdefault(template, {})[which or repr(values)] = error
            raise

    def changed(self) -> bool:
        """Whether files of the override changed since the last call; they are read again then."""
        if self._bell is None:
            return False
        rang = self._bell.wait(0) is not None
        if not (self._bell.arm() or rang):
            return False
        self._end()
        return True

    def close(self) -> None:
        """Watch no longer."""
        if self._bell is not None:
            self._bell.__exit__()
        self._end()

    def _end(self) -> None:
        self._broken.clear()
        if isinstance(self._renderer, Renderer):
            self._renderer.close()
