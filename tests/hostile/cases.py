"""How many cases there are: some thousands in `make test`, 100,000 in `make nightly`.

They are cut into parts, so that a long run shows how far it is and several processes share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import pytest
from hypothesis import Phase, settings

IS_NIGHTLY: Final = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
_TIMES: Final = 25 if IS_NIGHTLY else 1
_PARTS: Final = 25 if IS_NIGHTLY else 1
_SECONDS: Final = 3600 if IS_NIGHTLY else 600

Test = TypeVar("Test", bound=Callable[..., Any])


def cases(number: int, *, shrink: bool = True) -> Callable[[Test], Test]:
    """So many cases in `make test`, 25 times as many at night. The test takes `part` too.

    `shrink` False: a failing case is told as it is, for tests of which each try takes a process.
    """
    phases = [phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)]

    def decorate(test: Test) -> Test:
        counted = settings(max_examples=number * _TIMES // _PARTS, phases=phases)(test)
        parts = pytest.mark.parametrize("part", range(_PARTS))(counted)
        return cast("Test", pytest.mark.timeout(_SECONDS)(parts))

    return decorate
