"""HAProxy, changed at run time where it can be and reloaded where it must be."""

from vulcanized.targets.haproxy.target import HaproxyTarget

__all__ = ["HaproxyTarget"]
