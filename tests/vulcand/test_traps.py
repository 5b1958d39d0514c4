"""What must never be written into a vulcand's etcd, or not in that order, and what comes of it."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewVulcand
from tests.servers.localpods import LocalPods
from tests.servers.process import ServerFailed
from tests.servers.relay import Relay
from tests.servers.wait import eventually
from tests.vulcand.fleet import NOT_YET
from tests.vulcand.stage import Stage

CLIENT = {"Connections": 1000, "Variable": "client.ip"}


def ends(stage: Stage) -> bool:
    """Whether it ended by itself, with a panic."""
    eventually(lambda: not stage.vulcand.running, 5, "it has ended")
    return "panic" in stage.vulcand.log_tail(200)


def start(stage: Stage) -> None:
    """Start it anew on what is written; it may not become ready."""
    stage.vulcand.stop()
    stage.vulcand.start(wait=False)


# What kills the process, while it runs and at every start after that.

FATAL = [
    pytest.param("backends/app/servers/x", "null", id="server"),
    pytest.param("backends/x/backend", "null", id="backend"),
    pytest.param("frontends/x/frontend", "null", id="frontend"),
    pytest.param("listeners/x", "null", id="listener"),
    pytest.param("frontends/app/middlewares/x", "null", id="middleware"),
    pytest.param(
        "frontends/app/middlewares/x", {"Type": "connlimit", "Middleware": None}, id="inner"
    ),
    pytest.param(
        "frontends/app/middlewares/x",
        {
            "Type": "cbreaker",
            "Middleware": {
                "Condition": "NetworkErrorRatio() > 0.5",
                "Fallback": {"Type": "response", "Action": None},
            },
        },
        id="action",
    ),
]


@pytest.mark.parametrize(("key", "value"), FATAL)
def test_a_null_is_a_panic_and_a_crash_loop(fragile: Stage, key: str, value: object) -> None:
    fragile.app("app")
    fragile.settle()

    fragile.put(key, value)

    assert ends(fragile)
    start(fragile)
    assert ends(fragile)


def test_a_unix_listener_is_a_panic_and_then_no_start_succeeds(fragile: Stage) -> None:
    """At the start the panic waits for the watch, and that for an event: it ends, or serves what it
    has read, without its API and deaf to changes. Which of the two is chance."""
    address = {"Network": "unix", "Address": f"@{fragile.prefix}"}
    fragile.put("listeners/x", {"Protocol": "http", "Address": address})
    assert ends(fragile)

    start(fragile)

    with pytest.raises(ServerFailed):
        fragile.vulcand.wait_ready(1.0)


def test_a_null_host_is_harmless(fragile: Stage) -> None:
    """Other than the page that collected the traps said: hosts are parsed into a value."""
    host = fragile.app("app")
    fragile.put("hosts/x/host", "null")
    fragile.settle()

    fragile.vulcand.restart()

    assert fragile.ask(host).status == 200


# What is ignored while it runs.

IGNORED: list[Any] = [
    pytest.param("backends/app/servers/app", "{", 200, id="server"),
    pytest.param("backends/app/servers/x", "", 200, id="empty"),
    pytest.param("backends/app/servers/x", "[]", 200, id="list"),
    pytest.param("frontends/app/frontend", "{", 404, id="frontend"),
    pytest.param(
        "frontends/app/frontend",
        {"Type": "http", "BackendId": "app", "Route": "Host("},
        404,
        id="route",
    ),
    pytest.param(
        "frontends/app/frontend",
        {
            "Type": "http",
            "BackendId": "app",
            "Route": 'Host("app.example")',
            "Settings": {"FailoverPredicate": "Nonsense()"},
        },
        404,
        id="predicate",
    ),
    pytest.param("frontends/app/middlewares/x", "{", 200, id="middleware"),
    pytest.param(
        "frontends/app/middlewares/x", {"Type": "nonsense", "Middleware": {}}, 200, id="type"
    ),
    pytest.param("frontends/none/middlewares/x", {"Type": "connlimit", "Middleware": CLIENT}, 200),
]


@pytest.mark.parametrize(("key", "value", "after"), IGNORED)
def test_what_cannot_be_read_leaves_the_old_and_is_left_out_at_start(
    fragile: Stage, key: str, value: object, after: int
) -> None:
    """`after` is what the app answers after a start: of a bad server nothing is left, so the second
    server of the app answers alone."""
    host = fragile.app("app", "app", "other")
    fragile.settle()

    fragile.put(key, value)
    fragile.settle()

    assert set(fragile.pods_of(host, requests=4)) == {"app", "other"}
    fragile.vulcand.restart()
    assert {fragile.ask(host).status for _ in range(4)} == {after}


@pytest.mark.parametrize(
    "value", ["{", {"Type": "http", "Settings": {"Timeouts": {"Read": "5 parsecs"}}}]
)
def test_a_backend_that_cannot_be_read_is_left_out_and_then_its_frontend_stops_the_start(
    fragile: Stage, value: object
) -> None:
    """One bad duration, ignored by a running vulcand, takes everything down at its next start."""
    host = fragile.app("app")
    fragile.put("backends/app/backend", value)
    fragile.settle()
    assert fragile.ask(host).status == 200

    start(fragile)

    never_serves(fragile)


def never_serves(stage: Stage) -> None:
    """It ends with a word about it, or hangs without one: which of the two is chance."""
    with pytest.raises(ServerFailed):
        stage.vulcand.wait_ready(1.0)
    assert not stage.vulcand.serving


def test_a_frontend_without_its_backend_is_dropped_and_not_tried_again(stage: Stage) -> None:
    stage.frontend("app", "later", 'Host("app.example")')
    stage.settle()

    stage.backend("later")
    stage.server("later", "x", stage.pod("app"))
    stage.settle()
    assert stage.ask("app.example").status == 404

    stage.frontend("app", "later", 'Host("app.example")')
    stage.settle()
    assert stage.ask("app.example").status == 200


def test_a_frontend_without_its_backend_stops_the_start_of_everything(fragile: Stage) -> None:
    """Its watch is waited for, and that waits for an event: it hangs with its port closed. Where
    the frontend was the last thing written, its own event may wake it: then it ends with an error.
    """
    fragile.app("app")
    fragile.frontend("x", "none", 'Host("x.example")')
    fragile.settle()

    start(fragile)

    never_serves(fragile)


@pytest.mark.parametrize("url", ["localhost:80", "/x", "http://"])
def test_a_server_url_without_a_host_is_ignored_until_the_next_start_breaks_its_frontend(
    fragile: Stage, url: str
) -> None:
    host = fragile.app("app")
    other = fragile.app("other")
    fragile.settle()
    fragile.server("app", "x", url)
    fragile.settle()
    assert fragile.ask(host).status == 200

    fragile.vulcand.restart()

    for _ in range(2):  # also those that the good server would answer
        with pytest.raises(http.client.RemoteDisconnected):
            fragile.ask(host)
    assert "panic" in fragile.vulcand.log_tail(200)
    assert fragile.ask(other).status == 200


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("ratelimit", {"Requests": 1, "PeriodSeconds": 1, "Variable": "client.ip"}),
        ("rewrite", {"Regexp": "(", "Replacement": ""}),
    ],
)
def test_a_middleware_that_cannot_be_made_turns_its_frontend_into_404(
    fragile: Stage, kind: str, spec: dict[str, Any]
) -> None:
    host = fragile.app("app")
    fragile.middleware("app", "m", kind, spec)
    fragile.settle()
    assert (fragile.ask(host).status, fragile.ask(host).pod) == (404, None)

    fragile.vulcand.restart()
    assert fragile.ask(host).status == 404

    fragile.delete("frontends/app/middlewares/m")
    fragile.settle()
    assert fragile.ask(host).status == 200


def test_a_negative_limit_turns_its_frontend_into_404(stage: Stage) -> None:
    host = stage.app("app", Limits={"MaxBodyBytes": -1})
    stage.settle()

    assert stage.ask(host).status == 404


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hosts/x/host", "{"),
        ("hosts/x/host", {"Settings": {"KeyPair": "eyJ9"}}),
        ("listeners/x", "{"),
        ("listeners/x", {"Protocol": "http", "Address": {"Network": "udp", "Address": ":1"}}),
    ],
)
def test_a_host_or_listener_that_cannot_be_read_is_ignored_until_it_stops_the_start(
    fragile: Stage, key: str, value: object
) -> None:
    host = fragile.app("app")
    fragile.put(key, value)
    fragile.settle()
    assert fragile.ask(host).status == 200

    start(fragile)

    eventually(lambda: not fragile.vulcand.running, 5, "it has ended")
    assert "Service exited with error" in fragile.vulcand.log_tail(3)


def test_a_second_listener_of_an_address_is_ignored_until_it_stops_the_start(
    fragile: Stage,
) -> None:
    host = fragile.app("app")
    address = {"Network": "tcp", "Address": f"127.0.0.1:{fragile.vulcand.port}"}
    fragile.put("listeners/x", {"Protocol": "http", "Address": address})
    fragile.settle()
    assert fragile.ask(host).status == 200

    start(fragile)

    never_serves(fragile)


# Keys.


@pytest.mark.parametrize(("short", "long"), [("app", "app-green"), ("b1", "b10")])
def test_a_backend_whose_id_begins_like_another_gets_its_servers_at_start(
    fragile: Stage, short: str, long: str
) -> None:
    hosts = fragile.app(short), fragile.app(long)
    fragile.settle()
    assert [set(fragile.pods_of(host, requests=6)) for host in hosts] == [{short}, {long}]

    fragile.vulcand.restart()

    assert set(fragile.pods_of(hosts[0], requests=6)) == {short, long}
    assert set(fragile.pods_of(hosts[1], requests=6)) == {long}


def test_ids_of_which_none_begins_like_another_are_right(fragile: Stage) -> None:
    hosts = {name: fragile.app(name) for name in ("app-blue", "app-green", "app_x", "x-app-blue")}
    fragile.settle()

    fragile.vulcand.restart()

    for name, host in hosts.items():
        assert set(fragile.pods_of(host, requests=4)) == {name}


def test_what_the_short_one_got_at_start_stays_when_the_long_one_loses_it(fragile: Stage) -> None:
    """Not even deleted servers leave it: the event is the other backend's."""
    host = fragile.app("b1")
    fragile.app("b10")
    fragile.settle()
    fragile.vulcand.restart()

    fragile.delete("backends/b10/servers/b10")
    fragile.settle()

    assert set(fragile.pods_of(host, requests=6)) == {"b1", "b10"}


def test_keys_of_a_namespace_that_begins_like_its_own_are_taken_for_its_own(
    etcd_server: Etcd, stage: Stage
) -> None:
    foreign = f"{stage.prefix}-staging"
    host = stage.app("app")
    stage.settle()

    # The watch does not look at what stands before /backends/; the value is read from its own key.
    stage.put("backends/app/servers/two", {"URL": stage.pod("two")})
    stage.settle()
    etcd_server.put(f"{foreign}/backends/app/servers/two", "x")
    etcd_server.delete(f"{foreign}/backends/app/servers/two")
    stage.settle()

    assert set(stage.pods_of(host, requests=6)) == {"app"}
    assert "two" in str(stage.vulcand.api("backends/app/servers"))


def test_its_own_deletion_of_a_server_takes_those_along_that_begin_alike(stage: Stage) -> None:
    stage.backend("app")
    for name in ("s1", "s10", "s2"):
        stage.server("app", name, stage.pod(name))
    connection = http.client.HTTPConnection("127.0.0.1", stage.vulcand.api_port, timeout=5)
    connection.request("DELETE", "/v2/backends/app/servers/s1")
    connection.getresponse().read()
    connection.close()

    assert list(stage.etcd.list(f"{stage.prefix}/backends/app/servers/")) == [
        f"{stage.prefix}/backends/app/servers/s2"
    ]


def test_the_prefix_has_no_leading_slash(stage: Stage, etcd_server: Etcd) -> None:
    host = stage.app("app")
    etcd_server.put(f"/{stage.prefix}/backends/app/servers/x", '{"URL": "http://127.0.0.1:1"}')
    stage.settle()

    assert stage.vulcand.api("backends/app/servers")[1]["Servers"][0]["Id"] == "app"
    assert {stage.ask(host, method="POST", body=b"x").status for _ in range(4)} == {200}
    etcd_server.delete_prefix(f"/{stage.prefix}")


@pytest.mark.parametrize(
    "name", ["a.b", "a:b", "A_b-c", "a b", "ä", "a%2fb", "~@+,=", "servers", "backend", "x" * 2000]
)
def test_an_id_may_be_anything_without_a_slash(fragile: Stage, name: str) -> None:
    fragile.backend(name)
    fragile.server(name, name, fragile.pod("app"))
    fragile.frontend(name, name, 'Host("app.example")')
    fragile.middleware(name, name, "connlimit", CLIENT)
    fragile.settle()
    assert fragile.ask("app.example").status == 200

    fragile.vulcand.restart()

    assert fragile.ask("app.example").status == 200


# Order.


def test_a_deleted_backend_lives_on_in_its_frontend_and_hears_nothing_more(stage: Stage) -> None:
    host = stage.app("app", "one")
    stage.settle()

    stage.delete("backends/app/backend")
    stage.backend("app")
    stage.server("app", "two", stage.pod("two"))
    stage.delete("backends/app/servers/one")
    stage.settle()
    assert set(stage.pods_of(host, requests=4)) == {"one"}

    stage.frontend("app", "app", f'Host("{host}")')
    stage.settle()
    assert set(stage.pods_of(host, requests=4)) == {"two"}


def test_a_server_without_backend_makes_one(stage: Stage) -> None:
    stage.server("app", "x", stage.pod("app"))
    stage.frontend("app", "app", 'Host("app.example")')
    stage.settle()

    assert stage.ask("app.example").status == 200


def test_a_frontend_that_is_deleted_and_written_again_comes_without_its_middlewares(
    fragile: Stage,
) -> None:
    """Their keys are there all the time: they are back after a restart."""
    host = fragile.app("app")
    fragile.middleware("app", "m", "connlimit", {**CLIENT, "Connections": 0})
    fragile.settle()
    assert fragile.ask(host).status == 429

    fragile.delete("frontends/app/frontend")
    fragile.frontend("app", "app", f'Host("{host}")')
    fragile.settle()
    assert fragile.ask(host).status == 200

    fragile.vulcand.restart()
    assert fragile.ask(host).status == 429


def test_a_change_of_pass_host_header_alone_is_ignored(stage: Stage) -> None:
    """As of `Stream` and its interval: they are not compared, so another field has to change."""
    host = stage.app("app")
    stage.settle()
    assert stage.ask(host, "/echo").echo["headers"]["host"] != host

    stage.frontend("app", "app", f'Host("{host}")', PassHostHeader=True)
    stage.settle()
    assert stage.ask(host, "/echo").echo["headers"]["host"] != host

    stage.frontend("app", "app", f'Host("{host}")', PassHostHeader=True, Hostname="x")
    stage.settle()
    assert stage.ask(host, "/echo").echo["headers"]["host"] == host


def test_a_route_in_two_frontends_is_the_last_ones_and_gone_with_the_first(stage: Stage) -> None:
    stage.app("one")
    stage.backend("two")
    stage.server("two", "s", stage.pod("two"))
    stage.frontend("two", "two", 'Host("one.example")')
    stage.settle()
    assert stage.ask("one.example").pod == "two"

    stage.delete("frontends/one/frontend")
    stage.settle()

    assert stage.ask("one.example").status == 404


def test_the_same_route_spelt_otherwise_is_another(stage: Stage) -> None:
    """So a move of a route from one frontend to another needs no moment without it."""
    stage.app("one")
    stage.backend("two")
    stage.server("two", "s", stage.pod("two"))
    stage.frontend("two", "two", '/*new*/ Host("one.example")')
    stage.settle()
    assert stage.ask("one.example").pod == "one"

    stage.delete("frontends/one/frontend")
    stage.settle()

    assert stage.ask("one.example").pod == "two"


def test_an_event_is_applied_with_the_value_of_now(stage: Stage) -> None:
    """The watch only says that a key has changed; the value is read from etcd once more. So a key
    that is written twice is applied twice with its last value, and what is gone is told as lost."""
    host = stage.app("app")
    stage.settle()
    stage.vulcand.pause()
    stage.server("app", "brief", stage.pod("brief"))
    stage.delete("backends/app/servers/brief")
    stage.vulcand.resume()
    stage.settle()

    assert set(stage.pods_of(host, requests=4)) == {"app"}
    assert "ignoring event; error: Key not found" in stage.vulcand.log_tail(200)


def test_events_of_one_transaction_are_applied_one_by_one_in_its_order(stage: Stage) -> None:
    """A frontend that comes before its backend in the same transaction is dropped."""
    stage.put_at_once(app_frontend("x"), ("backends/x/backend", {"Type": "http"}))
    stage.put_at_once(("backends/y/backend", {"Type": "http"}), app_frontend("y"))
    stage.settle()

    assert stage.ask("x.example").status == 404
    assert stage.ask("y.example").status == 503  # no servers


def app_frontend(name: str) -> tuple[str, object]:
    route = f'Host("{name}.example")'
    return f"frontends/{name}/frontend", {"Type": "http", "BackendId": name, "Route": route}


# etcd.


def test_what_has_a_lease_goes_when_it_ends(etcd_server: Etcd, stage: Stage) -> None:
    stage.backend("x")
    lease = etcd_server.call("lease/grant", {"TTL": 3600})["ID"]
    stage.put_at_once(app_frontend("x"), lease=lease)
    stage.settle()
    assert stage.ask("x.example").status == 503

    etcd_server.call("kv/lease/revoke", {"ID": lease})
    stage.settle()

    assert stage.ask("x.example").status == 404


def test_a_compaction_that_it_slept_through_makes_it_read_everything_anew(
    etcd_server: Etcd, new_vulcand: NewVulcand, pods: LocalPods
) -> None:
    with Relay(etcd_server.port) as relay:
        vulcand = new_vulcand(f"http://127.0.0.1:{relay.port}", "compacted")
        stage = Stage(etcd_server, vulcand, pods)
        gone, kept = stage.app("gone"), stage.app("kept")
        stage.settle()
        with stage.load(kept) as statuses:
            relay.refuse()
            for part in ("frontends/gone/frontend", "backends/gone/backend"):
                stage.delete(part)
            etcd_server.compact()
            relay.restore()
            eventually(lambda: stage.ask(gone).status == 404, 15, ignore=NOT_YET)

        assert set(statuses) == {200}
        assert "compacted" in vulcand.log_tail(200)
        stage.clear()
