"""The keys of vulcand's tree: which are ours, and ids of which none begins another. Pure.

vulcand reads the servers of a backend by the string that its key begins with, so those of
`app-green` are also read into `app`. An id of ours is a row of words, each with a separator behind
it, that no word holds; ids of one kind have equally many words: none can be the beginning of
another one.

Whether an object is ours is told by its id, which begins with the owner (the name of the fleet's
leadership): a value that somebody has broken does not hide it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from vulcanized.model import ANY_VERSION, AppId

_SEPARATOR: Final = "__"
_READABLE: Final = 40
"""Characters of a host that an id shows."""

MIXED: Final = "_mixed"
NOTHING: Final = "_none"
_ANY: Final = "_any"
"""Backends that are of no single version. What a version is written as never begins with `_`."""

_ALTERNATE: Final = "_again"
"""Behind the version of a backend that stands in while the right one is made anew."""

_PROOF: Final = "_proof"
_NOWHERE: Final = "_nowhere"

MIDDLEWARES: Final = "vulcanized-"
"""What ids of our middlewares begin with; others of our frontends were put there by people."""


_OWN: Final = {"backends": "backend", "frontends": "frontend"}
_PARTS: Final = {"backends": "servers", "frontends": "middlewares"}
"""How the keys of an object and of its parts go on behind its id, by its kind."""


class Place(NamedTuple):
    """Where a key stands: `kind` "backends" or "frontends", the object's id, and what of it.

    `part` is "" for the object itself, else the id of the server or middleware.
    """

    kind: str
    id: str
    part: str


class Keys:
    """The keys below one prefix, and the ids of one owner."""

    def __init__(self, prefix: str, owner: str) -> None:
        self.prefix: Final = prefix
        self.owner: Final = owner
        self._own: Final = escaped(owner) + _SEPARATOR
        self._backends: Final = f"{prefix}/backends/"
        self._root: Final = f"{prefix}/"

    # --- ids ---

    def owns(self, id_: str) -> bool:
        """Whether a backend or frontend of this id is ours."""
        return id_.startswith(self._own)

    def beginnings_of_ours(self, ids: Iterable[str]) -> list[str]:
        """Those with which all of our ids begin: vulcand would read our servers into them."""
        return sorted(id_ for id_ in ids if id_ and self._own.startswith(id_))

    def backend_id(self, app: AppId, version: str) -> str:
        """The backend of one version; `ANY_VERSION`, `MIXED` and `NOTHING` are of the whole app."""
        if version == ANY_VERSION:
            version = _ANY
        elif version not in {MIXED, NOTHING}:
            version = escaped(version)
        words = (escaped(app.namespace), escaped(app.name), version, "")
        return self._own + _SEPARATOR.join(words)

    def alternate(self, backend_id: str) -> str:
        """What stands in for a backend while it is made anew; no app's id."""
        return backend_id.removesuffix(_SEPARATOR) + _ALTERNATE + _SEPARATOR

    def frontend_id(self, host: str, text: str) -> str:
        """The frontend with this text as its route; `host` is only shown.

        It is the same whichever app has the route, so one that moves is one put. And no frontend's
        text is ever another: vulcand takes the old one out before it puts the new one in.
        """
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        host = re.sub(r"[^a-z0-9]", "-", host)[:_READABLE]
        return f"{self._own}{host}{_SEPARATOR}{digest}{_SEPARATOR}"

    @property
    def proof_id(self) -> str:
        """The frontend, and its backend, that show what has been applied."""
        return f"{self._own}{_PROOF}{_SEPARATOR}"

    @property
    def nowhere_id(self) -> str:
        """The backend of frontends that answer by themselves; it has no servers."""
        return f"{self._own}{_NOWHERE}{_SEPARATOR}"

    # --- keys ---

    def backend(self, id_: str) -> str:
        """The key of a backend."""
        return f"{self.prefix}/backends/{id_}/backend"

    def server(self, backend_id: str, id_: str) -> str:
        """The key of a server."""
        return f"{self.prefix}/backends/{backend_id}/servers/{id_}"

    def frontend(self, id_: str) -> str:
        """The key of a frontend."""
        return f"{self.prefix}/frontends/{id_}/frontend"

    def middleware(self, frontend_id: str, id_: str) -> str:
        """The key of a middleware."""
        return f"{self.prefix}/frontends/{frontend_id}/middlewares/{id_}"

    def is_vulcands(self, key: str) -> bool:
        """Whether it is a listener or a host: vulcand's, and none of our business."""
        return key.startswith((f"{self.prefix}/listeners/", f"{self.prefix}/hosts/"))

    def free(self, key: str) -> str:
        """What it is the key of, a "backend" or a "server"; "" for others. For keys made here."""
        if not key.startswith(self._backends):
            return ""
        return "server" if "/servers/" in key[len(self._backends) :] else "backend"

    def place(self, key: str) -> Place | None:
        """Where a key stands; None for all that vulcand does not take for a backend or frontend."""
        if not key.startswith(self._root):
            return None
        words = key[len(self._root) :].split("/")
        if "" in words:
            return None
        if len(words) == 3 and _OWN.get(words[0]) == words[2]:
            return Place(words[0], words[1], "")
        if len(words) == 4 and _PARTS.get(words[0]) == words[2]:
            return Place(words[0], words[1], words[3])
        return None


def escaped(text: str) -> str:
    """A name in letters, digits, `-` and `_`, which is never followed by another one.

    For the names of Kubernetes (letters, digits and `-._`); different ones stay different.
    """
    return text.replace("_", "_u").replace(".", "_d")


def server_id(name: str) -> str:
    """A server's id. Its name ends with a mark of its own, so that dots need not be told apart."""
    return name.replace(".", "-")
