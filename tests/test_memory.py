"""What outlives the process: accepted configs and activations, whatever happens to the file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.factory import TODO, config
from vulcanized.memory import SqliteMemory
from vulcanized.model import AppId, Remembered

OTHER = AppId("default", "other")


def load(directory: Path) -> dict[AppId, Remembered]:
    """What the next process would begin with."""
    with closing(SqliteMemory(directory)) as memory:
        return memory.load()


def test_what_is_saved_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    first = SqliteMemory(tmp_path / "state")
    assert first.load() == {}
    kept = {TODO: Remembered(config(), "blue"), OTHER: Remembered(None, "7")}
    first.save(kept)
    assert load(tmp_path / "state") == kept
    first.save({OTHER: Remembered()})
    assert load(tmp_path / "state") == {TODO: kept[TODO]}
    first.close()


def test_a_broken_file_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(b"not a database at all" * 100)
    memory = SqliteMemory(tmp_path)
    assert memory.load() == {}
    assert "not a database" in memory.error
    memory.save({TODO: Remembered(config(), "")})


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file stands here")
    memory = SqliteMemory(tmp_path / "state")
    assert memory.load() == {}
    assert memory.error


def test_looking_only_changes_nothing(tmp_path: Path) -> None:
    looker = SqliteMemory(tmp_path / "state", read_only=True)
    assert looker.load() == {}
    looker.save({TODO: Remembered(config(), "")})
    assert not (tmp_path / "state").exists()
    writer = SqliteMemory(tmp_path / "state")
    writer.save({TODO: Remembered(config(), "blue")})
    assert looker.load() == {TODO: Remembered(config(), "blue")}
    looker.save({TODO: Remembered()})
    assert looker.load() == {TODO: Remembered(config(), "blue")}
    writer.close()
    looker.close()


def test_what_a_strict_target_accepted_last_is_kept_beside_it(tmp_path: Path) -> None:
    memory = SqliteMemory(tmp_path)
    kept = Remembered(config(), "blue", (("edge", config(hosts=["old.example.com"])),))
    memory.save({TODO: kept, OTHER: kept})
    memory.save({OTHER: Remembered(config(), "blue")})
    assert memory.load() == {TODO: kept, OTHER: Remembered(config(), "blue")}
    memory.close()
