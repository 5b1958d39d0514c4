"""Certificates that change or expire under a running daemon."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import manifests
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.certs import Authority, Certificate
from tests.servers.wait import eventually
from tests.sources.following import add, following
from vulcanized.model import SourcePhase
from vulcanized.settings import KubernetesSettings


class Secured:
    """A server behind TLS, whose certificate can be changed, and a kubeconfig that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "first", "first")
        self.trusted = folder / "ca.crt"
        shutil.copy(self.authority.ca, self.trusted)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.use(self.authority.issue("server"))
        self.server = FakeKubernetes(tls=self._tls)

    def use(self, certificate: Certificate) -> None:
        """Show this certificate from the next connection on."""
        self._tls.load_cert_chain(certificate.cert, certificate.key)

    @property
    def settings(self) -> KubernetesSettings:
        path = self.server.write_kubeconfig(self.folder / "kubeconfig", ca=self.trusted)
        return KubernetesSettings(kubeconfig=path)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    made = Secured(tmp_path)
    with made.server as server:
        server.store.create("pods", manifests.pod("a"))
        yield made


def test_while_the_servers_certificate_has_expired_its_last_word_holds(secured: Secured) -> None:
    with following(secured.settings) as running:
        running.until_spoken()
        eventually(lambda: secured.server.watching() == 4)
        secured.use(secured.authority.issue("expired", days=-1))
        secured.server.cut()
        add(secured.server, "b")
        state = running.until_error("certificate has expired")
        assert state.phase is SourcePhase.STALE
        assert running.names() == ["a"]

        secured.use(secured.authority.issue("renewed"))
        running.until_names("a", "b")
        running.until_synced()
        assert running.state().relists == {}


def test_a_new_authority_is_trusted_once_its_file_says_so(secured: Secured) -> None:
    second = Authority(secured.folder / "second", "second")
    with following(secured.settings) as running:
        running.until_spoken()
        eventually(lambda: secured.server.watching() == 4)
        secured.use(second.issue("server"))
        secured.server.cut()
        add(secured.server, "b")
        running.until_error("certificate verify failed")

        shutil.copy(second.ca, secured.trusted)
        running.until_names("a", "b")
        running.until_synced()


def test_a_certificate_for_another_name_is_not_accepted(secured: Secured) -> None:
    secured.use(secured.authority.issue("elsewhere", hosts=("elsewhere.example.com",)))
    with following(secured.settings) as running:
        state = running.until_error("certificate verify failed")
        assert state.phase is SourcePhase.STARTING
        assert secured.server.requests == []
