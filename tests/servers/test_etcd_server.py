"""The etcd that the tests start: its life, its faults, TLS, several members."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.servers.etcd import Etcd, EtcdError
from tests.servers.fixtures import NewEtcd
from tests.servers.ports import free_port
from tests.servers.process import ServerFailed
from tests.servers.wait import eventually


def test_keys_are_written_listed_and_deleted(etcd_server: Etcd) -> None:
    before = etcd_server.revision()

    assert etcd_server.put("/keys/b", "2") == before + 1
    etcd_server.put("/keys/a", b"\x00\xff")
    etcd_server.put("/other", "3")

    assert etcd_server.list("/keys/") == {"/keys/a": b"\x00\xff", "/keys/b": b"2"}
    assert etcd_server.get("/keys/none") is None
    etcd_server.delete_prefix("/keys/")
    assert etcd_server.list("/keys/") == {}
    assert etcd_server.get("/other") == b"3"


def test_data_outlives_a_kill_and_the_port_stays(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    etcd.put("/kept", "yes")
    endpoint, revision = etcd.endpoint, etcd.revision()

    etcd.kill()
    with pytest.raises(OSError, match="refused"):
        etcd.get("/kept")
    etcd.start()

    assert (etcd.get("/kept"), etcd.endpoint, etcd.revision()) == (b"yes", endpoint, revision)


def test_a_paused_etcd_accepts_and_does_not_answer(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    etcd.pause()
    with socket.create_connection(("127.0.0.1", etcd.port), timeout=0.3) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)

    etcd.resume()

    assert eventually(etcd.revision, 5, ignore=OSError) >= 1


def test_compaction_forgets_history(new_etcd: NewEtcd) -> None:
    etcd = new_etcd()
    old = etcd.put("/k", "1")
    etcd.put("/k", "2")

    assert etcd.compact() == etcd.revision()

    with pytest.raises(EtcdError, match="compacted"):
        etcd.call("kv/range", {"key": "L2s=", "revision": old})
    assert etcd.get("/k") == b"2"


def test_tls_demands_a_certificate_of_its_clients(new_etcd: NewEtcd) -> None:
    etcd = new_etcd(tls=True)
    assert etcd.tls is not None
    etcd.put("/k", "secret")
    assert etcd.endpoint.startswith("https://")
    assert etcd.ctl("get", "/k", "--print-value-only").strip() == "secret"

    stranger = ssl.create_default_context(cafile=str(etcd.tls.ca))

    def ask_without_certificate() -> None:
        address = ("127.0.0.1", etcd.port)
        with (
            socket.create_connection(address, timeout=5) as plain,
            stranger.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1)  # TLS 1.3 tells a client of the refusal only here

    with pytest.raises(OSError, match=r"(?i)certificate|reset"):
        ask_without_certificate()


def test_three_members_go_on_without_one(new_etcd: NewEtcd) -> None:
    etcd = new_etcd(members=3)
    etcd.put("/k", "1")

    etcd.members[2].process.kill()
    eventually(lambda: etcd.put("/k", "2"), 20, ignore=(OSError, EtcdError))
    etcd.start()

    read = etcd.call("kv/range", {"key": "L2s="}, member=2)
    assert read["kvs"][0]["value"] == "Mg=="


def test_an_etcd_that_cannot_start_tells_why(new_etcd: NewEtcd) -> None:
    with pytest.raises(ServerFailed, match="not-a-level"):
        new_etcd(flags=["--log-level=not-a-level"])


def test_no_port_is_handed_out_twice() -> None:
    ports = [free_port() for _ in range(200)]

    assert len(set(ports)) == 200
