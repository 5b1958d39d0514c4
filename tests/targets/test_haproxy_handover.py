"""Routes that go from one app to another in one step, while the other's backend takes a reload."""

from __future__ import annotations

from tests.servers.load import Load
from tests.targets.edge import Edge, app, backend, regex, route, server
from tests.targets.test_haproxy_faults import restart_of_the_daemon
from vulcanized.model import AppId, DesiredApp, Policies, ServerState
from vulcanized.targets.haproxy import handover, plan, words
from vulcanized.targets.haproxy.parts import ACTIVE, HOSTS, PREFIX, Shape, make_part

HOST = "todo.example.com"
OLD, NEW = AppId("default", "old"), AppId("default", "new")


def refused(edge: Edge, old: DesiredApp, *routes: str) -> DesiredApp:
    """`old` becomes `new`, which HAProxy refuses: its regex is none. What `new` was to be."""
    new = app("new", [edge.pod("n")], routes=[*old.routes, regex(HOST, "/(")])
    edge.show(new, gone=[OLD])
    assert set(edge.held) == {"new"}
    return new


def test_a_renamed_app_fails_no_request(edge: Edge) -> None:
    here = [route(HOST)]
    edge.show(app("old", [edge.pod("o")], routes=here))
    with Load(edge.port, HOST) as load:
        load.go_on(20)
        edge.show(app("new", [edge.pod("n")], routes=here), gone=[OLD])
        load.go_on(30)
    assert load.report.failed == {}
    assert load.report.last_seen["o"] < load.report.last_seen["n"]
    live = edge.live()
    assert "default:old" not in live.structure
    assert set(live.tables[ACTIVE]) == {"default/new"}
    assert edge.reloads == ["start", "new_backend"]


def test_a_route_that_moves_to_a_new_app_fails_no_request(edge: Edge) -> None:
    o = edge.pod("o")
    edge.show(app("old", [o], routes=[route(HOST), route("other.org")]))
    with Load(edge.port, HOST) as load, Load(edge.port, "other.org") as rest:
        load.go_on(20)
        edge.show(
            app("old", [o], routes=[route("other.org")]),
            app("new", [edge.pod("n")], routes=[route(HOST)]),
        )
        load.go_on(30)
        rest.go_on(10)
    assert load.report.failed == {}
    assert rest.report.failed == {}
    assert edge.get().pod == "n"
    assert edge.get("other.org").pod == "o"


def test_a_new_app_that_nobody_serves_yet_takes_a_route_when_it_can(edge: Edge) -> None:
    """It is known, with no version, until the change that brings both a version and the route."""
    o = edge.pod("o")
    edge.show(app("old", [o], routes=[route(HOST)]), app("new", routes=[], backends=[]))
    blue = backend("blue", [edge.pod("n", "blue")])
    with Load(edge.port, HOST) as load:
        load.go_on(20)
        edge.show(
            app("new", routes=[route(HOST)], backends=[blue], split=[("blue", 1)]), gone=[OLD]
        )
        load.go_on(30)
    assert load.report.failed == {}
    assert edge.get().pod == "n"


def test_while_the_reload_is_refused_the_old_app_goes_on(edge: Edge) -> None:
    old = app("old", [edge.pod("o1"), edge.pod("o2")], routes=[route(HOST)])
    edge.show(old)
    with Load(edge.port, HOST) as load:
        load.go_on(20)
        new = refused(edge, old)
        load.go_on(20)
        edge.target._running = None  # read back, as after any fault
        edge.turn()
        load.go_on(20)
        edge.show(app("new", new.backends[0].servers, routes=[route(HOST)]))
        load.go_on(20)
    assert load.report.failed == {}
    assert edge.get().pod == "n"
    assert "default:old" not in edge.live().structure


def test_it_goes_on_over_a_crash_and_a_restart_of_haproxy(edge: Edge) -> None:
    limited = Policies(max_connections_app=500)
    old = app("old", [edge.pod("o")], routes=[route(HOST)], policies=limited)
    edge.show(old)
    new = refused(edge, old)
    restart_of_the_daemon(edge)
    edge.show(new)
    assert edge.get().pod == "o"
    edge.until(lambda: "old" in edge.file(ACTIVE), what="the files")
    assert edge.command(f"show map {edge.settings.directory}/limits.map").endswith("500\n\n")
    edge.master.ask("reload\n")
    edge.until(lambda: edge.get().pod == "o", what="an answer after a reload by someone else")


def test_what_nobody_waits_for_any_more_goes_at_once(edge: Edge) -> None:
    old = app("old", [edge.pod("o")], routes=[route(HOST), route(HOST, "/a"), route("b.org")])
    edge.show(old)
    new = app("new", [edge.pod("n")], routes=[route(HOST), regex(HOST, "/(")])
    edge.show(new, gone=[OLD])
    assert edge.get().pod == "o"
    assert edge.get("b.org").status == 404
    assert "todo.example.com/a/" not in edge.live().tables[PREFIX]
    edge.show(gone=[NEW])
    assert edge.get().status == 404
    live = edge.live()
    assert not any(live.tables.values())
    assert not any(live.servers.values())


def test_an_app_that_comes_back_has_its_routes_back(edge: Edge) -> None:
    o = edge.pod("o")
    old = app("old", [o], routes=[route(HOST)])
    edge.show(old)
    with Load(edge.port, HOST) as load:
        refused(edge, old)
        edge.show(app("old", [o, edge.pod("o2")], routes=[route(HOST)]), gone=[NEW])
        load.go_on(20)
    assert load.report.failed == {}
    assert set(edge.live().servers["default:old"]) == {"o", "o2"}
    assert edge.reloads == ["start"]


# --- the decisions ------------------------------------------------------------------------------


def test_an_app_without_traffic_leaves_nothing() -> None:
    tables = {ACTIVE: {"default/old": "nowhere"}, PREFIX: {"x.org/": "default/old"}}
    assert handover.left(OLD, [route("x.org")], {}, tables, {}, lambda _: ()) is None


def test_what_is_left_runs_as_it_ran() -> None:
    bounds = Policies(max_body_size=9, max_connections_app=5)
    a = server("a", state=ServerState.DRAIN)
    desired = app("old", [a], routes=[route("x.org")], policies=bounds)
    shape = Shape.of("default:old", "backend default:old\n    server own 10.0.0.9:1\n", "")
    part = make_part(desired, None, lambda _: shape)
    tables, structure = plan.tables_of([part]), {"default:old": f"{shape.digest}:7"}
    running = (*desired.backends[0].servers, server("own", "10.0.0.9", 1))
    reach = handover.left(
        OLD, desired.routes, structure, tables, {shape.digest: shape}, lambda _: running
    )
    assert reach is not None
    assert plan.tables_of([reach.part]) == tables
    (pool,) = reach.part.pools
    assert (pool.maxconn, pool.servers) == (7, desired.backends[0].servers)


def test_a_backend_left_that_nobody_knows_the_shape_of_is_not_touched() -> None:
    tables = {ACTIVE: {"default/old": "default:old"}, PREFIX: {"x.org/": "default/old"}}
    reach = handover.left(OLD, [route("x.org")], {"default:old": "1:0"}, tables, {}, lambda _: ())
    assert reach is not None
    assert reach.untouched == {"default:old"}
    assert (HOSTS, "x.org", "x.org") in reach.part.entries


def test_only_routes_that_another_app_has_are_waited_for() -> None:
    new = make_part(
        app("new", routes=[route("x.org"), route("y.org"), route("z.org")], backends=[]),
        None,
        lambda version: Shape.of(words.backend_id(NEW, version), "", ""),
    )
    tables = {PREFIX: {"x.org/": "default/old", "y.org/": "default/new"}}
    assert handover.awaited([new], tables) == {OLD: [route("x.org")]}
