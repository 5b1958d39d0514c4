"""HAProxy's files: one config with a section for each backend, and the maps beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from vulcanized.model import AppId, DesiredApp, Endpoint
from vulcanized.targets.haproxy import words
from vulcanized.targets.haproxy.parts import (
    ACTIVE,
    COOKIES,
    EXACT,
    HOSTS,
    LIMITS,
    PINNED,
    PINS,
    PINS_REGEX,
    PREFIX,
    REGEX,
    REGEX_HOSTS,
    SIZES,
    SPLIT,
    STICKY,
    STRUCTURE,
    TABLES,
    BackendView,
    Part,
    Pool,
    Shape,
    backend_view,
    make_part,
    pool_text,
)
from vulcanized.targets.haproxy.plan import FRAME_KEY, LISTEN_KEY, in_order
from vulcanized.targets.render import Templates

CONFIG: Final = "haproxy.cfg"
LAST_GOOD: Final = "haproxy.cfg.last-good"
FILES: Final = (CONFIG, *TABLES, STRUCTURE)

_FRAME_TEMPLATE: Final = "haproxy.cfg.j2"
_BACKEND_TEMPLATE: Final = "backend.j2"
_SERVER_TEMPLATE: Final = "server.j2"


_MAPS: Final = (
    *(HOSTS, REGEX_HOSTS, EXACT, REGEX, PREFIX),
    *(ACTIVE, SPLIT, PINS, PINS_REGEX, PINNED),
    *(SIZES, LIMITS, STICKY, COOKIES, STRUCTURE),
)


class Maps(NamedTuple):
    """`maps` in `haproxy.cfg.j2`: the path of each map."""

    hosts: str
    regex_hosts: str
    exact: str
    regex: str
    prefix: str
    active: str
    split: str
    pins: str
    pins_regex: str
    pinned: str
    sizes: str
    limits: str
    sticky: str
    cookies: str
    structure: str


class Frame(NamedTuple):
    """The config without the backends, and what `structure.map` says of it."""

    text: str
    structure: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Tells two frames apart."""
        return self.structure[FRAME_KEY]


class _Block(NamedTuple):
    """One app in the config: its text, and its entries in `structure.map`."""

    pools: tuple[Pool, ...]
    text: str
    structure: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, pools: tuple[Pool, ...]) -> _Block:
        structure = tuple((pool.shape.id, pool.structure) for pool in pools)
        return cls(pools, "".join(map(pool_text, pools)), structure)


_NO_BLOCK: Final = _Block.of(())


class Config:
    """Renders everything. `listen`: the addresses of the frontend.

    What one app changes costs what that app is: every text is kept with what it was made of, and
    made anew when that is not the same any more.
    """

    def __init__(self, directory: Path, listen: Iterable[Endpoint], templates: Templates) -> None:
        self._directory = directory
        self._listen = tuple(words.listen(endpoint) for endpoint in listen)
        self._templates = templates
        self._frame: Frame | None = None
        self._order: list[AppId] = []
        self._blocks: list[_Block] = []
        self._maps: dict[str, tuple[int, str]] = {}

    @property
    def frame(self) -> Frame:
        """The frame as it should be. Raises TemplateFailed if it was never rendered."""
        return self._frame or self.render_frame()

    def render_frame(self) -> Frame:
        """Take the template of the frame as it is now. On TemplateFailed the old one stays."""
        maps = Maps(*(words.file(str(self._directory / name)) for name in _MAPS))
        text = self._templates.render(_FRAME_TEMPLATE, listen=self._listen, maps=maps)
        self._frame = frame_of(text.rstrip() + "\n", ",".join(self._listen))
        return self._frame

    def frame_at(self, directory: Path) -> Frame:
        """The frame for maps in `directory`: nothing is rendered for that."""
        text = self.frame.text
        for name in _MAPS:
            text = text.replace(str(self._directory / name), words.file(str(directory / name)))
        return Frame(text, self.frame.structure)

    def take_frame(self, frame: Frame) -> None:
        """Go on with one that was written before, where the template does not render."""
        self._frame = frame

    def part(self, desired: DesiredApp, before: Part | None) -> Part:
        """One app in HAProxy's words; see `make_part`."""
        return make_part(desired, before, lambda version: self._shape(desired, version))

    def _shape(self, desired: DesiredApp, version: str) -> Shape:
        view = backend_view(desired, version)
        head = self._templates.render(_BACKEND_TEMPLATE, backend=view)
        lines = [line.rstrip() for line in head.splitlines() if line.strip()]
        return Shape.of(view.id, "".join(f"{line}\n" for line in lines), self._options(view))

    def _options(self, view: BackendView) -> str:
        return words.options(self._templates.render(_SERVER_TEMPLATE, backend=view))

    def files(
        self,
        parts: Mapping[AppId, Part],
        tables: Mapping[str, Mapping[str, str]],
        frame: Frame | None = None,
    ) -> dict[str, str]:
        """File name -> text, the config first. `frame`: another one than `self.frame`."""
        frame = frame or self.frame
        blocks = self._blocks_of(parts)
        structure = chain(frame.structure.items(), *(block.structure for block in blocks))
        return {
            CONFIG: "".join([frame.text, *[block.text for block in blocks]]),
            **{name: self._map(name, tuple(tables[name].items())) for name in TABLES},
            STRUCTURE: self._map(STRUCTURE, tuple(structure)),
        }

    def structure(self, parts: Iterable[Part], frame: Frame | None = None) -> dict[str, str]:
        """`structure.map` of a process that these files make."""
        pools = {pool.shape.id: pool.structure for part in parts for pool in part.pools}
        return {**(frame or self.frame).structure, **pools}

    def _blocks_of(self, parts: Mapping[AppId, Part]) -> list[_Block]:
        """In the order of the apps' names. This loop is what is left of a cost for every app."""
        if len(parts) != len(self._order) or not all(app in parts for app in self._order):
            known = dict(zip(self._order, self._blocks, strict=True))
            self._order = sorted(parts)
            self._blocks = [known.get(app, _NO_BLOCK) for app in self._order]
        pools = [parts[app].pools for app in self._order]
        for at, (wanted, block) in enumerate(zip(pools, self._blocks, strict=True)):
            if block.pools is not wanted:
                self._blocks[at] = _Block.of(wanted)
        return self._blocks

    def _map(self, name: str, entries: tuple[tuple[str, str], ...]) -> str:
        # Known by its hash: to keep what it was made of would cost more than the text.
        made_of, known = hash(entries), self._maps.get(name)
        if known is None or known[0] != made_of:
            known = (made_of, _lines(in_order(name, entries)))
            self._maps[name] = known
        return known[1]


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{key} {value}\n" for key, value in entries)


def frame_of(text: str, listen: str) -> Frame:
    """A frame with its digest; `listen`: the addresses that it binds, as `structure.map` says."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Frame(text, {FRAME_KEY: digest, LISTEN_KEY: listen})


def read_frame(text: str, listen: str) -> Frame:
    """The frame in a config that we wrote."""
    return frame_of(re.split(r"\n(?=# \S+:\S+ [0-9a-f]{16})", text, maxsplit=1)[0], listen)


def structure_digest(structure: Mapping[str, str], regexes: Mapping[str, str]) -> str:
    """Tells candidates apart whose check or reload may end differently: not by their servers."""
    told = hashlib.blake2b(digest_size=16)
    for id_, value in sorted(structure.items()):
        told.update(f"{id_} {value.partition(':')[0] if ':' in id_ else value}\n".encode())
    for key in sorted(regexes):
        told.update(f"{key}\n".encode())
    return told.hexdigest()
