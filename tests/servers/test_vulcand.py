"""The vulcand that the tests start: its life, its faults, its etcd's faults, TLS to etcd."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.servers.etcd import Etcd
from tests.servers.fixtures import NewEtcd, NewVulcand
from tests.servers.localpods import LocalPods
from tests.servers.process import ServerFailed
from tests.servers.vulcand import Vulcand
from tests.servers.wait import eventually


@pytest.fixture(scope="module")
def pod() -> Iterator[str]:
    """The URL of a pod that says it is `pod-1`."""
    with LocalPods() as pods:
        address, port = pods.start("pod-1", "blue")
        yield f"http://{address}:{port}"


def route(etcd: Etcd, pod: str, prefix: str = "vulcand", app: str = "todo") -> str:
    """Route the host `<app>.example` to the pod; the host."""
    etcd.put(f"{prefix}/backends/{app}/backend", json.dumps({"Type": "http"}))
    etcd.put(f"{prefix}/backends/{app}/servers/1", json.dumps({"URL": pod}))
    host = f"{app}.example"
    frontend = {"Type": "http", "BackendId": app, "Route": f'Host("{host}")'}
    etcd.put(f"{prefix}/frontends/{app}/frontend", json.dumps(frontend))
    return host


def answers(vulcand: Vulcand, host: str) -> str | None:
    """The pod that answers for a host; None if none does."""
    connection = http.client.HTTPConnection("127.0.0.1", vulcand.port, timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().getheader("X-Pod")
    except OSError:
        return None
    finally:
        connection.close()


def await_pod(vulcand: Vulcand, host: str) -> None:
    eventually(lambda: answers(vulcand, host) == "pod-1", what=vulcand.log_tail)


def test_a_request_is_answered_by_the_pod_that_etcd_names(
    etcd_server: Etcd, vulcand_server: Vulcand, pod: str
) -> None:
    assert answers(vulcand_server, "todo.example") is None

    await_pod(vulcand_server, route(etcd_server, pod, vulcand_server.prefix))

    status, told = vulcand_server.api("status")
    assert (status, told["Status"]) == (200, "ok")
    assert vulcand_server.running


def test_a_stop_ends_it_and_a_start_serves_on_the_same_port(
    etcd_server: Etcd, new_vulcand: NewVulcand, pod: str
) -> None:
    vulcand = new_vulcand(etcd_server.endpoint, "life")
    host, url = route(etcd_server, pod, "life"), vulcand.url
    await_pod(vulcand, host)

    vulcand.stop()
    assert (vulcand.running, vulcand.serving) == (False, False)
    vulcand.start()
    assert (answers(vulcand, host), vulcand.url) == ("pod-1", url)
    vulcand.restart()
    assert answers(vulcand, host) == "pod-1"
    vulcand.kill()
    assert not vulcand.running
    vulcand.start()
    assert answers(vulcand, host) == "pod-1"


def test_a_paused_one_answers_once_it_is_resumed(
    etcd_server: Etcd, new_vulcand: NewVulcand, pod: str
) -> None:
    vulcand = new_vulcand(etcd_server.endpoint, "paused")
    host = route(etcd_server, pod, "paused")
    await_pod(vulcand, host)
    vulcand.pause()
    waiting = http.client.HTTPConnection("127.0.0.1", vulcand.port, timeout=0.2)
    waiting.request("GET", "/", headers={"Host": host})
    with pytest.raises(TimeoutError):
        waiting.getresponse()
    waiting.close()

    vulcand.resume()

    assert answers(vulcand, host) == "pod-1"


def test_it_goes_on_while_etcd_is_away_and_hears_of_changes_after(
    new_etcd: NewEtcd, new_vulcand: NewVulcand, pod: str
) -> None:
    etcd = new_etcd()
    vulcand = new_vulcand(etcd.endpoint)
    before = route(etcd, pod)
    await_pod(vulcand, before)

    etcd.kill()
    assert answers(vulcand, before) == "pod-1"
    etcd.start()

    await_pod(vulcand, route(etcd, pod, app="after"))
    assert answers(vulcand, before) == "pod-1"


def test_without_etcd_it_waits_and_serves_nothing_until_etcd_is_there(
    new_etcd: NewEtcd, new_vulcand: NewVulcand, pod: str
) -> None:
    etcd = new_etcd()
    host = route(etcd, pod)
    etcd.stop()
    vulcand = new_vulcand(etcd.endpoint, wait=False)
    with pytest.raises(ServerFailed, match="not within"):
        vulcand.wait_ready(0.5)
    assert vulcand.running

    etcd.start()

    vulcand.wait_ready()
    assert answers(vulcand, host) == "pod-1"


def test_one_that_ends_at_its_start_is_told_with_its_log(
    etcd_server: Etcd, new_vulcand: NewVulcand
) -> None:
    with pytest.raises(ServerFailed, match=r"(?s)ended with.*Unsupported engine"):
        new_vulcand(etcd_server.endpoint, flags=["-engine=nonsense"])


def test_it_talks_tls_to_an_etcd_that_wants_certificates(
    new_etcd: NewEtcd, new_vulcand: NewVulcand, pod: str
) -> None:
    etcd = new_etcd(tls=True)
    vulcand = new_vulcand(etcd.endpoint, tls=etcd.tls)

    await_pod(vulcand, route(etcd, pod))


def test_it_takes_several_members_and_lives_on_without_one(
    new_etcd: NewEtcd, new_vulcand: NewVulcand, pod: str
) -> None:
    etcd = new_etcd(members=3)
    vulcand = new_vulcand(etcd.endpoints)
    await_pod(vulcand, route(etcd, pod))
    etcd.members[0].process.kill()
    etcd.wait_ready()

    frontend = {"Type": "http", "BackendId": "todo", "Route": 'Host("after.example")'}
    etcd.put("vulcand/frontends/after/frontend", json.dumps(frontend), member=1)

    await_pod(vulcand, "after.example")
