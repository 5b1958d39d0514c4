"""App configs and activations: valid ones full of what may be said, with hostile places in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.hostile.payloads import ALL, around, hostile

Json = Any
Place = tuple[str | int, ...]

_HOST_TEXT = st.from_regex(r"[ab1_](?:[ab1_-]{0,4}[ab1_])?", fullmatch=True)
hosts = st.one_of(
    st.lists(_HOST_TEXT, min_size=1, max_size=3).map(".".join),
    st.lists(_HOST_TEXT, min_size=1, max_size=3).map(lambda parts: "*." + ".".join(parts)),
    st.sampled_from(("*", "todo.example.com", "TODO.Example.COM.", "xn--80ak6aa92e.com")),
)
_ELEMENT = st.text("ab1_~%:@!$&*+,=-", min_size=1, max_size=4)
plain_paths = st.one_of(
    st.lists(_ELEMENT, max_size=3).map(lambda elements: "/" + "/".join(elements)),
    st.sampled_from(("/", "/a", "/a/", "/a.b/c", "/%0a", "/%20", "/$HOME")),
)
_ATOMS = (
    "a", "b", "/", "-", "_", "\\.", "\\d", "\\w", "[a-z]", "[^/]", "(?:a)", "(b)", "(a|b)", ".",
    "\\-", "\\$", "\\{", "[\\w-]", "%", "&", "!", "@", "~", "=", ":", ",", "[a-z0-9._~-]",
)  # fmt: skip
_ODD_ATOMS = (
    "\\s", "[^]]", "\\n", "\\x0a", "\\\\", "\\]", "\\t", "\\0", "\\b", "{", "}", "\\u0041",
    "\\N{BULLET}", "\\Z", "\\h", "[a\\]b]", "[\\b]", "[[:alpha:]]", "(?i)", "(?=a)", "\\1", "$a",
)  # fmt: skip
_REPEATS = ("", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}")
_ODD_REPEATS = ("*?", "+?", "++", "{,3}", "{}", "{1", "{200}", "**")
_ENDS = ("", "", "$", "|/b", "(?:/c|$)")


def _regex_of(atoms: tuple[str, ...], repeats: tuple[str, ...]) -> st.SearchStrategy[str]:
    pieces = st.tuples(st.sampled_from(atoms), st.sampled_from(repeats)).map("".join)
    return st.builds(
        lambda made, end: f"/{''.join(made)}{end}",
        st.lists(pieces, max_size=5),
        st.sampled_from(_ENDS),
    )


regexes = _regex_of(_ATOMS, _REPEATS)
odd_regexes = _regex_of((*_ATOMS, *_ODD_ATOMS), (*_REPEATS, *_ODD_REPEATS))
_PATH = st.one_of(
    plain_paths,
    st.builds(lambda path: {"prefix": path}, plain_paths),
    st.builds(lambda path: {"exact": path}, plain_paths),
    st.builds(lambda path: {"regex": path}, regexes | regexes | regexes | odd_regexes),
)
_DURATION = st.one_of(
    st.floats(0.0001, 86400),
    st.sampled_from(("5s", "500ms", "2m", "1h", "0.5s", "1ms", 1, 60, 86400)),
)
_COUNT = st.integers(1, 100)
_HEADERS = st.dictionaries(
    st.text("aZ1!#$&*+.^_|~-", min_size=1, max_size=6),
    st.text("aZ1!#&()*+,./:;<=>?@[]^_|~ -", max_size=10),
    max_size=2,
)
_HEADER_RULES = st.fixed_dictionaries(
    {}, optional={"set": _HEADERS, "add": _HEADERS, "remove": st.just(["X-A"])}
)
_CHECK = st.fixed_dictionaries(
    {},
    optional={
        "path": plain_paths,
        "port": st.integers(1, 65535),
        "interval": _DURATION,
        "timeout": _DURATION,
        "rise": _COUNT,
        "fall": _COUNT,
        "expect": st.sampled_from(("200", "200-299", 204)),
    },
)
_NETWORKS = st.lists(st.sampled_from(("10.0.0.0/8", "::1", "10.0.0.1/8", "fd00::/8")), max_size=2)
_REDIRECT = st.builds(lambda path: {"path": path, "to": "/b?c=d"}, plain_paths)
_CONNECTIONS = st.one_of(_COUNT, st.fixed_dictionaries({"server": _COUNT, "app": _COUNT}))

_PIN = st.one_of(
    st.builds(lambda name: {"cookie": name}, st.text("aZ1_-", min_size=1, max_size=6)),
    st.builds(lambda name: {"header": name}, st.text("aZ1!#$&*+.^_|~-", min_size=1, max_size=6)),
)

configs = st.fixed_dictionaries(
    {"hosts": st.lists(hosts, max_size=3)},
    optional={
        "paths": st.lists(_PATH, min_size=1, max_size=3),
        "port": st.one_of(st.integers(1, 65535), st.sampled_from(("http", "h2c", "healthcheck"))),
        "protocol": st.sampled_from(("http", "https", "tcp", "grpc")),
        "balance": st.sampled_from(("roundrobin", "leastconn", "random", "first", "source", "uri")),
        "sticky": st.sampled_from((True, {"cookie": "who"}, {"cookie": "who-2", "max_age": 1.5})),
        "tls": st.just({"certificate": "todo", "hsts": {}}),
        "redirects": st.lists(_REDIRECT, max_size=2),
        "rewrite": st.builds(lambda path: {"strip_prefix": path}, plain_paths),
        "request_headers": _HEADER_RULES,
        "response_headers": _HEADER_RULES,
        "compression": st.just({"types": ["text/html"]}),
        "cors": st.just({"origins": ["https://*.example.com"], "methods": ["GET"]}),
        "basic_auth": st.just({"users": {"me": "$5$salt$hashhashhash"}}),
        "allow": _NETWORKS,
        "deny": _NETWORKS,
        "rate_limit": st.just({"requests": 5, "by": "X-Client"}),
        "max_connections": _CONNECTIONS,
        "timeouts": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(("connect", "server", "queue", "tunnel"), _DURATION),
        ),
        "retries": st.integers(0, 10),
        "max_body_size": st.sampled_from(("10M", "1T", 1)) | st.integers(1, 1024**4),
        "health_check": _CHECK,
        "error_pages": st.just({"503": "<h1>gone</h1>"}),
        "maintenance": st.booleans(),
        "canary_match": _PIN,
        "template": st.just("special"),
    },
)  # fmt: skip

_SHOWN = (
    "paths", "health_check", "port", "balance", "timeouts", "retries", "max_connections",
    "max_body_size", "canary_match",
)  # fmt: skip
seen_by_haproxy = configs.map(
    lambda config: {key: value for key, value in config.items() if key in ("hosts", *_SHOWN)}
)
"""Only fields whose values HAProxy gets to see: a hostile place is more likely one of them."""

_WRONG: st.SearchStrategy[Json] = st.sampled_from(
    (None, True, -1, 0, 1.5, 2**63, 10**400, [], {}, "", [[]], {"": {}}, [None], "\0")
)


def places(value: Json, here: Place = ()) -> Iterator[Place]:
    """Every place of a document, the document itself included."""
    yield here
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*here, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*here, index))


def at(value: Json, place: Place) -> Json:
    for step in place:
        value = value[step]
    return value


def changed(value: Json, place: Place, new: Json, key: str | None = None) -> Json:
    """The document with another value at a place, or its key there called otherwise."""
    if not place:
        return new
    first, *rest = place
    if isinstance(value, list):
        return [changed(v, tuple(rest), new, key) if i == first else v for i, v in enumerate(value)]
    if not rest and key is not None:
        return {(key if k == first else k): v for k, v in value.items()}
    return {k: changed(v, tuple(rest), new, key) if k == first else v for k, v in value.items()}


@st.composite
def with_hostile_places(draw: st.DrawFn, documents: st.SearchStrategy[Json], most: int = 2) -> Json:
    """A document in which up to `most` places say something hostile, near-valid or of no use."""
    document = draw(documents)
    for _ in range(draw(st.sampled_from((*range(1 + most), 1, 1)))):
        everywhere = list(places(document))
        texts = [place for place in everywhere if isinstance(at(document, place), str)]
        place = draw(st.sampled_from((texts or everywhere) if draw(st.booleans()) else everywhere))
        old = at(document, place)
        named = place and isinstance(place[-1], str)
        if named and draw(st.integers(0, 5)) == 0:
            document = changed(document, place, old, draw(around(str(place[-1]))))
        elif isinstance(old, str):
            document = changed(document, place, draw(around(old)))
        else:
            document = changed(document, place, draw(st.one_of(hostile, _WRONG)))
    return document


def _as_text(document: Json, plainly: bool) -> str:
    """JSON, with what JSON need not escape as it is or not; lone surrogates stay what they are."""
    return json.dumps(document, ensure_ascii=not plainly)


@st.composite
def broken(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Text with something put in that JSON knows nothing of, mostly none."""
    text = draw(texts)
    if draw(st.integers(0, 7)):
        return text
    return draw(around(text))


config_texts = broken(
    st.builds(
        _as_text,
        with_hostile_places(seen_by_haproxy) | with_hostile_places(configs),
        st.booleans(),
    )
)

versions = st.one_of(
    st.sampled_from(("blue", "green", "1.0.0", "42", "*")),
    st.sampled_from(("blue", "green")),
    st.from_regex(r"[aZ0](?:[aZ0._-]{0,6}[aZ0])?", fullmatch=True),
)
_WEIGHTS = st.builds(
    lambda weights: {"weights": weights},
    st.dictionaries(versions, st.sampled_from((0, 1, 10, 90, 1_000_000, -1, 1.5, "1")), max_size=4),
)
activation_texts = broken(
    st.one_of(
        versions,
        versions.flatmap(around),
        st.builds(_as_text, with_hostile_places(_WEIGHTS), st.booleans()),
        st.sampled_from(ALL),
        st.sampled_from(("blue", "green")).map(lambda version: f" {version}\n"),
    )
)
