"""A daemon that starts with a broken template takes nothing away that the one before it showed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.targets.edge import Edge, app, backend
from vulcanized.errors import TemplateFailed
from vulcanized.model import ANY_VERSION, Backend, DesiredApp, Server


def todo(backends: Sequence[Backend], *split: str) -> DesiredApp:
    return app("todo", backends=backends, split=[(version, 1) for version in split])


def starts_with_a_broken_template(edge: Edge, wanted: DesiredApp) -> set[str]:
    """The pods that answer once a new daemon has been told what is wanted."""
    folder = edge.folder / "templates"
    folder.mkdir()
    (folder / "backend.j2").write_text("{{ nonsense }}\n")
    edge.settings = edge.with_settings(templates=folder)
    edge.target.close(stop_proxy=False)
    edge.target = edge.new_target()
    edge.generation, edge.applied = 0, None
    with pytest.raises(TemplateFailed, match="nonsense"):
        edge.apply(wanted)
    answers = [edge.get() for _ in range(6)]
    assert {answer.status for answer in answers} == {200}
    return {answer.pod for answer in answers}


@pytest.fixture
def pods(edge: Edge) -> dict[str, Server]:
    """A pod of each of three versions."""
    return {version: edge.pod(version, version) for version in ("blue", "green", "red")}


def test_a_version_that_came_meanwhile_waits_for_the_template(
    edge: Edge, pods: dict[str, Server]
) -> None:
    blue = backend("blue", [pods["blue"]])
    edge.show(todo([blue], "blue"))
    wanted = todo([blue, backend("green", [pods["green"]])], "blue")
    assert starts_with_a_broken_template(edge, wanted) == {"blue"}
    (edge.folder / "templates" / "backend.j2").unlink()
    edge.until(lambda: edge.applied is not None and edge.applied.generation == 1, 10)
    edge.show(todo([blue, backend("green", [pods["green"]])], "green"))
    assert edge.get().pod == "green"


def test_a_switch_to_a_version_that_came_meanwhile_waits_for_the_template(
    edge: Edge, pods: dict[str, Server]
) -> None:
    blue = backend("blue", [pods["blue"]])
    edge.show(todo([blue], "blue"))
    wanted = todo([blue, backend("green", [pods["green"]])], "green")
    assert starts_with_a_broken_template(edge, wanted) == {"blue"}


def test_of_a_split_the_known_version_serves(edge: Edge, pods: dict[str, Server]) -> None:
    blue, red = backend("blue", [pods["blue"]]), backend("red", [pods["red"]])
    edge.show(todo([blue, red], "blue"))
    wanted = todo([blue, red, backend("green", [pods["green"]])], "blue", "green")
    assert starts_with_a_broken_template(edge, wanted) == {"blue"}


def test_an_activation_that_came_meanwhile_waits_for_the_template(
    edge: Edge, pods: dict[str, Server]
) -> None:
    everyone = backend(ANY_VERSION, pods.values())
    edge.show(todo([everyone], ANY_VERSION))
    apart = [backend(version, [pod]) for version, pod in pods.items()]
    answering = starts_with_a_broken_template(edge, todo(apart, "blue"))
    assert answering == {"blue", "green", "red"}


def test_an_activation_that_went_meanwhile_waits_for_the_template(
    edge: Edge, pods: dict[str, Server]
) -> None:
    edge.show(todo([backend("blue", [pods["blue"]])], "blue"))
    everyone = backend(ANY_VERSION, pods.values())
    assert starts_with_a_broken_template(edge, todo([everyone], ANY_VERSION)) == {"blue"}
