"""An nginx target with a real nginx behind it, driven as the daemon's runner drives it."""

from __future__ import annotations

from typing import Any

from tests.targets.edge import Edge
from vulcanized.settings import NginxSettings
from vulcanized.targets.nginx import NginxTarget, process
from vulcanized.targets.nginx.config import FLAGS
from vulcanized.targets.nginx.endpoint import generation
from vulcanized.targets.nginx.process import Master, Workers


class NginxEdge(Edge):
    """A target over an nginx that it starts, and pods. A context manager that ends them all."""

    settings: NginxSettings  # type: ignore[assignment]
    target: NginxTarget  # type: ignore[assignment]

    def with_settings(self, **changes: Any) -> NginxSettings:  # type: ignore[override]
        # The workers are another user's, and look for flags there.
        self.folder.chmod(0o755)
        values: dict[str, Any] = {
            "directory": self.folder / "d",
            "listen": (f"127.0.0.1:{self.port}",),
            "start": True,
            **changes,
        }
        return NginxSettings(**values)

    def new_target(self) -> NginxTarget:  # type: ignore[override]
        return NginxTarget(
            self.settings, hold_off=self.hold_off, ceiling=self.ceiling, stop=self.stop
        )

    # --- what runs ---------------------------------------------------------------------------

    @property
    def master(self) -> Master:  # type: ignore[override]
        found = process.child_of(self.settings.directory)
        assert found is not None, "nginx does not run"
        return found

    def workers(self) -> Workers:
        return process.workers(self.master)

    def digest(self) -> str:
        """What nginx says that it runs."""
        answer = generation(self.settings.listen[0])
        assert answer is not None, "nothing answers"
        return answer.digest

    def flags(self) -> set[str]:
        """The versions that have a flag, `app~version`."""
        found = (path.name for path in (self.settings.directory / FLAGS).iterdir())
        return {name.partition("~default~")[2] for name in found if "~" in name}

    def log(self) -> str:
        return (self.settings.directory / process.LOG_FILE).read_text()


def restart_of_the_daemon(edge: NginxEdge) -> None:
    """As after a SIGKILL: nothing is closed in order, only the lock goes with the process."""
    edge.target._folder.close()
    edge.target = edge.new_target()
    edge.generation, edge.outcomes, edge.applied = 0, [], None
