"""The judge of a run sees what it is there for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos import judge
from tests.chaos.judge import Held, Requests, Sample
from tests.chaos.proxy import Known, files_say_the_same
from tests.servers.load import Failure


@pytest.fixture
def requests() -> Requests:
    """Of which none was sent."""
    return Requests(port=9, seconds=1.0)


def failed(requests: Requests, app: str, began: float, ended: float) -> None:
    requests._loads[app].report.moments.append(Failure(began, ended, "status 503"))


def test_a_failed_request_is_told_with_its_app(requests: Requests) -> None:
    failed(requests, "other", 5.0, 5.1)
    assert [name for name, _ in requests.unexcused({"shop": [5.0]})] == ["other"]


def test_only_a_crash_of_the_own_app_shortly_before_excuses(requests: Requests) -> None:
    failed(requests, "shop", 5.0, 5.1)
    assert requests.unexcused({"shop": [4.0]}) == []
    assert requests.unexcused({"shop": [2.5]}) != []
    assert requests.unexcused({"shop": [6.0]}) != []
    assert requests.unexcused({"mail": [4.0]}) != []
    assert requests.failures() == 1


def test_a_request_that_was_under_way_at_a_crash_is_excused(requests: Requests) -> None:
    failed(requests, "shop", 3.0, 13.0)
    assert requests.unexcused({"shop": [4.0]}) == []


def test_of_the_host_that_moves_every_crash_may_be_the_reason(requests: Requests) -> None:
    failed(requests, "(moving)", 5.0, 5.1)
    assert requests.unexcused({"mail": [4.5]}) == []


def test_growth_is_seen_and_a_start_is_none() -> None:
    flat = [Sample(7, second, 50_000 if second > 3 else 40_000, 20, 10) for second in range(40)]
    fresh = Held(Counter({"socket:": 20}), Counter({"main": 10}))
    leaking = Held(Counter({"socket:": 20, "pipe:": 9}), Counter({"main": 10, "watch": 30}))
    assert judge.leaks(flat, fresh, fresh) == []
    growing = [Sample(8, second, 50_000 + 500 * second, 20, 10) for second in range(40)]
    assert judge.leaks(flat + growing, fresh, fresh) == ["13500 kB more in the end"]
    assert judge.leaks(flat, leaking, fresh) == [
        "29 descriptors, a fresh start has 20: 9 pipe:",
        "40 threads, a fresh start has 10: 30 watch",
    ]


def test_a_process_that_lived_shortly_is_not_judged() -> None:
    assert judge.growth([Sample(7, second, second * 10_000, 20, 10) for second in range(9)]) == 0


def test_tracebacks_are_found_in_the_log_whoever_wrote_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '{"level": "warning", "message": "source failed"}\n'
        '{"level": "error", "message": "target failed", "exception": "Traceback ..."}\n'
        '{"level": "error", "mess\n'
        "Traceback (most recent call last):\n"
        '{"level": "error", "message": "thread failed; the daemon ends"}\n'
    )
    assert len(judge.faults_of_ours(log)) == 3
    assert judge.messages(log)["warning: source failed"] == 1


def test_a_reload_is_fair_only_when_the_files_say_what_runs(tmp_path: Path) -> None:
    tables = {"active.map": {"default/a": "default:a:v1"}, "hosts.map": {}, "split.map": {}}
    tables["routes-prefix.map"] = {}
    running = Known(1, tables, {"default:a:v1": frozenset({("10.0.0.1", 80)})})
    assert running.active("a") == {"default:a:v1"}
    (tmp_path / "active.map").write_text("default/a default:a:v1\n")
    for name in ("hosts.map", "split.map", "routes-prefix.map"):
        (tmp_path / name).write_text("")
    config = tmp_path / "haproxy.cfg"
    config.write_text("backend default:a:v1 from x\n    server a-1 10.0.0.1:80 weight 100\n")
    assert files_say_the_same(running, tmp_path)
    config.write_text("backend default:a:v1 from x\n    server a-1 10.0.0.9:80 weight 100\n")
    assert not files_say_the_same(running, tmp_path)
