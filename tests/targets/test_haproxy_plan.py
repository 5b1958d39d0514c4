"""The decisions, without a HAProxy: what is changed at run time, in which order, what is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.targets.edge import app, backend, exact, regex, route, server
from vulcanized.model import ANY_VERSION, AppId, DesiredApp, Policies, ServerState, Share
from vulcanized.targets.haproxy import plan, words
from vulcanized.targets.haproxy.live import LiveServer
from vulcanized.targets.haproxy.master import Command, Replacement
from vulcanized.targets.haproxy.parts import (
    ACTIVE,
    EXACT,
    HOSTS,
    PREFIX,
    REGEX,
    REGEX_HOSTS,
    SPLIT,
    Part,
    Pool,
    Shape,
    make_part,
    pool_text,
    read_shapes,
)
from vulcanized.targets.shares import slots

Tables = dict[str, dict[str, str]]


def part(desired: DesiredApp, before: Part | None = None) -> Part:
    """As HAProxy's config makes it, with a shape that tells policies apart."""

    def shape(version: str) -> Shape:
        id_ = words.backend_id(desired.app, version)
        return Shape.of(id_, f"backend {id_}\n    {desired.policies.retries}\n", "")

    return make_part(desired, before, shape)


def structure(*parts: Part) -> dict[str, str]:
    return {pool.shape.id: pool.structure for each in parts for pool in each.pools}


# --- servers ----------------------------------------------------------------------------------

A, B = server("a", "10.0.0.1", 80), server("b", "10.0.0.2", 80)
DRAINS = ServerState.DRAIN
RESTS = ServerState.MAINT


def texts(commands: Iterable[Command]) -> list[str]:
    return [command.text for command in commands]


@pytest.mark.parametrize(
    ("live", "wanted", "enter", "leave", "delete"),
    [
        ({"a": (0, 100)}, [A], [], [], []),
        ({}, [A], ["add server N/a 10.0.0.1:80 weight 100", "enable server N/a"], [], []),
        (
            {},
            [server("a", "10.0.0.1", 80, DRAINS)],
            ["add server N/a 10.0.0.1:80 weight 0", "enable server N/a"],
            [],
            [],
        ),
        ({}, [server("a", "::1", 80, RESTS)], ["add server N/a [::1]:80 weight 100"], [], []),
        ({"a": (0, 100)}, [], [], ["set server N/a state maint"], ["del server N/a"]),
        ({"a": (DRAINS, 100)}, [], [], ["set server N/a state maint"], ["del server N/a"]),
        ({"a": (RESTS, 100)}, [], [], [], ["del server N/a"]),
        (
            {"a": (0, 100)},
            [server("a", "10.0.0.1", 80, DRAINS)],
            [],
            ["set server N/a state drain"],
            [],
        ),
        ({"a": (0, 0)}, [server("a", "10.0.0.1", 80, DRAINS)], [], [], []),
        ({"a": (DRAINS, 100)}, [A], ["set server N/a state ready"], [], []),
        ({"a": (0, 0)}, [A], ["set server N/a weight 100"], [], []),
        (
            {"a": (RESTS, 3)},
            [A],
            ["set server N/a weight 100", "set server N/a state ready"],
            [],
            [],
        ),
        (
            {"a": (0, 100)},
            [server("a", "10.9.9.9", 81)],
            ["set server N/a addr 10.9.9.9 port 81"],
            [],
            [],
        ),
        (
            {"a": (0, 100)},
            [B],
            ["add server N/b 10.0.0.2:80 weight 100", "enable server N/b"],
            ["set server N/a state maint"],
            ["del server N/a"],
        ),
    ],
)
def test_servers_are_turned_into_the_wanted_ones(
    live: Mapping[str, tuple[object, int]],
    wanted: list[object],
    enter: list[str],
    leave: list[str],
    delete: list[str],
) -> None:
    running = {
        name: LiveServer("10.0.0.1", 80, state or ServerState.READY, weight)  # type: ignore[arg-type]
        for name, (state, weight) in live.items()
    }
    pool = part(app(servers=wanted)).pools[0]  # type: ignore[arg-type]
    servers = plan.ServerPlan()
    plan.plan_servers(servers, pool, pool.structure, running)
    got = (texts(servers.enter), texts(servers.leave), texts(servers.delete))
    assert got == tuple(
        [text.replace("N/", "default:todo/") for text in each] for each in (enter, leave, delete)
    )


def test_one_address_can_be_written_in_many_ways() -> None:
    pool = part(app(servers=[server("a", "FD00:0::0:1", 80)])).pools[0]
    servers = plan.ServerPlan()
    live = {"a": LiveServer("fd00::1", 80, ServerState.READY, 100)}
    plan.plan_servers(servers, pool, pool.structure, live)
    assert servers == plan.ServerPlan()


def test_a_checked_server_is_checked_before_it_takes_traffic() -> None:
    shape = Shape.of("default:todo", "", "check inter 5s")
    servers = plan.ServerPlan()
    plan.plan_servers(servers, Pool(shape, 3, (A,)), f"{shape.digest}:3", {})
    assert texts(servers.enter) == [
        "add server default:todo/a 10.0.0.1:80 weight 100 maxconn 3 check inter 5s",
        "enable health default:todo/a",
        "enable server default:todo/a",
    ]


# --- what can be reached without a reload -------------------------------------------------------

BLUE, GREEN = backend("blue", [A]), backend("green", [B])


def test_an_app_whose_backends_run_is_reached_wholly() -> None:
    both = part(app(backends=[BLUE, GREEN], split=[("green", 1)]))
    reach = plan.reachable(both, structure(both), {}, {})
    assert reach == plan.Reach(both)


def test_traffic_stays_where_it_is_until_the_new_backend_runs() -> None:
    old = part(app(backends=[BLUE], split=[("blue", 1)]))
    new = part(app(backends=[BLUE, GREEN], split=[("green", 1)]))
    reach = plan.reachable(new, structure(old), plan.tables_of([old]), {})
    assert reach.cause == plan.NEW_BACKEND
    assert [pool.shape.id for pool in reach.part.pools] == ["default:todo:blue"]
    assert reach.part.traffic == old.traffic
    assert reach.part.entries == new.entries


def test_a_split_stays_whole_until_all_of_the_new_one_can_be_reached() -> None:
    old = part(app(backends=[BLUE, GREEN], split=[("blue", 1), ("green", 1)]))
    red = backend("red", [A])
    new = part(app(backends=[BLUE, GREEN, red], split=[("blue", 1), ("red", 1)]))
    reach = plan.reachable(new, structure(old), plan.tables_of([old]), {})
    assert set(reach.part.traffic) == set(old.traffic)


def test_a_new_app_is_not_shown_by_halves() -> None:
    new = part(app(backends=[BLUE], split=[("blue", 1)]))
    reach = plan.reachable(new, {"config": "x"}, {ACTIVE: {}, SPLIT: {}}, {})
    assert (reach.part.pools, reach.part.entries, reach.part.traffic) == ((), (), ())


def test_an_app_that_needs_no_backend_is_reached_at_once() -> None:
    new = part(app(backends=[], maintenance=True))
    assert plan.reachable(new, {"config": "x"}, {}, {}).part == new


def test_a_backend_of_another_shape_still_gets_its_servers() -> None:
    old = part(app(backends=[BLUE], split=[("blue", 1)]))
    new = part(
        app(backends=[backend("blue", [A, B])], split=[("blue", 1)], policies=Policies(retries=1))
    )
    shapes = {pool.shape.digest: pool.shape for pool in old.pools}
    reach = plan.reachable(new, structure(old), plan.tables_of([old]), shapes)
    assert reach.cause == plan.CHANGED_STRUCTURE
    assert [(pool.shape, pool.servers) for pool in reach.part.pools] == [
        (old.pools[0].shape, (A, B))
    ]


def test_a_backend_that_runs_and_that_nobody_knows_is_left_alone() -> None:
    new = part(app(backends=[BLUE], split=[("blue", 1)]))
    reach = plan.reachable(new, {"default:todo:blue": "0123456789abcdef:0"}, {}, {})
    assert reach.untouched == {"default:todo:blue"}


def test_the_cause_of_a_frames_reload_is_told() -> None:
    wanted = {"config": "1", "listen": "*:80"}
    assert plan.frame_cause(wanted, wanted) == ""
    assert plan.frame_cause({}, wanted) == plan.OTHER_CONFIG
    assert plan.frame_cause({**wanted, "config": "0"}, wanted) == plan.TEMPLATE
    assert plan.frame_cause({"config": "0", "listen": "*:81"}, wanted) == plan.LISTEN


# --- maps -------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_slots_follow_the_weights(weights: list[int]) -> None:
    split = tuple(Share(f"v{i:02}", weight) for i, weight in enumerate(weights))
    got = slots(split)
    assert len(got) == 100
    for share in split:
        fair = 100 * share.weight / sum(weights)
        assert got.count(share.version) >= 1
        # One slot more or less, and what it takes to give every version one.
        assert abs(got.count(share.version) - fair) <= 1 + sum(
            1 for each in split if 100 * each.weight < sum(weights)
        )


def test_a_changed_weight_moves_as_few_slots_as_it_can() -> None:
    one = slots((Share("blue", 90), Share("green", 10)))
    two = slots((Share("blue", 80), Share("green", 20)))
    assert sum(a != b for a, b in zip(one, two, strict=True)) == 10


NAMES = ["a", "b", "c", "d"]
ROUTES = [
    route("x.org"),
    route("x.org", "/p"),
    exact("x.org", "/e"),
    regex("x.org", "/[0-9]"),
    regex("x.org", "/[0-9]+"),
    route("*.org"),
    route("*"),
    regex("y.org", "/r"),
]


@st.composite
def worlds(draw: st.DrawFn) -> list[DesiredApp]:
    """Some apps; every route belongs to one of them at most."""
    apps = []
    left = draw(st.permutations(ROUTES))
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        count = draw(st.integers(0, min(4, len(left))))
        routes, left = left[:count], left[count:]
        split = draw(st.sampled_from(["none", "blue", "green", "both", "most", "rest"]))
        shares = {
            "none": [],
            "blue": [("blue", 1)],
            "green": [("green", 1)],
            "both": [("blue", 1), ("green", 1)],
            "most": [("blue", 95), ("green", 5)],
            "rest": [("blue", 1)],
        }[split]
        limit = draw(st.sampled_from([None, 1, 2]))
        apps.append(
            app(
                name,
                routes=routes,
                split=shares,
                backends=[BLUE, GREEN],
                maintenance=split == "rest",
                policies=Policies(max_connections_app=limit),
            )
        )
    return apps


def carried_out(tables: Tables, steps: Iterable[plan.Step]) -> Iterable[Tables]:
    """The maps after each step, as HAProxy takes it."""
    tables = {name: dict(table) for name, table in tables.items()}
    for step in steps:
        if isinstance(step, Replacement):
            tables[step.subject] = dict(step.entries)
        else:
            table = tables[step.subject]
            action, map_, where, key, *value = step.text.split(" ")
            assert (map_, where) == ("map", "{map}")
            # An existing key added again would be a duplicate, and the old one would win.
            assert (key in table) == (action != "add"), step
            if action == "del":
                del table[key]
            else:
                table[key] = value[0]
        yield {name: dict(table) for name, table in tables.items()}


def no_request_is_lost(tables: Tables) -> None:
    """Whatever leads somewhere leads to the end."""
    for kind in (EXACT, REGEX, PREFIX):
        assert set(tables[kind].values()) <= tables[ACTIVE].keys(), kind
    for name, active in tables[ACTIVE].items():
        if active == "split":
            assert all(f"{name}:{slot}" in tables[SPLIT] for slot in range(100)), name
    for host in tables[HOSTS]:
        plain = any(key.startswith(f"{host}/") for key in (*tables[EXACT], *tables[PREFIX]))
        pattern = words.route_key(regex(host, "/")).removesuffix("/)")
        assert plain or any(key.startswith(pattern) for key in tables[REGEX]), host


@given(worlds(), worlds(), st.sampled_from([1, 50]))
def test_maps_are_changed_in_an_order_in_which_no_request_is_lost(
    before: list[DesiredApp], after: list[DesiredApp], most_single_changes: int
) -> None:
    olds = {each.app: part(each) for each in before}
    news = {each.app: part(each, olds.get(each.app)) for each in after}
    now, wanted = plan.tables_of(olds.values()), plan.tables_of(news.values())
    now[REGEX] = dict(plan.in_order(REGEX, now[REGEX].items()))
    claims = plan.claims_of(olds.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_MOST_SINGLE_CHANGES", most_single_changes)
        changes = plan.table_changes(olds.values(), news.values(), now, claims)
        last = now
        for tables in carried_out(now, plan.plan_tables(changes, now)):
            no_request_is_lost(tables)
            last = tables
        assert last == wanted
        assert list(last[REGEX]) == [key for key, _ in plan.in_order(REGEX, wanted[REGEX].items())]
        assert +claims == plan.claims_of(news.values())
        # What was believed and what would be read back end in the same.
        anew = plan.all_table_changes(now, wanted)
        assert [now, *carried_out(now, plan.plan_tables(anew, now))][-1] == wanted
    plan.apply_changes(now, changes)
    assert now == wanted


@given(worlds(), st.data())
def test_one_apps_change_leaves_the_entries_of_the_others(
    world: list[DesiredApp], data: st.DataObject
) -> None:
    parts = {each.app: part(each) for each in world}
    now, claims = plan.tables_of(parts.values()), plan.claims_of(parts.values())
    for each in list(parts):
        if data.draw(st.booleans()):
            old = parts.pop(each)
            plan.apply_changes(now, plan.table_changes([old], [], now, claims))
            assert now == plan.tables_of(parts.values())


def test_a_route_taken_over_by_another_app_is_not_removed_with_its_old_one() -> None:
    a, b = part(app("a", routes=[route("x.org")])), part(app("b", routes=[route("x.org")]))
    tables, claims = plan.tables_of([a]), plan.claims_of([a])
    plan.apply_changes(tables, plan.table_changes([], [b], tables, claims))
    plan.apply_changes(tables, plan.table_changes([a], [], tables, claims))
    assert tables == plan.tables_of([b])


def test_a_switch_is_one_entry() -> None:
    blue = part(app(backends=[BLUE, GREEN], split=[("blue", 1)]))
    green = part(app(backends=[BLUE, GREEN], split=[("green", 1)]), blue)
    tables = plan.tables_of([blue])
    steps = plan.plan_tables(
        plan.table_changes([blue], [green], tables, plan.claims_of([blue])), tables
    )
    assert [step.text for step in steps if isinstance(step, Command)] == [
        "set map {map} default/todo default:todo:green"
    ]
    assert len(steps) == 1


def test_regexes_in_the_wrong_order_are_put_right() -> None:
    wanted = plan.tables_of([part(app(routes=[regex("x.org", "/a"), regex("x.org", "/a+")]))])
    live = {**wanted, REGEX: dict(reversed(list(plan.in_order(REGEX, wanted[REGEX].items()))))}
    (step,) = plan.plan_tables(plan.all_table_changes(live, wanted), live)
    assert isinstance(step, Replacement)
    assert [key for key, _ in step.entries] == [
        words.route_key(regex("x.org", path)) for path in ("/a+", "/a")
    ]


# --- text -------------------------------------------------------------------------------------


def test_shapes_are_found_again_in_a_file_that_we_wrote() -> None:
    one = Pool(Shape.of("a:b:1", "backend a:b:1\n    balance first\n", "check inter 5s"), 3, (A, B))
    two = Pool(Shape.of("a:c", "backend a:c\n", ""), 0, ())
    text = "global\n    x\n" + pool_text(one) + pool_text(two)
    assert read_shapes(text) == {pool.shape.digest: pool.shape for pool in (one, two)}
    assert read_shapes(text.replace("first", "last")).keys() == {two.shape.digest}
    assert read_shapes("anything\n\n# at all") == {}


def test_a_change_of_servers_renders_nothing() -> None:
    before = part(app(servers=[A]))

    def never(version: str) -> Shape:
        raise AssertionError(version)

    after = make_part(app(servers=[A, B]), before, never)
    assert after.pools[0].servers == (A, B)
    assert after.entries is before.entries
    assert ANY_VERSION not in after.pools[0].shape.id


def test_ids_of_different_apps_never_meet() -> None:
    ids = {
        words.backend_id(AppId(ns, name), version)
        for ns in ("a", "a.b", "a-b")
        for name in ("b", "b.c", "a", "b-c")
        for version in ("*", "c", "b", "b.c", "a")
    }
    assert len(ids) == 3 * 4 * 5


def test_hosts_with_regexes_are_told_apart() -> None:
    tables = plan.tables_of([part(app(routes=[regex("x.org", "/a"), route("y.org")]))])
    assert set(tables[REGEX_HOSTS]) == {"x.org"}
    assert set(tables[HOSTS]) == {"x.org", "y.org"}
