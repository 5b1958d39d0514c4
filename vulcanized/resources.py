"""Where the files that ship with the package are."""

from __future__ import annotations

from pathlib import Path


def templates_directory() -> Path:
    """The shipped `templates/`: inside the package in a wheel, beside it in a checkout.

    An editable install points at the checkout, so it is found as there.
    """
    package = Path(__file__).resolve().parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"
