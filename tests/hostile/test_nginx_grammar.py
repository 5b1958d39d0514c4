"""The reader that judges reads as nginx does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hostile.grammar import Unreadable
from tests.hostile.nginxgrammar import Directive, directives
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program

READ = [
    ("a b;", ("a", "b")),
    ('a "b c" d;', ("a", "b c", "d")),
    ("a 'b \"c';", ("a", 'b "c')),
    ('a "b;{}#c";', ("a", "b;{}#c")),
    ("a b#c;", ("a", "b#c")),
    ('a "b\\"c\\\\d\\e";', ("a", 'b"c\\d\\e')),
    ("a b\\;c;", ("a", "b\\;c")),
    ('a "";', ("a", "")),
    ("a\tb\r\nc;", ("a", "b", "c")),
    ("a ${b}c;", ("a", "${b}c")),
]
REFUSED = ["a", "a b", ";", "{", "a {", "}", "a b }", 'a "b;', 'a "b"c;', "a { b }", 'a "\\";']


@pytest.mark.parametrize(("text", "words"), READ)
def test_words_are_told_apart_by_its_rules(text: str, words: tuple[str, ...]) -> None:
    assert directives(text) == (Directive(words),)


@pytest.mark.parametrize("text", [*REFUSED, "a b\0c;"])
def test_what_nginx_refuses_is_not_read(text: str) -> None:
    with pytest.raises(Unreadable):
        directives(text)


def test_blocks_and_comments() -> None:
    text = "a b { # c;\n d e; f { } }\n# g\nh;"
    inner = (Directive(("d", "e")), Directive(("f",), ()))
    assert directives(text) == (Directive(("a", "b"), inner), Directive(("h",)))


@pytest.mark.parametrize(("text", "words"), READ)
def test_nginx_reads_the_same(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    """A variable is set to each word, and its name is refused with the word in it."""
    said = "".join(_check(tmp_path, f"include /nowhere/ {text[1:]}"))
    assert "invalid number of arguments" in said or "nowhere" in said
    for word in words[1:]:
        if word and "$" not in word and "/" not in word:
            one = text.replace("a", "include", 1) if len(words) == 2 else ""
            assert not one or f'/{word}" failed' in _check(tmp_path, one)


@pytest.mark.parametrize("text", REFUSED)
def test_nginx_refuses_the_same(tmp_path: Path, text: str) -> None:
    assert "[emerg]" in _check(tmp_path, text)


def _check(folder: Path, text: str) -> str:
    try:
        program = find_program("nginx")
    except ServerMissing as reason:
        missing(reason)
    config = folder / "nginx.conf"
    config.write_text(f"pid {folder}/pid;\nevents {{}}\n{text}")
    done = subprocess.run(
        [program, "-e", "stderr", "-t", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stderr
