"""`vulcanized-deployer`: deploy, switch, rollback, undeploy, scale, status, history, and more.

Exit codes: 0 deployed, 1 failed and the old version serves, 2 usage, settings or descriptor, 3 a
server that is needed cannot be reached, 4 locked by another deployment, 5 needs a person.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vulcanized import __version__
from vulcanized.errors import Invalid, Locked, NotPossible, SettingsError, VulcanizedError
from vulcanized.printable import printable

if TYPE_CHECKING:
    import threading

    from vulcanized.deployer.descriptor import Draft, Lookup
    from vulcanized.deployer.run import Deployer
    from vulcanized.deployer.store import Store
    from vulcanized.deployer.way import Progress
    from vulcanized.deployer.words import History, Record
    from vulcanized.model import AppId
    from vulcanized.settings import SettingsOfDeployer

DEPLOYED, FAILED, USAGE, UNREACHABLE, LOCKED, PERSON = 0, 1, 2, 3, 4, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    options = _parser().parse_args(arguments)
    # What is imported from here on stays: to look for garbage in it takes a sixth of the start.
    gc.disable()
    try:
        code = int(options.command(options))
        sys.stdout.flush()
        return code
    except SettingsError as error:
        for problem in error.problems:
            _say(f"{error.origin}: {problem}")
        return USAGE
    except Invalid as error:
        _say(str(error))
        return USAGE
    except VulcanizedError as error:
        _say(str(error))
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DEPLOYED
    except KeyboardInterrupt:
        return 130
    finally:
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vulcanized-deployer",
        description="Releases new versions without a failed request.",
        epilog="Exit codes: 0 deployed, 1 failed and the old version serves, 2 usage, settings or "
        "descriptor, 3 unreachable, 4 locked by another deployment, 5 needs a person.",
    )
    version = f"vulcanized-deployer {__version__}"
    parser.add_argument("--version", action="version", version=version)
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (default: $VULCANIZED_CONFIG, else /etc/vulcanized/vulcanized.toml)",
    )
    described = argparse.ArgumentParser(add_help=False)
    described.add_argument("descriptor", type=Path, help="YAML or JSON; - for standard input")
    described.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="set")
    described.add_argument(
        "--values", action="append", default=[], type=Path, metavar="FILE", help="NAME: VALUE pairs"
    )
    about = argparse.ArgumentParser(add_help=False)
    about.add_argument("app", metavar="NS/APP")
    perhaps = argparse.ArgumentParser(add_help=False)
    perhaps.add_argument("app", metavar="NS/APP", nargs="?")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str,
        work: Callable[[argparse.Namespace], int],
        words: str,
        *parents: argparse.ArgumentParser,
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[config, *parents], help=words)
        made.set_defaults(command=work)
        return made

    deploy = command(
        "deploy", _deploy, "release a descriptor, and wait until that is over", described
    )
    switch = command("switch", _switch, "let a version that is there take all traffic", about)
    switch.add_argument("version", metavar="VERSION")
    rollback = command("rollback", _rollback, "back to the version that served before", about)
    undeploy = command("undeploy", _undeploy, "take an app away with all its pods", about)
    scale = command("scale", _scale, "change how many pods serve", about)
    scale.add_argument("replicas", metavar="N", type=_count)
    command("status", _status, "what serves, what is kept, what is under way", perhaps)
    history = command("history", _history, "the deployments of an app", about)
    history.add_argument("--limit", type=_count, default=20)
    logs = command(
        "logs", _logs, "the journal of a deployment, and the ends of its pods' logs", about
    )
    logs.add_argument("deployment", nargs="?", help="default: the newest")
    command("plan", _plan, "list every object and key that a deploy would touch", described)
    command("validate", _validate, "check a descriptor", described)
    recover = command("recover", _recover, "finish or undo what a dead deployer left", perhaps)
    dispose = command("dispose", _dispose, "take away previous versions whose time is up", perhaps)
    for each, seconds in (
        *((made, 0.0) for made in (deploy, switch, rollback, undeploy, scale)),
        (recover, 20.0),
        (dispose, 20.0),
    ):
        each.add_argument(
            "--wait",
            type=_seconds,
            default=seconds,
            metavar="SECONDS",
            help="how long another deployment's lock is waited for (default: %(default)g)",
        )
    command("serve", _serve, "deployments over HTTP; finishes, undoes and disposes by itself")
    schema = commands.add_parser("schema", help="print the JSON Schema of a descriptor")
    schema.set_defaults(command=_schema)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError("a number from 1 to 10000 (undeploy takes an app away)")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError("seconds, from 0 to 86400")
    return seconds


def _say(line: str) -> None:
    sys.stderr.write(f"vulcanized-deployer: {printable(line)}\n")


# --- commands ----------------------------------------------------------------------------------


def _deploy(options: argparse.Namespace) -> int:
    draft, values = _draft(options), _values(options)
    with _deployer(options) as deployer:
        return code_of(deployer.deploy(draft, values))


def _switch(options: argparse.Namespace) -> int:
    from vulcanized.activation import parse_activation
    from vulcanized.deployer.store import app_id

    app = app_id(options.app)
    (share,) = parse_activation(options.version, "VERSION")[:1]
    settings = _settings(options)
    if settings.etcd is None and settings.directory is not None:
        return _switch_file(settings, app, share.version)
    with _deployer(options) as deployer:
        return code_of(deployer.switch(app, share.version))


def _switch_file(settings: SettingsOfDeployer, app: AppId, version: str) -> int:
    """The directory store: the daemon holds a version back that has no ready pods."""
    assert settings.directory is not None and settings.directory.store is not None  # noqa: S101, PT018 - Settings guarantees a side
    folder = settings.directory.store / "active" / app.namespace
    new = folder / f".{app.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new.write_text(f"{version}\n", encoding="utf-8")
        new.replace(folder / app.name)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise NotPossible(f"{folder / app.name} cannot be written: {error.strerror}") from error
    print(json.dumps({"app": str(app), "activation": version, "file": str(folder / app.name)}))
    return DEPLOYED


def _rollback(options: argparse.Namespace) -> int:
    from vulcanized.deployer.store import app_id

    app = app_id(options.app)
    with _deployer(options) as deployer:
        return code_of(deployer.rollback(app))


def _undeploy(options: argparse.Namespace) -> int:
    from vulcanized.deployer.store import app_id

    app = app_id(options.app)
    with _deployer(options) as deployer:
        return code_of(deployer.undeploy(app))


def _scale(options: argparse.Namespace) -> int:
    from vulcanized.deployer.store import app_id

    app = app_id(options.app)
    with _deployer(options) as deployer:
        return code_of(deployer.scale(app, options.replicas))


def _recover(options: argparse.Namespace) -> int:
    def is_left(record: Record) -> bool:
        return record.under_way

    return _each_app(options, is_left, lambda deployer, app: deployer.recover(app))


def _dispose(options: argparse.Namespace) -> int:
    import time

    def is_due(record: Record) -> bool:
        return record.keeps and (record.dispose_at or 0) <= time.time()

    return _each_app(options, is_due, lambda deployer, app: deployer.dispose(app))


def _each_app(
    options: argparse.Namespace,
    wanted: Callable[[Record], bool],
    work: Callable[[Deployer, AppId], list[Record]],
) -> int:
    from vulcanized.deployer.store import app_id

    app = app_id(options.app) if options.app else None
    with _deployer(options) as deployer:
        history = deployer.store.history(app)
        worst = _told(history)
        for each in sorted({r.app_id for r in history.records if wanted(r)} - history.unknown):
            try:
                ended = work(deployer, each)
            except Locked as error:
                _say(str(error))
                worst = max(worst, LOCKED)
            else:
                # Undone is what recover is for: only what is left to a person is a failure of it.
                worst = max([worst, *(PERSON for record in ended if record.person)])
        return worst


def _status(options: argparse.Namespace) -> int:
    from vulcanized.deployer.store import app_id
    from vulcanized.deployer.views import status_of

    with _deployer(options) as deployer:
        asked = app_id(options.app) if options.app else None
        history = deployer.store.history(asked)
        code = _told(history)
        apps = sorted(history.apps | ({asked} if asked else set()))
        documents = [
            status_of(
                app,
                history.of(app),
                deployer.store.activation(app).text.strip(),
                deployer.cluster.controllers(app),
                deployer.cluster.pods(app),
            )
            for app in apps
        ]
        reports = [
            {
                "instance": r.instance,
                "revision": r.revision,
                "version": r.version,
                "held": list(r.held),
                "quarantined": list(r.quarantined),
            }
            for r in deployer.store.reports()
        ]
    _print({"apps": documents, "instances": reports})
    return PERSON if any(app["needs_person"] for app in documents) else code


def _history(options: argparse.Namespace) -> int:
    from vulcanized.deployer.store import app_id
    from vulcanized.deployer.views import listed

    app = app_id(options.app)
    with _store(options) as store:
        history = store.history(app)
    _print(listed(history, options.limit))
    return _told(history)


def _told(history: History) -> int:
    """Say which records cannot be read: the exit code that follows from it."""
    for each in history.unread:
        _say(each.told)
    return PERSON if history.unread else DEPLOYED


def _logs(options: argparse.Namespace) -> int:
    from vulcanized.deployer.store import app_id
    from vulcanized.deployer.views import journal_of

    app = app_id(options.app)
    with _deployer(options) as deployer:
        history = deployer.store.history(app)
        code = _told(history)
        chosen = [r for r in history.records if options.deployment in (None, r.id)]
        if not chosen:
            raise NotPossible(f"{app} has no such deployment: see history")
        record = chosen[-1]
        for line in journal_of(record):
            print(json.dumps(line))
        for pod in deployer.cluster.pods(app):
            if pod.version != record.version:
                continue
            for tail in deployer.cluster.logs(app.namespace, pod):
                place = {"pod": pod.name, "container": tail.container}
                for text in tail.lines:
                    print(json.dumps({**place, "log": text}))
                if tail.error is not None:
                    print(json.dumps({**place, "reason": str(tail.error)}))
                    code = max(code, tail.error.exit_code) if tail.error.exit_code > 1 else code
    return code


def _plan(options: argparse.Namespace) -> int:
    draft, values = _draft(options), _values(options)
    with _deployer(options) as deployer:
        _print(deployer.preview(draft, values))
    return DEPLOYED


def _validate(options: argparse.Namespace) -> int:
    from vulcanized.deployer.descriptor import NEXT_VERSION
    from vulcanized.deployer.words import Times
    from vulcanized.objects import Labels

    draft, values = _draft(options), _values(options)
    app, version = draft.identity(values)
    number = "1" if version == NEXT_VERSION else version
    draft.release(number, "validate", values, (), Labels(), Times())
    print(f"{options.descriptor}: {app} version {version}: no problems")
    return DEPLOYED


def _schema(options: argparse.Namespace) -> int:
    from vulcanized.deployer.descriptor import descriptor_schema

    del options
    _print(descriptor_schema())
    return DEPLOYED


# --- shared ------------------------------------------------------------------------------------


def code_of(record: Record) -> int:
    """The exit code of a deployment that is over; a script is told how it ended."""
    from vulcanized.deployer.progress import summary
    from vulcanized.deployer.words import Status

    if not sys.stdout.isatty():
        print(json.dumps(summary(record)))

    if record.person:
        return PERSON
    return DEPLOYED if record.status in (Status.DEPLOYED, Status.UNDEPLOYED) else FAILED


def _print(document: Any) -> None:
    json.dump(document, sys.stdout, indent=1)
    print()


def _settings(options: argparse.Namespace) -> SettingsOfDeployer:
    from vulcanized.settings import SettingsOfDeployer

    return SettingsOfDeployer.load(options.config, os.environ)


def _draft(options: argparse.Namespace) -> Draft:
    from vulcanized.deployer.descriptor import MAX_BYTES, read

    try:
        if str(options.descriptor) == "-":
            return read(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
        with options.descriptor.open("rb") as file:
            return read(file.read(MAX_BYTES + 1), str(options.descriptor))
    except OSError as error:
        raise Invalid(str(options.descriptor), f"cannot be read: {error.strerror}") from error


def _values(options: argparse.Namespace) -> Lookup:
    """What stands for a `${name}`: --set first, then the files, then the environment."""
    given = dict(_pairs(options.set))
    for path in options.values:
        for name, value in _of_file(path).items():
            given.setdefault(name, value)

    def look_up(name: str) -> object | None:
        found = given.get(name)
        return os.environ.get(name) if found is None else found

    return look_up


def _pairs(texts: Iterable[str]) -> Iterator[tuple[str, object]]:
    from vulcanized.deployer.descriptor import BUILT_IN

    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Invalid("--set", f"{text.partition('=')[0]!r} has no value: write NAME=VALUE")
        if name in BUILT_IN:
            raise Invalid("--set", f"{name} is what the descriptor says: change it there")
        yield name, value


def _of_file(path: Path) -> Mapping[str, object]:
    from vulcanized.manifests import load_documents

    try:
        documents = load_documents(path.read_bytes(), str(path))
    except OSError as error:
        raise Invalid(str(path), f"cannot be read: {error.strerror}") from error
    if not documents or documents[0] is None:
        return {}
    values = documents[0]
    plain = isinstance(values, dict) and all(
        isinstance(k, str) and isinstance(v, str | int | float) for k, v in values.items()
    )
    if not plain:
        raise Invalid(str(path), "must hold NAME: VALUE pairs, each value a text or a number")
    return {str(name): value for name, value in values.items()}


@contextmanager
def _store(options: argparse.Namespace) -> Iterator[Store]:
    import threading

    from vulcanized.deployer.store import Store
    from vulcanized.etcd import connect
    from vulcanized.log import configure_logging

    settings = _settings(options)
    configure_logging(settings.log.format, "error")
    if settings.etcd is None:
        raise SettingsError(
            str(options.config or "settings"), ("[etcd] is missing: deployments are kept there",)
        )
    with connect(settings.etcd) as client:
        prefix, own = settings.etcd.prefix, settings.deployer.app_settings
        yield Store(client, prefix, own, threading.Event())


@contextmanager
def _deployer(options: argparse.Namespace) -> Iterator[Deployer]:
    """All that a command works with. The first signal cancels, the second ends at once."""
    from vulcanized.deployer.progress import JsonLines, LiveTable

    out = sys.stderr
    progress = LiveTable(out) if out.isatty() else JsonLines(out)
    with _maker(options) as (make, _):
        deployer = make(progress)
        deployer.patience = getattr(options, "wait", 0.0)
        with _signals(deployer.cancel):
            try:
                yield deployer
            finally:
                if isinstance(progress, LiveTable):
                    progress.close()


@contextmanager
def _maker(
    options: argparse.Namespace,
) -> Iterator[tuple[Callable[[Progress], Deployer], SettingsOfDeployer]]:
    """What makes deployers that share their connections, and the settings."""
    import threading

    from vulcanized.deployer.cluster import Api, Cluster
    from vulcanized.deployer.run import Deployer
    from vulcanized.deployer.store import Store
    from vulcanized.deployer.words import Times
    from vulcanized.etcd import connect
    from vulcanized.log import configure_logging
    from vulcanized.objects import Labels

    settings = _settings(options)
    configure_logging(settings.log.format, "warning")
    missing = [
        f"[{name}] is missing: {why}"
        for name, given, why in (
            ("etcd", settings.etcd, "deployments and activations are kept there"),
            ("kubernetes", settings.kubernetes, "pods are created there"),
        )
        if given is None
    ]
    if settings.etcd is None or settings.kubernetes is None:
        raise SettingsError(str(options.config or "settings"), tuple(missing))
    own, stop = settings.deployer, threading.Event()
    times = Times(
        own.ready_timeout,
        own.health_timeout,
        own.switch_timeout,
        own.drain_timeout,
        own.keep_previous,
    )
    labels = Labels(settings.kubernetes.app_label, settings.kubernetes.version_label)
    with connect(settings.etcd) as client:
        store = Store(client, settings.etcd.prefix, own.app_settings, stop)
        cluster = Cluster(Api(settings.kubernetes, stop), labels)

        def make(progress: Progress) -> Deployer:
            return Deployer(
                store,
                cluster,
                progress,
                times,
                own.lease,
                stop=stop,
                least_instances=own.instances,
            )

        # Nor need it be looked at when the process ends.
        gc.freeze()
        gc.enable()
        try:
            yield make, settings
        finally:
            stop.set()


def _serve(options: argparse.Namespace) -> int:
    import threading

    from vulcanized.deployer.api import ApiServer
    from vulcanized.deployer.service import Feed, Service
    from vulcanized.deployer.tokens import Tokens

    with _maker(options) as (make, settings):
        if settings.deployer.tokens is None:
            raise SettingsError(
                str(options.config or "settings"),
                ("deployer.tokens is missing: name the file with the bearer tokens",),
            )
        deployer = make(Feed())

        def made(feed: Feed) -> Deployer:
            one = make(feed)
            one.cancel = feed.cancel
            return one

        service = Service(made, deployer.store, deployer.stop)
        tokens = Tokens(settings.deployer.tokens)
        server = ApiServer(settings.deployer.listen, service, deployer.store, tokens, deployer.stop)
        ending = threading.Event()

        def end() -> None:
            ending.wait()
            server.close()

        for work in (service.maintain, end):
            threading.Thread(target=work, daemon=True).start()
        with _signals(ending):
            _say(f"serves at {settings.deployer.listen.address}:{server.port}")
            server.serve()
        # What is under way is left for the next one to finish: its records say how far it got.
        deployer.stop.set()
        service.join(2.0)
        return DEPLOYED


@contextmanager
def _signals(first: threading.Event) -> Iterator[None]:
    """The first signal sets an event that this thread never waits for, the second interrupts."""

    def signalled(number: int, frame: FrameType | None) -> None:
        del number, frame
        if first.is_set():
            raise KeyboardInterrupt
        first.set()

    before = {
        number: signal.signal(number, signalled) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
