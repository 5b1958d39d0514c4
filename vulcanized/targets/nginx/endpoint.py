"""What nginx says that it runs, asked where its clients ask."""

from __future__ import annotations

import http.client
import re
from typing import Final, NamedTuple

from vulcanized.model import Endpoint
from vulcanized.targets.nginx.words import GENERATION_HOST

ASK_SECONDS: Final = 1.0
_ANSWER: Final = re.compile(r"([0-9a-f]{32})( seen)?\Z")


class Generation(NamedTuple):
    """`digest` of the config that answers, "" of another's; `sees`: its workers see the flags."""

    digest: str
    sees: bool = False


def generation(listen: Endpoint, seconds: float = ASK_SECONDS) -> Generation | None:
    """What answers there; None: nobody does.

    On a connection of its own, so any worker that accepts may answer.
    """
    anywhere = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    address = anywhere.get(listen.address, listen.address)
    connection = http.client.HTTPConnection(address, listen.port, timeout=seconds)
    try:
        headers = {"Host": GENERATION_HOST, "Connection": "close"}
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read(64).decode("ascii", "replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    said = _ANSWER.match(body) if answer.status == 200 else None
    return Generation(said[1], said[2] is not None) if said else Generation("")
