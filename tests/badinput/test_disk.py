"""Full disks, directories that cannot be written: told, nothing half-written, traffic goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.badinput.stage import Stage, pod
from tests.daemons import Vulcanized, eventually_served_by, served_by
from tests.servers.localpods import LocalPods
from tests.servers.process import ServerProcess
from tests.servers.wait import eventually

pytestmark = pytest.mark.usefixtures("haproxy")


class InNamespace(Vulcanized):
    """A daemon that sees small file systems of its own in the place of these directories."""

    def __init__(self, *arguments: object, small: tuple[Path, ...], **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        mounts = "".join(f"mount -t tmpfs -o size=256k none {path} && " for path in small)
        words = [sys.executable, "-m", "vulcanized", "run", "--config", str(self.config)]
        command = [
            str(shutil.which("unshare")),
            "-m",
            "sh",
            "-c",
            f'{mounts}exec "$@"',
            "sh",
            *words,
        ]
        self.process = ServerProcess("vulcanized", command, self.folder / "vulcanized.log")

    def inside(self, path: Path) -> Path:
        """That path as the daemon sees it."""
        return Path(f"/proc/{self.process.pid}/root{path}")


@pytest.fixture(scope="module")
def _may_mount() -> None:
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"], capture_output=True
    )
    if tried.returncode != 0:
        pytest.skip(f"no mount namespace here: {tried.stderr.decode().strip()}")


@pytest.mark.usefixtures("_may_mount")
def test_a_full_disk_stops_no_pod_and_leaves_whole_files(stage: Stage) -> None:
    state = stage.folder / "state"
    state.mkdir()
    with LocalPods() as pods:
        stage.config("todo")
        stage.pod_of("todo", pods.start("todo-1", "1"))
        daemon = InNamespace(
            stage.folder / "v",
            stage.sides,
            more=f'[sync]\nstate = "{state}"',
            small=(stage.folder / "v/haproxy", state),
        )
        with daemon:
            daemon.start()
            for folder in (daemon.directory, state):
                filler = daemon.inside(folder) / "filler"
                with filler.open("wb", 0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * 1024)
            config = daemon.inside(daemon.directory) / "haproxy.cfg"
            before = config.read_text()
            # By run time a pod comes, and another app; neither has room in the files.
            stage.pod(pod("todo-2", "todo", pods.start("todo-2", "1")))
            eventually_served_by(daemon.url, "todo.example.com", ["todo-1", "todo-2"])
            eventually(
                lambda: "No space left on device" in daemon.status()["targets"][0]["error"],
                20,
                "the full disk to show",
            )
            assert str(daemon.directory) in daemon.status()["targets"][0]["error"]
            assert config.read_text() == before
            stage.remove_pod("todo-1")
            eventually_served_by(daemon.url, "todo.example.com", ["todo-2"])
            assert daemon.page("/healthz")[0] == 200

            for folder in (daemon.directory, state):
                (daemon.inside(folder) / "filler").unlink()
            eventually(lambda: not daemon.status()["targets"][0]["error"], 30, "room again")
            eventually(lambda: "todo-2" in config.read_text(), 10, "the files")
            assert not list(daemon.inside(daemon.directory).glob("*.new"))


def test_a_log_to_a_full_device_stops_nothing(stage: Stage) -> None:
    with LocalPods() as pods:
        stage.config("todo")
        stage.pod_of("todo", pods.start("todo-1", "1"))
        daemon = Vulcanized(stage.folder / "v", stage.sides)
        daemon.process.log.symlink_to("/dev/full")
        with daemon:
            daemon.start()
            stage.pod(pod("todo-2", "todo", pods.start("todo-2", "1")))
            eventually_served_by(daemon.url, "todo.example.com", ["todo-1", "todo-2"])
            stage.raw_config("{", "todo")
            eventually(lambda: daemon.app("default/todo").get("quarantined"), 10, "the refusal")
            assert served_by(daemon.url, "todo.example.com") == {"todo-1", "todo-2"}


def test_a_command_whose_output_has_no_room_says_so(stage: Stage) -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "vulcanized", "render", "--config", str(stage.settings)]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode != 0
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("which", ["directory", "state"])
def test_a_directory_that_cannot_be_made_is_told_with_its_path(stage: Stage, which: str) -> None:
    (stage.folder / "file").write_text("")
    place = stage.folder / "file/below"
    with LocalPods() as pods:
        stage.config("todo")
        stage.pod_of("todo", pods.start("todo-1", "1"))
        more = f'[sync]\nstate = "{place}"' if which == "state" else ""
        with Vulcanized(stage.folder / "v", stage.sides, more=more) as daemon:
            if which == "directory":
                text = daemon.config.read_text().replace(f'"{daemon.directory}"', f'"{place}"')
                daemon.config.write_text(text)
                daemon.start(ready=False)
                eventually(
                    lambda: str(place) in daemon.status()["targets"][0]["error"],
                    20,
                    "the error",
                    ignore=(OSError, ValueError, KeyError),
                )
                assert "give vulcanized the right" in daemon.status()["targets"][0]["error"]
                assert daemon.page("/readyz")[0] == 503
            else:
                # It only matters after a restart: traffic does not wait for it.
                daemon.start()
                assert served_by(daemon.url, "todo.example.com") == {"todo-1"}
                line, *_ = daemon.log_lines("memory unusable")
                assert str(place) in line["path"]
                assert "mend or delete the file" in line["reason"]


def test_a_broken_memory_is_told_and_costs_nothing(stage: Stage) -> None:
    state = stage.folder / "state"
    state.mkdir()
    (state / "memory.db").write_bytes(os.urandom(8192))
    with LocalPods() as pods:
        stage.config("todo")
        stage.pod_of("todo", pods.start("todo-1", "1"))
        more = f'[sync]\nstate = "{state}"'
        with Vulcanized(stage.folder / "v", stage.sides, more=more) as daemon:
            daemon.start()
            assert served_by(daemon.url, "todo.example.com") == {"todo-1"}
            assert daemon.log_lines("memory unusable")
    shutil.rmtree(state)
