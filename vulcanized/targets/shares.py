"""A split in slots of a hundredth, of which a proxy draws one for each request. Pure."""

from __future__ import annotations

from typing import Final

from vulcanized.model import Share

SLOTS: Final = 100


def slots(split: tuple[Share, ...]) -> tuple[str, ...]:
    """SLOTS versions, each as often as its weight says, by the largest remainder.

    Every version gets one slot at least: a weight is positive, so it takes traffic.
    """
    total = sum(share.weight for share in split)
    counts = [max(1, share.weight * SLOTS // total) for share in split]
    by_remainder = sorted(
        range(len(split)), key=lambda i: (-(split[i].weight * SLOTS % total), split[i].version)
    )
    for index in by_remainder:
        if sum(counts) < SLOTS:
            counts[index] += 1
    while sum(counts) > SLOTS:
        counts[counts.index(max(counts))] -= 1
    return tuple(
        share.version for share, count in zip(split, counts, strict=True) for _ in range(count)
    )
