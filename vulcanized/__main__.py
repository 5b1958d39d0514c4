"""`python -m vulcanized` is `vulcanized`."""

import sys

from vulcanized.cli import main

sys.exit(main())
