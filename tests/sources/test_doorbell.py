"""The bell says where to look, also where the system's own words would mislead."""

from __future__ import annotations

from pathlib import Path

from tests.servers.wait import eventually
from vulcanized.doorbell import Doorbell, Ring


def test_a_swapped_link_to_a_directory_means_to_look_at_everything(tmp_path: Path) -> None:
    """What kubelet does with a mounted config map: to inotify, only a hidden file is renamed."""
    (tmp_path / "..first").mkdir()
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "..second").mkdir()
    (tmp_path / "..data_tmp").symlink_to("..second")
    with Doorbell(tmp_path) as bell:
        bell.arm()
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        eventually(lambda: _rung(bell).files is None, 10)


def test_a_closed_file_is_told_with_its_writer_done(tmp_path: Path) -> None:
    with Doorbell(tmp_path) as bell:
        bell.arm()
        (tmp_path / "a").write_text("x")
        eventually(lambda: (_rung(bell).files or {}).get("a"), 10)


def _rung(bell: Doorbell) -> Ring:
    ring = bell.wait(2)
    assert ring is not None
    return ring
