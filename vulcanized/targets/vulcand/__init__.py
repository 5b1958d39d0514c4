"""The vulcand target: backends, servers and frontends as keys in etcd, by one elected writer."""

from vulcanized.targets.vulcand.target import CAPABILITIES, VulcandTarget

__all__ = ["CAPABILITIES", "VulcandTarget"]
