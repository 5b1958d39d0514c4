"""An absent server fails where servers are required, and skips elsewhere."""

from __future__ import annotations

import pytest

from tests.servers.fixtures import missing
from tests.servers.programs import ServerMissing


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("VULCANIZED_REQUIRE_SERVERS", "1")])
def test_where_servers_are_required_an_absent_one_fails_the_test(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(name, value)

    with pytest.raises(pytest.fail.Exception, match="apt-get install etcd-server"):
        missing(ServerMissing("apt-get install etcd-server"))


def test_elsewhere_it_skips_the_test_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "false")
    monkeypatch.delenv("VULCANIZED_REQUIRE_SERVERS", raising=False)

    with pytest.raises(pytest.skip.Exception, match="apt-get install etcd-server"):
        missing(ServerMissing("apt-get install etcd-server"))
