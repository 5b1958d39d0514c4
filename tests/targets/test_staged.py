"""The directory of a file target: whole files, one daemon, and what was refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vulcanized.errors import DirectoryLocked, NotWritten, Rejected
from vulcanized.targets.staged import FIRST_SECOND_TRY, LAST_SECOND_TRY, Folder, Refusal


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.write({"a": "1\n", "b": "2\n"})
    before = {name: (tmp_path / name).stat().st_ino for name in "ab"}
    assert folder.write({"a": "1\n", "b": "3\n"})
    after = {name: (tmp_path / name).stat().st_ino for name in "ab"}
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]
    assert not folder.write({"a": "1\n", "b": "3\n"})
    # Another one finds the same files as they should be.
    assert not Folder(tmp_path).write({"a": "1\n", "b": "3\n"})


def test_the_first_of_the_files_stands_there_only_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[str] = []
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        put.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noted)
    folder = Folder(tmp_path)
    folder.write({"a": "1\n", "b": "1\n", "c": "1\n"})
    folder.write({"a": "2\n", "b": "2\n", "c": "1\n"})
    assert put == ["b", "c", "a", "a", "b"]


def test_a_file_that_someone_else_changed_is_noticed_and_written_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write({"a": "1\n"})
    assert folder.untouched()
    (tmp_path / "a").write_text("2\n")
    assert not folder.untouched()
    assert folder.write({"a": "1\n"})
    assert folder.untouched()
    (tmp_path / "a").unlink()
    assert not folder.untouched()
    folder.write({"a": "1\n"})
    assert folder.read(["a", "nothing"]) == {"a": "1\n"}


def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    folder.write({"a": "old\n"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NotWritten, match="No space left on device"):
            folder.write({"a": "new\n"})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old\n")]
    assert folder.write({"a": "new\n"})


def test_a_directory_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "d")
    folder.write({"a": "1\n"})
    (tmp_path / "d/a").unlink()
    (tmp_path / "d").rmdir()
    folder.write({"a": "1\n"})
    assert (tmp_path / "d/a").read_text() == "1\n"


def test_what_is_kept_stays_when_the_file_is_replaced(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.keep("a", "a.last-good")
    assert not (tmp_path / "a.last-good").exists()
    for text in ("1\n", "2\n"):
        folder.write({"a": text})
        folder.keep("a", "a.last-good")
    folder.write({"a": "3\n"})
    assert folder.read(["a", "a.last-good"]) == {"a": "3\n", "a.last-good": "2\n"}


def test_a_directory_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    one, other = Folder(tmp_path / "d"), Folder(tmp_path / "d")
    one.lock()
    one.lock()
    with pytest.raises(DirectoryLocked, match="another vulcanized"):
        other.lock()
    one.close()
    other.lock()
    other.close()


def test_whatever_leads_to_a_directory_it_is_the_same_one(tmp_path: Path) -> None:
    one = Folder(tmp_path / "d")
    one.lock()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    with pytest.raises(DirectoryLocked):
        Folder(tmp_path / "link").lock()
    one.close()


def test_nothing_in_it_can_be_deleted_to_take_it(tmp_path: Path) -> None:
    one = Folder(tmp_path / "d")
    one.lock()
    one.write({"a": "1\n"})
    for path in (tmp_path / "d").iterdir():
        path.unlink()
    with pytest.raises(DirectoryLocked):
        Folder(tmp_path / "d").lock()
    one.close()


def test_one_that_was_made_anew_belongs_to_who_takes_it_first(tmp_path: Path) -> None:
    one, other = Folder(tmp_path / "d"), Folder(tmp_path / "d")
    one.lock()
    (tmp_path / "d").rmdir()
    one.lock()
    with pytest.raises(DirectoryLocked):
        other.lock()
    (tmp_path / "d").rmdir()
    other.lock()
    with pytest.raises(DirectoryLocked):
        one.lock()
    assert not one.locked
    other.close()


def test_a_candidate_is_gone_afterwards_and_what_a_crash_left_before(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate/left").write_text("")
    with folder.candidate() as path:
        assert list(path.iterdir()) == []
        (path / "x").write_text("")
    assert list(tmp_path.iterdir()) == []


def test_what_was_refused_is_tried_again_ever_more_seldom() -> None:
    refusal, error = Refusal(), Rejected("no")
    assert refusal.of("x", 0.0) is None
    now, waits = 0.0, []
    for _ in range(7):
        refusal.remember("x", error, now)
        assert refusal.of("x", now + 1) is error
        assert refusal.of("y", now + 1) is None
        wait = next(w for w in range(1, 10_000) if refusal.of("x", now + w) is None)
        waits.append(float(wait))
        now += wait
    assert waits[:2] == [FIRST_SECOND_TRY, 2 * FIRST_SECOND_TRY]
    assert waits[-1] == LAST_SECOND_TRY
    refusal.remember("y", error, now)
    assert refusal.of("x", now) is None
    refusal.forget()
    assert refusal.of("y", now) is None
    assert not refusal.pending


def test_a_remembered_error_does_not_grow_each_time_that_it_is_raised() -> None:
    refusal = Refusal()
    refusal.remember("x", Rejected("no"), 0.0)
    for _ in range(3):
        depth = 0
        try:
            raise refusal.of("x", 1.0) or AssertionError
        except Rejected as error:
            trace = error.__traceback__
            while trace is not None:
                depth, trace = depth + 1, trace.tb_next
        assert depth == 1
