"""The status document as a page for a browser."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from vulcanized.resources import templates_directory
from vulcanized.status import activation_in_words, notice_of, standing_in_words


def status_page(document: dict[str, Any]) -> str:
    """Render the page. Everything in the document is escaped: names come from hostile places."""
    return _template().render(status=document)


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(templates_directory()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["activation"] = activation_in_words
    environment.filters["standing"] = standing_in_words
    environment.filters["notice"] = notice_of
    return environment.get_template("admin/status.html.j2")
