"""The keys of vulcand's tree: ids that cannot be taken for each other, and whose a key is."""

from __future__ import annotations

import re
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vulcanized.model import ANY_VERSION, AppId
from vulcanized.targets.vulcand.keys import MIXED, NOTHING, Keys, Place, escaped, server_id

KEYS = Keys("vulcand", "edge")

_INNER = "ab_.dAuZ0-"
names = st.one_of(
    # Near each other: what an escape or a separator could mix up.
    st.sampled_from(["a", "a-b", "a.b", "a_b", "a_ub", "a_db", "any", "a-any", "mixed", "none"]),
    st.from_regex(rf"[a-z0-9]([{_INNER}]{{0,12}}[a-z0-9])?", fullmatch=True),
)
owners = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)
versions = st.one_of(names, st.sampled_from([ANY_VERSION, MIXED, NOTHING, "again", "proof"]))
apps = st.builds(AppId, names, names)
hosts = st.sampled_from(["a.example", "a-example", "*.a.example", "*", "x" * 63 + ".example"])


def unlike(ids: list[str]) -> None:
    """All different, and vulcand does not read the servers of one into another."""
    assert len(set(ids)) == len(ids)
    assert not [pair for pair in permutations(ids, 2) if pair[0].startswith(pair[1])]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", id_) for id_ in ids)


@settings(max_examples=150)
@given(
    owner=owners,
    backends=st.lists(st.tuples(apps, versions), min_size=2, max_size=8, unique=True),
    frontends=st.lists(st.tuples(hosts, names), max_size=6, unique_by=lambda pair: pair[1]),
)
def test_no_id_is_another_one_or_its_beginning(
    owner: str, backends: list[tuple[AppId, str]], frontends: list[tuple[str, str]]
) -> None:
    keys = Keys("vulcand", owner)
    found = [keys.backend_id(*each) for each in backends] + [keys.nowhere_id]
    copies = [keys.alternate(id_) for id_ in found]
    unlike([*found, *copies])

    shown = [keys.frontend_id(*each) for each in frontends]
    unlike([*shown, keys.proof_id])
    assert all(map(keys.owns, [*found, *copies, *shown, keys.proof_id]))


@given(text=names, other=names)
def test_different_names_stay_different(text: str, other: str) -> None:
    assert (escaped(text) == escaped(other)) == (text == other)
    assert "__" not in f"x{escaped(text)}"


def test_a_version_cannot_be_called_like_a_backend_of_none() -> None:
    """Label values begin with a letter or a digit; what is of no version begins with `_`."""
    app = AppId("default", "todo")
    ids = [KEYS.backend_id(app, each) for each in ("any", "mixed", "none", "again", "proof")]
    ids += [KEYS.backend_id(app, each) for each in (ANY_VERSION, MIXED, NOTHING)]
    unlike([*ids, KEYS.nowhere_id])


@settings(max_examples=150)
@given(owners=st.lists(owners, min_size=2, max_size=4, unique=True), app=apps, version=versions)
def test_an_owner_does_not_own_what_is_anothers(
    owners: list[str], app: AppId, version: str
) -> None:
    for one, other in permutations([Keys("vulcand", owner) for owner in owners], 2):
        ids = [one.backend_id(app, version), one.proof_id, one.frontend_id("a.example", "x")]
        ids += [one.alternate(ids[0]), one.nowhere_id]
        assert all(map(one.owns, ids))
        assert not any(map(other.owns, ids))
        unlike([ids[0], other.backend_id(app, version)])


@pytest.mark.parametrize(
    ("owner", "other"),
    [("edge", "edge_2"), ("edge", "edge-2"), ("edge", "edge.2"), ("edge", "edge_"), ("a", "a__b")],
)
def test_owners_that_begin_alike(owner: str, other: str) -> None:
    one, two = Keys("vulcand", owner), Keys("vulcand", other)
    app = AppId("default", "todo")
    assert not one.owns(two.backend_id(app, "blue"))
    assert not two.owns(one.backend_id(app, "blue"))
    assert not one.owns(two.proof_id)
    assert not two.owns(one.proof_id)


ids = st.one_of(
    st.text(alphabet="ab-_.", min_size=1, max_size=8),
    st.builds(KEYS.backend_id, apps, versions),
    st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text),
)


@given(prefix=st.sampled_from(["vulcand", "/vulcand", "a.b/c", "v(1)"]), id_=ids, part=ids)
def test_place_reads_what_the_makers_of_keys_wrote(prefix: str, id_: str, part: str) -> None:
    keys = Keys(prefix, "edge")
    assert keys.place(keys.backend(id_)) == Place("backends", id_, "")
    assert keys.place(keys.server(id_, part)) == Place("backends", id_, part)
    assert keys.place(keys.frontend(id_)) == Place("frontends", id_, "")
    assert keys.place(keys.middleware(id_, part)) == Place("frontends", id_, part)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "vulcand",
        "vulcand/backends/b1",
        "vulcand/backends/b1/",
        "vulcand/backends//backend",
        "vulcand/backends/b1/servers",
        "vulcand/backends/b1/servers/",
        "vulcand/backends/b1/servers/s/x",
        "vulcand/backends/b1/backend/x",
        "vulcand/backends/b1/frontend",
        "vulcand/backends/b1/middlewares/m",
        "vulcand/frontends/f1",
        "vulcand/frontends/f1/backend",
        "vulcand/frontends/f1/servers/s",
        "vulcand-staging/backends/b1/backend",
        "vulcand/x/backends/b1/backend",
        "/vulcand/backends/b1/backend",
        "vulcandXbackends/b1/backend",
        "vulcand/listeners/l1",
        "vulcand/hosts/a.example/host",
    ],
)
def test_no_place_of_ours(key: str) -> None:
    assert KEYS.place(key) is None


def test_listeners_and_hosts_are_vulcands() -> None:
    assert KEYS.is_vulcands("vulcand/listeners/l1")
    assert KEYS.is_vulcands("vulcand/hosts/a.example/host")
    assert not KEYS.is_vulcands("vulcand-staging/hosts/a.example/host")
    assert not KEYS.is_vulcands("vulcand/backends/b1")


def test_a_backend_with_which_all_of_ours_begin_is_told() -> None:
    others = ["e", "edge", "edge_", "edge__", "edge__default", "edges", "x", ""]
    assert KEYS.beginnings_of_ours(others) == ["e", "edge", "edge_", "edge__"]


def test_servers_ids_have_no_dots() -> None:
    assert server_id("todo-7d.4f-abc_1") == "todo-7d-4f-abc_1"
