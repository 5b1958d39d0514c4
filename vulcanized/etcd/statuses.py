"""gRPC's and etcd's words for a failure -> ours, with the endpoint and what to do about it."""

from __future__ import annotations

import grpc

from vulcanized.errors import Expired, Refused, SourceError, Unreachable

_LONGEST_DETAILS = 300

# etcd/etcdserver/api/v3rpc/rpctypes/error.go (3.4 to 3.6). Its codes alone do not tell: an unknown
# token is UNAUTHENTICATED, a missing one INVALID_ARGUMENT, and both come as text in a watch.
_TOKEN_REFUSED = ("invalid auth token", "user name is empty", "revision of auth store is old")
_NO_USERS = "authentication is not enabled"
_WRONG_LOGIN = "authentication failed"
_DENIED = "permission denied"
_NO_SPACE = "database space exceeded"
_TOO_LARGE = "larger than max"  # RESOURCE_EXHAUSTED, by etcd's gRPC before etcd sees it
_NO_LEASE = "requested lease not found"

# gRPC's own words (pick_first.cc) when no connection could be made, so nothing was sent.
_NOT_SENT = "failed to connect to all addresses"


class TokenRefused(Refused):
    """The server does not know our token, so it did nothing: log in and try again."""


class AuthenticationOff(Refused):
    """We tried to log in where etcd has no users switched on."""


class NoLease(Refused):
    """There is no lease with the id that we gave."""


class NotSent(Unreachable):
    """There was no connection, so the server has seen nothing: another may be tried."""


def named(
    code: grpc.StatusCode | None, details: str | None, endpoint: str, user: str | None, doing: str
) -> SourceError:
    """The error for a gRPC status. `doing` is what was tried: "reading /key"."""
    details = _one_line(details or "")
    at = f"etcd at {endpoint}"
    if any(text in details for text in _TOKEN_REFUSED):
        if user is None:
            return Refused(f"{at} wants a user ({doing}): set username and password_file in [etcd]")
        return TokenRefused(f"{at} does not know the token of user {user!r} ({doing}): {details}")
    if _NO_USERS in details:
        return AuthenticationOff(f"{at} has no users switched on ({doing})")
    if _WRONG_LOGIN in details:
        return Refused(
            f"{at} does not accept the password of user {user!r}: "
            "check username and password_file in [etcd]"
        )
    if code is grpc.StatusCode.PERMISSION_DENIED or _DENIED in details:
        return Refused(
            f"{at} does not permit user {user!r} what was tried ({doing}): "
            "grant it with `etcdctl role grant-permission`"
        )
    if _NO_SPACE in details:
        return Refused(
            f"{at} takes no writes, its space is used up ({doing}): "
            "compact and defragment it, then `etcdctl alarm disarm`"
        )
    if _NO_LEASE in details:
        return NoLease(f"{at} has no such lease any more ({doing}): it ran out or was revoked")
    return _by_code(code, details, at, doing)


def _by_code(code: grpc.StatusCode | None, details: str, at: str, doing: str) -> SourceError:
    status = grpc.StatusCode
    if code is status.OUT_OF_RANGE:
        return Expired(f"{at} no longer has the revision asked for ({doing}): {details}")
    if code is status.UNAUTHENTICATED:
        return Refused(f"{at} does not accept who we are ({doing}): {details}")
    if code is status.INVALID_ARGUMENT or _TOO_LARGE in details:
        return Refused(f"{at} does not take what was sent ({doing}): {details}")
    if code is status.DEADLINE_EXCEEDED:
        return Unreachable(f"{at} did not answer in time ({doing}): see what holds it up")
    if code is status.UNIMPLEMENTED:
        return Unreachable(f"{at} does not speak etcd's v3 API ({doing}): check the endpoint")
    if code is status.UNAVAILABLE and _NOT_SENT in details:
        return NotSent(
            f"{at} cannot be reached ({doing}): {details}; see that it runs, "
            "and check endpoints, ca, cert and key in [etcd]"
        )
    name = code.name.lower().replace("_", " ") if code else "no status"
    return Unreachable(f"{at} failed ({doing}): {name}: {details}; see its log")


def _one_line(text: str) -> str:
    """Cut to a printable line: a server's words are as hostile as anything it sends."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_DETAILS])
    return shown if len(text) <= _LONGEST_DETAILS else f"{shown} ..."
