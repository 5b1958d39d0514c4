"""An app whose own config HAProxy refuses is kept back; whatever else is wanted goes out."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers.load import Load
from tests.servers.wait import eventually
from tests.targets.conftest import NewEdge
from tests.targets.edge import Edge, app, regex, route
from tests.targets.test_haproxy_faults import restart_of_the_daemon, run_by_others
from vulcanized.errors import ProxyUnreachable, Rejected, TemplateFailed
from vulcanized.model import AppId, DesiredApp, Outcome, Policies, Server
from vulcanized.resources import templates_directory
from vulcanized.targets.haproxy import process
from vulcanized.targets.haproxy.config import CONFIG
from vulcanized.targets.haproxy.parts import HOSTS, REGEX

GIBBERISH, UNENDING, SHARED, OUTSIDE = 7, 8, 9, 10
"""Numbers of retries with which an app's section has a line that HAProxy refuses."""


def shipped(name: str) -> str:
    return (templates_directory() / "haproxy" / name).read_text()


def written(path: Path, text: str) -> None:
    """At once, as an editor does."""
    partial = path.with_suffix(".part")
    partial.write_text(text)
    partial.replace(path)


class Refusing:
    """An Edge whose template lets the retries of an app decide whether HAProxy takes it."""

    def __init__(self, new_edge: NewEdge, folder: Path, **settings: object) -> None:
        self.templates = folder / "templates"
        self.templates.mkdir()
        self.outside = folder / "page.http"
        self.backend = (
            shipped("backend.j2")
            + f"{{% if backend.retries == {GIBBERISH} %}}\n    gibberish here\n{{% endif %}}\n"
            # Its words point to the end of the file, whoever that belongs to.
            + f"{{% if backend.retries == {UNENDING} %}}\n    .if 1\n{{% endif %}}\n"
            + f"{{% if backend.retries == {SHARED} %}}\nbackend shared\n{{% endif %}}\n"
            + f"{{% if backend.retries == {OUTSIDE} %}}\n    errorfile 503 {self.outside}\n"
            + "{% endif %}\n"
        )
        written(self.templates / "backend.j2", self.backend)
        self.edge = new_edge(templates=self.templates, **settings)
        self._pods: dict[str, Server] = {}

    def app(self, name: str, retries: int | None, *servers: Server) -> DesiredApp:
        """An app with a pod, unless told which."""
        pods = servers or (self._pod(f"{name}-pod"),)
        return app(name, pods, policies=Policies(retries=retries))

    def apps(self, count: int, retries: int | None = None, prefix: str = "app") -> list[DesiredApp]:
        pod = self._pod(f"{prefix}-pod")
        return [self.app(f"{prefix}-{n:02}", retries, pod) for n in range(count)]

    def _pod(self, name: str) -> Server:
        if name not in self._pods:
            self._pods[name] = self.edge.pod(name)
        return self._pods[name]


@pytest.fixture
def refusing(new_edge: NewEdge, tmp_path: Path) -> Refusing:
    return Refusing(new_edge, tmp_path)


def pod_of(edge: Edge, name: str) -> str:
    return edge.get(f"{name}.example.com").pod


def refusal_by(edge: Edge) -> Callable[[], str]:
    """What the next call ends with if all of what is wanted is refused, else ""."""

    def refused() -> str:
        try:
            edge.turn()
        except Rejected as error:
            return str(error)
        return ""

    return refused


# --- kept back, the rest goes out -------------------------------------------------------------


def test_a_refused_change_leaves_an_app_as_it_was_and_everything_else_goes_out(
    refusing: Refusing,
) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 2), refusing.app("b", 2))
    with Load(edge.port, "a.example.com") as load:
        a2 = edge.pod("a2")
        edge.show(refusing.app("a", GIBBERISH, a2), refusing.app("b", 3), refusing.app("new", None))
        load.go_on(30)
        assert set(edge.held) == {"a"}
        assert "unknown keyword 'gibberish'" in edge.held["a"]
        assert "its last good config stays" in edge.held["a"]
        # Its pods are followed all the same.
        assert pod_of(edge, "a") == "a2"
        edge.show(refusing.app("a", GIBBERISH, edge.pod("a3")))
        assert pod_of(edge, "a") == "a3"
        load.go_on(20)
    assert load.report.failed == {}
    assert pod_of(edge, "new") == "new-pod"
    assert edge.file(CONFIG).count("retries 2") == 1
    assert "gibberish" not in edge.file(CONFIG)
    assert len(edge.reloads) == 2


def test_a_new_app_that_is_refused_takes_no_route_from_anybody(refusing: Refusing) -> None:
    edge = refusing.edge
    everybody = app("all", [edge.pod("all")], routes=[route("*.example.com")])
    edge.show(everybody)
    edge.show(refusing.app("bad", GIBBERISH), refusing.app("good", None))
    assert "it is not routed" in edge.held["bad"]
    assert pod_of(edge, "good") == "good-pod"
    assert pod_of(edge, "bad") == "all"
    assert "bad.example.com" not in edge.live().tables[HOSTS]
    assert not any("bad" in text for text in edge.target.actual().values())
    edge.show(gone=[everybody.app])
    assert edge.get("bad.example.com").status == 404


def test_what_cannot_be_written_leaves_an_app_as_it_was_and_its_pods_are_followed(
    edge: Edge,
) -> None:
    edge.show(app("a", [edge.pod("a")]))
    evil = [route("a.example.com\n    gibberish")]
    edge.show(app("a", [edge.pod("a2")], routes=evil), app("b", [edge.pod("b")]))
    assert "cannot be a host" in edge.held["a"]
    assert (pod_of(edge, "a"), pod_of(edge, "b")) == ("a2", "b")
    edge.show(gone=[AppId("default", "a")])
    assert edge.held == {}


def test_it_is_released_as_soon_as_its_config_changes(refusing: Refusing) -> None:
    edge = refusing.edge
    pod = edge.pod("p")
    edge.show(refusing.app("a", 2, pod))
    edge.show(refusing.app("a", GIBBERISH, pod))
    worker = edge.worker()
    # To where it was: there is nothing to do.
    edge.show(refusing.app("a", 2, pod))
    assert (edge.held, edge.worker()) == ({}, worker)
    edge.show(refusing.app("a", GIBBERISH, pod))
    edge.show(refusing.app("a", 4, pod))
    assert edge.held == {}
    assert "retries 4" in edge.file(CONFIG)
    assert edge.reloads == ["start", "structure"]


def test_it_is_released_when_the_template_is_mended(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 2), refusing.app("bad", GIBBERISH))
    assert set(edge.held) == {"bad"}
    written(refusing.templates / "backend.j2", shipped("backend.j2"))
    edge.until(lambda: pod_of(edge, "bad") == "bad-pod", 10)
    assert edge.held == {}


def test_a_changed_template_that_is_bad_for_one_app_goes_out_for_the_others(
    refusing: Refusing,
) -> None:
    edge = refusing.edge
    edge.show(*refusing.apps(4), refusing.app("odd", 3))
    header = "    http-response set-header X-New yes\n"
    nonsense = "{% if backend.retries == 3 %}\n    nonsense\n{% endif %}\n"
    with Load(edge.port, "odd.example.com") as load:
        written(refusing.templates / "backend.j2", refusing.backend + header + nonsense)
        edge.until(lambda: edge.get("app-02.example.com").headers.get("x-new") == "yes", 10)
        edge.until(lambda: set(edge.held) == {"odd"})
        load.go_on(20)
    assert load.report.failed == {}
    assert "x-new" not in edge.get("odd.example.com").headers


# --- found ------------------------------------------------------------------------------------


def test_several_at_once_are_found_and_named(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(*refusing.apps(6))
    bad = refusing.apps(5, GIBBERISH, "bad")
    edge.show(*refusing.apps(3, 4), *bad)
    assert set(edge.held) == {each.app.name for each in bad}
    assert edge.file(CONFIG).count("retries 4") == 3


def test_those_that_haproxy_does_not_name_are_found_by_bisection(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(*refusing.apps(3, prefix="old"))
    bad = [refusing.app("app-05x", UNENDING), refusing.app("app-11x", UNENDING)]
    edge.show(*refusing.apps(16), *bad)
    assert set(edge.held) == {"app-05x", "app-11x"}
    assert all(".if" in reason for reason in edge.held.values())
    assert pod_of(edge, "app-15") == "app-pod"


def test_what_run_time_can_do_goes_out_while_they_are_looked_for(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", None))
    edge.apply(*refusing.apps(16), refusing.app("app-05x", UNENDING))
    seen = 0
    while edge.applied is not None and edge.applied.generation < edge.generation:
        if edge.target._judge._searching is not None:
            seen += 1
            pod = f"during-{seen}"
            edge.apply(refusing.app("a", None, edge.pod(pod)))
            assert pod_of(edge, "a") == pod
        else:
            edge.turn()
    assert seen >= 4
    assert set(edge.held) == {"app-05x"}


def test_of_two_that_are_refused_only_together_the_later_one_is_kept_back(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = refusing.edge
    edge.show(refusing.app("z-first", SHARED), refusing.app("other", None))
    edge.show(refusing.app("a-later", SHARED), refusing.app("another", None))
    assert set(edge.held) == {"a-later"}
    assert {pod_of(edge, name) for name in ("z-first", "another")} == {"z-first-pod", "another-pod"}
    # When the other goes, it passes at its next try.
    monkeypatch.setattr("vulcanized.targets.quarantine.FIRST_SECOND_TRY", 0.1)
    edge.show(refusing.app("a-later", SHARED, edge.pod("new")), gone=[AppId("default", "z-first")])
    edge.target._judge.held.hold(AppId("default", "a-later"), "tried again", "", 0.0)
    edge.until(lambda: edge.held == {} and pod_of(edge, "a-later") == "new")


def test_a_frame_that_is_refused_is_no_apps_fault(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", None))
    frame = shipped("haproxy.cfg.j2").replace("    mode http\n", "    mode nonsense\n", 1)
    written(refusing.templates / "haproxy.cfg.j2", frame)

    assert "without any app, mend haproxy.cfg.j2" in eventually(refusal_by(edge), 10)
    assert edge.held == {}
    with pytest.raises(Rejected):
        edge.apply(refusing.app("a", None, edge.pod("a2")))
    assert pod_of(edge, "a") == "a2"
    (refusing.templates / "haproxy.cfg.j2").unlink()
    edge.until(lambda: edge.applied is not None and edge.applied.generation == edge.generation, 10)


def test_a_frame_that_does_not_render_holds_up_no_app(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", None))
    written(refusing.templates / "haproxy.cfg.j2", "{% nonsense %}")
    with pytest.raises(TemplateFailed):
        edge.until(lambda: edge.turn() and False, 10)
    with contextlib.suppress(TemplateFailed):
        edge.apply(refusing.app("b", None), refusing.app("bad", GIBBERISH))
    edge.until(lambda: pod_of(edge, "b") == "b-pod", 10)
    assert set(edge.held) == {"bad"}


def test_servers_that_had_sessions_go_also_while_a_reload_is_refused(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", None, edge.pod("old")))
    frame = shipped("haproxy.cfg.j2").replace("    mode http\n", "    mode nonsense\n", 1)
    written(refusing.templates / "haproxy.cfg.j2", frame)
    eventually(refusal_by(edge), 10)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(edge.get, "a.example.com", "/slow?seconds=0.8")
        eventually(lambda: edge.pods.in_flight("old"), 5)
        with pytest.raises(Rejected):
            edge.apply(refusing.app("a", None, edge.pod("new")))
        assert set(edge.live().servers["default:a"]) == {"old", "new"}
        assert slow.result().pod == "old"
    edge.pods.stop("old")  # HAProxy waits for its idle connections too
    eventually(lambda: refusal_by(edge)() and set(edge.live().servers["default:a"]) == {"new"}, 10)


def test_check_names_all_that_are_refused(refusing: Refusing) -> None:
    bad = [refusing.app("one", GIBBERISH), refusing.app("two", UNENDING)]
    evil = DesiredApp(AppId("default", "evil\n"), (route("evil.example.com"),), (), ())
    apps = {each.app: each for each in (*refusing.apps(9), *bad, evil)}
    with pytest.raises(Rejected) as refused:
        refusing.edge.target.verify(apps)
    said = str(refused.value)
    assert all(name in said for name in ("default/one: ", "default/two: ", "default/evil"))
    assert "default/app-" not in said


# --- causes outside ---------------------------------------------------------------------------


def test_it_is_tried_again_by_itself_without_a_reload_until_it_passes(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.targets.quarantine.FIRST_SECOND_TRY", 0.2)
    edge = refusing.edge
    edge.show(refusing.app("a", None), refusing.app("bad", OUTSIDE))
    assert "page.http" in edge.held["bad"]
    reloads, tries = edge.master.processes().reloads, count_checks(monkeypatch)
    edge.until(lambda: len(tries) >= 2, 10)
    assert edge.master.processes().reloads == reloads
    refusing.outside.write_text("HTTP/1.0 503 Back soon\r\n\r\n")
    edge.until(lambda: edge.held == {}, 10)
    edge.until(lambda: pod_of(edge, "bad") == "bad-pod", 10)
    assert edge.master.processes().reloads == reloads + 1


def count_checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    checked: list[Path] = []
    check = process.check

    def counted(program: str, directory: Path, files: dict[str, str]) -> object:
        checked.append(directory)
        return check(program, directory, files)

    monkeypatch.setattr(process, "check", counted)
    return checked


def test_an_app_that_serves_is_never_left_out_for_the_sake_of_others(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.targets.staged.FIRST_SECOND_TRY", 0.2)
    edge = refusing.edge
    refusing.outside.write_text("HTTP/1.0 503 Back soon\r\n\r\n")
    edge.show(refusing.app("a", OUTSIDE))
    refusing.outside.unlink()
    with Load(edge.port, "a.example.com") as load:
        edge.apply(refusing.app("new", None))
        assert re.search("app default/a.*it runs like that", eventually(refusal_by(edge), 10))
        load.go_on(20)
        refusing.outside.write_text("HTTP/1.0 503 Back soon\r\n\r\n")
        edge.until(lambda: pod_of(edge, "new") == "new-pod", 10)
        load.go_on(20)
    assert load.report.failed == {}
    assert edge.held == {}


# --- regexes ----------------------------------------------------------------------------------


def test_an_app_with_a_bad_regex_keeps_the_good_ones_that_it_had(edge: Edge) -> None:
    pods = [edge.pod("a")]
    good, bad = regex("x.org", "/[0-9]+"), regex("x.org", "/[[:nonsense:]]")
    edge.show(app("a", pods, routes=[good, route("y.org")]))
    edge.show(app("a", pods, routes=[bad, route("y.org"), route("z.org")]), app("new", pods))
    assert set(edge.held) == {"a"}
    assert [edge.get(*at).pod for at in (("x.org", "/7"), ("y.org",), ("z.org",))] == ["a"] * 3
    assert pod_of(edge, "new") == "a"
    assert len(edge.live().tables[REGEX]) == 1
    edge.show(app("a", pods, routes=[regex("x.org", "/[a-z]+")]))
    assert edge.held == {}
    assert (edge.get("x.org", "/z").pod, edge.get("x.org", "/7").status) == ("a", 404)


# --- starts -----------------------------------------------------------------------------------


def test_a_new_daemon_keeps_it_back_too(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 2, edge.pod("a")))
    bad = refusing.app("a", GIBBERISH, edge.pod("a2"))
    edge.show(bad)
    restart_of_the_daemon(edge)
    with Load(edge.port, "a.example.com") as load:
        edge.show(bad, refusing.app("b", None))
        load.go_on(20)
    assert load.report.failed == {}
    assert set(edge.held) == {"a"}
    assert {pod_of(edge, name) for name in "ab"} == {"a2", "b-pod"}


def test_haproxy_killed_comes_back_with_its_last_good_config(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 2, edge.pod("a")), refusing.app("b", None))
    edge.show(refusing.app("a", GIBBERISH, edge.pod("a2")))
    processes = edge.master.processes()
    os.kill(processes.master, signal.SIGKILL)
    os.kill(processes.worker, signal.SIGKILL)
    edge.until(lambda: len(edge.reloads) == 2, 10, "it is started again")
    assert {pod_of(edge, name) for name in "ab"} == {"a2", "b-pod"}
    assert "retries 2" in edge.file(CONFIG)


def test_a_start_of_both_finds_the_last_good_config_in_the_files(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 2, edge.pod("a")))
    edge.target.close(stop_proxy=True)
    restart_of_the_daemon(edge)
    edge.show(refusing.app("a", GIBBERISH, edge.pod("a2")), refusing.app("b", None))
    assert set(edge.held) == {"a"}
    assert {pod_of(edge, name) for name in "ab"} == {"a2", "b-pod"}


def test_a_first_start_leaves_out_whoever_is_refused(refusing: Refusing) -> None:
    edge = refusing.edge
    bad = [refusing.app("one", GIBBERISH), refusing.app("two", UNENDING)]
    assert edge.apply(*refusing.apps(5), *bad).outcome is Outcome.RELOADED
    assert set(edge.held) == {"one", "two"}
    assert pod_of(edge, "app-04") == "app-pod"
    assert edge.get("one.example.com").status == 404
    assert edge.reloads == ["start"]


def test_what_stood_in_the_files_is_left_out_where_that_is_refused_too(
    refusing: Refusing,
) -> None:
    """Nobody is served while HAProxy is away: then nobody has anything to lose."""
    edge = refusing.edge
    refusing.outside.write_text("HTTP/1.0 503 Back soon\r\n\r\n")
    apps = [refusing.app("a", OUTSIDE), refusing.app("b", None)]
    edge.show(*apps)
    edge.target.close(stop_proxy=True)
    refusing.outside.unlink()
    restart_of_the_daemon(edge)
    edge.show(*apps)
    assert set(edge.held) == {"a"}
    assert pod_of(edge, "b") == "b-pod"


def test_files_for_a_haproxy_that_is_away_are_made_without_it(
    new_edge: NewEdge, tmp_path: Path
) -> None:
    refusing = Refusing(new_edge, tmp_path, start=False)
    edge = refusing.edge
    a = edge.pod("a")
    with pytest.raises(ProxyUnreachable):
        edge.apply(refusing.app("a", 2, a))
    bad = [refusing.app("a", GIBBERISH, a), refusing.app("new", UNENDING)]
    with pytest.raises(ProxyUnreachable):
        edge.apply(*bad, refusing.app("b", None))
    assert set(edge.held) == {"a", "new"}
    with run_by_others(edge) as haproxy:
        haproxy.start()
        edge.until(lambda: edge.applied is not None and edge.applied.generation == 2, 5)
        assert {pod_of(edge, name) for name in "ab"} == {"a", "b-pod"}
        assert edge.get("new.example.com").status == 404
        assert edge.reloads == []


# --- without a check --------------------------------------------------------------------------


def test_without_a_check_the_words_of_a_failed_reload_tell_the_app(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 2, edge.pod("a")), refusing.app("b", None))
    monkeypatch.setattr(process, "find_program", lambda: None)
    with Load(edge.port, "a.example.com") as load:
        edge.apply(refusing.app("a", 2, edge.pod("a2")))
        edge.until(lambda: True)
        try:
            edge.show(refusing.app("bad", GIBBERISH), refusing.app("c", None))
        except Exception:
            edge.until(
                lambda: edge.applied is not None and edge.applied.generation == edge.generation
            )
        load.go_on(20)
    assert load.report.failed == {}
    assert set(edge.held) == {"bad"}
    assert {pod_of(edge, name) for name in "abc"} == {"a2", "b-pod", "c-pod"}
