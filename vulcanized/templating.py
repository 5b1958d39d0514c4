"""Templates to text: strict, sandboxed, and every failure told with its file and line.

Strict: an undefined name is an error, never an empty place. Sandboxed: a template is read from
disk by a daemon that may be root. Values are put in as they are, but a value that would add a line
is refused, and so is a text that no config can hold.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from jinja2.loaders import split_template_path
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vulcanized.errors import TemplateFailed

LONGEST_TEMPLATE: Final = 1 << 20
LONGEST_TEXT: Final = 1 << 20
"""Bytes of a template and characters of a text: a hundred times those that ship."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Library:
    """The templates of some folders, compiled once. The first folder that has a template wins.

    A folder other than the last must be there and readable: that a mount is missing must not put
    the shipped templates in the place of somebody's own.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._environment = ImmutableSandboxedEnvironment(
            loader=_Loader(self._folders),
            undefined=_Undefined,
            autoescape=False,  # a config, not HTML
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
            finalize=_one_line,
        )

    def render(self, template: str, values: Mapping[str, object]) -> str:
        """The text of a template. Raises TemplateFailed with the file and the line."""
        try:
            text = self._environment.get_template(template).render(values)
        except TemplateFailed:
            raise
        except Exception as error:
            # A template runs code of its author: whatever it raises is the template's failure.
            raise TemplateFailed(
                f"{self._place(error, template)}: {self._reason(error)}; mend the template"
            ) from error
        if reason := _unfit(text):
            path = path_of(template, self._folders)
            raise TemplateFailed(f"{path}: {reason}; mend the template")
        return text

    def _place(self, error: BaseException, template: str) -> str:
        """The innermost place in a template that the error went through."""
        if isinstance(error, jinja2.TemplateSyntaxError):
            return f"{error.filename or path_of(template, self._folders)}:{error.lineno}"
        place, trace = str(path_of(template, self._folders)), error.__traceback__
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if name.endswith(".j2"):
                place = f"{name}:{trace.tb_lineno}"
            trace = trace.tb_next
        return place

    def _reason(self, error: BaseException) -> str:
        match error:
            case jinja2.TemplateNotFound():
                # Its text is the name: of this template, or of one that it includes.
                return f"template {error.name} is in neither {' or '.join(map(str, self._folders))}"
            case jinja2.TemplateSyntaxError():
                return _said(error.message)
            case RecursionError():
                return "nests or calls itself too deeply"
            case MemoryError():
                return "needs more memory than a config could"
        return _said(error)


def _unfit(text: str) -> str:
    """Why no config can hold this text, "" when one can."""
    if len(text) > LONGEST_TEXT:
        return f"gives more than {LONGEST_TEXT} characters"
    if control := _CONTROL.search(text):
        line = text.count("\n", 0, control.start()) + 1
        return f"line {line} of its text has the control character {control[0]!r}"
    return ""


def path_of(template: str, folders: Sequence[Path]) -> Path:
    """Where a template is, or was looked for last."""
    paths = [folder / template for folder in folders]
    return next(filter(os.path.lexists, paths), paths[-1])


class _Loader(jinja2.BaseLoader):
    """Reads regular files only, and takes nothing that is in the way for absent."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        del environment
        pieces = split_template_path(template)
        for folder in self._folders:
            path = folder.joinpath(*pieces)
            try:
                text = _read(path)
            except FileNotFoundError:
                if os.path.lexists(path):
                    raise TemplateFailed(f"{path}: its link leads nowhere; mend it") from None
                if not folder.is_dir():
                    raise TemplateFailed(
                        f"there is no directory {folder}; make it, or mend `templates`"
                    ) from None
                continue
            except OSError as error:
                raise TemplateFailed(
                    f"{path}: cannot be read ({error.strerror}); put a file there that vulcanized "
                    "may read"
                ) from None
            except UnicodeDecodeError as error:
                raise TemplateFailed(
                    f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8"
                ) from None
            return text, str(path), lambda: True
        raise jinja2.TemplateNotFound(template)


def _read(path: Path) -> str:
    # Not blocking: a pipe must not hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = file.read(LONGEST_TEMPLATE + 1)
    if len(data) > LONGEST_TEMPLATE:
        raise OSError(errno.EFBIG, f"it has more than {LONGEST_TEMPLATE >> 10} KiB")
    return data.decode()


class _Undefined(jinja2.StrictUndefined):
    """Says what there is instead."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        known = getattr(self._undefined_obj, "__match_args__", ())
        if self._undefined_hint or not known:
            return super()._undefined_message
        return f"{self._undefined_name!r} is undefined; there are {', '.join(known)}"


def _one_line(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"the value {value[:80]!r} is not printable text in one line")
    return value


def _said(error: object) -> str:
    """What an exception says, in one line of a log."""
    text = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def plain(value: Any) -> Any:
    """A value for templates as what JSON can carry: objects become their fields by name."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(each) for name, each in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


class View:
    """What `plain` made of an object, with its fields as attributes again."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self.__dict__.update(fields)

    @property
    def __match_args__(self) -> tuple[str, ...]:
        return tuple(self.__dict__)
