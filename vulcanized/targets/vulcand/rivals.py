"""Another fleet of the same name: the same `leader` under another `etcd.prefix`.

Its ids are ours, and its leadership is not: each of the two would put back what the other writes,
for ever. All objects name the leader key of who wrote them. Where that is another one and somebody
holds it, whoever came later writes nothing. Where nobody does, the fleet has moved to another
prefix, or has gone, and its objects are taken over.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from vulcanized.targets.vulcand.plan import Touched
from vulcanized.targets.vulcand.tree import Node, Tree

_LONGEST = 1024


class _Owned(msgspec.Struct):
    Owner: str = ""


_DECODER = msgspec.json.Decoder(_Owned)


def rivals(tree: Tree, touched: Touched, mark: str) -> set[str]:
    """The leader keys, other than `mark`, that objects of our ids name. Under the tree's lock.

    Only such that give the leader our name: a value is anybody's, and each is a key to be read.
    """
    name = mark.rpartition("/")[2]
    found = {_owner(node) for node in _nodes(tree, touched)}
    return {
        owner
        for owner in found
        if owner != mark and owner.endswith(f"/leader/{name}") and len(owner) <= _LONGEST
    }


def _nodes(tree: Tree, touched: Touched) -> Iterable[Node]:
    for ids, nodes in ((touched.backends, tree.backends), (touched.frontends, tree.frontends)):
        for id_ in ids:
            node = nodes.get(id_)
            if node is not None and tree.keys.owns(id_):
                yield node


def _owner(node: Node) -> str:
    if node.own is None:
        return ""
    try:
        return _DECODER.decode(node.own.value).Owner
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def refusal(leader: str, rival: str, instance: str) -> str:
    """Why nothing is written beside a rival."""
    return (
        f"{instance!r} leads a fleet that is named {leader!r} too, under another etcd.prefix "
        f"({rival}), and its objects are in this tree: each would put back what the other writes; "
        "nothing is written; stop that one, or set another `leader` for this"
    )
