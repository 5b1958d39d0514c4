"""What pydantic found wrong with an app config or an activation, in words for who wrote it. Pure.

One line, whatever the document holds: its text is hostile, and values may be secrets, so only those
are shown that a check of ours shows itself.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from vulcanized.printable import printable

MAX_SHOWN = 8

_TYPES = {
    "string_type": "must be a text in quotes",
    "string_unicode": "has half a surrogate pair; write the whole character",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": 'must be a list, such as ["one", "two"]',
    "dict_type": 'must be an object, such as {"name": "value"}',
    "model_type": "must be an object with fields of its own",
    "model_attributes_type": "must be an object with fields of its own",
    "too_short": "must not be empty",
    "missing": "is missing: write it",
}

_WORDS: dict[str, str] = {}


def worded(pattern: str, words: str) -> StringConstraints:
    """A pattern of a schema, and what is said where a text does not match it: "must be ..."."""
    _WORDS[pattern] = words
    return StringConstraints(pattern=pattern)


def explain(
    error: ValidationError,
    schema: type[BaseModel],
    text: str,
    command: str = "vulcanized schema app",
) -> str:
    """Every fault with its places, in one line. `command` prints the schema."""
    details = error.errors(include_url=False, include_input=False)
    every = [fault["loc"] for fault in details]
    places: dict[str, list[str]] = {}
    for fault in details:
        # A list that is short of what is wrong in it is not a second fault.
        if fault["type"] != "too_short" or not _inside(fault["loc"], every):
            places.setdefault(_sentence(fault, schema, text, command), []).append(
                _place(fault["loc"])
            )
    return in_one_line(
        f"{_first(where, ', ')}: {sentence}" if any(where) else sentence
        for sentence, where in places.items()
    )


def in_one_line(faults: Iterable[str]) -> str:
    """Several faults as one line, the first MAX_SHOWN of them."""
    return printable(_first([*faults], "; "))


def _first(parts: list[str], between: str) -> str:
    more = len(parts) - MAX_SHOWN
    shown = between.join(parts[:MAX_SHOWN])
    return f"{shown}{between}and {more} more" if more > 0 else shown


def twice(text: str) -> list[str]:
    """What is said of names that an object of a valid document has twice; [] if there are none.

    JSON leaves open which one counts.
    """
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            double = sorted({name for name in names if names.count(name) > 1})
            found.extend(f"{shown(name)} is there twice: keep one" for name in double)

    json.loads(text, object_pairs_hook=look)
    return found


def shown(value: object) -> str:
    """A hostile value, short and in quotes."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:76] + '..."'


def _inside(place: tuple[int | str, ...], places: list[tuple[int | str, ...]]) -> bool:
    return any(len(each) > len(place) and each[: len(place)] == place for each in places)


def _place(place: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in place if part != "[key]"]
    return ".".join(part if len(part) <= 40 else f"{part[:37]}..." for part in parts)


def _sentence(fault: ErrorDetails, schema: type[BaseModel], text: str, command: str) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    match kind:
        case "value_error":
            return str(context["error"])
        case "json_invalid":
            return _not_json(str(context["error"]), text)
        case "extra_forbidden":
            return _unknown(fault["loc"], schema, command)
        case "string_pattern_mismatch":
            return f"must be {_WORDS.get(context['pattern'], context['pattern'])}"
        case "string_too_long":
            return f"is longer than {context['max_length']} characters"
        case "too_long":
            return f"has more than {context['max_length']} entries"
        case "greater_than":
            return f"must be above {context['gt']:g}"
        case "greater_than_equal":
            return f"must be {context['ge']:.15g} or more"
        case "less_than_equal":
            return f"must be {context['le']:.15g} or less"
        case "literal_error" | "enum":
            return f"must be {context['expected']}"
        case "model_type" | "model_attributes_type" if not fault["loc"]:
            return 'is not a JSON object: write {"hosts": ["shop.example.com"]} or the like'
    return _TYPES.get(kind, fault["msg"])


def _not_json(reason: str, text: str) -> str:
    if not text.strip():
        return "is empty: write it, or delete it"
    if text.startswith("\ufeff"):
        return "not JSON: starts with a byte order mark: save it as UTF-8 without one"
    reason = reason.replace("EOF while parsing", "ends within")
    reason = reason.replace("recursion limit exceeded", "nested too deeply")
    return f"not JSON: {reason}: mend it there"


def _unknown(place: tuple[int | str, ...], schema: type[BaseModel], command: str) -> str:
    known = _fields(place[:-1], schema)
    near = difflib.get_close_matches(str(place[-1])[:40].lower().replace("-", "_"), known, n=1)
    if near:
        return f"unknown field; did you mean {near[0]}?"
    if len(known) <= 10:
        return f"unknown field; known here: {', '.join(known)}"
    return f"unknown field: see `{command}` for the fields"


def _fields(place: tuple[int | str, ...], schema: type[BaseModel]) -> list[str]:
    """The fields of the object at this place, as they are written."""
    table = schema
    for part in place:
        field = next(
            (each for name, each in table.model_fields.items() if (each.alias or name) == part),
            None,
        )
        if field is not None:
            table = next(_models(field.annotation), table)
    return [field.alias or name for name, field in table.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
