"""Weights as whole servers, which is all that vulcand has. Pure.

vulcand gives every server of a backend the same share. So a weighted activation becomes one backend
that holds some servers of each version, as many as come nearest to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final

from vulcanized.model import Server, Share

MOST_SERVERS: Final = 512
"""Of one version: from so many on a finer ratio is none that anybody could measure."""

_MOST_TRIED: Final = 6
"""Shares up to which both ways to round each of them are tried."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The servers of a mixed backend. `reached`: how many there are of each share."""

    servers: tuple[Server, ...]
    reached: tuple[tuple[Share, int], ...]

    @property
    def error(self) -> float:
        """The largest difference between a wanted and a reached part of the traffic, 0 to 1."""
        return _error(tuple(share.weight for share, _ in self.reached), self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The servers of each share."""
        return tuple(count for _, count in self.reached)

    def in_words(self) -> str:
        """What was reached, for people."""
        total = sum(self.counts)
        return ", ".join(
            f"{share.version} {count} of {total} servers ({100 * count / (total or 1):.3g} %)"
            for share, count in self.reached
        )


def mix(available: Mapping[Share, tuple[Server, ...]]) -> Mix:
    """Choose the servers; of equally near ratios the one with most of them.

    Every share has one server at least, if there is one: a weight is positive, so it takes traffic.
    """
    shares = tuple(available)
    limits = tuple(min(len(available[share]), MOST_SERVERS) for share in shares)
    counts = nearest(tuple(share.weight for share in shares), limits)
    servers = [
        server
        for share, count in zip(shares, counts, strict=True)
        for server in available[share][:count]
    ]
    return Mix(tuple(servers), tuple(zip(shares, counts, strict=True)))


def nearest(weights: tuple[int, ...], limits: tuple[int, ...]) -> tuple[int, ...]:
    """How many servers of each, at most `limits`, so that their ratio is nearest to the weights.

    One of the shares is used in some number; those of the others follow from the weights, each
    rounded up or down. All such choices are looked at.
    """
    shares = range(len(weights))
    best: tuple[float, int, tuple[int, ...]] | None = None
    for index in shares:
        for count in range(1, limits[index] + 1):
            choices = [
                (count,) if other == index else _around(count * weights[other], weights[index])
                for other in shares
            ]
            if len(weights) > _MOST_TRIED:
                choices = [choice[:1] for choice in choices]
            for tried in product(*choices):
                counts = tuple(map(min, tried, limits))
                found = (_error(weights, counts), -sum(counts), counts)
                if best is None or found < best:
                    best = found
    return limits if best is None else best[2]


def _around(dividend: int, divisor: int) -> tuple[int, ...]:
    below = dividend // divisor
    return (max(1, below), below + 1)


def _error(weights: tuple[int, ...], counts: tuple[int, ...]) -> float:
    total, all_ = sum(weights), sum(counts)
    if not all_:
        return 1.0
    # Rounded: two ratios that are the same must not differ by how they were computed.
    return round(
        max(
            abs(weight / total - count / all_)
            for weight, count in zip(weights, counts, strict=True)
        ),
        9,
    )
