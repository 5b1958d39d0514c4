"""What HAProxy answers, in the words of its versions."""

from __future__ import annotations

import pytest

from vulcanized.errors import ProxyUnreachable
from vulcanized.model import ServerState
from vulcanized.targets.haproxy.live import (
    LiveServer,
    Processes,
    Servers,
    alerts,
    parse_processes,
    parse_sessions,
    parse_table,
    parse_workers,
)

CALM = """\
#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
9422            master          1 [failed: 0]   0d00h09m14s     2.6.12-1+deb12u4
# workers
12568           worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
9425            worker          1               0d00h09m14s     2.6.12-1+deb12u4
# programs

"""
FAILED_2_6 = """\
#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
9422            master          3 [failed: 2]   0d00h09m21s     2.6.12-1+deb12u4
# workers
12568           worker          2               0d00h00m07s     2.6.12-1+deb12u4
# programs

"""
FAILED_3_2 = """\
#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
26599           master          3 [failed: 1]   0d00h00m02s     3.2.26-1       \n\
# workers
# old workers
26605           worker          3               0d00h01m01s     3.2.26-1       \n\
26629           worker          1               0d00h00m01s     3.2.26-1       \n\

"""


@pytest.mark.parametrize(
    ("text", "processes"),
    [
        (CALM, Processes(9422, 1, 0, 12568, "2.6.12-1+deb12u4")),
        (FAILED_2_6, Processes(9422, 3, 2, 12568, "2.6.12-1+deb12u4")),
        (FAILED_3_2, Processes(26599, 3, 1, 26629, "3.2.26-1")),
    ],
    ids=["calm", "failed, 2.6", "failed, 3.2"],
)
def test_the_worker_that_serves_is_known(text: str, processes: Processes) -> None:
    assert parse_processes(text) == processes


@pytest.mark.parametrize("text", ["", "Permission denied\n", "HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_not_haproxys_master_is_told_so(text: str) -> None:
    with pytest.raises(ProxyUnreachable, match="HAProxy"):
        parse_processes(text)


def test_a_master_without_a_worker_is_told_so() -> None:
    with pytest.raises(ProxyUnreachable, match="no worker"):
        parse_processes("\n".join(CALM.splitlines()[:3]))


def test_maps_keep_their_order_and_the_first_of_two_entries() -> None:
    text = "0x55 b two words\n0x56 a 1\n0x57 b other\n0x58 c \n\n"
    assert parse_table(text) == {"b": "two words", "a": "1", "c": ""}
    assert list(parse_table(text) or ()) == ["b", "a", "c"]
    assert parse_table("Unknown map identifier. Please use #<id> or <file>.\n\n") is None
    assert parse_table("\n") == {}


def test_servers_are_told_by_backend_and_state() -> None:
    line = "3 {} 1 {} {} 2 {} {} 100 1 1 0 2 0 0 0 0 - {} - 0 0 - - 0\n"
    text = "1\n# be_id be_name srv_id ...\n" + "".join(
        line.format(*fields)
        for fields in (
            ("a:b:1", "ready", "10.0.0.1", 0, 100, 80),
            ("a:b:1", "drains", "fd00::0:1", 8, 100, 80),
            ("a:b:1", "forced", "10.0.0.1", 1, 100, 80),
            ("a:b:1", "configured", "10.0.0.1", 4, 100, 80),
            ("a:b:1", "both", "10.0.0.1", 9, 7, 80),
            ("stranger", "x", "10.0.0.1", 0, 100, 80),
        )
    )
    ready, drain, maint = ServerState.READY, ServerState.DRAIN, ServerState.MAINT
    assert Servers(text + "\n", {"a:b:1": "", "a:c": "", "config": ""}) == {
        "a:b:1": {
            "ready": LiveServer("10.0.0.1", 80, ready, 100),
            "drains": LiveServer("fd00::1", 80, drain, 100),
            "forced": LiveServer("10.0.0.1", 80, maint, 100),
            "configured": LiveServer("10.0.0.1", 80, maint, 100),
            "both": LiveServer("10.0.0.1", 80, maint, 7),
        },
        "a:c": {},
    }
    with pytest.raises(ProxyUnreachable):
        Servers("Can't find the target PID", {})


def test_reasons_are_picked_out_of_what_haproxy_says() -> None:
    said = (
        "[NOTICE]   (1) : haproxy version is 2.6.12\n"
        "[ALERT]    (1) : config : parsing [/d/haproxy.cfg:7] : unknown keyword 'x'\n"
        "[ALERT]    (1) : config : Error(s) found in configuration file : /d/haproxy.cfg\n"
    )
    assert alerts(said) == "parsing [/d/haproxy.cfg:7] : unknown keyword 'x'"
    assert alerts("") == "it said nothing"
    assert alerts("Killed\n") == "Killed"


def test_workers_that_only_finish_old_sessions_are_workers_too() -> None:
    assert parse_workers(CALM) == [12568, 9425]
    assert parse_workers("") == []


def test_sessions_are_counted_with_those_that_wait_for_a_server() -> None:
    head = "# pxname,svname,qcur,qmax,scur,smax,slim,"
    text = f"{head}\na:1,BACKEND,2,0,3,9,0,\n\n{head}\nb:1,BACKEND,0,0,0,1,0,\n\n"
    text += "No such proxy.\n\n"
    # One answer for each worker.
    assert parse_sessions(text) == {"a:1": 5, "b:1": 0}
    assert parse_sessions("") == {}
