"""Import packages without what they import only if it is there: megabytes of a daemon."""

import importlib
import sys
import warnings


def import_without(module: str, *missing: str) -> None:
    """Import a module as if others were not installed, unless it or one of them is imported.

    A module that is None in `sys.modules` counts as one that is not installed. What the module
    warns of then is not said.
    """
    if any(name in sys.modules for name in (module, *missing)):
        return
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    finally:
        for name in missing:
            del sys.modules[name]
