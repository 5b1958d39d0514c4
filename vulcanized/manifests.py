"""Manifest files -> lean records: YAML or JSON as `kubectl get -o yaml` prints it. Pure.

One file may hold several documents, and Lists of objects. Objects of kinds that decide nothing
about traffic are passed over. The YAML read here is Kubernetes' own: no anchors and aliases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml
from yaml._yaml import CParser
from yaml.composer import Composer, ComposerError
from yaml.constructor import SafeConstructor
from yaml.events import AliasEvent
from yaml.nodes import Node, ScalarNode
from yaml.resolver import Resolver

from vulcanized.errors import Invalid
from vulcanized.model import Controller, Pod
from vulcanized.objects import Manifests, shown

Record = Pod | Controller


@dataclass(slots=True)
class Parsed:
    """What one file holds, by `Kind namespace/name`; `invalid`: why an object cannot be used.

    An invalid object whose name cannot be told has the key "".
    """

    records: dict[str, Record] = field(default_factory=dict)
    invalid: dict[str, str] = field(default_factory=dict)


def parse(content: bytes, file: str, manifests: Manifests) -> Parsed:
    """Read a file's objects. Raises Invalid when the file as a whole cannot be read, or is empty:
    the moment of being written looks like that, and `kubectl` leaves it so when it fails.
    """
    documents = [document for document in load_documents(content, file) if document is not None]
    if not documents:
        raise Invalid(file, "is empty; delete the file to take its objects away")
    parsed = Parsed()
    for document in _objects(documents):
        key = _key(document)
        if key and key in parsed.records:
            parsed.invalid[key] = f"{key} is in this file twice; the first holds"
            continue
        try:
            if isinstance(document, dict) and not isinstance(document.get("kind"), str):
                raise Invalid("kind", "an object has no kind: write kind: Pod or the like")
            record = manifests.record(document)
        except Invalid as error:
            parsed.invalid[key] = error.reason if error.where in (key, "kind") else str(error)
        else:
            if record is not None:
                parsed.records[key] = record
    return parsed


def load_documents(content: bytes, file: str) -> list[Any]:
    """The documents of a file, JSON by its name, else YAML. Raises Invalid if it is neither."""
    try:
        if file.endswith(".json"):
            return [msgspec.json.decode(content)] if content.strip() else []
        return list(_load_yaml(content))
    except yaml.YAMLError as error:
        raise Invalid(file, _not_yaml(content, error)) from None
    except RecursionError:
        raise Invalid(file, "is nested too deeply; make it flatter") from None
    except msgspec.MsgspecError as error:
        raise Invalid(file, f"is not JSON: {shown(str(error), '')}; mend it there") from None
    except Exception as error:
        # A tag on what it does not fit (`!!bool x`) makes PyYAML raise whatever it comes to.
        raise Invalid(file, f"cannot be read: {shown(str(error), '')}; mend it") from None


def _not_yaml(content: bytes, error: yaml.YAMLError) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as broken:
        return f"is not UTF-8 text (byte {broken.start}); save it as UTF-8"
    said = " ".join(str(error).split()).replace('in "<byte string>",', "at")
    return f"is not YAML: {shown(said, '')}; mend it there"


def _load_yaml(content: bytes) -> Iterator[Any]:
    loader = _Loader(content)
    try:
        while loader.check_data():  # type: ignore[no-untyped-call]
            yield loader.get_data()
    finally:
        loader.dispose()


def _objects(documents: list[Any]) -> Iterator[Any]:
    for document in documents:
        kind = document.get("kind") if isinstance(document, dict) else None
        items = document.get("items") if isinstance(document, dict) else None
        if not isinstance(kind, str) or not kind.endswith("List") or items is None:
            yield document
        elif isinstance(items, list):
            # What an API server lists says its kind once: PodList.
            of = kind.removesuffix("List")
            yield from ({"kind": of, **i} if isinstance(i, dict) and of else i for i in items)
        else:
            raise Invalid("items", f"the items of a {shown(kind, '')} are not a list")


def _key(document: object) -> str:
    """`Kind namespace/name`, "" where that cannot be told."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(metadata, dict):
        return ""
    kind, name = document.get("kind"), metadata.get("name")
    namespace = metadata.get("namespace") or "default"
    if not all(isinstance(part, str) and part for part in (kind, namespace, name)):
        return ""
    return shown(f"{kind} {namespace}/{name}", "")


class _Loader(Composer, CParser, SafeConstructor, Resolver):
    """libyaml's parser under PyYAML's own composer.

    The composer of CSafeLoader recurses in C: a hundred thousand `[` end the process. This one
    raises RecursionError. Aliases are refused, for a few lines of them can stand for more than
    any memory holds. Numbers are decimal and short (`1:30:00` and the like take quadratic time).
    """

    def __init__(self, stream: bytes) -> None:
        CParser.__init__(self, stream)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(AliasEvent):
            raise ComposerError(None, None, "anchors and aliases are not supported")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        return int(self.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)  # type: ignore[type-var]
