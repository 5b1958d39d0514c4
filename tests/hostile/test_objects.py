"""Whatever manifests and watch events say, HAProxy gets an app's own servers and nothing else."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.factory import TODO, pod
from tests.hostile import wire
from tests.hostile.cases import cases
from tests.hostile.judge import carried_through, judge
from vulcanized.errors import Invalid, SourceError
from vulcanized.listwatch import Codec
from vulcanized.manifests import parse
from vulcanized.model import AppId, Controller, Document, Observed, Pod
from vulcanized.objects import Labels, Manifests, controllers, pods

LABELS = Labels()
CONFIG = Document('{"hosts": ["todo.example.com"]}', "store/apps/default/todo.json")


def apps_of(records: Iterable[Pod | Controller], config: Document | None) -> list[Observed]:
    """The records by app, all of them with this app config beside their annotations."""
    found: dict[AppId, list[Pod | Controller]] = defaultdict(list)
    for record in {record.uid: record for record in records}.values():
        found[AppId(record.namespace, record.app)].append(record)
    return [
        Observed(
            app,
            tuple(sorted((r for r in mine if isinstance(r, Pod)), key=lambda r: r.uid)),
            tuple(sorted((r for r in mine if isinstance(r, Controller)), key=lambda r: r.uid)),
            config,
        )
        for app, mine in sorted(found.items())
    ]


def judge_records(records: Iterable[Pod | Controller], config: Document | None) -> None:
    """Names are names, addresses are addresses, and what is made of them is only that."""
    for record in records:
        names = [record.uid, record.namespace, record.name, record.app]
        assert all(re.fullmatch(r"[A-Za-z0-9._/-]{1,600}", name) for name in names)
        assert re.fullmatch(r"[A-Za-z0-9._-]{0,253}", record.version)
        if isinstance(record, Pod):
            assert record.version
            if record.ip:
                assert str(ipaddress.ip_address(record.ip)) or "%" not in record.ip
            assert all(1 <= port.number <= 65535 for port in record.ports)
            event("an address" if record.ip else "no address")
    judge(carried_through(apps_of(records, config)))


def judge_error(error: Exception) -> None:
    """Its text can be shown as it is, in one line."""
    assert str(error).isprintable()


@cases(500)
@given(st.lists(wire.files, min_size=1, max_size=2), st.sampled_from((CONFIG, None)))
def test_manifests_on_disk(
    part: int, files: list[tuple[str, bytes]], config: Document | None
) -> None:
    records: list[Pod | Controller] = []
    for name, content in files:
        try:
            parsed = parse(content, name, Manifests(LABELS))
        except Invalid as error:
            judge_error(error)
            event("file refused")
            continue
        assert all(reason.isprintable() for reason in parsed.invalid.values())
        records += parsed.records.values()
    judge_records(records, config)


@cases(300)
@given(st.lists(wire.events, min_size=1, max_size=3), st.sampled_from((CONFIG, None)))
def test_events_of_a_watch(part: int, lines: list[bytes], config: Document | None) -> None:
    records: list[Pod | Controller] = []
    codecs: list[Codec[Any]] = [Codec(pods(LABELS)), Codec(controllers("Deployment", LABELS))]
    for codec in codecs:
        for line in lines:
            try:
                happened = codec.event(line)
            except (Invalid, SourceError) as error:
                judge_error(error)
                continue
            if happened.record is not None:
                records.append(happened.record)
    judge_records(records, config)


@cases(200)
@given(wire.pages)
def test_answers_to_a_list(part: int, body: bytes) -> None:
    try:
        page = Codec(pods(LABELS)).page(body)
    except Invalid as error:
        judge_error(error)
        return
    assert all(str(bad.error).isprintable() for bad in page.unreadable)
    judge_records(page.records, CONFIG)


@pytest.mark.parametrize(
    "content",
    [
        b"kind: Pod\nmetadata: {name: a, creationTimestamp: 0001-01-01T00:00:00+14:00}",
        b"kind: Pod\nmetadata: {name: a, deletionTimestamp: 9999-12-31T23:59:59-14:00}",
    ],
)
def test_a_time_that_no_clock_shows_costs_one_object(content: bytes) -> None:
    parsed = parse(content, "a.yaml", Manifests(LABELS))
    assert list(parsed.invalid) == ["Pod default/a"]


@pytest.mark.parametrize("text", ["!!bool x", "!!timestamp x", "!!float ''", "!!int x"])
def test_a_tag_on_what_it_does_not_fit_costs_one_file(text: str) -> None:
    with pytest.raises(Invalid, match=r"a\.yaml: cannot be read"):
        parse(text.encode(), "a.yaml", Manifests(LABELS))


def test_two_pods_whose_names_were_made_alike_are_two_servers() -> None:
    """On disk anybody may write any uid, so one can be looked for that has the same crc32."""
    seen: dict[int, str] = {}
    for number in range(1_000_000):
        uid = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        other = seen.setdefault(zlib.crc32(f"{uid} 10.0.0.1 8080".encode()), uid)
        if other != uid:
            break
    outcome = carried_through(apps_of([pod("a", uid=uid), pod("a", uid=other)], CONFIG))
    judge(outcome)
    todo = outcome.built[TODO].desired
    assert todo is not None
    assert len({server.name for server in todo.backends[0].servers}) == 2
