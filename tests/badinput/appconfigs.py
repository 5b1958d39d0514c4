"""App configs that people, tools and attackers may write: (what it is, its text)."""

from __future__ import annotations

import json
from typing import Any


def _with(**fields: Any) -> str:
    return json.dumps({"hosts": ["a.example.com"], **fields})


def _host(text: str) -> str:
    return json.dumps({"hosts": [text]})


def _regex(text: str) -> str:
    return _with(paths=[{"regex": text}])


REFUSED: tuple[tuple[str, str | bytes], ...] = (
    # --- not a JSON object ---
    ("an empty file", ""),
    ("JSON that breaks off", '{"hosts": ["a.exam'),
    ("a comma too many", '{"hosts": ["a.example.com"],}'),
    ("a comment", '{"hosts": ["a.example.com"]} // mine'),
    ("two documents", '{"hosts": ["a.example.com"]}\n{"hosts": ["b.example.com"]}'),
    ("YAML", "hosts:\n  - a.example.com\n"),
    ("a list", '["a.example.com"]'),
    ("a text", '"a.example.com"'),
    ("null", "null"),
    ("deep nesting", "[" * 100_000),
    ("deep nesting that ends", '{"hosts":' + "[" * 50_000 + "]" * 50_000 + "}"),
    ("a byte order mark", '\ufeff{"hosts": ["a.example.com"]}'),
    ("UTF-16", '{"hosts": ["a.example.com"]}'.encode("utf-16")),
    ("bytes that are no UTF-8", b'{"hosts": ["caf\xe9.example.com"]}'),
    ("a zero byte", '{"hosts": ["a\0.example.com"]}'),
    ("NaN", '{"hosts": ["a.example.com"], "timeouts": {"server": NaN}}'),
    ("infinity", '{"hosts": ["a.example.com"], "timeouts": {"server": Infinity}}'),
    ("a number beyond all bounds", '{"hosts": ["a.example.com"], "retries": 1' + "0" * 400 + "}"),
    ("a float beyond all bounds", '{"hosts": ["a.example.com"], "timeouts": {"server": 1e999}}'),
    ("half a surrogate pair", '{"hosts": ["a\\ud800.example.com"]}'),
    ("one key twice", '{"hosts": ["a.example.com"], "port": 80, "port": 81}'),
    (
        "one key twice, far down",
        '{"hosts": ["a.example.com"], "timeouts": {"server": 1, "server": 2}}',
    ),
    ("a document of 1 MB", _host("a" * 1_000_000)),
    ("a value of 200 kB", _host("a" * 200_000)),
    # --- fields ---
    (
        "wrong types everywhere",
        json.dumps({"hosts": "a", "paths": 5, "port": [], "timeouts": "5s", "maintenance": 1}),
    ),
    ("an unknown field", _with(host="b.example.com")),
    ("an unknown field inside", _with(timeouts={"read": "5s"})),
    ("a field with a newline in its name", _with(**{"a\nb": 1})),
    ("forty unknown fields", _with(**{f"field{n}": n for n in range(40)})),
    # --- hosts ---
    ("a host with a space", _host("a b.example.com")),
    ("a host with a newline", _host("a.example.com\nserver evil 6.6.6.6:80")),
    ("a host with a tab at its end", _host("a.example.com\t")),
    ("a host of 300 characters", _host("a." * 150 + "example")),
    ("a label of 64 characters", _host("a" * 64 + ".example.com")),
    ("a host with an umlaut", _host("bücher.example")),
    ("a host with a port", _host("a.example.com:80")),
    ("a URL for a host", _host("https://a.example.com/")),
    ("a host that is empty", _host("")),
    ("a host of a dot", _host(".")),
    ("a star inside", _host("a.*.example.com")),
    ("a star for half a label", _host("a*.example.com")),
    ("two stars", _host("*.*.example.com")),
    ("a host with braces", _host("${HOST}.example.com")),
    ("a host with a wildcard of paths", _host("a.example.com/*")),
    ("an address in brackets", _host("[::1]")),
    ("ten thousand hosts", json.dumps({"hosts": [f"h{n}.example.com" for n in range(10_000)]})),
    ("a null among the hosts", '{"hosts": ["a.example.com", null]}'),
    # --- ports ---
    ("port 0", _with(port=0)),
    ("port 65536", _with(port=65536)),
    ("a negative port", _with(port=-1)),
    ("a port of the wrong kind", _with(port=80.5)),
    ("a port name with a newline", _with(port="http\n")),
    ("a port name that Kubernetes does not allow", _with(port="HTTP_PORT")),
    ("a port name of 16 characters", _with(port="a" * 16)),
    # --- paths ---
    ("a path without its slash", _with(paths=["api"])),
    ("a path with a space", _with(paths=["/a b"])),
    ("a path with a newline", _with(paths=["/a\n/b"])),
    ("a path that climbs", _with(paths=["/../etc/passwd"])),
    ("a path of two kinds", _with(paths=[{"prefix": "/a", "regex": "/b"}])),
    ("a thousand paths", _with(paths=[f"/{n}" for n in range(1000)])),
    ("a path of 300 characters", _with(paths=["/" + "a" * 300])),
    # --- regexes ---
    ("a regex that is none", _regex("/(")),
    ("a regex with a class that does not end", _regex("/[a")),
    ("nested repeats", _regex("/(a+)+$")),
    ("a repeated alternative", _regex("/(a|aa)*$")),
    ("a count of counts", _regex("/(a{1,50}){1,50}")),
    ("many dots", _regex("/.*.*.*x")),
    ("a huge count", _regex("/a{5000}")),
    ("look-ahead", _regex("/(?=a)a")),
    ("a back-reference", _regex(r"/(a)\1")),
    ("a regex with a space", _regex("/a b")),
    ("a regex with a quote", _regex('/a"b')),
    ("a possessive repeat", _regex("/a++b")),
    ("a recursive pattern", _regex("/(?R)")),
    ("a verb", _regex("/(*COMMIT)a")),
    # --- policies ---
    ("a header name with a colon", _with(request_headers={"set": {"X-A:": "1"}})),
    ("a header value with a line end", _with(response_headers={"set": {"X-A": "1\r\nX-B: 2"}})),
    ("a cookie with a semicolon", _with(sticky={"cookie": "a; Path=/"})),
    ("a password in the clear", _with(basic_auth={"users": {"ann": "hunter2"}})),
    ("a network that is none", _with(allow=["10.0.0.0/99"])),
    ("a time without a unit that is known", _with(timeouts={"server": "5 minutes"})),
    ("a time below 0", _with(timeouts={"server": -1})),
    ("an unknown balance", _with(balance="fastest")),
    ("a template in another folder", _with(template="../../etc/passwd")),
    ("retries without end", _with(retries=1000)),
    ("a size that is none", _with(max_body_size="much")),
)
