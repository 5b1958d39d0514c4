"""Vulcanized keeps your own load balancers in step with the pods of Kubernetes."""

from vulcanized.lean import import_without

__version__ = "0.1.0"

# rich draws tables, which few commands need. structlog would have it for tracebacks that ours are
# not: 6 MB of a daemon.
import_without("structlog", "rich")
