"""Proof by a request through vulcand: its API shows what stands in etcd, not what it has applied.

A frontend of ours answers every request with a redirect to a word, which changes with every write.
vulcand works through its events one after another, so who sees the word knows that all that was
written before it has been worked through.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from vulcanized.model import Endpoint
from vulcanized.slot import Clock

PATIENCE: Final = 5.0
"""Seconds after which a write counts as unproven; it is asked for more seldom from then on."""

_QUICK, _SLOW, _SELDOM = 0.002, 0.05, 1.0
"""Seconds between two questions: at first, later, and when patience is over."""

_ANSWER: Final = 2.0


class Prover:
    """Asks vulcand at each of its addresses for the newest word. `run` is a thread's work.

    `proven` is the last word that all of them have shown, `reason` why the newest is not proven.
    """

    def __init__(
        self,
        addresses: Sequence[Endpoint],
        host: str,
        changed: Callable[[], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self.proven = ""
        self.reason = "nothing was written yet"
        self._addresses = tuple(addresses)
        self._host = host
        self._changed = changed
        self._clock = clock
        self._condition = threading.Condition()
        self._wanted = ""

    def want(self, word: str) -> None:
        """Ask for this word from now on; nothing happens if it is the one that is asked for."""
        with self._condition:
            if word != self._wanted:
                self._wanted = word
                self.reason = "not seen yet"
                self._condition.notify()

    def close(self) -> None:
        """Wake the thread, whose `stop` is set."""
        with self._condition:
            self._condition.notify()

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        word, since = "", 0.0
        left: list[Endpoint] = []
        while not stop.is_set():
            with self._condition:
                if self._wanted == word and not left:
                    self._condition.wait(_SELDOM)
                if self._wanted != word:
                    word, since, left = self._wanted, self._clock(), list(self._addresses)
            if not left:
                continue
            left, reason = self._ask_all(left, word)
            waited = self._clock() - since
            if not left:
                self.proven, self.reason = word, ""
                self._changed()
            elif waited < PATIENCE:
                stop.wait(_QUICK if waited < _SLOW else _SLOW)
            else:
                if self.reason != reason:
                    self.reason = reason
                    self._changed()
                stop.wait(_SELDOM)

    def _ask_all(self, addresses: Sequence[Endpoint], word: str) -> tuple[list[Endpoint], str]:
        """Those that do not show the word, and what the first of them says."""
        left, reasons = [], []
        for address in addresses:
            try:
                said = self._ask(address)
            except (OSError, http.client.HTTPException, ValueError) as error:
                said = f"{type(error).__name__}: {error}"
            if said != word:
                left.append(address)
                shown = f"shows {said!r:.80}" if said else "shows nothing of ours"
                reasons.append(f"vulcand at {address} {shown}")
        return left, next(iter(reasons), "")

    def _ask(self, address: Endpoint) -> str:
        connection = http.client.HTTPConnection(address.address, address.port, timeout=_ANSWER)
        try:
            connection.request("GET", "/", headers={"Host": self._host, "Connection": "close"})
            answer = connection.getresponse()
            location = answer.getheader("Location", "")
            return location.rpartition("/")[2] if answer.status == http.client.FOUND else ""
        finally:
            connection.close()
