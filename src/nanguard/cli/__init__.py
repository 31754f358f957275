"""The `nanguard` command."""

from nanguard.cli._main import main

__all__ = ["main"]
