"""Vulcanized keeps your own load balancers in step with the pods of Kubernetes."""

__version__ = "0.1.0"
