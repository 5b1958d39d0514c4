"""Which app a request belongs to: by its host, then by its path."""

from __future__ import annotations

from tests.behaviour.client import Wire
from tests.behaviour.world import App, World, needs, shows
from tests.servers.wait import eventually

TITLE = "Routes"

hosts = shows("exact hosts, `*.example.com` (one label), `*` for any other")
paths = shows("path prefix (whole elements), exact path, regex; the most exact wins")
unknown = shows("404 for an unknown host or path, 503 for an app without pods")


def ways(world: World, asked: dict[tuple[str, str], App | int]) -> None:
    """Each host and path is answered by a pod of that app, or by the proxy with that status."""
    seen = {each: world.ask(*each).pod for each in asked}
    wanted = {each: app if isinstance(app, int) else app.name for each, app in asked.items()}
    wrong = {
        each: (seen[each], "wanted", name)
        for each, name in wanted.items()
        if not (seen[each] == str(name) or seen[each].startswith(f"{name}-"))
    }
    assert wrong == {}


@hosts
@needs("hosts")
def test_an_exact_host_is_no_other(world: World) -> None:
    app, other = world.app(), world.app()
    world.settle()

    ways(
        world,
        {
            (app.host, "/"): app,
            (other.host, "/any/path?x=1"): other,
            (f"x.{app.host}", "/"): 404,
            (f"x{app.host}", "/"): 404,
            (f"{app.host}.x", "/"): 404,
            (app.host.removesuffix(".com"), "/"): 404,
        },
    )


@hosts
@needs("hosts")
def test_several_hosts_are_one_app(world: World) -> None:
    app = world.bare_app()
    app.pod()
    app.configure(hosts=[app.host, f"www.{app.host}", "localhost-of-it"])
    world.settle()

    ways(
        world,
        {(app.host, "/"): app, (f"www.{app.host}", "/"): app, ("localhost-of-it", "/"): app},
    )


@hosts
@needs("hosts")
def test_a_host_may_be_written_in_any_case_and_with_a_port(world: World) -> None:
    app = world.app()
    wild = world.app(hosts=[f"*.of-{app.host}"])
    world.settle()

    asked: dict[tuple[str, str], App | int] = {}
    for host, its in ((app.host, app), (f"x.of-{app.host}", wild)):
        asked[host.upper(), "/"] = its
        asked[f"{host}:{world.front.port}", "/"] = its
        asked[f"{host.title()}:80", "/"] = its
    ways(world, asked)


@hosts
@needs("hosts")
def test_a_whole_url_in_the_request_line_is_as_good(world: World) -> None:
    app = world.app()
    world.settle()
    with Wire(world.front.port) as wire:
        wire.send(
            f"GET http://{app.host}/a?b HTTP/1.1\r\nHost: {app.host}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        assert app.pods[0].name.encode() in wire.rest()


@shows("a host written with a dot at its end")
@needs("hosts", "hosts.trailing_dot")
def test_a_host_may_be_written_with_a_dot_at_its_end(world: World) -> None:
    app = world.app()
    wild = world.app(hosts=[f"*.of-{app.host}"])
    world.settle()

    ways(
        world,
        {
            (f"{app.host}.", "/"): app,
            (f"{app.host}.:80", "/"): app,
            (f"x.of-{app.host}.", "/"): wild,
        },
    )


@hosts
@needs("hosts")
def test_a_wildcard_host_is_one_label_more_and_an_exact_one_goes_first(world: World) -> None:
    name = world.app().host
    wild = world.app(hosts=[f"*.{name}"])
    exact = world.app(hosts=[f"own.{name}"])
    world.settle()

    ways(
        world,
        {
            (f"any.{name}", "/"): wild,
            (f"other-1.{name}", "/x/y"): wild,
            (f"own.{name}", "/"): exact,
            (f"two.labels.{name}", "/"): 404,
            (f"an.own.{name}", "/"): 404,
            (f".{name}", "/"): 404,
            (f"any{name}", "/"): 404,
        },
    )


@hosts
@needs("hosts")
def test_any_other_host_is_the_last_choice(world: World) -> None:
    exact = world.app()
    wild = world.app(hosts=[f"*.{exact.host}"])
    any_ = world.app(hosts=["*"])
    world.settle()

    ways(
        world,
        {
            (exact.host, "/"): exact,
            (f"x.{exact.host}", "/"): wild,
            (f"x.y.{exact.host}", "/"): any_,
            ("nobody.example.org", "/"): any_,
            ("127.0.0.1", "/"): any_,
            (f"localhost:{world.front.port}", "/x"): any_,
        },
    )
    with Wire(world.front.port) as hostless:
        hostless.send(b"GET / HTTP/1.0\r\n\r\n")
        assert any_.pods[0].name.encode() in hostless.rest()


@hosts
@needs("hosts", "paths")
def test_a_path_that_the_best_host_does_not_have_is_no_other_hosts(world: World) -> None:
    name = world.app().host
    exact = world.app(hosts=[f"x.{name}"], paths=["/a"])
    wild = world.app(hosts=[f"*.{name}"], paths=["/b"])
    any_ = world.app(hosts=["*"])
    world.settle()

    ways(
        world,
        {
            (f"x.{name}", "/a"): exact,
            (f"x.{name}", "/b"): 404,
            (f"y.{name}", "/b"): wild,
            (f"y.{name}", "/a"): 404,
            ("z.example.org", "/a"): any_,
        },
    )


@paths
@needs("paths")
def test_a_prefix_is_whole_elements_and_the_longest_wins(world: World) -> None:
    short = world.app(paths=["/a"])
    long = world.app(hosts=[short.host], paths=["/a/b", "/c.d/e+f"])
    world.settle()

    ways(
        world,
        {
            (short.host, "/a"): short,
            (short.host, "/a/"): short,
            (short.host, "/a?b=/a/b"): short,
            (short.host, "/a/bc"): short,
            (short.host, "/a/b"): long,
            (short.host, "/a/b/"): long,
            (short.host, "/a/b/c/d"): long,
            (short.host, "/a/b?x"): long,
            (short.host, "/c.d/e+f/g"): long,
            (short.host, "/cxd/e+f"): 404,
            (short.host, "/ab"): 404,
            (short.host, "/A"): 404,
            (short.host, "/"): 404,
            (short.host, "/x/a"): 404,
        },
    )


@paths
@needs("paths")
def test_an_exact_path_is_that_one_only(world: World) -> None:
    exact = world.app(paths=[{"exact": "/a"}, {"exact": "/d/"}])
    world.settle()

    ways(
        world,
        {
            (exact.host, "/a"): exact,
            (exact.host, "/a?x=1"): exact,
            (exact.host, "/d/"): exact,
            (exact.host, "/a/"): 404,
            (exact.host, "/a/b"): 404,
            (exact.host, "/ab"): 404,
            (exact.host, "/d"): 404,
        },
    )


@paths
@needs("paths")
def test_a_regex_is_matched_from_the_start_and_ends_where_it_ends(world: World) -> None:
    regex = world.app(paths=[{"regex": "/v[0-9]+/"}, {"regex": r"/.*\.(png|jpe?g)$"}])
    world.settle()

    ways(
        world,
        {
            (regex.host, "/v1/"): regex,
            (regex.host, "/v12/x"): regex,
            (regex.host, "/a/b.png"): regex,
            (regex.host, "/c.jpg?size=9"): regex,
            (regex.host, "/v/"): 404,
            (regex.host, "/V1/"): 404,
            (regex.host, "/x/v1/"): 404,
            (regex.host, "/a/b.png/c"): 404,
        },
    )


@paths
@needs("paths")
def test_exact_goes_before_regex_before_prefix_and_longer_before_shorter(world: World) -> None:
    prefix = world.app(paths=["/", "/v1/deep/and/long"])
    host = prefix.host
    exact = world.app(hosts=[host], paths=[{"exact": "/v1/x"}])
    regex = world.app(hosts=[host], paths=[{"regex": "/v[0-9]/"}])
    longer = world.app(hosts=[host], paths=[{"regex": "/v[0-9]/abc"}])
    world.settle()

    ways(
        world,
        {
            (host, "/v1/x"): exact,
            (host, "/v1/xy"): regex,
            (host, "/v1/abcd"): longer,
            (host, "/v1/deep/and/long/x"): regex,
            (host, "/v1"): prefix,
            (host, "/"): prefix,
        },
    )


@unknown
@needs("hosts", "paths")
def test_unknown_is_404_and_known_without_pods_is_503(world: World) -> None:
    app = world.app(paths=["/a"])
    empty = world.bare_app()
    empty.configure()
    world.settle()

    ways(
        world,
        {
            (app.host, "/b"): 404,
            (f"nobody.{app.host}", "/"): 404,
            (empty.host, "/"): 503,
        },
    )
    with Wire(world.front.port) as hostless:
        hostless.send(b"GET / HTTP/1.0\r\n\r\n")
        assert hostless.rest().split()[1] == b"404"


@unknown
@needs("hosts")
def test_an_app_that_is_removed_is_404_and_is_back_when_it_is_added_again(world: World) -> None:
    app, other = world.app(), world.app()
    world.settle()
    for _ in range(3):
        app.unconfigure()
        world.settle()
        ways(world, {(app.host, "/"): 404, (other.host, "/"): other})
        app.configure()
        world.settle()
        ways(world, {(app.host, "/"): app, (other.host, "/"): other})


@shows("a route that two apps want is the older one's")
@needs("hosts")
def test_a_route_that_two_want_is_the_older_ones_until_it_goes(world: World) -> None:
    first = world.app()
    world.settle()
    second = world.app(hosts=[first.host])
    world.settle()
    ways(world, {(first.host, "/"): first})
    assert [each["code"] for each in second.status["problems"]] == ["route_taken"]

    with world.load(first.host) as load:
        first.unconfigure()
        eventually(lambda: load.report.pods[second.pods[0].name] > 20, 10)


@shows("the port of the pods by number or by name")
@needs("port")
def test_a_port_by_number_by_name_or_the_first_that_is_not_for_health(world: World) -> None:
    app = world.bare_app()
    pod = app.pod(ports=("healthcheck", "web", "admin"))
    asked = {"web": None, "admin": "admin", "healthcheck": pod.ports["healthcheck"]}
    for port, told in asked.items():
        app.configure(port=told)
        world.settle()
        assert world.ask(app.host).header("x-port") == port
