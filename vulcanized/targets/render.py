"""Templates of file targets: the shipped ones, overridden file by file by a directory.

Strict: an undefined name is an error, never an empty place. Sandboxed: a template is read from
disk by a daemon that may be root. Values are put in as they are, but a value that would add a line
is refused.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vulcanized.doorbell import Doorbell
from vulcanized.errors import TemplateFailed
from vulcanized.resources import templates_directory


class Templates:
    """The templates of one kind of target (`templates/<kind>/`), compiled once and on a change."""

    def __init__(self, kind: str, override: Path | None = None) -> None:
        shipped = templates_directory() / kind
        self._folders = [shipped] if override is None else [override, shipped]
        self._bell = None if override is None else Doorbell(override)
        self._environment = self._compiled()

    def _compiled(self) -> jinja2.Environment:
        # A changed template makes a new environment, so that none of the old is left over.
        return ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(self._folders),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # a config, not HTML
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
            finalize=_one_line,
        )

    def render(self, template: str, **values: object) -> str:
        """The text of a template. Raises TemplateFailed with the file and the line."""
        try:
            return self._environment.get_template(template).render(values)
        except jinja2.TemplateNotFound as error:
            # Its text is the name: of this template, or of one that it includes.
            folders = " or ".join(map(str, self._folders))
            raise TemplateFailed(f"template {error.name} is in neither {folders}") from error
        except jinja2.TemplateSyntaxError as error:
            where = f"{error.filename or template}:{error.lineno}"
            raise TemplateFailed(f"{where}: {error.message}; mend the template") from error
        except Exception as error:
            # A template runs code of its author: whatever it raises is the template's failure.
            raise TemplateFailed(
                f"{_place(error, template)}: {error}; mend the template"
            ) from error

    def changed(self) -> bool:
        """Whether files of the override changed since the last call; they are read again then."""
        if self._bell is None:
            return False
        rang = self._bell.wait(0) is not None
        if not (self._bell.arm() or rang):
            return False
        self._environment = self._compiled()
        return True

    def close(self) -> None:
        """Watch no longer."""
        if self._bell is not None:
            self._bell.__exit__()


def _one_line(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"the value {value[:80]!r} is not printable text in one line")
    return value


def _place(error: BaseException, template: str) -> str:
    """The innermost place in a template that the error went through."""
    place, trace = template, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith(".j2"):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
