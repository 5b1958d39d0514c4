"""What pydantic found wrong with the settings, in the words of the person who wrote them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_WRONG_TYPES = {
    "string_type": 'must be text in quotes, such as "text"',
    "path_type": 'must be a path in quotes, such as "/etc/vulcanized"',
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": 'must be a list, such as ["one", "two"]',
    "model_type": "must be a table with keys of its own",
    "model_attributes_type": "must be a table with keys of its own",
}


def describe(
    error: ValidationError,
    settings: type[BaseModel],
    variables: Mapping[tuple[str, ...], str],
) -> list[str]:
    """One sentence per problem, each with its place: `targets[1].listen[0]: ...`.

    `variables`: environment variables by the path that they set; a problem with a value that came
    from one names the variable, for the file is not where to look.
    """
    return [
        ": ".join(filter(None, (_place(_path(details), variables), _sentence(details, settings))))
        for details in error.errors(include_url=False)
    ]


def _path(details: ErrorDetails) -> tuple[int | str, ...]:
    """The path without the tag that pydantic puts behind the index of a target."""
    where = details["loc"]
    return where[:2] + where[3:] if len(where) > 2 and where[0] == "targets" else where


def _place(path: tuple[int | str, ...], variables: Mapping[tuple[str, ...], str]) -> str:
    for length in range(len(path), 0, -1):
        if name := variables.get(tuple(map(str, path[:length]))):
            return f"environment {name}{_dotted(path[length:], start='.')}"
    return _dotted(path)


def _dotted(path: tuple[int | str, ...], start: str = "") -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else start}{part}"
    return text


def _sentence(details: ErrorDetails, settings: type[BaseModel]) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    match kind:
        case "value_error":
            return str(context["error"])
        case "missing" if details["loc"] == ("targets",):
            return 'at least one is needed; add [[targets]] with kind = "haproxy" and its keys'
        case "missing":
            return "is missing; add it"
        case "too_short":
            return "must not be empty; name one at least"
        case "extra_forbidden":
            return _unknown(str(details["loc"][-1]), _known(details["loc"], settings))
        case "union_tag_not_found" | "union_tag_invalid":
            kinds = context.get("expected_tags") or ", ".join(map(repr, _target_kinds(settings)))
            if not isinstance(value, dict):
                return "must be a [[targets]] table with a kind and its keys"
            if not value.get("kind"):
                return f"kind is missing; write one that this version has: {kinds}"
            return f"this version has no target of kind {_shown(value['kind'])}; it has {kinds}"
        case "literal_error":
            return f"must be {context['expected']}, not {_shown(value)}"
        case "greater_than_equal":
            return f"must be {context['ge']:g} or more, not {_shown(value)}"
        case "less_than_equal":
            return f"must be {context['le']:g} or less, not {_shown(value)}"
    return f"{_WRONG_TYPES.get(kind, details['msg'])}, not {_shown(value)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(key: str, known: list[str]) -> str:
    if near := difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1):
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(known)}"


def _known(where: tuple[int | str, ...], settings: type[BaseModel]) -> list[str]:
    """The keys of the table that holds the unknown one."""
    table: type[BaseModel] = settings
    for part in where[:-1]:
        if isinstance(part, str) and part in table.model_fields:
            models = [*_models(table.model_fields[part].annotation)]
            table = models[0]
        elif isinstance(part, str):
            table = next(m for m in models if m.model_fields["kind"].default == part)
    return [*table.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _target_kinds(settings: type[BaseModel]) -> list[str]:
    targets = settings.model_fields["targets"].annotation
    return [model.model_fields["kind"].default for model in _models(targets)]
