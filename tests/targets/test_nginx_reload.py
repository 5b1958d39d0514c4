"""Reloads of a real nginx: gathered, proven, refused, put back; and apps that it refuses."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.servers.load import Load
from tests.servers.ports import free_port
from tests.servers.wait import eventually
from tests.targets.conftest import NewNginx
from tests.targets.edge import app, backend, get, regex, route, server
from tests.targets.nginxedge import NginxEdge, restart_of_the_daemon
from vulcanized.errors import Rejected, ReloadFailed, TargetError, TemplateFailed
from vulcanized.model import AppId, DesiredApp, Outcome, Pin, PinKind, Policies, Server
from vulcanized.resources import templates_directory
from vulcanized.targets.nginx import judge, old, process, proxy
from vulcanized.targets.nginx.config import HTTP, LAST_GOOD, Config, Rendered
from vulcanized.targets.quarantine import Verdict


def shipped(name: str) -> str:
    return (templates_directory() / "nginx" / name).read_text()


def written(path: Path, text: str) -> None:
    """At once, as an editor does."""
    partial = path.with_suffix(".part")
    partial.write_text(text)
    partial.replace(path)


# --- reloads ------------------------------------------------------------------------------------


def test_a_new_app_is_served_after_one_reload_at_once(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    applied = nginx.apply(app("b", [nginx.pod("b")]))
    assert (applied.outcome, applied.generation) == (Outcome.RELOADED, 2)
    assert nginx.reloads == ["start", "new_backend"]
    # Proven: no old worker answers any more.
    assert {nginx.get("b.example.com").pod for _ in range(50)} == {"b"}


def test_a_change_that_is_no_change_reloads_nothing(nginx: NginxEdge) -> None:
    a = app("a", [nginx.pod("a")])
    nginx.show(a)
    before = nginx.workers()
    applied = nginx.apply(a)
    assert (applied.outcome, applied.generation) == (Outcome.UNCHANGED, 2)
    assert nginx.turn().outcome is Outcome.UNCHANGED
    assert nginx.workers() == before


def test_reloads_that_follow_each_other_are_gathered(new_nginx: NewNginx) -> None:
    nginx = new_nginx(hold_off=0.3, ceiling=3.0)
    pods = [nginx.pod("p0")]
    nginx.show(app(servers=pods))
    nginx.show(app(servers=[nginx.pod("p1")]))
    for number in range(2, 22):
        pods = [nginx.pod(f"p{number}")]
        assert nginx.apply(app(servers=pods)).cause == ""
    nginx.until(lambda: nginx.applied is not None and nginx.applied.generation == nginx.generation)
    assert nginx.get().pod == "p21"
    assert nginx.reloads == ["start", "servers", "servers"]


def test_twenty_reloads_under_load_fail_no_request(new_nginx: NewNginx) -> None:
    nginx = new_nginx(hold_off=0.0, ceiling=0.0)
    pods = [nginx.pod("a"), nginx.pod("b")]
    nginx.show(app(servers=pods))
    with Load(nginx.port, "todo.example.com") as load:
        for number in range(20):
            nginx.show(app(servers=pods[number % 2 :]))
        load.go_on(50)
    assert load.report.failed == {}
    assert len(nginx.reloads) == 20


def test_the_check_runs_once_for_an_apply_and_not_for_servers(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Path] = []
    check = process.check

    def counted(program: str, at: Path, rendered: Rendered) -> Verdict:
        runs.append(at)
        return check(program, at, rendered)

    monkeypatch.setattr("vulcanized.targets.nginx.process.check", counted)
    nginx.show(app("a", [nginx.pod("a")]))
    assert len(runs) == 0  # a start is its own check
    nginx.show(app("a", [nginx.pod("a2")]), app("b", [nginx.pod("b")]))
    assert len(runs) == 1
    nginx.show(app("a", [nginx.pod("a3")]))
    assert len(runs) == 1


def test_a_new_address_to_listen_on_is_a_reload(nginx: NginxEdge) -> None:
    a = app("a", [nginx.pod("a")])
    nginx.show(a)
    other = free_port()
    nginx.settings = nginx.with_settings(listen=(f"127.0.0.1:{nginx.port}", f"127.0.0.1:{other}"))
    restart_of_the_daemon(nginx)
    nginx.show(a)
    assert nginx.reloads == ["listen"]
    assert get(other, "a.example.com").pod == "a"


def test_another_address_in_its_place_is_a_reload_of_what_is_known(nginx: NginxEdge) -> None:
    a = app("a", [nginx.pod("a")])
    nginx.show(a)
    master, nginx.port = nginx.master, free_port()
    nginx.settings = nginx.with_settings()
    restart_of_the_daemon(nginx)
    nginx.show(a)
    assert nginx.reloads == ["listen"]
    assert nginx.get("a.example.com").pod == "a"
    assert nginx.master == master


def test_an_address_that_is_taken_stops_no_service(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    workers = nginx.workers()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        nginx.settings = nginx.with_settings(
            listen=(f"127.0.0.1:{nginx.port}", f"127.0.0.1:{port}")
        )
        restart_of_the_daemon(nginx)
        with Load(nginx.port, "a.example.com") as load:
            with pytest.raises(ReloadFailed, match="cannot listen on") as refused:
                nginx.apply(app("a", [nginx.pod("a2")]))
            load.go_on(20)
        assert refused.value.restored
        assert load.report.failed == {}
        assert nginx.workers() == workers
        assert str(port) not in nginx.file(HTTP)


def test_an_address_that_is_taken_behind_our_look_is_found_by_nginx(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    before = nginx.target.actual()
    monkeypatch.setattr("vulcanized.targets.programs.taken", lambda _: "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = (f"127.0.0.1:{nginx.port}", f"127.0.0.1:{taken.getsockname()[1]}")
        nginx.settings = nginx.with_settings(listen=listen)
        restart_of_the_daemon(nginx)
        with Load(nginx.port, "a.example.com") as load:
            with pytest.raises(ReloadFailed, match=r"bind.. to .* failed") as refused:
                nginx.apply(app("a", [nginx.pod("a2")]))
            load.go_on(20)
    assert refused.value.restored
    assert load.report.failed == {}
    assert nginx.target.actual() == before
    assert nginx.get("a.example.com").pod == "a"


def spoil(nginx: NginxEdge, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes, the reload does not: the file is changed in between, once."""
    signal_to = process.signal_to
    done: list[bool] = []

    def spoiled(*words: object) -> None:
        path = nginx.settings.directory / HTTP
        if not done:
            done.append(True)
            path.write_text(text or path.read_text() + "\ngibberish;\n")
        signal_to(*words)  # type: ignore[arg-type]

    monkeypatch.setattr("vulcanized.targets.nginx.process.signal_to", spoiled)


def test_a_reload_that_fails_puts_files_and_service_back(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = app("a", [nginx.pod("a")])
    nginx.show(a)
    before, workers = nginx.target.actual(), nginx.workers()
    spoil(nginx, "", monkeypatch)
    with Load(nginx.port, "a.example.com") as load:
        with pytest.raises(ReloadFailed, match="gibberish") as failed:
            nginx.apply(app("b", [nginx.pod("b")]))
        load.go_on(30)
    assert failed.value.restored
    assert load.report.failed == {}
    assert nginx.target.actual() == before
    assert nginx.workers() == workers
    assert nginx.file(HTTP + LAST_GOOD) == before[HTTP]
    # The same is not tried again at once; with something new it is.
    with pytest.raises(ReloadFailed):
        nginx.turn()
    nginx.show(app("c", [nginx.pod("c")]))
    assert [nginx.get(f"{name}.example.com").pod for name in "abc"] == ["a", "b", "c"]


def test_a_reload_that_brings_something_else_is_taken_back_by_another_one(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx.show(app("a", [nginx.pod("a")]))
    before = nginx.target.actual()
    monkeypatch.setattr(proxy, "RELOAD_SECONDS", 2.0)
    stranger = f'server {{ listen 127.0.0.1:{nginx.port}; return 200 "stranger"; }}\n'
    spoil(nginx, stranger, monkeypatch)
    with pytest.raises(ReloadFailed, match="does not run") as failed:
        nginx.apply(app("b", [nginx.pod("b")]))
    assert failed.value.restored
    assert nginx.target.actual() == before
    assert nginx.get("a.example.com").pod == "a"


def test_what_stood_in_between_when_a_daemon_died_is_known_by_the_next(
    nginx: NginxEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the swap of the files and the signal."""
    a = app("a", [nginx.pod("a")])
    nginx.show(a)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("vulcanized.targets.nginx.process.signal_to", killed)
        with pytest.raises(Killed):
            nginx.apply(app("a", [nginx.pod("a2")]), app("b", [nginx.pod("b")]))
    assert '"/b.example.com/"' in nginx.file(HTTP)
    restart_of_the_daemon(nginx)
    # It runs the old one, and that is where an app that cannot go out would stay.
    nginx.apply(a)
    assert nginx.applied is not None
    assert nginx.applied.generation == 1
    assert nginx.reloads == []
    assert nginx.get("a.example.com").pod == "a"
    nginx.until(lambda: '"/b.example.com/"' not in nginx.file(HTTP), 5)


def test_old_workers_are_bounded_while_clients_stay(
    new_nginx: NewNginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reloads without a pause, each leaving a client behind: ever fewer of them are done."""
    monkeypatch.setattr(old, "LONGEST_SPACE", 1000.0)
    monkeypatch.setattr(old, "MANY", 3)
    nginx = new_nginx(hold_off=0.0, ceiling=0.05)
    nginx.show(app(servers=[nginx.pod("p")]))
    clients = []
    for number in range(200):
        client = socket.create_connection(("127.0.0.1", nginx.port))
        client.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: todo.example.com\r\n\r\n")
        clients.append(client)
        nginx.apply(
            app(servers=[server(f"p{number}", *nginx.pods.endpoint("p"), weight=1 + number)])
        )
        time.sleep(0.005)
    masters = len(nginx.workers().active) + len(nginx.workers().leaving)
    assert len(nginx.reloads) < 15
    assert masters < 40
    assert nginx.target._old.space() > 0
    for client in clients:
        client.close()
    nginx.until(lambda: not nginx.workers().leaving, 10)
    nginx.until(
        lambda: nginx.applied is not None and nginx.applied.generation == nginx.generation, 20
    )


# --- apps that nginx refuses ----------------------------------------------------------------------

GIBBERISH, UNENDING, SHARED = 7, 8, 9
"""Numbers of retries with which an app's pools have a line that nginx refuses.

`SHARED`: not of `a` alone, nor of others without it, but of both.
"""


class Refusing:
    """A NginxEdge whose template lets the retries of an app decide whether nginx takes it."""

    def __init__(self, new_nginx: NewNginx, folder: Path, **settings: object) -> None:
        self.templates = folder / "templates"
        self.templates.mkdir()
        written(
            self.templates / "pool.j2",
            shipped("pool.j2")
            + f"{{% if app.tries == {GIBBERISH + 1} %}}\ngibberish here;\n{{% endif %}}\n"
            + f"{{% if app.tries == {UNENDING + 1} %}}\nkeepalive_timeout {{ \n{{% endif %}}\n"
            + f"{{% if app.tries == {SHARED + 1} %}}\n"
            + 'zone shared {{ 64 if app.app == "default/a" else 128 }}k;\n{% endif %}\n',
        )
        self.edge = new_nginx(templates=self.templates, **settings)
        self._pods: dict[str, Server] = {}

    def app(self, name: str, retries: int | None, *servers: Server) -> DesiredApp:
        return app(name, servers or (self.pod(f"{name}-pod"),), policies=Policies(retries=retries))

    def pod(self, name: str) -> Server:
        if name not in self._pods:
            self._pods[name] = self.edge.pod(name)
        return self._pods[name]


@pytest.fixture
def refusing(new_nginx: NewNginx, tmp_path: Path) -> Refusing:
    return Refusing(new_nginx, tmp_path)


@pytest.mark.parametrize("kind", [GIBBERISH, UNENDING])
def test_a_refused_change_leaves_an_app_as_it_was_and_everything_else_goes_out(
    refusing: Refusing, kind: int
) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 1), refusing.app("b", 1))
    with Load(edge.port, "b.example.com") as load:
        edge.show(
            refusing.app("b", kind, edge.pod("b2")), refusing.app("a", 2), refusing.app("c", 1)
        )
        load.go_on(20)
    assert load.report.failed == {}
    assert set(edge.held) == {"b"}
    assert "last good config stays" in edge.held["b"]
    # Its pods are followed all the same.
    assert edge.get("b.example.com").pod == "b2"
    assert edge.get("c.example.com").pod == "c-pod"
    edge.show(refusing.app("b", kind, edge.pod("b3")))
    assert edge.get("b.example.com").pod == "b3"
    edge.show(refusing.app("b", 2, edge.pod("b4")))
    assert edge.held == {}
    assert edge.get("b.example.com").pod == "b4"


def test_a_new_app_that_is_refused_takes_no_route_from_anybody(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 1))
    edge.show(refusing.app("b", GIBBERISH))
    assert "it is not routed" in edge.held["b"]
    assert "gibberish" in edge.held["b"]
    assert edge.get("b.example.com").status == 404
    assert edge.get("a.example.com").pod == "a-pod"


def test_several_are_found_by_bisection_though_nginx_names_nobody(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vulcanized.targets.nginx.process._named", lambda *_: {})
    edge, pod = refusing.edge, refusing.pod("shared")
    edge.show(refusing.app("a", 1))
    bad = {"app-03", "app-11"}
    apps = (f"app-{n:02}" for n in range(16))
    edge.show(*(refusing.app(name, GIBBERISH if name in bad else 1, pod) for name in apps))
    assert set(edge.held) == bad
    assert edge.get("app-04.example.com").pod == "shared"


def test_only_what_differs_from_what_runs_is_checked(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[set[str]] = []
    real = judge.check

    def watched(config: Config, parts: judge.Parts, *more: Any) -> Verdict:
        checked.append({app.name for app in parts})
        return real(config, parts, *more)

    monkeypatch.setattr(judge, "check", watched)
    edge = refusing.edge
    edge.show(refusing.app("a", 1), refusing.app("b", 1))
    edge.show(refusing.app("c", 1), refusing.app("b", 2))
    assert checked.pop() == {"b", "c"}
    edge.show(refusing.app("c", 1, edge.pod("c2")), gone=[AppId("default", "a")])
    assert edge.get("a.example.com").status == 404
    assert checked == []
    pool = refusing.templates / "pool.j2"
    written(pool, pool.read_text() + "# other\n")
    edge.show(refusing.app("d", 1))
    assert checked.pop() == {"b", "c", "d"}


def test_an_app_that_only_passes_without_another_is_found_when_the_reload_fails(
    refusing: Refusing,
) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", SHARED), refusing.app("b", 1))
    with Load(edge.port, "a.example.com") as load:
        with pytest.raises(ReloadFailed, match="conflicts with already declared size") as failed:
            edge.apply(refusing.app("c", SHARED), refusing.app("d", 1))
        assert failed.value.restored
        edge.show(refusing.app("b", 2))
        load.go_on(20)
    assert load.report.failed == {}
    assert set(edge.held) == {"c"}
    assert [edge.get(f"{name}.example.com").pod for name in "abd"] == ["a-pod", "b-pod", "d-pod"]
    edge.show(refusing.app("c", 1))
    assert edge.held == {}
    assert edge.get("c.example.com").pod == "c-pod"


def test_a_route_of_an_app_that_is_kept_back_goes_to_whom_it_belongs_by_now(
    refusing: Refusing,
) -> None:
    edge = refusing.edge
    both = [route("a.example.com"), route("moved.example.com")]
    edge.show(app("a", [refusing.pod("a-pod")], routes=both))
    bad = app("a", [refusing.pod("a-pod")], policies=Policies(retries=GIBBERISH))
    edge.show(bad, app("b", [refusing.pod("b-pod")], routes=[route("moved.example.com")]))
    assert set(edge.held) == {"a"}
    assert edge.get("a.example.com").pod == "a-pod"
    assert edge.get("moved.example.com").pod == "b-pod"


@pytest.mark.parametrize("goes", [True, False])
def test_a_route_that_a_refused_app_waits_for_stays_with_whom_it_has(
    refusing: Refusing, goes: bool
) -> None:
    """An app renamed, or a host moved, while the new one is refused."""
    edge, pod = refusing.edge, refusing.pod("pod")
    host = "moved.example.com"
    routes = [route("old.example.com"), route(host)]
    edge.show(app("old", [pod], routes=routes), refusing.app("other", 1))
    bad = app("new", [pod], routes=[route(host)], policies=Policies(retries=GIBBERISH))
    with Load(edge.port, host) as load:
        if goes:
            edge.show(bad, gone=[AppId("default", "old")])
        else:
            edge.show(bad, app("old", [pod], routes=routes[:1]))
        edge.show(refusing.app("other", 2))
        load.go_on(20)
        assert set(edge.held) == {"new"}
        assert edge.get("old.example.com").status == (404 if goes else 200)
        good = app("new", [edge.pod("mended")], routes=[route(host)])
        edge.show(good)
        assert edge.get(host).pod == "mended"
        load.go_on(20)
    assert load.report.failed == {}
    assert edge.held == {}
    assert edge.target._judge.gone == {}


def test_a_new_daemon_keeps_it_back_too(refusing: Refusing) -> None:
    edge = refusing.edge
    good = refusing.app("a", 1)
    edge.show(good, refusing.app("b", 1))
    bad = refusing.app("a", GIBBERISH)
    edge.show(bad)
    restart_of_the_daemon(edge)
    edge.show(bad, refusing.app("b", 1), complete=True)
    assert set(edge.held) == {"a"}
    assert edge.get("a.example.com").pod == "a-pod"
    assert edge.reloads == []


def test_a_first_start_leaves_out_whom_it_refuses(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", GIBBERISH), refusing.app("b", 1))
    assert set(edge.held) == {"a"}
    assert edge.get("b.example.com").pod == "b-pod"
    assert edge.get("a.example.com").status == 404


def test_a_regex_that_nginx_cannot_compile_is_its_apps_fault(nginx: NginxEdge) -> None:
    nginx.show(app("a", [nginx.pod("a")], routes=[regex("x.org", "/[0-9]+")]))
    # Python takes it, PCRE does not.
    nginx.show(app("b", [nginx.pod("b")], routes=[regex("y.org", "/[[:nonsense:]]")]))
    assert set(nginx.held) == {"b"}
    assert nginx.get("x.org", "/7").pod == "a"


def test_a_name_that_cannot_be_written_holds_up_its_app_only(nginx: NginxEdge) -> None:
    bad = app("bad", [server('x";}', "127.0.0.1", 80)])
    nginx.show(bad, app("good", [nginx.pod("good")]))
    assert set(nginx.held) == {"bad"}
    assert nginx.get("good.example.com").pod == "good"


def test_a_header_that_nginx_cannot_name_pins_nobody(nginx: NginxEdge) -> None:
    pinned = Policies(pin=Pin(PinKind.HEADER, "x!version"))
    nginx.show(app("bad", [nginx.pod("a")], policies=pinned), app("good", [nginx.pod("good")]))
    assert "x!version" in nginx.held["bad"]
    assert nginx.get("good.example.com").pod == "good"


# --- templates ------------------------------------------------------------------------------------


def test_a_changed_template_is_rendered_checked_and_put_into_effect(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 1))
    frame = shipped("http.conf.j2").replace("404 no such host", "404 nothing")
    written(refusing.templates / "http.conf.j2", frame)
    edge.until(lambda: edge.get("nobody.org").body == "404 nothing or path", 10)
    assert edge.reloads[-1] == "template"


@pytest.mark.parametrize("template", ["http.conf.j2", "app.j2", "pool.j2", "server.j2"])
def test_a_template_that_does_not_render_keeps_what_is_there(
    refusing: Refusing, template: str
) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 1))
    good = (refusing.templates / template).read_text() if template == "pool.j2" else None
    written(refusing.templates / template, "{{ nonsense }}\n")
    eventually(lambda: failing(edge, TemplateFailed, "nonsense"), 10)
    assert edge.get("a.example.com").pod == "a-pod"
    # Pods go on to be followed.
    with pytest.raises(TemplateFailed):
        edge.apply(refusing.app("a", 1, edge.pod("a2")))
    eventually(lambda: failing(edge, TemplateFailed, "") and edge.get("a.example.com").pod == "a2")
    if good is None:
        (refusing.templates / template).unlink()
    else:
        written(refusing.templates / template, good)
    edge.until(lambda: edge.applied is not None and edge.applied.generation == edge.generation)


def test_a_frame_without_its_places_is_told(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 1))
    frame = shipped("http.conf.j2").replace("{{ places.routes }}", "")
    written(refusing.templates / "http.conf.j2", frame)
    eventually(lambda: failing(edge, TemplateFailed, "routes of `places`"), 10)
    assert edge.get("a.example.com").pod == "a-pod"


def test_a_frame_that_is_refused_is_no_apps_fault(refusing: Refusing) -> None:
    edge = refusing.edge
    edge.show(refusing.app("a", 1))
    frame = shipped("http.conf.j2").replace("gzip off;", "gibberish off;")
    written(refusing.templates / "http.conf.j2", frame)
    eventually(lambda: failing(edge, Rejected, "without any app"), 10)
    assert edge.held == {}
    assert edge.get("a.example.com").pod == "a-pod"


def failing(edge: NginxEdge, kind: type[TargetError], text: str) -> bool:
    """Whether a call fails like that."""
    try:
        edge.turn()
    except TargetError as error:
        return isinstance(error, kind) and text in str(error)
    return False


# --- commands that look ---------------------------------------------------------------------------


def test_check_and_render_touch_nothing(nginx: NginxEdge) -> None:
    wanted = app("a", [server("a")])
    files = nginx.target.rendered({wanted.app: wanted})
    nginx.target.verify({wanted.app: wanted})
    assert '"/a.example.com/"' in files[HTTP]
    assert not nginx.settings.directory.exists()
    assert nginx.target.actual() == {}


def test_what_is_rendered_is_what_stands_there(nginx: NginxEdge) -> None:
    wanted = app("a", [nginx.pod("a")])
    nginx.show(wanted)
    assert nginx.target.rendered({wanted.app: wanted}) == nginx.target.actual()


def test_check_names_all_that_are_refused(refusing: Refusing) -> None:
    apps = [refusing.app(name, GIBBERISH if name in "bd" else 1) for name in "abcd"]
    apps.append(app("e", [server("x y")]))
    with pytest.raises(Rejected) as refused:
        refusing.edge.target.verify({each.app: each for each in apps})
    named = re.findall(r"default/(\w):", str(refused.value))
    assert {*named} == {"b", "d", "e"}


def test_backends_of_thousands_of_servers_are_taken(nginx: NginxEdge) -> None:
    servers = [server(f"s{n}", f"10.0.{n // 250}.{n % 250 + 1}") for n in range(2000)]
    nginx.show(
        app("many", servers, policies=Policies(max_connections_server=5)),
        app(backends=[backend("a", [nginx.pod("a")])], split=[("a", 1)]),
    )
    assert nginx.get().pod == "a"
    assert AppId("default", "many") not in {each.app for each in nginx.target.problems()}
    assert os.stat(nginx.settings.directory / HTTP).st_size < 1 << 20
