"""`python -m ducktower.cli`: the same as the `ducktower` command."""

from .app import run

run()
