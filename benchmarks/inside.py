"""`vulcanized`, and how many things it holds where: what grows with every name ever seen shows.

    python -m benchmarks.inside SIZES run --config FILE

SIGUSR2 has it write the file SIZES: for each container that can be reached from what runs, by the
way that leads there, how many things are in it. Instances of one class at the end of one way are
counted together.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from vulcanized import cli, daemon

_DEEPEST = 12
_OURS = ("vulcanized.", "prometheus_client.")
_LEAVES = (str, bytes, int, float, bool, type(None), type, Path)


def sizes(root: object) -> dict[str, int]:
    """How many things are in the containers below `root`, by the way there."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: deque[tuple[str, object, int]] = deque([("", root, 0)])
    while waiting:
        way, thing, depth = waiting.popleft()
        if id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen.add(id(thing))
        if isinstance(thing, Mapping | list | tuple | set | frozenset | deque):
            found[way] += len(thing)
            inner = [*thing.values()] if isinstance(thing, Mapping) else [*thing]
            below = ((f"{way}[]", each) for each in inner)
        else:
            below = ((f"{way}.{name}", value) for name, value in _attributes(thing))
        if depth < _DEEPEST:
            waiting.extend((name, each, depth + 1) for name, each in below)
    return dict(found)


def _attributes(thing: object) -> Iterator[tuple[str, Any]]:
    """Of our own classes, and of the metrics' library, whose labels are to have a bound."""
    kinds = type(thing).__mro__
    if not any(kind.__module__.startswith(_OURS) for kind in kinds):
        return
    slots = {name for kind in kinds for name in getattr(kind, "__slots__", ())}
    for name in sorted({*getattr(thing, "__dict__", ()), *slots}):
        if hasattr(thing, name):
            yield name, getattr(thing, name)


def main(target: Path, words: list[str]) -> int:
    """Run the command; SIGUSR2 writes the sizes."""
    roots: dict[str, object] = {}

    class Seen(daemon.Runtime):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            roots.update(runtime=self, metrics=arguments[1])

    def write(number: int, frame: FrameType | None) -> None:
        del number, frame
        gc.collect()
        text = json.dumps({key: value for key, value in sorted(sizes(roots).items()) if value})
        temporary = target.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(target)

    daemon.Runtime = Seen  # type: ignore[assignment,misc]
    signal.signal(signal.SIGUSR2, write)
    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
