"""Takes apps through the whole pure path, and judges what came out by `grammar` and `wanted`."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile import grammar
from tests.hostile.wanted import MAPS, STRUCTURE, Wanted, server_words, wanted
from tests.servers.programs import find_program
from vulcanized.build import Configured, build, configure
from vulcanized.claims import Claims
from vulcanized.model import (
    AppId,
    Built,
    DesiredApp,
    Document,
    Endpoint,
    Observed,
    Pod,
    Port,
    Remembered,
    ServerState,
)
from vulcanized.targets.haproxy import plan
from vulcanized.targets.haproxy.config import CONFIG, Config
from vulcanized.targets.haproxy.live import LiveServer
from vulcanized.targets.haproxy.master import Command, Replacement
from vulcanized.targets.haproxy.parts import Part, backend_view
from vulcanized.targets.render import Templates

ONE_IN = 200
"""So many cases for each one that the real HAProxy checks as well."""

BYSTANDER = Observed(
    AppId("default", "bystander"),
    (
        Pod(
            "uid-bystander", "default", "bystander-1", "bystander", "v1", "10.9.9.9",
            (Port("http", 8080),), True, False, False,
        ),
    ),
    (),
    Document('{"hosts": ["bystander.example.com"]}', "store/apps/default/bystander.json"),
    None,
)  # fmt: skip
"""An app that every case has beside it: nothing may happen to it."""


@dataclass(frozen=True)
class Outcome:
    """What became of the apps, and the files that were made of them."""

    built: Mapping[AppId, Built]
    desired: tuple[DesiredApp, ...]
    parts: Mapping[AppId, Part]
    files: Mapping[str, str]


@functools.cache
def directory() -> Path:
    """Where the files would be; HAProxy's check finds them there."""
    made = Path(tempfile.mkdtemp(prefix="vulcanized-hostile-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def _config() -> Config:
    config = Config(directory(), [Endpoint("127.0.0.1", 80)], Templates("haproxy"))
    config.render_frame()
    return config


def carried_through(
    observed: Sequence[Observed], remembered: Mapping[AppId, Remembered] | None = None
) -> Outcome:
    """Parse, claim, build and render, as the reconciler and the target do it."""
    memory = remembered or {}
    claims = Claims()
    configured: dict[AppId, Configured] = {}
    everything = {one.app: one for one in (*observed, BYSTANDER)}
    for app, one in everything.items():
        configured[app] = configure(one, memory.get(app, Remembered()))
        spec = configured[app].spec
        claims.claim(app, spec.routes if spec else (), configured[app].order)
    built = {
        app: build(one, configured[app], memory.get(app, Remembered()), claims.taken(app))
        for app, one in everything.items()
    }
    desired = tuple(each.desired for each in built.values() if each.desired is not None)
    config = _config()
    parts = {one.app: config.part(one, None) for one in desired}
    files = config.files(parts, plan.tables_of(parts.values()))
    return Outcome(built, desired, parts, files)


def judge(outcome: Outcome) -> None:
    """Files and commands hold exactly what the model wants; every problem can be read."""
    expected = wanted(outcome.desired)
    judge_files(outcome.files, expected)
    judge_problems(outcome.built)
    for part in outcome.parts.values():
        judge_servers(part)
        judge_views(part.desired)
    judge_tables(tuple(outcome.parts.values()), expected)
    if zlib.crc32(outcome.files[CONFIG].encode()) % ONE_IN == 0:
        haproxy_accepts(outcome.files)


def judge_files(files: Mapping[str, str], expected: Wanted) -> None:
    """The frame as it is without any app, then the wanted sections, and nothing else."""
    frame = grammar.sections(_config().frame.text)
    assert grammar.sections(files[CONFIG]) == frame + expected.sections
    for name in MAPS:
        _judge_map(name, grammar.entries(files[name]), expected.maps[name])
    structure = dict(grammar.entries(files[STRUCTURE]))
    assert structure.keys() - {"config", "listen"} == expected.backends.keys()
    for name, limit in expected.backends.items():
        assert re.fullmatch(rf"[0-9a-f]{{16}}:{limit}", structure[name])
    assert files.keys() == {CONFIG, STRUCTURE, *MAPS}


def _judge_map(
    name: str, entries: Sequence[tuple[str, str]], expected: Mapping[str, str | frozenset[str]]
) -> None:
    found = dict(entries)
    assert len(found) == len(entries), f"{name} has a key twice"
    assert found.keys() == expected.keys()
    for key, value in found.items():
        one = expected[key]
        assert value in one if isinstance(one, frozenset) else value == one


def judge_problems(built: Mapping[AppId, Built]) -> None:
    """Each problem is one printable line that names a place; the bystander has none."""
    assert built[BYSTANDER.app].problems == ()
    desired = built[BYSTANDER.app].desired
    assert desired is not None
    assert [server.endpoint for server in desired.backends[0].servers] == [
        Endpoint("10.9.9.9", 8080)
    ]
    for each in built.values():
        for problem in each.problems:
            assert problem.message.isprintable()
            assert problem.where.isprintable()
            assert len(problem.message) < 4000
            # Where nobody wrote anything wrong, the message names what is missing.
            assert problem.where or problem.code in {"no_servers", "no_port", "no_address"}, problem


def judge_views(desired: DesiredApp) -> None:
    """Whatever a template of somebody's gets to see can be written unquoted as one word."""
    for backend in desired.backends:
        fields = dataclasses.asdict(backend_view(desired, backend.version))
        texts = [field for field in _leaves(fields) if isinstance(field, str)]
        assert all(re.fullmatch(r"[!-~]+", text) for text in texts)
        assert not set("".join(texts)) & set("\"'`\\#;{}()[]<>|")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def judge_servers(part: Part) -> None:
    """The commands that add all servers of an app, and those that take them away."""
    adding, leaving = plan.ServerPlan(), plan.ServerPlan()
    added: list[tuple[str, ...]] = []
    left: list[tuple[str, ...]] = []
    for pool in part.pools:
        plan.plan_servers(adding, pool, pool.structure, {})
        for server in pool.servers:
            name = f"{pool.shape.id}/{server.name}"
            said = server_words(part.desired, server)
            added.append(("add", "server", name, *said))
            added += [("enable", "health", name)] if "check" in said else []
            added += [("enable", "server", name)] if server.state is not ServerState.MAINT else []
            left += [("set", "server", name, "state", "maint"), ("del", "server", name)]
        running = {
            server.name: LiveServer(server.address, server.port, ServerState.READY, server.weight)
            for server in pool.servers
        }
        plan.plan_removal(leaving, pool.shape.id, running)
    assert [grammar.command(command.text) for command in adding.enter] == added
    assert not adding.leave
    assert not adding.delete
    going = [*leaving.leave, *leaving.delete]
    assert sorted(grammar.command(command.text) for command in going) == sorted(left)


def judge_tables(parts: Sequence[Part], expected: Wanted) -> None:
    """The steps that fill empty maps, and those that empty full ones."""
    tables = plan.tables_of(parts)
    empty: dict[str, dict[str, str]] = {name: {} for name in tables}
    filled: dict[str, list[tuple[str, str]]] = {name: [] for name in MAPS}
    for step in plan.plan_tables(plan.all_table_changes(empty, tables), empty):
        if isinstance(step, Replacement):
            filled[step.subject] += _payload(step)
        else:
            said = _map_command(step)
            assert said[0] == "add"
            filled[step.subject].append((said[3], " ".join(said[4:])))
    for name in MAPS:
        _judge_map(name, filled[name], expected.maps[name])
    left = {name: set(table) for name, table in tables.items()}
    for step in plan.plan_tables(plan.all_table_changes(tables, empty), tables):
        if isinstance(step, Replacement):
            assert step.entries == ()
            left[step.subject].clear()
        else:
            deleted, _, _, name = _map_command(step)
            assert deleted == "del"
            left[step.subject].remove(name)
    assert not any(left.values())


def _map_command(command: Command) -> tuple[str, ...]:
    said = grammar.command(command.text)
    assert said[1:3] == ("map", "{map}")
    assert command.text.count("{map}") == 1
    return said


def _payload(replacement: Replacement) -> list[tuple[str, str]]:
    """The entries as HAProxy reads them: a line each, up to the first empty one."""
    text = "".join(f"{key} {value}\n" for key, value in replacement.entries)
    assert "\n\n" not in text
    return grammar.entries(text)


def haproxy_accepts(files: Mapping[str, str]) -> None:
    """The real HAProxy takes these files without an alert or a warning of ours."""
    for name, text in files.items():
        (directory() / name).write_text(text)
    command = [str(find_program("haproxy")), "-c", "-f", str(directory() / CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
