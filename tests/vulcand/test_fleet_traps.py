"""What vulcand does not survive, or does not see, done by somebody else in our objects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.wait import eventually
from tests.vulcand.fleet import HOST, Fleet


@pytest.mark.parametrize("whole", [False, True], ids=["its key", "with its servers"])
def test_a_backend_deleted_under_its_frontend_fails_no_request(fleet: Fleet, whole: bool) -> None:
    fleet.todo("blue-1", "blue-2")
    fleet.daemon()
    fleet.served_by("blue-1", "blue-2")

    with fleet.load() as load:
        if whole:
            # Of its key vulcand hears first, and what it still has keeps its servers.
            fleet.etcd.delete_prefix(f"{fleet.vulcand.prefix}/backends/{fleet.backend()}/")
        else:
            fleet.etcd.delete(fleet.backend_key())
        load.go_on(20)
        fleet.add_pod("blue-3")
        fleet.remove_pod("blue-1")
        fleet.served_by("blue-2", "blue-3")
        eventually(lambda: not copies(fleet), 10, "the end of its copy")
        fleet.add_pod("blue-4")
        fleet.served_by("blue-2", "blue-3", "blue-4")


def copies(fleet: Fleet) -> list[str]:
    """What stands there of the copies of backends that were deleted."""
    return [key for key in fleet.tree() if "_again__" in key]


def test_a_backend_deleted_while_no_daemon_ran_is_made_anew_such_that_vulcand_sees_it(
    fleet: Fleet,
) -> None:
    fleet.todo("blue-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    daemon.process.kill()

    with fleet.load():
        fleet.etcd.delete(fleet.backend_key())
        daemon.start()
        fleet.settled(daemon)
        fleet.add_pod("blue-2")
        fleet.served_by("blue-1", "blue-2")


def test_a_backend_that_was_deleted_and_put_again_by_hand_is_seen(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    fleet.daemon()
    fleet.served_by("blue-1")
    value = fleet.etcd.get(fleet.backend_key())
    assert value is not None

    with fleet.load():
        fleet.etcd.delete(fleet.backend_key())
        fleet.etcd.put(fleet.backend_key(), value)
        fleet.add_pod("blue-2")
        fleet.served_by("blue-1", "blue-2")


def test_an_idle_backend_and_a_middleware_that_were_put_again_by_hand_are_whole(
    fleet: Fleet,
) -> None:
    """Of each vulcand has forgotten what belongs to it, though all keys stand there."""
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    rewrite = {"Regexp": ".*", "Replacement": "http://mine.test/", "Redirect": True}
    fleet.hand.middleware(fleet.frontend(), "mine", "rewrite", rewrite)
    fleet.answers(302)
    keys = [fleet.backend_key("green"), fleet.frontend_key]
    values = [fleet.etcd.get(key) or b"" for key in keys]

    daemon.process.pause()
    for key, value in zip(keys, values, strict=True):
        fleet.etcd.delete(key)
        fleet.etcd.put(key, value)
    fleet.served_by("blue-1")
    daemon.process.resume()

    fleet.answers(302)
    fleet.etcd.delete(fleet.keys.middleware(fleet.frontend(), "mine"))
    fleet.activate("green")
    fleet.served_by("green-1")


NULLS: dict[str, Callable[[Fleet], str]] = {
    "frontend": lambda f: f.frontend_key,
    "backend": lambda f: f.backend_key(),
    "server": lambda f: f.server_key,
    "middleware": lambda f: f.middleware_key,
    "a foreign server": lambda f: f.keys.server(f.backend(), "mine"),
    "a foreign middleware": lambda f: f.keys.middleware(f.frontend(), "mine"),
}


@pytest.mark.parametrize("which", NULLS)
def test_a_null_in_an_object_of_ours_ends_vulcand_once(mortal: Fleet, which: str) -> None:
    mortal.todo("blue-1", max_connections={"app": 100})
    daemon = mortal.daemon()
    mortal.served_by("blue-1")
    before = mortal.tree()

    # vulcand reads a key when it comes to it: else it may be mended by then.
    daemon.process.pause()
    mortal.etcd.put(NULLS[which](mortal), "null")
    eventually(lambda: not mortal.vulcand.running, 5, "vulcand's end")
    daemon.process.resume()

    eventually(lambda: mortal.tree() == before, 5, "the tree as it was")
    mortal.vulcand.start()
    mortal.served_by("blue-1")


def test_a_vulcand_that_starts_late_or_again_has_it_all(mortal: Fleet) -> None:
    mortal.vulcand.stop()
    mortal.todo("blue-1", "green-1")
    daemon = mortal.daemon()
    mortal.settled(daemon)

    mortal.vulcand.start()

    mortal.served_by("blue-1")
    mortal.vulcand.kill()
    mortal.activate("green")
    mortal.settled(daemon)
    mortal.vulcand.start()
    mortal.served_by("green-1")
    assert mortal.hand.ask(HOST).status == 200
