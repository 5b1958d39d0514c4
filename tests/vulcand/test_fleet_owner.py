"""Whose an object is: other people's are never touched, unless an app adopts them."""

from __future__ import annotations

import json

from tests.servers.wait import eventually
from tests.vulcand.fleet import HOST, Fleet, Written, target_of

ADOPT = {"frontends": ["old"], "backends": ["old-b"]}


def foreign(fleet: Fleet) -> dict[str, Written]:
    """All keys that are not ours."""
    return {key: kv for key, kv in fleet.written().items() if "/vulcanized__" not in key}


def old_installation(fleet: Fleet, host: str = HOST, name: str = "old") -> None:
    """A frontend `old` for a host on the pod old-1, as somebody wrote it by hand."""
    fleet.hand.backend(f"{name}-b")
    fleet.hand.server(f"{name}-b", "s", fleet.hand.pod(f"{name}-1"))
    fleet.hand.frontend(name, f"{name}-b", f'Host("{host}") && PathRegexp("/.*")')


def test_foreign_objects_are_never_touched(fleet: Fleet) -> None:
    old_installation(fleet, "old.example.com")
    fleet.hand.put("frontends/gone/frontend", {"Type": "http", "BackendId": "missing", "Route": ""})
    fleet.hand.put("frontends/bad/frontend", "{")
    fleet.hand.put("backends/vulcanizedx/backend", {"Type": "http"})
    fleet.hand.put("backends/alone/servers/s", "")
    fleet.hand.put("listeners/l", "{")
    fleet.hand.put("hosts/h/host", {"Settings": {}})
    before = foreign(fleet)
    fleet.todo("blue-1", "green-1")

    daemon = fleet.daemon()

    fleet.served_by("blue-1")
    fleet.served_by("old-1", host="old.example.com")
    fleet.activate("green")
    fleet.served_by("green-1")
    fleet.remove_app()
    eventually(lambda: not fleet.tree(ours=True).keys() - nowhere(fleet), 5, "the app's end")
    daemon.process.restart()
    daemon.wait_ready()
    fleet.settled(daemon)
    daemon.process.stop()
    assert foreign(fleet) == before


def nowhere(fleet: Fleet) -> set[str]:
    """What stands there without any app."""
    return {fleet.keys.backend(fleet.keys.nowhere_id)}


def test_keys_that_belong_nowhere_are_told_and_left(fleet: Fleet) -> None:
    prefix = fleet.vulcand.prefix
    strange = [
        f"{prefix}/backends/{fleet.backend()}",
        f"{prefix}/frontends",
        f"{prefix}-staging/backends/x/backend",
        f"{prefix}/backends/{fleet.backend()}/notes",
    ]
    for key in strange:
        fleet.etcd.put(key, "mine")
    fleet.todo("blue-1")

    daemon = fleet.daemon()

    fleet.served_by("blue-1")
    (told,) = daemon.log_lines("keys that do not belong there")
    assert told["keys"] == len(strange)
    fleet.remove_app()
    eventually(lambda: not fleet.tree(ours=True).keys() - {*strange, *nowhere(fleet)}, 5)
    assert all(fleet.etcd.get(key) == b"mine" for key in strange)
    fleet.etcd.delete_prefix(f"{prefix}-staging/")


def test_a_foreign_middleware_on_a_frontend_of_ours_is_kept_also_when_that_is_made_anew(
    fleet: Fleet,
) -> None:
    fleet.todo("blue-1", "green-1")
    daemon = fleet.daemon()
    fleet.served_by("blue-1")
    rewrite = {"Regexp": ".*", "Replacement": "http://mine.test/", "Redirect": True}
    fleet.hand.middleware(fleet.frontend(), "mine", "rewrite", rewrite)
    key = fleet.keys.middleware(fleet.frontend(), "mine")
    fleet.answers(302)
    fleet.like_a_fresh_start(daemon)

    fleet.activate("green")
    fleet.settled(daemon)
    fleet.answers(302)
    fleet.etcd.delete(fleet.frontend_key)
    eventually(lambda: fleet.etcd.get(fleet.frontend_key), 5, "the frontend")
    fleet.answers(302)
    fleet.etcd.delete(key)
    fleet.served_by("green-1")


def test_an_app_in_the_way_of_a_foreign_frontend_is_refused_told_and_released(fleet: Fleet) -> None:
    old_installation(fleet)
    fleet.todo("blue-1")
    fleet.add_pod("other-1", "1", "other")
    fleet.configure("other")

    daemon = fleet.daemon()

    fleet.served_by("other-1", host="other.example.com")
    assert fleet.etcd.get(fleet.frontend_key) is None
    fleet.served_by("old-1")
    (problem,) = daemon.app("default/todo")["problems"]
    assert (problem["code"], problem["target"]) == ("quarantined", "vulcand")
    assert '"adopt": {"frontends": ["old"]}' in problem["message"]
    (quarantined,) = target_of(daemon)["quarantined"]
    assert quarantined["app"] == "default/todo"
    assert daemon.metric("vulcanized_target_quarantined_apps", target="vulcand") == 1
    (told,) = daemon.log_lines("quarantined")
    assert told["app"] == "default/todo"
    checked = daemon.command("check")
    assert checked.returncode == 1
    assert "app default/todo: frontend old of vulcand" in checked.stderr

    fleet.hand.delete("frontends/old/frontend")

    fleet.served_by("blue-1")
    eventually(lambda: not daemon.app("default/todo")["problems"], 5, "its release")
    assert len(daemon.log_lines("released")) == 1
    assert daemon.command("check").returncode == 0


def test_what_would_be_adopted_is_seen_in_diff(fleet: Fleet) -> None:
    old_installation(fleet)
    fleet.todo("blue-1", adopt=ADOPT)

    seen = fleet.daemon(start=False).command("diff")

    assert seen.returncode == 1
    prefix = fleet.vulcand.prefix
    assert f"--- vulcand/{prefix}/frontends/old/frontend (now)" in seen.stdout
    assert f"--- vulcand/{prefix}/backends/old-b/servers/s (now)" in seen.stdout
    assert f"+++ vulcand/{fleet.frontend_key} (wanted)" in seen.stdout


def test_an_installation_is_taken_over_app_by_app_without_a_failed_request(fleet: Fleet) -> None:
    old_installation(fleet)
    old_installation(fleet, "other.example.com", "older")
    fleet.todo("blue-1")
    fleet.add_pod("other-1", "1", "other")
    fleet.configure("other")
    daemon = fleet.daemon()
    fleet.served_by("old-1")

    with fleet.load(), fleet.load("other.example.com"):
        fleet.configure(adopt=ADOPT)
        fleet.served_by("blue-1")
        fleet.served_by("older-1", host="other.example.com")
        fleet.configure("other", adopt={"frontends": ["older"], "backends": ["older-b"]})
        fleet.served_by("other-1", host="other.example.com")
        eventually(lambda: not foreign(fleet), 5, "the old ones to be gone")
    fleet.like_a_fresh_start(daemon)


def test_an_adopted_backend_goes_when_the_last_frontend_on_it_does(fleet: Fleet) -> None:
    old_installation(fleet)
    fleet.hand.frontend("second", "old-b", 'Host("second.example.com")')
    fleet.todo("blue-1", adopt=ADOPT)
    fleet.daemon()
    fleet.served_by("blue-1")
    fleet.served_by("old-1", host="second.example.com")

    fleet.hand.delete("frontends/second/frontend")

    eventually(lambda: not foreign(fleet), 5, "the old ones to be gone")


def test_our_backend_under_a_foreign_frontend_goes_when_that_does(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    fleet.daemon()
    fleet.served_by("blue-1")
    fleet.hand.frontend("mine", fleet.backend(), 'Host("mine.example.com")')
    fleet.served_by("blue-1", host="mine.example.com")

    fleet.remove_app()

    fleet.answers(404)
    assert fleet.hand.ask("mine.example.com").status == 200
    fleet.hand.delete("frontends/mine/frontend")
    eventually(lambda: fleet.tree().keys() == nowhere(fleet), 5, "the backend to be gone")


def test_beside_a_backend_whose_id_all_of_ours_begin_with_nothing_is_written(fleet: Fleet) -> None:
    fleet.hand.backend("vulcanized")
    fleet.todo("blue-1")

    daemon = fleet.daemon(start=False).start(ready=False)

    eventually(lambda: "rename it" in target_of(daemon)["error"], 10, ignore=(OSError, ValueError))
    failures = target_of(daemon)["failures"]
    eventually(lambda: target_of(daemon)["failures"] > failures + 1, 10, "more tries")
    assert fleet.tree().keys() == {f"{fleet.vulcand.prefix}/backends/vulcanized/backend"}
    assert daemon.metric("vulcanized_target_up") == 0
    fleet.hand.delete("backends/vulcanized/backend")
    fleet.served_by("blue-1")


def test_another_fleet_in_the_same_tree_is_left_alone(fleet: Fleet) -> None:
    fleet.todo("blue-1")
    first = fleet.daemon()
    fleet.served_by("blue-1")
    before = fleet.written()
    fleet.store += "-other"
    fleet.add_pod("red-1", "red", "red")
    fleet.configure("red")

    fleet.daemon("two", target='leader = "other"')

    fleet.served_by("red-1", host="red.example.com")
    now = fleet.written()
    assert {key: now[key] for key in before} == before
    assert first.log_lines("drift") == []
    assert all(json.loads(kv.value) for kv in now.values())
