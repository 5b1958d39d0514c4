"""The reader that judges reads as HAProxy does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hostile import grammar
from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing, find_program

READ = [
    ("balance  roundrobin\t", ("balance", "roundrobin")),
    ("description a#b c", ("description", "a")),
    ("description a\\#b\\ c", ("description", "a#b c")),
    ('description "a # b" c', ("description", "a # b", "c")),
    ("description 'a \\ \"b' # c", ("description", 'a \\ "b')),
    ("description a\\x41\\x20b", ("description", "aA b")),
    ('description ""', ("description", "")),
    ("description a\\qb", ("description", "a\\qb")),
    ("# nothing", ()),
    ("   ", ()),
]
REFUSED = ["a 'b", 'a "b', "a \\", 'a "${HOME}"', "a \\xzz", "a\0b"]


@pytest.mark.parametrize(("line", "words"), READ)
def test_words_are_told_apart_by_its_rules(line: str, words: tuple[str, ...]) -> None:
    assert grammar.words(line) == words


@pytest.mark.parametrize("line", REFUSED)
def test_what_could_mean_anything_is_not_read(line: str) -> None:
    with pytest.raises(grammar.Unreadable):
        grammar.words(line)


def test_a_section_has_its_own_directives_only() -> None:
    text = "global\n  log stdout local0\n\nbackend a from b\n  balance first # x\nlisten c\n"
    assert grammar.sections(text) == (
        grammar.Section(("global",), (("log", "stdout", "local0"),)),
        grammar.Section(("backend", "a", "from", "b"), (("balance", "first"),)),
        grammar.Section(("listen", "c"), ()),
    )


@pytest.mark.parametrize("text", ["bind :80\n", "global\n.if 1\n", "global\n  a\r\n", "global"])
def test_what_stands_outside_of_sections_is_not_read(text: str) -> None:
    with pytest.raises(grammar.Unreadable):
        grammar.sections(text)


def test_a_map_has_a_key_and_a_value_a_line() -> None:
    assert grammar.entries("# x\n\n a  b c \nd\te\nf\n") == [("a", "b c"), ("d", "e"), ("f", "")]


@pytest.mark.parametrize("text", ["a;b", "a\nb", "a <<", "a\\ b", "set map #1 b", "a" * 9000])
def test_what_is_not_one_command_is_not_read(text: str) -> None:
    with pytest.raises(grammar.Unreadable):
        grammar.command(text)


@pytest.mark.parametrize(("line", "words"), [each for each in READ if each[1][1:] > ("",)])
def test_haproxy_reads_the_same(tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    """Its alert repeats a word that it does not know."""
    try:
        program = find_program("haproxy")
    except ServerMissing as reason:
        missing(reason)
    config = tmp_path / "haproxy.cfg"
    _, _, unknown = line.strip().partition(" ")
    config.write_text(f"backend a\n  {unknown}\n")
    done = subprocess.run(
        [program, "-c", "-f", str(config)], capture_output=True, text=True, timeout=30
    )
    assert f"unknown keyword '{words[1]}' in" in done.stderr
