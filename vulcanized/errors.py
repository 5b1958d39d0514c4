"""Every failure that this project raises on purpose, by name.

`exit_code` is what a command ends with when the error reaches it (DESIGN section 11): 1 problems
found, 2 usage or settings, 3 a server that is needed cannot be reached.
"""

from __future__ import annotations

import contextlib
import traceback


def forget(error: BaseException) -> None:
    """Let go of all that a handled error and its causes keep alive: its calls' local variables.

    HTTP libraries leave errors that refer to themselves by a local variable, and a collector that
    seldom runs (see `daemon.tune`) would find them late: one error in the middle of a list of
    50,000 pods kept 4 MB.
    """
    left: list[BaseException | None] = [error]
    known: set[int] = set()
    while left:
        each = left.pop()
        if each is None or id(each) in known:
            continue
        known.add(id(each))
        with contextlib.suppress(RuntimeError):  # a call that is still running
            traceback.clear_frames(each.__traceback__)
        left += (each.__cause__, each.__context__)


class VulcanizedError(Exception):
    """The root. Its text is one clear sentence: what, where, and what to do."""

    exit_code = 1


class SettingsError(VulcanizedError):
    """The settings cannot be used. `problems` holds all of them, each with its place."""

    exit_code = 2

    def __init__(self, origin: str, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(f"{origin}: {problem}" for problem in problems))
        self.origin = origin
        self.problems = problems


class Invalid(VulcanizedError):
    """A document (app config, activation, manifest) cannot be used. `where` names its place."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


# --- sources ----------------------------------------------------------------------------------


class SourceError(VulcanizedError):
    """A source cannot be read. The last known state stays in effect."""

    exit_code = 3


class Unreachable(SourceError):
    """No answer in time, refused, cut off, or a server that says "not now" (429, 5xx).

    `retry_after`: seconds that the server asked for, else None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Expired(SourceError):
    """The place in the stream is lost (410 Gone, compacted): list again."""


class Rewound(Expired):
    """The server's history is shorter than what we saw of it: wiped, or restored from a backup."""


class Refused(SourceError):
    """Authentication or authorisation failed: names what must be granted."""


# --- writes to etcd ---------------------------------------------------------------------------


class Uncertain(Unreachable):
    """A write got no answer: it may have been made. Read before writing again."""


class Conflict(VulcanizedError):
    """A conditional write was not made: `keys` are not as the writer thought. Read them again."""

    def __init__(self, message: str, keys: tuple[str, ...]) -> None:
        super().__init__(message)
        self.keys = keys


class LeaseLost(VulcanizedError):
    """A lease ran out, or what it held is another's by now: stop writing."""


# --- targets ----------------------------------------------------------------------------------


class TargetError(VulcanizedError):
    """An apply failed. `restored`: the proxy runs, and its files say, what they did before."""

    restored = True


class Rejected(TargetError):
    """The proxy's own check refused the candidate. Nothing was swapped in."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class ReloadFailed(TargetError):
    """The proxy did not confirm the reload in time or said it failed; `said`: all of its words."""

    def __init__(self, message: str, *, restored: bool, said: str = "") -> None:
        super().__init__(message)
        self.restored = restored
        self.said = said


class ProxyUnreachable(TargetError):
    """The proxy, its socket or its program is not there or does not answer."""

    exit_code = 3


class TemplateFailed(TargetError):
    """A template is missing, does not parse, or uses an undefined name."""


class NotWritten(TargetError):
    """A target's files cannot be read or written: rights, a full disk, a missing directory."""


class DirectoryLocked(TargetError):
    """Another daemon manages this directory."""

    exit_code = 2


# --- the deployer -----------------------------------------------------------------------------


class DescriptorInvalid(Invalid):
    """A descriptor cannot be used: nothing was touched."""

    exit_code = 2


class NotPossible(VulcanizedError):
    """What was asked for cannot be done as things stand: nothing was touched."""


class Locked(VulcanizedError):
    """Another deployment of this app is under way; `holder` is who says so."""

    exit_code = 4

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class Unreadable(VulcanizedError):
    """A key that only deployers write cannot be read: a person must look before they go on."""

    exit_code = 5


class NotFound(VulcanizedError):
    """The API server has no such object."""


class AlreadyThere(VulcanizedError):
    """The API server has an object of that name, or it was changed meanwhile."""


class NotAccepted(VulcanizedError):
    """The API server does not take an object: it says what is wrong with it."""
