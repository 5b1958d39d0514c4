"""One app's observed parts -> its desired part and its problems. Pure.

Two steps, because routes are claimed across apps in between (`claims.py`):
`configure` decides which app config is in effect, `build` places pods, versions and the
activation under it. Both give the same answer for the same input, whatever came before, but for
`Remembered`: what was last accepted goes on when what is written now is refused or held.
"""

from __future__ import annotations

import functools
import hashlib
import re
from calendar import timegm
from collections.abc import Callable, Iterable
from time import strptime

import msgspec

from vulcanized.activation import activation_text, parse_activation
from vulcanized.appconfig import AppSpec, parse_app_config
from vulcanized.errors import Invalid
from vulcanized.model import (
    ANY_VERSION,
    AppId,
    Backend,
    Built,
    DesiredApp,
    Document,
    Observed,
    Pod,
    Problem,
    Remembered,
    Route,
    Server,
    ServerState,
    Share,
)

HEALTH_PORT_NAME = "healthcheck"
_EVERY_VERSION = (Share(ANY_VERSION, 1),)
_ANNOTATION = "annotation vulcanized.io/config of"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")


Refuse = Callable[[AppSpec], str]
"""Why a config that can be parsed is refused all the same; "": it is not."""


class Configured(msgspec.Struct, frozen=True, gc=False):
    """Which app config holds. `spec` None: the app has none that can be used.

    `document` is the one in effect, `written` the one that should be; `quarantined`: it was
    refused, and `fallback` is what was remembered then. `order` sorts the claims on a route: the
    older config first, then the app's name.
    """

    spec: AppSpec | None = None
    document: Document | None = None
    written: Document | None = None
    quarantined: bool = False
    fallback: Document | None = None
    problems: tuple[Problem, ...] = ()
    order: tuple[int, AppId] = (0, AppId("", ""))


def configure(
    observed: Observed,
    remembered: Remembered,
    previous: Configured | None = None,
    refuse: Refuse = lambda spec: "",
) -> Configured:
    """Choose and parse the app config: the store's, else the newest controller's annotation.

    A refused document leaves the remembered one in effect. `previous` spares parsing again what
    has not changed.
    """
    written = _written(observed, remembered)
    if written is None:
        return Configured()
    known = previous is not None and previous.written == written
    if previous is not None and known and previous.fallback in (None, remembered.config):
        return previous
    try:
        spec = _parsed(written)
        reason = refuse(spec)
        if not reason:
            return Configured(spec, written, written, order=(written.created, observed.app))
        code, where = "not_in_effect", written.origin
    except Invalid as error:
        code, where, reason = "config_invalid", error.where, error.reason
    fallback = remembered.config
    kept = _remembered_spec(fallback, previous, refuse)
    consequence = "its last good config stays in effect" if kept else "the app has no config"
    problems = (Problem(observed.app, code, f"{reason}; {consequence}", where),)
    if kept is None or fallback is None:
        return Configured(None, None, written, True, fallback, problems)
    order = (fallback.created, observed.app)
    return Configured(kept, fallback, written, True, fallback, problems, order)


def _parsed(document: Document) -> AppSpec:
    if document.fault:
        raise Invalid(document.origin, document.fault)
    return parse_app_config(document.text, document.origin)


def _written(observed: Observed, remembered: Remembered) -> Document | None:
    if observed.config is not None:
        return observed.config
    annotated = [controller for controller in observed.controllers if controller.config is not None]
    if not annotated:
        return None
    newest = max(annotated, key=lambda controller: (controller.created, controller.name))
    origin = f"{_ANNOTATION} {newest.kind} {newest.namespace}/{newest.name}"
    # Neither a new version's controller nor the end of the oldest one must make the app a younger
    # claimant of its routes.
    claimed = [_epoch(controller.created) for controller in annotated]
    if remembered.config is not None and remembered.config.origin.startswith(_ANNOTATION):
        claimed.append(remembered.config.created)
    return Document(newest.config or "", origin, min(claimed))


def _epoch(created: str) -> int:
    try:
        return timegm(strptime(created[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0


def _remembered_spec(
    document: Document | None, previous: Configured | None, refuse: Refuse
) -> AppSpec | None:
    if document is None:
        return None
    if previous is not None and previous.document == document:
        return previous.spec
    try:
        spec = parse_app_config(document.text, document.origin)
    except Invalid:
        # Accepted by an older release whose schema was wider.
        return None
    return None if refuse(spec) else spec


def build(
    observed: Observed,
    configured: Configured,
    remembered: Remembered,
    taken: Iterable[tuple[Route, AppId]] = (),
) -> Built:
    """What this app should be on every target.

    `taken`: routes of this app that an earlier claimant owns, with their owners.
    """
    app = observed.app
    problems = list(configured.problems)
    versions = _versions(observed)
    wanted = observed.activation.text.strip() if observed.activation else ""
    spec = configured.spec
    if spec is None:
        return Built(
            app,
            None,
            tuple(problems),
            wanted=wanted[:200],
            quarantined=configured.quarantined,
            remember=remembered if configured.quarantined else Remembered(),
            versions=versions,
        )

    placed = _place(observed, spec, problems)
    ready = {
        version
        for version, servers in placed.items()
        if any(server.state is ServerState.READY for server in servers)
    }
    split, held, activation = _activate(observed, remembered, ready, problems)

    lost = dict(taken)
    for route, owner in sorted(lost.items()):
        problems.append(
            Problem(
                app,
                "route_taken",
                f"{route.host}{route.path} ({route.kind}) belongs to {owner}, which comes "
                "first (the older config, else by name): remove it from one of the two",
                configured.document.origin if configured.document else "",
            )
        )
    if not spec.routes:
        problems.append(
            Problem(
                app,
                "no_hosts",
                'hosts is empty, so nothing can reach it: name a host, or "*" for any',
                configured.document.origin if configured.document else "",
            )
        )

    if split is None:
        backends: tuple[Backend, ...] = (Backend(ANY_VERSION, _sorted(_all(placed))),)
        split = _EVERY_VERSION
    else:
        named = {share.version for share in split}
        backends = tuple(
            Backend(version, _sorted(placed.get(version, ())))
            for version in sorted(named | set(versions))
        )
        # A version of a weighted activation that has lost all its pods gives its share to the
        # others; when none has any, the split stands as it is and answers 503.
        split = tuple(share for share in split if share.version in ready) or split
    if not any(_has_ready(backend, split) for backend in backends):
        problems.append(
            Problem(
                app,
                "no_servers",
                f"no pod{_of(split)} is ready and reachable: requests are answered with 503",
            )
        )
    desired = DesiredApp(
        app=app,
        routes=tuple(route for route in spec.routes if route not in lost) if lost else spec.routes,
        split=split,
        backends=backends,
        policies=spec.policies,
        maintenance=spec.maintenance,
        features=spec.features,
    )
    return Built(
        app,
        # Without a route of its own yet: what is there already takes one over without a gap.
        desired if spec.routes else None,
        tuple(problems),
        wanted=wanted[:200],
        held=held,
        quarantined=configured.quarantined,
        remember=Remembered(configured.document, activation),
        versions=versions,
    )


def _versions(observed: Observed) -> tuple[str, ...]:
    """Versions that have pods or want some. A controller scaled to 0 without pods is history."""
    pods = {pod.version for pod in observed.pods if not pod.finished}
    controllers = {
        controller.version
        for controller in observed.controllers
        if controller.desired > 0 and controller.version
    }
    return _shared(tuple(sorted(pods | controllers)))


@functools.lru_cache(maxsize=1024)
def _shared(versions: tuple[str, ...]) -> tuple[str, ...]:
    """One object for equal values: thousands of apps have the same versions."""
    return versions


def _place(observed: Observed, spec: AppSpec, problems: list[Problem]) -> dict[str, list[Server]]:
    """Pods -> servers by version. Ready pods take traffic, terminating ones drain."""
    placed: dict[str, list[Server]] = {}
    without: list[Pod] = []
    unreachable: list[Pod] = []
    for pod in observed.pods:
        if pod.finished or not (pod.ready or pod.terminating):
            continue
        if not pod.ip:
            if pod.ready and not pod.terminating:
                unreachable.append(pod)
            continue
        port = _port(pod, spec.port)
        if port is None:
            without.append(pod)
            continue
        state = ServerState.DRAIN if pod.terminating else ServerState.READY
        server = Server(_server_name(pod, port), pod.ip, port, state, version=pod.version)
        placed.setdefault(pod.version, []).append(server)
    if unreachable:
        problems.append(
            Problem(
                observed.app,
                "no_address",
                f"{_some(unreachable)} say that they are ready, but status.podIP is no address "
                "that can be connected to: see what gave it to them",
            )
        )
    if without:
        wanted = "any container port" if spec.port is None else f"a container port {spec.port!r}"
        problems.append(
            Problem(
                observed.app,
                "no_port",
                f"{_some(without)} lack {wanted}: declare it in the pod, or give its number as "
                "`port` in the app config",
            )
        )
    return placed


def _some(pods: list[Pod]) -> str:
    more = ", ..." if len(pods) > 1 else ""
    return f"{len(pods)} of its pods ({pods[0].name}{more})"


def _port(pod: Pod, wanted: int | str | None) -> int | None:
    if isinstance(wanted, int):
        return wanted
    if isinstance(wanted, str):
        return next((port.number for port in pod.ports if port.name == wanted), None)
    return next((port.number for port in pod.ports if port.name != HEALTH_PORT_NAME), None)


def _server_name(pod: Pod, port: int) -> str:
    """The pod's name for people, and a mark that changes with its uid, address or port.

    On disk anybody can write any uid: two with one mark must not be found by trying.
    """
    mark = hashlib.blake2b(f"{pod.uid} {pod.ip} {port}".encode(), digest_size=8).hexdigest()
    return f"{_NOT_IN_A_NAME.sub('_', pod.name)[:80]}-{mark}"


def _activate(
    observed: Observed, remembered: Remembered, ready: set[str], problems: list[Problem]
) -> tuple[tuple[Share, ...] | None, bool, str]:
    """The split in effect (None: every version), whether the wanted one is held, what to remember.

    An activation is accepted once every version it names has a ready server; one that is already
    in effect stays so when they go.
    """
    document = observed.activation
    if document is None:
        return None, False, ""
    try:
        if document.fault:
            raise Invalid(document.origin, document.fault)
        shares = parse_activation(document.text, document.origin)
    except Invalid as error:
        kept = _last_good(remembered)
        problems.append(
            Problem(
                observed.app,
                "activation_invalid",
                f"{error.reason}; {_names(kept)} stays in effect",
                error.where,
            )
        )
        return kept, True, remembered.activation
    text = activation_text(shares)
    missing = [share.version for share in shares if share.version not in ready]
    if not missing or text == remembered.activation:
        return shares, False, text
    kept = _last_good(remembered)
    problems.append(
        Problem(
            observed.app,
            "activation_held",
            f"version {', '.join(missing)} has no ready pod, so {_names(kept)} stays in effect "
            "until it has: check the version's name and its pods",
            document.origin,
        )
    )
    return kept, True, remembered.activation


def _last_good(remembered: Remembered) -> tuple[Share, ...] | None:
    if not remembered.activation:
        return None
    try:
        return parse_activation(remembered.activation, "memory")
    except Invalid:
        return None


def _names(split: tuple[Share, ...] | None) -> str:
    if split is None or split[0].version == ANY_VERSION:
        return "every version"
    return "version " + ", ".join(share.version for share in split)


def _of(split: tuple[Share, ...]) -> str:
    return "" if split[0].version == ANY_VERSION else f" of {_names(split)}"


def _all(placed: dict[str, list[Server]]) -> list[Server]:
    return [server for servers in placed.values() for server in servers]


def _sorted(servers: Iterable[Server]) -> tuple[Server, ...]:
    return tuple(sorted(servers, key=lambda server: server.name))


def _has_ready(backend: Backend, split: tuple[Share, ...]) -> bool:
    return any(share.version == backend.version for share in split) and any(
        server.state is ServerState.READY for server in backend.servers
    )
