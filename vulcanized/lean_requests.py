"""Imports requests without what guesses encodings, 3 MB of a daemon; before the Kubernetes client.

That reads kubeconfigs, and has requests for OpenID Connect, whose answers are JSON.
"""

from vulcanized.lean import import_without

import_without("requests", "charset_normalizer", "chardet")
