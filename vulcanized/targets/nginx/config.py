"""nginx's files: `http.conf` with all apps, a config that includes it, and what it is made of.

`http.json` says what `http.conf` was made of. A daemon that starts, and one that has to put an app
back, reads there what it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    serving,
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
    serves: bool


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


_Chunk = tuple[str, AppId | None]
"""Some lines, and whose they are."""


class Rendered(NamedTuple):
    """Files for some apps; `chunks`: the lines of `http.conf`."""

    files: Mapping[str, str]
    made_of: MadeOf
    chunks: Sequence[_Chunk]

    def owner(self, line: int) -> AppId | None:
        """The app that a line belongs to, None for those of none."""
        for text, app in self.chunks:
            line -= text.count("\n")
            if line <= 0:
                return app
        return None


class _Block(NamedTuple):
    """One app in the config; `made` is it in what the config is made of, `active` its flag.

    `judged`: tells apart what nginx's check may say of it otherwise.
    """

    part: Part
    pools: str
    choice: str
    made: tuple[str, str, Shape, tuple[str, ...]]
    active: str | None
    judged: str


def _differ(one: _Block | None, other: _Block | None) -> bool:
    """Whether a config says something else of the one than of the other."""
    if one is None or other is None:
        return one is not other
    return one is not other and one[1:4] != other[1:4]


class _Routed(NamedTuple):
    """What only shapes decide about: a change of pods leaves it as it is."""

    shapes: Mapping[AppId, Shape]
    chunks: Mapping[str, list[_Chunk]]
    map_size: int


class Config:
    """Renders everything. What changes no text costs what the apps are that changed."""

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
        self._routed: _Routed | None = None
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

    def _render_main(self, directory: Path, user: str, *, serves: bool = True) -> str:
        http = words.file(str(directory / HTTP))
        main = MainView(http, words.file(str(directory)), user, serves)
        return self._templates.render(_MAIN_TEMPLATE, main=main)

    # --- files ----------------------------------------------------------------------------------

    def files(
        self, parts: Mapping[AppId, Part], changed: Collection[AppId] | None = None
    ) -> Rendered:
        """The files for these apps, the first one last to be put in place.

        `changed`: the only ones that may differ from the last call; None: all may. What does not
        differ is not made again.
        """
        last, blocks = self._last, self._blocks
        # Until all is done: should something not be rendered, the next call begins anew.
        self._last = None
        if last is None or changed is None:
            changed = parts.keys() | blocks.keys()
        for app in changed:
            before = blocks.get(app)
            block = self._block(app, parts[app]) if app in parts else None
            if block is not None:
                blocks[app] = block
            elif before is not None:
                del blocks[app]
            if _differ(block, before):
                last = None
        if last is None:
            last = self._whole(dict(sorted(blocks.items())))
        self._last = last
        return last

    def active(self, apps: Iterable[AppId] | None = None) -> dict[AppId, str]:
        """The flag of the active version, of all apps that the last files have, or of these of
        them; the files do not tell. One in which no flag is asked has none.
        """
        names = self._blocks if apps is None else apps
        blocks = ((app, self._blocks.get(app)) for app in names)
        return {app: block.active for app, block in blocks if block and block.active is not None}

    def _whole(self, blocks: Mapping[AppId, _Block]) -> Rendered:
        chunks = self._joined(blocks, self.listen)
        text = _text(chunks)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        made = tuple(block.made for block in blocks.values())
        made_of = MadeOf(digest, self.listen, self._frame(), made)
        files = {
            HTTP: text.replace(Places().generation, digest, 1),
            MAIN: self._own_main(),
            MADE_OF: msgspec.json.encode(made_of).decode() + "\n",
        }
        return Rendered(files, made_of, chunks)

    def _frame(self) -> tuple[str, ...]:
        return self._http(self.listen), self._http(_UNBOUND), self._own_main()

    @property
    def frame_digest(self) -> str:
        """Tells frames apart."""
        return hashlib.blake2b("".join(self._frame()).encode(), digest_size=8).hexdigest()

    def candidate(self, parts: Mapping[AppId, Part], directory: Path) -> Rendered:
        """Files for a check in `directory`: they bind nothing that could be in use."""
        blocks = {app: self._block(app, parts[app]) for app in sorted(parts)}
        chunks = self._joined(blocks, _UNBOUND)
        # To compile regexes to machine code is two fifths of a check, and changes no answer.
        main = self._render_main(directory, "", serves=False)
        return Rendered({HTTP: _text(chunks), MAIN: main}, NOTHING, chunks)

    def _joined(self, blocks: Mapping[AppId, _Block], listen: tuple[str, ...]) -> list[_Chunk]:
        shapes = {app: block.part.shape for app, block in blocks.items()}
        stickies = (block.part.desired.policies.sticky for block in blocks.values())
        cookies = sorted({sticky.cookie for sticky in stickies if sticky is not None})
        places = Places()
        if self._routed is None or self._routed.shapes != shapes:
            self._routed = _routed(shapes)
        chunks: dict[str, list[_Chunk]] = {
            **self._routed.chunks,
            places.cookies: [(f"    {words.client(cookie)}\n", None) for cookie in cookies],
            places.pools: [(block.pools, app) for app, block in blocks.items()],
            places.apps: [(block.choice, app) for app, block in blocks.items()],
        }
        frame = self._http(listen).replace(places.map_size, str(self._routed.map_size))
        return _filled(frame, chunks)

    def _block(self, app: AppId, part: Part) -> _Block:
        block = self._blocks.get(app)
        return self._new_block(app, part) if block is None or block.part is not part else block

    def _new_block(self, app: AppId, part: Part) -> _Block:
        flags = words.file(str(self._directory / FLAGS))
        choice = indented(choice_text(part, flags))
        made = (*app, part.shape, flags_of(part.desired))
        pools = "".join("1" if serving(each) else "0" for each in part.desired.backends)
        judged = f"{words.app_key(app)} {part.shape.digest} {pools}\n"
        return _Block(part, pools_text(part), choice, made, active(part.desired), judged)

    def judged(self, parts: Mapping[AppId, Part]) -> Iterator[str]:
        """Of each app what tells apart how nginx's check may end."""
        return (self._block(app, part).judged for app, part in sorted(parts.items()))


def _routed(shapes: dict[AppId, Shape]) -> _Routed:
    hosts = sorted({route.host for shape in shapes.values() for route in shape.routes})
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
        places.routes: list(_routes(shapes)),
        places.passing: list(_passing(shapes)),
    }
    return _Routed(shapes, chunks, max(_FEWEST_HASHED, 1 << (2 * len(hosts)).bit_length()))


def _filled(frame: str, chunks: Mapping[str, list[_Chunk]]) -> list[_Chunk]:
    """The frame with the chunks in their places."""
    filled: list[_Chunk] = []
    for piece in re.split(r"^[ \t]*(@[a-z]+@)[ \t]*\n", frame, flags=re.MULTILINE):
        filled += chunks.get(piece, [(piece, None)])
    return filled


def _text(chunks: Iterable[_Chunk]) -> str:
    return "".join([text for text, _ in chunks])


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
