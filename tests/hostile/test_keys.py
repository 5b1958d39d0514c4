"""Whatever keys and files are called and hold, only names that are names make apps."""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import wire
from tests.hostile.cases import cases
from tests.hostile.documents import activation_texts, config_texts
from tests.hostile.judge import BYSTANDER, carried_through, judge
from tests.servers.wait import eventually
from vulcanized.etcd import Batch, EtcdClient
from vulcanized.etcd.values import Event, KeyValue, Listing
from vulcanized.model import AppId, Observed
from vulcanized.slot import DirtyApps
from vulcanized.sources.directory import DirectoryStore
from vulcanized.sources.etcd import EtcdSource

PREFIX = "/vulcanized"
values = st.one_of(config_texts, activation_texts).map(lambda t: t.encode(errors="surrogatepass"))
keys = wire.places.map(lambda place: f"{PREFIX}/{place}".encode(errors="surrogatepass"))


class StandIn:
    """An etcd that lists some keys and then sends others. Keys come as the client decodes them."""

    def __init__(self, listed: Mapping[str, bytes], sent: Mapping[str, bytes | None]) -> None:
        self._listed = listed
        self._sent = sent
        self.stop = threading.Event()

    def list_prefix(self, prefix: str, revision: int, stop: threading.Event) -> Listing:
        mine = {key: value for key, value in self._listed.items() if key.startswith(prefix)}
        return Listing(tuple(KeyValue(key, value, 1, 1) for key, value in mine.items()), 1)

    @contextlib.contextmanager
    def watch(self, after: Mapping[str, int], stop: threading.Event) -> Iterator[Iterator[Batch]]:
        yield self._batches(list(after))

    def _batches(self, prefixes: list[str]) -> Iterator[Batch]:
        for prefix in prefixes:
            mine = {key: value for key, value in self._sent.items() if key.startswith(prefix)}
            yield Batch(prefix, tuple(Event(key, value, 1, 2) for key, value in mine.items()), 2)
        self.stop.set()


def decoded(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


@cases(200)
@given(
    st.dictionaries(keys, values, max_size=4),
    st.dictionaries(keys, st.none() | values, max_size=3),
)
def test_keys_and_values_of_etcd(
    part: int, listed: dict[bytes, bytes], sent: dict[bytes, bytes | None]
) -> None:
    etcd = StandIn(
        {decoded(key): value for key, value in listed.items()},
        {decoded(key): value for key, value in sent.items()},
    )
    source = EtcdSource(cast("EtcdClient", etcd), PREFIX, DirtyApps())
    source.run(etcd.stop)
    written = {**etcd._listed, **etcd._sent}
    here = {key for key, value in written.items() if value is not None}
    judge_store(source, {key.removeprefix(PREFIX + "/") for key in here}, suffix="")


def judge_store(store: Any, places: set[str], suffix: str) -> None:
    """The store knows exactly the apps that names are given to; what they say is judged too."""
    named = {}
    for place in places:
        folder, _, rest = place.partition("/")
        ends = suffix if folder == "apps" else ""
        namespace, _, name = rest.partition("/")
        name = name.removesuffix(ends) if name.endswith(ends) else "/"
        if (
            folder in ("apps", "active")
            and re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace)
            and re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", name)
        ):
            named[AppId(namespace, name)] = place
    assert store.apps() == named.keys()
    apps = [
        Observed(app, (), (), store.config(app), store.activation(app))
        for app in sorted(named)
        if app != BYSTANDER.app
    ]
    for one in apps:
        for document in (one.config, one.activation):
            assert document is None or document.origin.isprintable()
    judge(carried_through(apps))


def is_a_file_name(place: str) -> bool:
    parts = place.split("/")
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return False
    return "\0" not in place and not {"", ".", ".."} & set(parts) and max(lengths) < 250


names = wire.places.map(lambda p: f"{p}.json" if p.startswith("apps/") else p)


@cases(4, shrink=False)  # each try takes a thread and a directory
@given(st.dictionaries(names.filter(is_a_file_name), values.filter(bool), min_size=20, max_size=40))
def test_files_of_the_directory_store(part: int, files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = set()
        for name, content in files.items():
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                # A directory in the place of a file cannot be used, but it is not an absent file.
                written.add("/".join(name.split("/")[:3]))
        store = DirectoryStore(Path(folder), DirtyApps())
        stop = threading.Event()
        (stream,) = store.streams
        thread = threading.Thread(target=stream.run, args=(stop,), daemon=True)
        thread.start()
        try:
            eventually(lambda: stream.spoken, 20, "a word of the store")
            judge_store(store, written, suffix=".json")
            assert stream.state().error == ""
        finally:
            stop.set()
            thread.join(10)
