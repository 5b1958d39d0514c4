"""How a call to etcd is made: which member, which token, how long, and whether once more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import etcd3
import grpc
import structlog
from etcd3 import etcdrpc as rpc
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from vulcanized.errors import SettingsError, SourceError, Uncertain, Unreachable
from vulcanized.etcd.access import Login, Tls
from vulcanized.etcd.statuses import AuthenticationOff, NotSent, TokenRefused, named

log = structlog.get_logger(__name__)

DEADLINE: Final = 5.0
"""Seconds that etcd has for one call, a page of a list included."""

_SLICE = 0.2  # how often a waiting thread looks at `stop`

_CHANNEL: Final = (
    # 50,000 keys are 9 MB, and gRPC's default is 4.
    ("grpc.max_receive_message_length", -1),
    # A frozen server is noticed after 13 s; without the ping time-out after 70. Pings more often
    # than every 10 s make etcd hang up (GOAWAY too_many_pings).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # The time that one attempt to connect may take, whatever its name says.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    # As etcd's own clients do: a proxy for the web is none for etcd.
    ("grpc.enable_http_proxy", 0),
)

T = TypeVar("T")


class Member:
    """One endpoint with its channel, which connects by itself whenever it is used."""

    def __init__(self, url: str, credentials: grpc.ChannelCredentials | None) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        self.url = url
        self._endpoint = etcd3.Endpoint(
            f"[{host}]" if ":" in host else host,
            parts.port or 2379,
            secure=credentials is not None,
            creds=credentials,
            opts=_CHANNEL,
        )
        channel = self._endpoint.channel
        self.keys = rpc.KVStub(channel)
        self.watch = rpc.WatchStub(channel)
        self.lease = rpc.LeaseStub(channel)
        self.auth = rpc.AuthStub(channel)

    def close(self) -> None:
        self._endpoint.close()


Pick = Callable[[Member], Any]
"""The method to call: `lambda member: member.keys.Range`."""


class Session(NamedTuple):
    """A member to talk to, and the token that it gave us; "" without users."""

    member: Member
    token: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        # Not as call credentials: gRPC would not send those without TLS.
        return (("token", self.token),) if self.token else ()


class Calls:
    """The members of one cluster, used one at a time, by any number of threads.

    A member that does not answer is left for the next one; a token that it does not know is
    replaced by logging in again; TLS files that have changed are read again.
    """

    def __init__(self, endpoints: Sequence[str], tls: Tls | None, login: Login | None) -> None:
        self._endpoints = tuple(endpoints)
        self._tls = tls
        self._login = login
        self._lock = threading.Lock()
        self._login_lock = threading.RLock()
        self._token: str | None = None if login else ""
        self._current = 0
        self._members = self._open()

    def close(self) -> None:
        """Close all connections; calls under way fail."""
        with self._lock:
            for member in self._members:
                member.close()

    def unary(
        self, pick: Pick, request: Any, doing: str, stop: threading.Event, *, again: bool = False
    ) -> Any:
        """One call and its answer. `again`: made twice, it does no harm.

        Raises `Unreachable`, `Refused`, and what else `statuses.named` makes of the answer. Without
        `again` it is tried once more only if etcd cannot have done it; where that is not known it
        raises `Uncertain`.
        """
        try:
            return self.retry(partial(self._once, pick, request, doing, stop), stop, again=again)
        except Unreachable as error:
            if again or isinstance(error, NotSent):
                raise
            raise Uncertain(f"{error}; it may have been done all the same") from error

    def retry(self, attempt: Callable[[], T], stop: threading.Event, *, again: bool) -> T:
        """The attempt's answer, after one attempt per member and one more at most."""

        def worth_it(error: BaseException) -> bool:
            undone = isinstance(error, NotSent | TokenRefused)
            return undone or (again and isinstance(error, Unreachable))

        # What succeeds at once, as nearly all does, does without tenacity, which takes as long as
        # the rest of our part in a call.
        try:
            return attempt()
        except Exception as error:
            failed: list[Exception] = [error]

        def attempts() -> T:
            if failed:
                raise failed.pop()
            return attempt()

        return Retrying(
            retry=retry_if_exception(worth_it),
            stop=stop_after_attempt(len(self._endpoints) + 1) | stop_when_event_set(stop),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            sleep=sleep_using_event(stop),
            reraise=True,
        )(attempts)

    def session(self, stop: threading.Event) -> Session:
        """Where to send the next call, and as whom; logs in if need be."""
        with self._lock:
            member = self._members[self._current]
        if self._login is None:
            return Session(member, "")
        with self._login_lock:
            if self._token is None:
                self._token = self._log_in(self._login, member, stop)
            return Session(member, self._token)

    def failed(
        self, session: Session, doing: str, code: grpc.StatusCode | None, details: str | None
    ) -> SourceError:
        """The error to raise. The next call goes to another member, or logs in, if that helps."""
        user = self._login.username if self._login else None
        error = named(code, details, session.member.url, user, doing)
        if isinstance(error, Unreachable):
            self._leave(session.member)
        elif isinstance(error, TokenRefused):
            with self._login_lock:
                if self._token == session.token:
                    self._token = None
        return error

    def _once(self, pick: Pick, request: Any, doing: str, stop: threading.Event) -> Any:
        if stop.is_set():
            raise NotSent(f"stopped before {doing}")
        return self._send(self.session(stop), pick, request, doing, stop)

    def _send(
        self, session: Session, pick: Pick, request: Any, doing: str, stop: threading.Event
    ) -> Any:
        try:
            answer = pick(session.member).future(
                request, timeout=DEADLINE, metadata=session.metadata
            )
            while True:
                try:
                    return answer.result(timeout=_SLICE)
                except grpc.FutureTimeoutError:
                    if stop.is_set():
                        answer.cancel()
                        raise Unreachable(f"stopped while {doing}") from None
        except grpc.RpcError as error:
            raise self.failed(session, doing, error.code(), error.details()) from error
        except ValueError as error:  # gRPC's word for a channel that another thread has closed
            raise NotSent(f"the connection to etcd was closed before {doing}") from error

    def _leave(self, member: Member) -> None:
        """Go to the next member, unless another thread has; with new certificates if there are."""
        with self._lock:
            if self._members[self._current] is not member:
                return
            self._current = (self._current + 1) % len(self._members)
            if self._tls and self._tls.changed():
                self._renew()

    def _renew(self) -> None:
        old = self._members
        try:
            self._members = self._open()
        except SettingsError as error:
            log.warning("etcd certificates not renewed", error=str(error))
            return
        for member in old:
            member.close()
        log.info("etcd certificates renewed")

    def _open(self) -> tuple[Member, ...]:
        credentials = self._tls.read() if self._tls else None
        return tuple(Member(url, credentials) for url in self._endpoints)

    def _log_in(self, login: Login, member: Member, stop: threading.Event) -> str:
        request = rpc.AuthenticateRequest(name=login.username, password=login.password())
        try:
            answer = self._send(
                Session(member, ""), lambda m: m.auth.Authenticate, request, "logging in", stop
            )
        except AuthenticationOff:
            return ""  # until etcd says otherwise, by refusing the empty token
        log.debug("logged in to etcd", endpoint=member.url, user=login.username)
        return str(answer.token)
