"""The commands. Owns flags, environment variables, the terminal and exit statuses; holds no logic of the server."""

from .app import main

__all__ = ["main"]
