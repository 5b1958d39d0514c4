"""What a real etcd cannot be asked for: silence, lag, proxies that know less, hostile words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from etcd3 import etcdrpc as rpc

from vulcanized.errors import Rewound, Unreachable
from vulcanized.etcd import Batch, EtcdClient

AT = 100
"""The revision of the scripted etcd."""


class Scripted(rpc.WatchServicer, rpc.KVServicer):  # type: ignore[misc]
    """An etcd of one revision. `lag` is how far its watches are behind; `answer` makes the
    responses to each progress request, by its number; `confirm` says whether watches are."""

    def __init__(self) -> None:
        self.lag = 0
        self.revision = AT
        self.confirm = True
        self.answer: Callable[[int], list[Any]] = lambda number: []
        self.asked = 0
        self.metadata: dict[str, Any] = {}

    def Range(self, request: Any, context: Any) -> Any:
        return rpc.RangeResponse(header=header(self.revision))

    def Watch(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self.metadata = dict(context.invocation_metadata())
        number = 0
        for request in requests:
            if request.WhichOneof("request_union") == "create_request":
                if self.confirm:
                    behind = header(self.revision - self.lag)
                    yield rpc.WatchResponse(header=behind, created=True, watch_id=number)
                    number += 1
            else:
                self.asked += 1
                yield from self.answer(self.asked)


def header(revision: int) -> Any:
    return rpc.ResponseHeader(revision=revision)


def alive() -> Any:
    return rpc.WatchResponse(header=header(AT + 50), watch_id=-1)


@pytest.fixture
def etcd() -> Scripted:
    return Scripted()


@pytest.fixture
def client(etcd: Scripted) -> Iterator[EtcdClient]:
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        rpc.add_WatchServicer_to_server(etcd, server)
        rpc.add_KVServicer_to_server(etcd, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        # Time runs twenty times as fast for the client's own patience.
        with EtcdClient([f"http://127.0.0.1:{port}"], clock=lambda: time.monotonic() * 20) as it:
            yield it
        server.stop(0).wait()


def test_a_watch_that_is_never_confirmed_is_given_up(etcd: Scripted, client: EtcdClient) -> None:
    etcd.confirm = False

    with pytest.raises(Unreachable, match="said nothing for 5 s"):
        client.watch({"/a/": AT})


def test_an_etcd_that_stops_answering_is_given_up(etcd: Scripted, client: EtcdClient) -> None:
    etcd.answer = lambda number: [alive()] if number == 1 else []

    with client.watch({"/a/": AT}) as batches:
        assert next(batches) == Batch("", (), 0)
        with pytest.raises(Unreachable, match="said nothing for 15 s"):
            next(batches)
    assert etcd.asked > 1


def test_a_proxy_that_never_answers_such_a_question_is_not(
    etcd: Scripted, client: EtcdClient
) -> None:
    def late(number: int) -> list[Any]:
        return [alive()] if number == 4 else []

    etcd.answer = late

    with client.watch({"/a/": AT}) as batches:
        assert next(batches) == Batch("", (), 0)  # after 20 s of silence


def test_a_member_that_lags_is_no_cluster_that_went_back(
    etcd: Scripted, client: EtcdClient
) -> None:
    etcd.lag = 10
    client.watch({"/a/": AT}).close()

    with pytest.raises(Rewound):
        client.watch({"/a/": AT + 1})


def test_a_members_loss_of_its_cluster_is_asked_for(etcd: Scripted, client: EtcdClient) -> None:
    client.watch({"/a/": AT}).close()

    assert etcd.metadata["hasleader"] == "true"


def test_a_place_to_resume_from_never_goes_back(etcd: Scripted, client: EtcdClient) -> None:
    def notice(revision: int) -> Any:
        return rpc.WatchResponse(header=header(revision), watch_id=0)

    etcd.answer = lambda number: [alive(), notice(AT + 5), notice(AT - 5)]

    with client.watch({"/a/": AT}) as batches:
        told = [next(batches) for _ in range(3)]

    assert told == [Batch("", (), 0), Batch("/a/", (), AT + 5), Batch("/a/", (), AT + 5)]


def test_hostile_words_come_out_as_one_short_line(etcd: Scripted, client: EtcdClient) -> None:
    words = "gone\n\x1b[31m" + "x" * 1000
    etcd.answer = lambda number: [rpc.WatchResponse(canceled=True, cancel_reason=words)]

    with client.watch({"/a/": AT}) as batches, pytest.raises(Unreachable) as caught:
        next(batches)

    assert str(caught.value).isprintable()
    assert "gone??[31mxxx" in str(caught.value)
    assert len(str(caught.value)) < 500
