"""What becomes of a request on its way to a pod, and of the answer on its way back."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlencode

import pytest

from tests.behaviour.client import Wire
from tests.behaviour.pods import bytes_of
from tests.behaviour.world import World, needs, shows

TITLE = "Requests and answers"

unchanged = shows("path, query, method, headers and body arrive as they were sent")
answers = shows("statuses, headers and bodies of pods come back as they are")
forwarded = shows("what a client claims of itself (`X-Forwarded-*`, `Forwarded`) is not believed")
old = shows("HTTP/1.0, HEAD, `Expect: 100-continue`")
large = shows("bodies of 32 MB, both ways, with a length or in chunks")

MEGABYTES = 32 << 20


@unchanged
@needs("hosts")
@pytest.mark.parametrize(
    "target",
    [
        "/echo",
        "/echo/",
        "/echo/a%2Fb%2fc",
        "/echo//double///slash//",
        "/echo/%20%41%7e/~+!$&'()*,;=:@",
        "/echo/./a/../b",
        "/echo?a=1&b=%20+&c=[]{}|&d=%zz&a=2",
        "/echo/?x=http://other.example/%3Fy",
        "/echo/%C3%A9/%ff",
        f"/echo/{'long/' * 800}?{'q=1&' * 400}",
    ],
    ids=lambda target: target[:16],
)
def test_the_path_and_the_query_arrive_as_they_were_sent(world: World, target: str) -> None:
    app = world.app()
    world.settle()
    assert world.ask(app.host, target).echo["target"] == target


@shows("paths are compared as they are written: `%2F`, `%61`, `//` are no other path")
@needs("paths", "paths.raw")
def test_paths_are_compared_as_they_are_written(world: World) -> None:
    app = world.app(paths=["/a", {"exact": "/b/c"}])
    world.settle()
    for path in ("/a%2Fb", "/%61", "//a", "/b%2Fc", "/b//c", "/b/./c", "/x/../a"):
        assert world.ask(app.host, path).status == 404, path
    assert world.ask(app.host, "/a/%2Fb").pod == app.pods[0].name


@unchanged
@needs("hosts")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("body", [None, b"", b"some text"], ids=["none", "empty", "text"])
def test_every_method_arrives_with_its_body(world: World, method: str, body: bytes | None) -> None:
    app = world.app()
    world.settle()
    seen = world.ask(app.host, "/echo", method=method, body=body).echo
    assert (seen["method"], seen["length"]) == (method, len(body or b""))
    assert seen["digest"] == hashlib.sha256(body or b"").hexdigest()


@unchanged
@needs("hosts")
def test_headers_arrive_each_as_often_as_it_was_sent(world: World) -> None:
    app = world.app()
    world.settle()
    sent = [
        ("X-One", "1"),
        ("X-Twice", "first"),
        ("Cookie", "a=1; b=2"),
        ("X-Twice", "second"),
        ("Authorization", "Basic eDp5"),
        ("Accept-Encoding", "gzip, br"),
        ("User-Agent", "it/1.0"),
        ("Range", "bytes=0-9"),
        ("If-None-Match", '"x"'),
        ("X-Empty", ""),
        ("X-Long", "x" * 4000),
    ]

    seen = world.ask(app.host, "/echo", headers=sent).echo["headers"]

    for name in {name.lower() for name, _ in sent}:
        assert [v for k, v in seen if k == name] == [v for k, v in sent if k.lower() == name]
    assert [v for k, v in seen if k == "host"] == [app.host]


@unchanged
@needs("hosts")
def test_the_host_arrives_as_the_client_wrote_it(world: World) -> None:
    app = world.app()
    world.settle()
    written = f"{app.host.upper()}:{world.front.port}"
    assert world.ask(written, "/echo").arrived["host"] == written


@forwarded
@needs("hosts")
def test_what_a_client_claims_of_itself_is_not_passed_on(world: World) -> None:
    app = world.app()
    world.settle()
    claimed = {
        "X-Forwarded-For": "192.0.2.66",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Port": "666",
        "X-Forwarded-Server": "evil.example",
        "X-Real-Ip": "192.0.2.66",
    }

    seen = world.ask(app.host, "/echo", headers=claimed).arrived

    assert seen["x-forwarded-for"] == seen["x-real-ip"] == "127.0.0.1"
    assert (seen["x-forwarded-host"], seen["x-forwarded-proto"]) == (app.host, "http")
    assert not [name for name, value in seen.items() if value in claimed.values()]


@shows("`Forwarded` and `Proxy` of a client are taken out")
@needs("hosts", "headers.cleaned")
def test_more_that_a_client_may_claim_is_not_passed_on(world: World) -> None:
    app = world.app()
    world.settle()
    claimed = {
        "Forwarded": "for=192.0.2.66;host=evil.example",
        "Proxy": "http://evil.example",
    }

    seen = world.ask(app.host, "/echo", headers=claimed).arrived

    assert "evil" not in str(seen)


@unchanged
@needs("hosts")
def test_what_is_for_the_next_hop_only_is_not_passed_on(world: World) -> None:
    app = world.app()
    world.settle()
    hops = {"Connection": "close", "Proxy-Connection": "keep-alive", "Keep-Alive": "timeout=5"}
    seen = world.ask(app.host, "/echo", headers=hops).arrived
    assert seen.get("connection", "keep-alive") == "keep-alive"
    assert not {"keep-alive", "proxy-connection"} & seen.keys()


@answers
@needs("hosts")
@pytest.mark.parametrize(
    "status", [200, 201, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 410, 418, 429, 500, 503]
)
def test_a_status_comes_back_as_the_pod_gave_it(world: World, status: int) -> None:
    app = world.app()
    world.settle()
    answer = world.ask(app.host, f"/status/{status}")
    assert (answer.status, answer.pod) == (status, app.pods[0].name)
    empty = status in {204, 304}
    assert (answer.body == b"") == empty


@answers
@needs("hosts")
def test_headers_come_back_each_as_often_as_it_was_given(world: World) -> None:
    app = world.app()
    (pod,) = app.pods
    world.settle()
    given = [
        ("Set-Cookie", "a=1; Path=/; HttpOnly"),
        ("Set-Cookie", "b=2; Domain=example.com"),
        ("Location", f"http://{pod.address}:{pod.ports['http']}/there"),
        ("Refresh", "5; url=/there"),
        ("Server", "the-pod/1.0"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("ETag", '"abc"'),
        ("Vary", "Accept, Cookie"),
        ("Cache-Control", "max-age=60"),
        ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("WWW-Authenticate", 'Basic realm="x"'),
        ("X-Accel-Redirect", "/elsewhere"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ]

    answer = world.ask(app.host, f"/headers?{urlencode(given)}")

    assert answer.pod == pod.name
    wrong = {
        name: answer.every(name.lower())
        for name, _ in given
        if answer.every(name.lower()) != [v for k, v in given if k == name]
    }
    assert wrong == {}


@answers
@needs("hosts")
def test_long_headers_pass_both_ways(world: World) -> None:
    app = world.app()
    world.settle()
    long = "x" * 6000
    sent = world.ask(app.host, f"/headers?X-Long={long}", headers={"Cookie": f"a={long}"})
    assert (sent.header("x-long"), sent.pod) == (long, app.pods[0].name)


@answers
@needs("hosts")
def test_a_coded_body_comes_back_as_it_is(world: World) -> None:
    app = world.app()
    world.settle()
    plain = world.ask(app.host).body
    asked = {"Accept-Encoding": "gzip, br"}
    for coding in ("gzip", "br"):
        answer = world.ask(app.host, f"/headers?Content-Encoding={coding}", headers=asked)
        assert (answer.header("content-encoding"), answer.body) == (coding, plain)


@answers
@needs("hosts")
@pytest.mark.parametrize("path", ["/stream", "/lines"])
def test_a_body_without_a_length_comes_back_whole(world: World, path: str) -> None:
    app = world.app()
    world.settle()
    (pod,) = app.pods
    for piece in (b"one", b"two" * 1000, b"three", None):
        pod.say(piece)
    answer = world.ask(app.host, path)
    assert answer.body == b"one" + b"two" * 1000 + b"three"
    assert answer.header("content-type") == "text/event-stream"


@shows("a request that two servers could read differently is refused, or made plain")
@needs("hosts")
@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nContent-Length: 44\r\n",
        "Transfer-Encoding : chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: identity, chunked\r\nContent-Length: 4\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: +4\r\n",
    ],
)
def test_no_request_is_smuggled_behind_another(world: World, framing: str) -> None:
    app = world.app()
    world.settle()
    (pod,) = app.pods
    hidden = f"GET /echo/hidden HTTP/1.1\r\nHost: {app.host}\r\nX-Hidden: 1\r\n\r\n"
    with Wire(world.front.port) as wire:
        wire.send(
            f"POST /echo HTTP/1.1\r\nHost: {app.host}\r\n{framing}\r\n0\r\n\r\n{hidden}".encode()
        )
        wire.until(b"\r\n\r\n")
    seen = [world.ask(app.host, f"/echo/next?{number}") for number in range(4)]
    assert [each.echo["target"] for each in seen] == [f"/echo/next?{n}" for n in range(4)]
    # What the proxy itself takes for a second request is led as any other, by its rules.
    assert {each.header("x-forwarded-for") for each in pod.seen} == {"127.0.0.1"}


@old
@needs("hosts")
def test_a_client_of_http_1_0_is_answered_and_the_connection_ends(world: World) -> None:
    app = world.app()
    world.settle()
    with Wire(world.front.port) as wire:
        wire.send(f"GET / HTTP/1.0\r\nHost: {app.host}\r\n\r\n".encode())
        answer = wire.rest()
    assert re.match(rb"HTTP/1\.[01] 200 ", answer)
    assert answer.endswith(b'"version": "blue"}')
    assert b"chunked" not in answer.lower()


@old
@needs("hosts")
def test_a_head_has_no_body_and_the_length_that_there_would_be(world: World) -> None:
    app = world.app()
    world.settle()
    with world.client() as client:
        length = len(client.ask(app.host).body)
        answer = client.ask(app.host, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.header("content-length") == str(length)
        assert client.ask(app.host).status == 200


@old
@needs("hosts")
def test_a_client_that_asks_whether_to_go_on_is_told_so(world: World) -> None:
    app = world.app()
    world.settle()
    head = (
        f"PUT /echo HTTP/1.1\r\nHost: {app.host}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n"
    )
    with Wire(world.front.port) as wire:
        wire.send(f"{head}Connection: close\r\n\r\n".encode())
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        wire.send(b"body")
        answer = wire.rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert hashlib.sha256(b"body").hexdigest().encode() in answer


@large
@needs("hosts")
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_large_body_arrives_whole(world: World, chunked: bool) -> None:
    app = world.app()
    world.settle()
    body = bytes_of(MEGABYTES)
    sent = (body[at : at + (1 << 18)] for at in range(0, len(body), 1 << 18)) if chunked else body
    seen = world.ask(app.host, "/echo", method="PUT", body=sent).echo
    assert (seen["length"], seen["digest"]) == (len(body), hashlib.sha256(body).hexdigest())


@large
@needs("hosts")
def test_a_large_answer_comes_back_whole(world: World) -> None:
    app = world.app()
    world.settle()
    answer = world.ask(app.host, f"/bytes?count={MEGABYTES}")
    assert answer.body == bytes_of(MEGABYTES)
    assert answer.header("content-length") == str(MEGABYTES)
