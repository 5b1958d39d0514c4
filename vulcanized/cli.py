"""`vulcanized`: run, render, diff, check, status, schema.

Exit codes: 0 done (diff: no change), 1 problems found (diff: changes), 2 usage or settings, 3 a
server that is needed cannot be reached.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vulcanized import __version__
from vulcanized.errors import SettingsError, Unreachable, VulcanizedError
from vulcanized.printable import printable

if TYPE_CHECKING:
    from vulcanized.model import AppId, DesiredApp, Problem
    from vulcanized.oneshot import Looked
    from vulcanized.settings import Settings

OK, PROBLEMS, USAGE, UNREACHABLE = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = int(options.command(options))
        sys.stdout.flush()
        return code
    except SettingsError as error:
        for problem in error.problems:
            _say(f"{error.origin}: {problem}")
        return USAGE
    except VulcanizedError as error:
        _say(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`).
        _write_no_more()
        return OK
    except OSError as error:
        _write_no_more()
        _say(
            f"{error.filename or 'the output'} cannot be written: {error.strerror}; make room there"
        )
        return PROBLEMS
    except KeyboardInterrupt:
        return 130


def _write_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vulcanized",
        description="Keeps your own load balancers in step with the pods of Kubernetes.",
        epilog="Exit codes: 0 done, 1 problems found (diff: changes), 2 usage or settings, "
        "3 a server that is needed cannot be reached.",
    )
    parser.add_argument("--version", action="version", version=f"vulcanized {__version__}")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (default: $VULCANIZED_CONFIG, else /etc/vulcanized/vulcanized.toml)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", parents=[config], help="follow the sources and keep in step")
    run.add_argument("--once", action="store_true", help="bring every target in step once, and end")
    run.set_defaults(command=_run)

    render = commands.add_parser(
        "render", parents=[config], help="print what each target's files would be"
    )
    render.add_argument(
        "--output", type=Path, metavar="DIR", help="write them to DIR/TARGET/ instead"
    )
    render.set_defaults(command=_render)

    diff = commands.add_parser(
        "diff", parents=[config], help="show what would change in the files of each target"
    )
    diff.set_defaults(command=_diff)

    check = commands.add_parser(
        "check", parents=[config], help="look for problems: settings, sources, apps, proxy config"
    )
    check.set_defaults(command=_check)

    status = commands.add_parser(
        "status", parents=[config], help="ask the running daemon (a table; JSON in a pipe)"
    )
    status.set_defaults(command=_status)

    schema = commands.add_parser("schema", help="print a JSON Schema")
    schema.add_argument("what", choices=["app"], help="app: the app config")
    schema.set_defaults(command=_schema)
    return parser


def _say(line: str) -> None:
    # One write for the whole line: a log line of another thread must not come in between.
    sys.stderr.write(f"vulcanized: {printable(line)}\n")


def _settings(options: argparse.Namespace) -> Settings:
    from vulcanized.settings import Settings

    return Settings.load(options.config, os.environ)


# --- commands ----------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    # What is loaded from here on stays: to look for garbage in it would take a tenth of the start.
    # The daemon turns the collector on again; `--once` is over soon.
    gc.disable()

    from vulcanized.daemon import Daemon
    from vulcanized.log import configure_logging
    from vulcanized.systemd import Notifier

    settings = _settings(options)
    configure_logging(settings.log.format, settings.log.level)
    if options.once:
        from vulcanized.oneshot import run_once

        done = run_once(settings)
        return _tell_all(done)

    def load() -> Settings:
        fresh = _settings(options)
        configure_logging(fresh.log.format, fresh.log.level)
        return fresh

    return Daemon(load, Notifier()).run()


def _render(options: argparse.Namespace) -> int:
    from vulcanized.oneshot import look

    with look(_quiet(options)) as looked:
        apps = _desired(looked.snapshot.apps)
        for target in looked.parts.targets:
            for name, content in sorted(target.rendered(apps).items()):
                if options.output is None:
                    print(f"# --- {target.name}: {name}")
                    sys.stdout.write(content)
                else:
                    path = options.output / target.name / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(content, encoding="utf-8")
                    print(path)
        return _tell_all(looked)


def _diff(options: argparse.Namespace) -> int:
    from vulcanized.oneshot import look

    with look(_quiet(options)) as looked:
        apps = _desired(looked.snapshot.apps)
        changed = False
        for target in looked.parts.targets:
            for line in _difference(target.name, target.actual(apps), target.rendered(apps)):
                changed = True
                sys.stdout.write(line)
        _tell_all(looked)
        return PROBLEMS if changed else OK


def _difference(
    target: str, actual: Mapping[str, str], rendered: Mapping[str, str]
) -> Iterator[str]:
    import difflib

    for name in sorted(actual.keys() | rendered.keys()):
        yield from (
            line if line.endswith("\n") else line + "\n"
            for line in difflib.unified_diff(
                actual.get(name, "").splitlines(keepends=True),
                rendered.get(name, "").splitlines(keepends=True),
                f"{target}/{name} (now)",
                f"{target}/{name} (wanted)",
            )
        )


def _check(options: argparse.Namespace) -> int:
    from vulcanized.model import MOST_LEFT_OUT
    from vulcanized.oneshot import look

    with look(_quiet(options)) as looked:
        apps = _desired(looked.snapshot.apps)
        code = _tell_all(looked)
        for state in (stream.state() for stream in looked.parts.streams):
            if state.skipped:
                code = max(code, PROBLEMS)
                for each in state.left_out:
                    _say(f"source {state.name}: left out: {each}")
                if len(state.left_out) == MOST_LEFT_OUT:
                    _say(f"source {state.name}: left out: more; mend these first")
        for target in looked.parts.targets:
            try:
                target.verify(apps)
            except VulcanizedError as error:
                code = max(code, error.exit_code)
                _say(f"target {target.name}: {error}")
        routed = sum(bool(desired.routes) for desired in apps.values())
        print(
            f"{len(looked.snapshot.apps)} apps, {routed} routed, "
            f"{len(looked.parts.targets)} targets: {'problems found' if code else 'no problems'}"
        )
        return code


def _status(options: argparse.Namespace) -> int:
    document = _ask(_settings(options))
    if sys.stdout.isatty():
        from vulcanized.statustable import print_status

        print_status(document)
    else:
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    troubled = any(app["problems"] for app in document["apps"]) or any(
        part["error"] for part in (*document["targets"], *document["sources"])
    )
    troubled = troubled or any(source["held"] for source in document["sources"])
    return PROBLEMS if troubled else OK


def _ask(settings: Settings) -> dict[str, Any]:
    import urllib.error
    import urllib.request

    from vulcanized.model import Endpoint

    listen = settings.admin.listen
    anywhere = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not a bind
    address = Endpoint(anywhere.get(listen.address, listen.address), listen.port)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/status", timeout=10) as response:
            document: dict[str, Any] = json.load(response)
            return document
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Unreachable(
            f"no daemon answers at {address} ({reason}): start it with `vulcanized run`, or mend "
            "admin.listen in the settings"
        ) from None


def _schema(options: argparse.Namespace) -> int:
    from vulcanized.appconfig import app_schema

    del options
    print(json.dumps(app_schema(), indent=2))
    return OK


# --- shared ------------------------------------------------------------------------------------


def _quiet(options: argparse.Namespace) -> Settings:
    from vulcanized.log import configure_logging

    settings = _settings(options)
    # Problems are printed by the command itself; a log line for each would say them twice.
    configure_logging("console", "error")
    return settings


def _desired(apps: Mapping[AppId, Any]) -> dict[AppId, DesiredApp]:
    return {app: built.desired for app, built in sorted(apps.items()) if built.desired is not None}


def _problems(apps: Any) -> list[Problem]:
    return sorted(problem for built in apps for problem in built.problems)


def _tell_all(looked: Looked) -> int:
    """Print the problems of apps, and what a guard holds back."""
    code = _tell(sorted([*_problems(looked.snapshot.apps.values()), *looked.refused]))
    for state in (stream.state() for stream in looked.parts.streams):
        if state.held:
            code = PROBLEMS
            _say(f"source {state.name}: held: {state.holding}")
            _say("without a daemon: VULCANIZED_GUARD__MAX_REMOVED=1 for one run")
    return code


def _tell(problems: Sequence[Problem]) -> int:
    for problem in problems:
        where = f" ({problem.where})" if problem.where else ""
        _say(f"{problem.app}: {problem.code}: {problem.message}{where}")
    return PROBLEMS if problems else OK


if __name__ == "__main__":
    sys.exit(main())
