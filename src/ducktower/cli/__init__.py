"""The commands. Owns flags, environment variables, terminal and exit statuses; decides nothing about data."""

from .app import main, run

__all__ = ["main", "run"]
