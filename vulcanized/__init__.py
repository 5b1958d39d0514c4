"""Vulcanized keeps your own load balancers in step with the pods of Kubernetes."""

import sys

__version__ = "0.1.0"


def _import_structlog_alone() -> None:
    """Import structlog without rich, which only draws tables and which few commands need.

    structlog imports it where it is installed, for tracebacks that ours are not: 6 MB of a daemon.
    A module that is None in `sys.modules` counts as one that is not installed.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


_import_structlog_alone()
