"""nginx: reloaded for what changes its pools, switched between versions by flag files."""

from vulcanized.targets.nginx.target import NginxTarget

__all__ = ["NginxTarget"]
