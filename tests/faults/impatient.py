"""`vulcanized` that gives an API server seconds where it would give it a minute or two.

Nobody can set these: a server that is alive needs no more, and a longer wait hides one that is not.
So that a test sees them pass, it starts this program in place of `vulcanized`.
"""

from __future__ import annotations

import functools
import sys

from vulcanized.cli import main
from vulcanized.reflector import Timing
from vulcanized.sources import kubernetes

PROGRAM = (sys.executable, "-m", "tests.faults.impatient")

if __name__ == "__main__":
    kubernetes.KubernetesSource = functools.partial(  # type: ignore[assignment, misc]
        kubernetes.KubernetesSource,
        limits=kubernetes.Limits(connect=1.0, headers=1.5, page=4.0, gap=2.0),
        timing=Timing(backoff=(0.8, 3.0), mend=(2.0, 4.0)),
    )
    sys.exit(main())
