"""nginx's files: `http.conf` with all apps, a config that includes it, and what it is made of.

`http.json` says what `http.conf` was made of. A daemon that starts, and one that has to put an app
back, reads there what it was.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vulcanized.errors import TemplateFailed
from vulcanized.model import AppId, DesiredApp, Endpoint, PathKind, Policies, Route
from vulcanized.targets.nginx import words
from vulcanized.targets.nginx.parts import (
    NOT_FOUND,
    Part,
    Shape,
    active,
    app_view,
    choice_text,
    flags_of,
    indented,
    make_part,
    passing_text,
    pools_text,
    rewritten,
)
from vulcanized.targets.render import Templates

HTTP: Final = "http.conf"
MAIN: Final = "nginx.conf"
MADE_OF: Final = "http.json"
LAST_GOOD: Final = ".last-good"
FILES: Final = (HTTP, MAIN, MADE_OF)
FLAGS: Final = "active"

_FRAME_TEMPLATE: Final = "http.conf.j2"
_MAIN_TEMPLATE: Final = "nginx.conf.j2"
_APP_TEMPLATE: Final = "app.j2"
_POOL_TEMPLATE: Final = "pool.j2"
_SERVER_TEMPLATE: Final = "server.j2"

_UNBOUND: Final = ("127.0.0.1:65535",)
"""What a check listens on. `nginx -t` binds what is free for a moment, and low ports need root."""
_FEWEST_HASHED: Final = 2048


class Places(NamedTuple):
    """`places` in `http.conf.j2`: where the apps' own lines go, and two values within a line."""

    hosts: str = "@hosts@"
    wildcards: str = "@wildcards@"
    cookies: str = "@cookies@"
    pools: str = "@pools@"
    routes: str = "@routes@"
    apps: str = "@apps@"
    passing: str = "@passing@"
    map_size: str = "@map-size@"
    generation: str = "@generation@"


class MainView(NamedTuple):
    """`main` in `nginx.conf.j2`."""

    http: str
    directory: str
    user: str


class MadeOf(msgspec.Struct, frozen=True, gc=False):
    """What an `http.conf` was made of.

    `frame`: the texts without apps, of `http.conf`, of it in a check, and of `nginx.conf`. `apps`:
    namespace, name, shape, and its `flags_of`.
    """

    digest: str
    listen: tuple[str, ...]
    frame: tuple[str, ...]
    apps: tuple[tuple[str, str, Shape, tuple[str, ...]], ...]

    @property
    def shapes(self) -> dict[AppId, Shape]:
        """The shape of each app."""
        return {AppId(namespace, name): shape for namespace, name, shape, _ in self.apps}

    @property
    def flags(self) -> frozenset[str]:
        """All flags that it chooses by."""
        return frozenset(flag for *_, flags in self.apps for flag in flags)

    @classmethod
    def read(cls, text: str) -> MadeOf | None:
        """What stands in the file, None where that is not ours."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeError):
            return None


NOTHING: Final = MadeOf("", (), (), ())
"""What a config is made of that is not ours."""


class Rendered(NamedTuple):
    """Files for some apps; `owners`: from which line of `http.conf` on it is whose.

    `active`: the flags that belong to it, which the files do not tell.
    """

    files: Mapping[str, str]
    made_of: MadeOf
    owners: tuple[tuple[int, AppId | None], ...]
    active: Mapping[AppId, str]

    def owner(self, line: int) -> AppId | None:
        """The app that a line belongs to, None for those of none."""
        at = bisect.bisect_right(self.owners, line, key=lambda each: each[0])
        return self.owners[at - 1][1] if at else None


class _Block(NamedTuple):
    """One app in the config; `made` is it in what the config is made of, `active` its flag."""

    part: Part
    pools: str
    choice: str
    made: tuple[str, str, Shape, tuple[str, ...]]
    active: str | None

    def looks_like(self, other: _Block | None) -> bool:
        """Whether the config says the same of both."""
        return other is not None and self[1:4] == other[1:4]


_Chunk = tuple[str, AppId | None]


class Config:
    """Renders everything. What one app changes costs what that app is, and one look at each."""

    def __init__(
        self,
        directory: Path,
        listen: Iterable[Endpoint],
        templates: Templates,
        *,
        keep_alive: int = 0,
        user: str = "",
    ) -> None:
        self._directory = directory
        self.listen = tuple(words.listen(endpoint) for endpoint in listen)
        self._templates = templates
        self._keep_alive = keep_alive
        self.user = user
        self._frames: dict[tuple[str, ...], str] = {}
        self._main = ""
        self._blocks: dict[AppId, _Block] = {}
        self._last: Rendered | None = None
        self._passing: dict[tuple[object, ...], tuple[str, str, str, str]] = {}

    # --- templates ------------------------------------------------------------------------------

    def render_frame(self) -> None:
        """Take the templates of the frame as they are now. On TemplateFailed the old ones stay."""
        frames = {listen: self._render_http(listen) for listen in (self.listen, _UNBOUND)}
        main = self._render_main(self._directory, self.user)
        self._frames = frames
        self._main = main
        self._passing.clear()
        self._last = None

    def take_frame(self, made_of: MadeOf) -> bool:
        """Go on with what was rendered before, where a template does not render; whether it can."""
        if made_of.listen != self.listen or len(made_of.frame) != 3:
            return False
        live, checked, self._main = made_of.frame
        self._frames = {self.listen: live, _UNBOUND: checked}
        return True

    def part(self, desired: DesiredApp, before: Part | None) -> Part:
        """One app in nginx's words. Raises Rejected, TemplateFailed."""
        if (
            before is not None
            and before.desired.policies == desired.policies
            and before.desired.routes == desired.routes
        ):
            part = make_part(desired, before, before.shape)
        else:
            texts = self._texts(desired.app, desired.policies)
            part = make_part(desired, before, Shape.of(desired.routes, *texts))
        # What cannot be written is to be known of this app, not when all of them are.
        self._new_block(desired.app, part)
        return part

    def _texts(self, app: AppId, policies: Policies) -> tuple[str, str, str, str]:
        known = self._passing.get((app, policies))
        if known is None:
            view = app_view(app, policies)
            tunnel = app_view(app, policies, tunnel=True)
            known = (
                _tidy(self._templates.render(_POOL_TEMPLATE, app=view)),
                words.options(self._templates.render(_SERVER_TEMPLATE, app=view)),
                _tidy(self._templates.render(_APP_TEMPLATE, app=view)),
                _tidy(self._templates.render(_APP_TEMPLATE, app=tunnel)),
            )
            self._passing = {(app, policies): known}
        return known

    def _http(self, listen: tuple[str, ...]) -> str:
        if listen not in self._frames:
            self._frames[listen] = self._render_http(listen)
        return self._frames[listen]

    def _render_http(self, listen: tuple[str, ...]) -> str:
        places = Places()
        text = self._templates.render(
            _FRAME_TEMPLATE,
            listen=listen,
            keep_alive=self._keep_alive,
            flags=words.file(str(self._directory / FLAGS)),
            places=places,
        )
        for place in places:
            if text.count(place) != 1:
                raise TemplateFailed(
                    f"{_FRAME_TEMPLATE}: {place.strip('@')} of `places` must stand there once, and "
                    f"stands there {text.count(place)} times; mend the template"
                )
        return text

    def _own_main(self) -> str:
        if not self._main:
            self._main = self._render_main(self._directory, self.user)
        return self._main

    def _render_main(self, directory: Path, user: str) -> str:
        main = MainView(words.file(str(directory / HTTP)), words.file(str(directory)), user)
        return self._templates.render(_MAIN_TEMPLATE, main=main)

    # --- files ----------------------------------------------------------------------------------

    def files(self, parts: Mapping[AppId, Part]) -> Rendered:
        """The files for these apps, the first one last to be put in place.

        What does not differ from the last call is not made again: a switch costs a look at each.
        """
        before = self._blocks
        same = self._last is not None and before.keys() == parts.keys()
        blocks: dict[AppId, _Block] = {}
        for app in before if same else sorted(parts):
            block = blocks[app] = self._block(app, parts[app])
            same = same and (block is before[app] or block.looks_like(before[app]))
        self._blocks = blocks
        active = {app: block.active for app, block in blocks.items() if block.active is not None}
        if self._last is None or not same:
            self._last = self._whole(blocks)
        return self._last._replace(active=active)

    def _whole(self, blocks: Mapping[AppId, _Block]) -> Rendered:
        text, owners = self._joined(blocks, self.listen)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        made = tuple(block.made for block in blocks.values())
        made_of = MadeOf(digest, self.listen, self._frame(), made)
        files = {
            HTTP: text.replace(Places().generation, digest, 1),
            MAIN: self._own_main(),
            MADE_OF: msgspec.json.encode(made_of).decode() + "\n",
        }
        return Rendered(files, made_of, owners, {})

    def _frame(self) -> tuple[str, ...]:
        return self._http(self.listen), self._http(_UNBOUND), self._own_main()

    @property
    def frame_digest(self) -> str:
        """Tells frames apart."""
        return hashlib.blake2b("".join(self._frame()).encode(), digest_size=8).hexdigest()

    def candidate(self, parts: Mapping[AppId, Part], directory: Path) -> Rendered:
        """Files for a check in `directory`: they bind nothing that could be in use."""
        blocks = {app: self._block(app, parts[app]) for app in sorted(parts)}
        text, owners = self._joined(blocks, _UNBOUND)
        main = self._render_main(directory, "")
        return Rendered({HTTP: text, MAIN: main}, NOTHING, owners, {})

    def _joined(
        self, blocks: Mapping[AppId, _Block], listen: tuple[str, ...]
    ) -> tuple[str, tuple[tuple[int, AppId | None], ...]]:
        shapes = {app: block.part.shape for app, block in blocks.items()}
        hosts = sorted({route.host for shape in shapes.values() for route in shape.routes})
        stickies = (block.part.desired.policies.sticky for block in blocks.values())
        cookies = sorted({sticky.cookie for sticky in stickies if sticky is not None})
        places = Places()
        chunks: dict[str, list[_Chunk]] = {
            places.hosts: [
                (f'    "={words.host(host)}" "{host}";\n', None)
                for host in hosts
                if not host.startswith("*")
            ],
            places.wildcards: [
                (f'    default "{"*" if "*" in hosts else ":none"}";\n', None),
                *(
                    (f'    "={words.host(host)}" "{host}";\n', None)
                    for host in hosts
                    if host.startswith("*.")
                ),
            ],
            places.cookies: [(f"    {words.client(cookie)}\n", None) for cookie in cookies],
            places.pools: [(block.pools, app) for app, block in blocks.items()],
            places.routes: list(_routes(shapes)),
            places.apps: [(block.choice, app) for app, block in blocks.items()],
            places.passing: list(_passing(shapes)),
        }
        size = max(_FEWEST_HASHED, 1 << (2 * len(hosts)).bit_length())
        frame = self._http(listen).replace(places.map_size, str(size))
        return _filled(frame, chunks)

    def _block(self, app: AppId, part: Part) -> _Block:
        block = self._blocks.get(app)
        return self._new_block(app, part) if block is None or block.part is not part else block

    def _new_block(self, app: AppId, part: Part) -> _Block:
        flags = words.file(str(self._directory / FLAGS))
        choice = indented(choice_text(part, flags))
        made = (*app, part.shape, flags_of(part.desired))
        return _Block(part, pools_text(part), choice, made, active(part.desired))


def _filled(
    frame: str, chunks: Mapping[str, list[_Chunk]]
) -> tuple[str, tuple[tuple[int, AppId | None], ...]]:
    """The frame with the chunks in their places, and from which line on it is whose."""
    pieces: list[str] = []
    owners: list[tuple[int, AppId | None]] = []
    line = 1
    for piece in re.split(r"^[ \t]*(@[a-z]+@)[ \t]*\n", frame, flags=re.MULTILINE):
        for text, app in chunks.get(piece, [(piece, None)]):
            if not text:
                continue
            if not owners or owners[-1][1] != app:
                owners.append((line, app))
            pieces.append(text)
            line += text.count("\n")
    return "".join(pieces), tuple(owners)


def _routes(shapes: Mapping[AppId, Shape]) -> Iterator[_Chunk]:
    """The locations of the routes, host by host: a regex is tried for requests of its host only."""
    by_host: dict[str, list[tuple[Route, AppId]]] = {}
    for app, shape in shapes.items():
        for route in shape.routes:
            by_host.setdefault(route.host, []).append((route, app))
    for host, routes in sorted(by_host.items()):
        root = next((app for route, app in routes if _is_root(route)), None)
        inner = sorted((each for each in routes if not _is_root(each[0])), key=_order)
        to = f'rewrite ^ "{NOT_FOUND}?" last;' if root is None else rewritten(root)
        end = " }" if not inner else ""
        yield f'    location "/{words.host(host)}/" {{ {to}{end}\n', root
        for route, app in inner:
            yield f"        location {words.location(route)} {{ {rewritten(app)} }}\n", app
        if inner:
            yield "    }\n", root


def _is_root(route: Route) -> bool:
    return route.kind is PathKind.PREFIX and route.path == "/"


def _order(each: tuple[Route, AppId]) -> tuple[int, str, str]:
    """nginx tries regexes in this order; of the others its own rules decide."""
    return -len(each[0].path), each[0].path, each[0].kind.value


def _passing(shapes: Mapping[AppId, Shape]) -> Iterator[_Chunk]:
    seen: set[tuple[str, str]] = set()
    for app, shape in shapes.items():
        if (shape.passing, shape.tunnel) not in seen:
            seen.add((shape.passing, shape.tunnel))
            yield indented(passing_text(shape)), app


def _tidy(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())
