"""The activation of an app: which versions take traffic, with their weights. Pure."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vulcanized.appfaults import explain, in_one_line, shown, twice
from vulcanized.appstrings import Version
from vulcanized.errors import Invalid
from vulcanized.model import Share
from vulcanized.printable import printable

MAX_ACTIVATION_BYTES = 16 * 1024

# A Kubernetes label value, the only thing that a version can be.
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")


class _Weights(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    weights: dict[Version, Annotated[int, Field(ge=0, le=1_000_000, strict=True)]] = Field(
        min_length=1, max_length=16
    )


def parse_activation(text: str, where: str) -> tuple[Share, ...]:
    """Parse an activation: a bare version, or JSON `{"weights": {version: weight}}`.

    Returns the shares, sorted by version, without those of weight 0. Raises `Invalid`.
    """
    if len(text) > MAX_ACTIVATION_BYTES:
        raise Invalid(where, f"larger than {MAX_ACTIVATION_BYTES // 1024} KiB: write one version")
    bare = text.strip()
    if not bare:
        raise Invalid(where, "empty: write a version, or delete it to route to every version")
    if not bare.startswith("{"):
        if not _LABEL_VALUE.match(bare):
            raise Invalid(
                where,
                f"{printable(shown(bare))} is neither a version (a label value such as green or "
                '42) nor JSON such as {"weights": {"41": 90, "42": 10}}',
            )
        return (Share(bare, 1),)
    try:
        weights = _Weights.model_validate_json(bare).weights
    except ValidationError as error:
        raise Invalid(where, explain(error, _Weights, bare)) from None
    if doubles := twice(bare):
        raise Invalid(where, in_one_line(doubles))
    shares = tuple(Share(version, weight) for version, weight in sorted(weights.items()) if weight)
    if not shares:
        raise Invalid(where, "every weight is 0: give at least one version a weight above 0")
    return shares


def activation_text(shares: tuple[Share, ...]) -> str:
    """The activation as a person would write it; the inverse of `parse_activation`."""
    if len(shares) == 1:
        return shares[0].version
    return json.dumps({"weights": dict(shares)})
