"""A network in our hand for what asks servers directly: who accepts, who refuses, who is silent."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from vulcanized.model import Endpoint
from vulcanized.probe import Answer, Prober


class Network(Prober):
    """`accepting` and `refusing` are addresses, the others are silent; `asked` is all that was.

    `room`: how many can be asked at once before time is up.
    """

    def __init__(self, accepting: Iterable[str] = (), refusing: Iterable[str] = ()) -> None:
        super().__init__()
        self.accepting = set(accepting)
        self.refusing = set(refusing)
        self.room = 1_000_000
        self.asked: list[Endpoint] = []

    def ask(self, endpoints: Iterable[Endpoint], stop: threading.Event) -> dict[Endpoint, Answer]:
        answers: dict[Endpoint, Answer] = {}
        for endpoint in dict.fromkeys(endpoints):
            if len(answers) >= self.room:
                answers[endpoint] = Answer.UNASKED
                continue
            self.asked.append(endpoint)
            answers[endpoint] = self._answer(endpoint.address)
        return answers

    def _answer(self, address: str) -> Answer:
        if address in self.accepting:
            return Answer.ACCEPTED
        return Answer.REFUSED if address in self.refusing else Answer.SILENT
