"""Who may talk to etcd and to which of its members: TLS, users, tokens, members that are lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.servers.certs import Authority, Certificate
from tests.servers.etcd import Etcd, EtcdTls
from tests.servers.fixtures import NewEtcd
from tests.servers.wait import eventually
from vulcanized.errors import Refused, SettingsError, Unreachable
from vulcanized.etcd import EtcdClient, calls, connect
from vulcanized.settings import EtcdSettings

# --- TLS ---


@pytest.fixture
def secure(new_etcd: NewEtcd) -> tuple[Etcd, EtcdTls]:
    etcd = new_etcd(tls=True)
    assert etcd.tls is not None
    return etcd, etcd.tls


def test_a_client_certificate_opens_the_door(secure: tuple[Etcd, EtcdTls]) -> None:
    etcd, tls = secure
    shown = EtcdSettings(
        endpoints=etcd.endpoints, ca=tls.ca, cert=tls.client.cert, key=tls.client.key
    )
    with connect(shown) as client:
        revision = client.put("/a", b"1")
        with client.watch({"/a": revision - 1}) as batches:
            assert next(batches).revision == revision

    with (
        connect(EtcdSettings(endpoints=etcd.endpoints, ca=tls.ca)) as client,
        pytest.raises(Unreachable, match=r"ca, cert and key in \[etcd\]"),
    ):
        client.get("/a")


def test_a_server_of_another_authority_is_not_believed(secure: tuple[Etcd, EtcdTls]) -> None:
    etcd, tls = secure
    with (
        connect(
            EtcdSettings(endpoints=etcd.endpoints, cert=tls.client.cert, key=tls.client.key)
        ) as client,
        pytest.raises(Unreachable, match="cannot be reached"),
    ):
        client.get("/a")


def test_renewed_certificates_are_taken_up(secure: tuple[Etcd, EtcdTls], tmp_path: Path) -> None:
    etcd, tls = secure
    ours = Certificate(tmp_path / "our.crt", tmp_path / "our.key")

    def install(certificate: Certificate) -> None:
        shutil.copy(certificate.cert, ours.cert)
        shutil.copy(certificate.key, ours.key)

    install(tls.authority.issue("expired", hosts=(), days=-1))
    shown = EtcdSettings(endpoints=etcd.endpoints, ca=tls.ca, cert=ours.cert, key=ours.key)
    with connect(shown) as client:
        with pytest.raises(Unreachable):
            client.get("/a")

        ours.cert.write_text("half a certifi")  # being written: not to be taken up
        with pytest.raises(Unreachable):
            client.get("/a")
        install(tls.authority.issue("renewed", hosts=()))

        assert eventually(lambda: client.put("/a", b"1"), ignore=Unreachable)


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, other = authority.issue("ours"), authority.issue("other")
    nothing, missing = tmp_path / "empty.pem", tmp_path / "missing.pem"
    nothing.write_text("")
    for files, complaint in (
        ({"ca": missing}, f"{missing} cannot be read: No such file"),
        ({"ca": nothing}, f"ca {nothing} cannot be used"),
        ({"cert": ours.cert, "key": nothing}, f"cert {ours.cert} with key {nothing} cannot be"),
        ({"cert": ours.cert, "key": other.key}, "KEY_VALUES_MISMATCH; give PEM files that belong"),
    ):
        with pytest.raises(SettingsError, match=complaint):
            connect(EtcdSettings(endpoints=("https://127.0.0.1:2379",), **files))


# --- users ---


class Guarded:
    """An etcd with users: root, and `ours`, who may read and write `/ours/` and nothing else."""

    def __init__(self, etcd: Etcd, folder: Path) -> None:
        self.etcd = etcd
        self.password_file = folder / "password"
        self.password_file.write_text("secret\n")
        for user, password in (("root", "toor"), ("ours", "secret")):
            etcd.ctl("user", "add", f"{user}:{password}")
        etcd.ctl("user", "grant-role", "root", "root")
        etcd.ctl("role", "add", "ours")
        etcd.ctl("role", "grant-permission", "ours", "--prefix=true", "readwrite", "/ours/")
        etcd.ctl("user", "grant-role", "ours", "ours")

    def enable(self) -> None:
        self.etcd.ctl("auth", "enable")

    def root(self, *words: str) -> str:
        return self.etcd.ctl("--user=root:toor", *words)

    @property
    def settings(self) -> EtcdSettings:
        return EtcdSettings(
            endpoints=self.etcd.endpoints, username="ours", password_file=self.password_file
        )


@pytest.fixture
def users_off(new_etcd: NewEtcd, tmp_path: Path) -> Guarded:
    return Guarded(new_etcd(flags=["--bcrypt-cost=4"]), tmp_path)


@pytest.fixture
def guarded(users_off: Guarded) -> Guarded:
    users_off.enable()
    return users_off


def test_a_user_reads_writes_and_watches_what_is_granted(guarded: Guarded) -> None:
    with connect(guarded.settings) as client:
        revision = client.put("/ours/a", b"1")
        assert [item.key for item in client.list_prefix("/ours/").items] == ["/ours/a"]
        with client.watch({"/ours/": revision - 1}) as batches:
            assert next(batches).revision == revision


def test_what_is_not_granted_is_refused_by_name(guarded: Guarded) -> None:
    with connect(guarded.settings) as client:
        with pytest.raises(Refused, match=r"user 'ours'.*reading /others/.*grant-permission"):
            client.list_prefix("/others/")
        with pytest.raises(Refused, match="writing /others/a"):
            client.put("/others/a", b"")
        with pytest.raises(Refused, match="reading /others/"):
            client.watch({"/ours/": 1, "/others/": 1})


def test_whoever_shows_nothing_or_the_wrong_password_is_told_what_to_set(guarded: Guarded) -> None:
    with (
        connect(EtcdSettings(endpoints=guarded.etcd.endpoints)) as client,
        pytest.raises(Refused, match=r"wants a user .*username and password_file in \[etcd\]"),
    ):
        client.get("/ours/a")
    guarded.password_file.write_text("wrong")
    with connect(guarded.settings) as client:
        with pytest.raises(Refused, match="password of user 'ours': check username"):
            client.get("/ours/a")

        guarded.password_file.unlink()
        with pytest.raises(Refused, match=r"cannot be read: .*check password_file"):
            client.get("/ours/a")

        guarded.password_file.write_text("secret")
        assert client.get("/ours/a") is None


def test_a_token_that_etcd_has_forgotten_is_replaced(guarded: Guarded) -> None:
    def forget() -> None:
        guarded.root("auth", "disable")
        guarded.enable()

    with connect(guarded.settings) as client:
        revision = client.put("/ours/a", b"1")
        forget()
        assert client.get("/ours/a") is not None
        forget()
        assert client.put_if("/ours/a", b"2", revision) == revision + 1
        forget()
        with client.watch({"/ours/": revision}) as batches:
            assert next(batches).revision == revision + 1


def test_a_restart_costs_a_login_and_no_more(guarded: Guarded) -> None:
    with connect(guarded.settings) as client:
        client.put("/ours/a", b"1")

        guarded.etcd.restart()  # it keeps tokens in memory only

        assert eventually(lambda: client.get("/ours/a"), ignore=Unreachable)


def test_a_new_password_is_read_from_its_file(guarded: Guarded) -> None:
    with connect(guarded.settings) as client:
        client.put("/ours/a", b"1")
        guarded.password_file.write_text("changed")
        guarded.root("user", "delete", "ours")
        guarded.root("user", "add", "ours:changed")
        guarded.root("user", "grant-role", "ours", "ours")

        assert client.get("/ours/a") is not None


def test_users_may_be_switched_on_and_off_under_way(users_off: Guarded) -> None:
    with connect(users_off.settings) as client:
        client.put("/ours/a", b"1")
        with client.watch({"/ours/": 1}):
            pass

        users_off.enable()

        client.put("/ours/a", b"2")
        with pytest.raises(Refused):
            client.get("/others/a")
        users_off.root("auth", "disable")
        assert client.get("/others/a") is None


# --- members ---


@pytest.fixture
def cluster(new_etcd: NewEtcd) -> Etcd:
    return new_etcd(members=3, flags=["--heartbeat-interval=50", "--election-timeout=500"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "DEADLINE", 2.0)


def leader(cluster: Etcd) -> int:
    """The index of the leading member."""
    answers = [cluster.call("maintenance/status", {}, member) for member in range(3)]
    return [answer["header"]["member_id"] for answer in answers].index(answers[0]["leader"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_lost_follower_costs_nothing(cluster: Etcd, fault: str) -> None:
    lost = cluster.members[(leader(cluster) + 1) % 3]
    others = [member.endpoint for member in cluster.members if member is not lost]
    with EtcdClient([lost.endpoint, *others]) as client:
        revision = client.put("/a", b"1")
        getattr(lost.process, fault)()

        assert client.get("/a") is not None
        assert client.put("/a", b"2") > revision
        with client.watch({"/a": revision}) as batches:
            assert next(batches).events[0].value == b"2"


@pytest.mark.usefixtures("quick")
def test_a_lost_leader_costs_an_election(cluster: Etcd) -> None:
    first = leader(cluster)
    endpoints = cluster.endpoints
    with EtcdClient([*endpoints[first:], *endpoints[:first]]) as client:
        revision = client.put("/a", b"1")
        cluster.members[first].process.kill()

        eventually(lambda: client.put("/a", b"2"), ignore=Unreachable)

        with client.watch({"/a": revision}) as batches:
            assert next(batches).events[0].value == b"2"


def test_a_member_that_lost_its_cluster_ends_the_watch(cluster: Etcd) -> None:
    with EtcdClient([cluster.endpoint]) as client:
        revision = client.put("/a", b"1")
        with client.watch({"/a": revision}) as batches:
            for member in cluster.members[1:]:
                member.process.kill()

            with pytest.raises(Unreachable, match="no leader"):
                next(batches)
