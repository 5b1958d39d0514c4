"""nginx's files as they are written. `GOLDEN=update pytest` writes the golden ones anew."""

from __future__ import annotations

import cProfile
import os
import subprocess
import time
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program
from tests.targets.conftest import NewNginx
from tests.targets.edge import app, backend, server
from tests.targets.test_haproxy_files import CASES as SHARED
from tests.targets.test_haproxy_files import GOLDEN, A, B
from vulcanized.model import (
    AppId,
    Balance,
    DesiredApp,
    Endpoint,
    Outcome,
    Policies,
    Protocol,
    Timeouts,
)
from vulcanized.targets.nginx.config import HTTP, MADE_OF, MAIN, Config, MadeOf, Rendered
from vulcanized.targets.nginx.parts import Part
from vulcanized.targets.render import Templates

LISTEN = [Endpoint("*", 80), Endpoint("::", 80), Endpoint("127.0.0.1", 8080)]
VERSIONS = [backend("blue", [A]), backend("green", [B])]
CASES: dict[str, list[DesiredApp]] = {
    **{name: case for name, case in SHARED.items() if name != "policies"},
    "policies": [
        app(
            servers=[A],
            policies=Policies(
                protocol=Protocol.HTTPS,
                balance=Balance.URI,
                timeouts=Timeouts(connect=0.5, server=30, tunnel=86400),
                retries=0,
                max_connections_server=50,
                max_connections_app=200,
                max_body_size=10 << 20,
            ),
        )
    ],
}


def config() -> Config:
    directory = Path("/etc/nginx/vulcanized")
    return Config(directory, LISTEN, Templates("nginx"), user="www-data")


def parts_of(case: str, made_by: Config) -> dict[AppId, Part]:
    return {each.app: made_by.part(each, None) for each in CASES[case]}


def without_frame(rendered: Rendered) -> str:
    """What the apps add: a change of the frame changes one golden file, not all."""
    empty = config().files({})
    before = empty.files[HTTP].replace(empty.made_of.digest, "DIGEST").splitlines()
    after = rendered.files[HTTP].replace(rendered.made_of.digest, "DIGEST").splitlines()
    differ = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    pieces = ["\n".join(after[k:m]) for how, _, _, k, m in differ if how != "equal"]
    return "".join(f"{piece}\n---\n" for piece in pieces)


@pytest.mark.parametrize("case", CASES)
def test_files_are_as_they_were_agreed(case: str) -> None:
    made_by = config()
    rendered = made_by.files(parts_of(case, made_by))
    if case == "frame":
        text = "".join(f"==> {name} <==\n{rendered.files[name]}" for name in (HTTP, MAIN))
        text = text.replace(rendered.made_of.digest, "DIGEST-OF-IT-ALL")
    else:
        text = without_frame(rendered)
    path = GOLDEN / f"nginx-{case}.txt"
    if os.environ.get("GOLDEN") == "update":
        path.write_text(text)
    assert text == path.read_text()


def test_what_is_only_checked_compiles_no_regex_to_machine_code(tmp_path: Path) -> None:
    made_by = config()
    parts = parts_of("plain", made_by)
    assert "pcre_jit" in made_by.files(parts).files[MAIN]
    assert "pcre_jit" not in made_by.candidate(parts, tmp_path).files[MAIN]


@pytest.mark.parametrize("case", CASES)
def test_nginx_takes_them(case: str, tmp_path: Path) -> None:
    try:
        program = find_program("nginx")
    except ServerMissing as reason:
        missing(reason)
    made_by = config()
    for name, text in made_by.candidate(parts_of(case, made_by), tmp_path).files.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [program, "-e", "stderr", "-t", "-c", tmp_path / MAIN],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_what_they_were_made_of_can_be_read_back(case: str) -> None:
    made_by = config()
    parts = parts_of(case, made_by)
    rendered = made_by.files(parts)
    assert MadeOf.read(rendered.files[MADE_OF]) == rendered.made_of
    assert rendered.made_of.shapes == {app: part.shape for app, part in parts.items()}


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"digest": 1}', "\ud800"])
def test_what_is_not_ours_is_not_read(text: str) -> None:
    assert MadeOf.read(text) is None


def test_a_line_is_told_to_be_an_apps() -> None:
    made_by = config()
    rendered = made_by.files(parts_of("routes", made_by))
    lines = rendered.files[HTTP].splitlines()
    for number, line in enumerate(lines, 1):
        owner = rendered.owner(number)
        for name in ("one", "two"):
            if f"/:default/{name}?" in line or f"~default~{name}" in line:
                assert owner == AppId("default", name), line
    assert rendered.owner(1) is None
    assert {app.name for _, app in rendered.chunks if app} == {"one", "two"}


def test_the_order_of_apps_and_what_was_rendered_before_do_not_show() -> None:
    fresh, used = config(), config()
    for case in CASES:
        used.files(parts_of(case, used))
    parts = parts_of("routes", used)
    turned = dict(reversed(parts.items()))
    assert used.files(turned).files == fresh.files(parts_of("routes", fresh)).files


def test_which_version_is_active_does_not_show() -> None:
    one, other = (app(backends=VERSIONS, split=[(v, 1)]) for v in ("blue", "green"))
    made_by = config()
    files = [made_by.files({each.app: made_by.part(each, None)}).files for each in (one, other)]
    assert files[0] == files[1]


def test_a_switch_costs_the_same_however_many_apps_there_are(new_nginx: NewNginx) -> None:
    """Calls are counted: unlike time they are always the same."""

    def switched(version: str) -> DesiredApp:
        versions = [backend(each, [server(f"{each}-1")]) for each in ("blue", "green")]
        return app("switched", backends=versions, split=[(version, 1)])

    def calls(others: int) -> int:
        nginx = new_nginx()
        rest = [app(f"app-{number}", [server(f"p{number}")]) for number in range(others)]
        nginx.show(switched("blue"), *rest)
        nginx.turn()
        nginx.target._look_at = time.monotonic() + 60  # a look at all comes once a second
        profile = cProfile.Profile()
        applied = profile.runcall(nginx.apply, switched("green"))
        assert applied.outcome is Outcome.UPDATED
        assert nginx.flags() == {"switched~green"}
        return sum(each.callcount for each in profile.getstats())

    assert calls(100) == calls(3)
