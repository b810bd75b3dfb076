"""The commands. Owns flags, environment variables, terminal and exit statuses; decides nothing about data."""

from .app import main

__all__ = ["main"]
