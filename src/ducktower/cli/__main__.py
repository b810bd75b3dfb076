"""`python -m ducktower.cli`: the same as the `ducktower` command."""

from . import run

run()
