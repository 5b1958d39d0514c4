"""A version that takes no traffic is taken away: scaled down, its pods ended, deleted. Pure."""

from __future__ import annotations

from vulcanized.deployer.standing import called, deadline, person, versions_of
from vulcanized.deployer.words import AnyStep, Delete, Record, Ref, Scale, Seen, Wait


def retire(record: Record, seen: Seen, ref: Ref, now: float) -> AnyStep | None:
    """Scale down, wait for the pods to end, delete; None: it is gone."""
    current = seen.controller(ref)
    drain = f"drain {ref.name}"
    if current is None:
        return None
    if ref.version in versions_of(seen.activation):
        return person(record, f"{called(ref)} stays: the activation names its version")
    if current.desired > 0:
        return Scale(step=f"empty {ref.name}", controller=ref, replicas=0)
    if pods := seen.of(ref.version):
        until = deadline(record, drain, 0, record.times.drain, now)
        if now < until:
            return Wait(step=drain, until=until, why=f"{len(pods)} pods still end")
    return Delete(step=f"delete {ref.name}", controller=ref)
