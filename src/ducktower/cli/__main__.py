"""`python -m ducktower.cli`: the same as the `ducktower` command."""

import sys

from .app import main

sys.exit(main())
