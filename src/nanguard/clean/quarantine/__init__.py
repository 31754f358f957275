"""Rows that are set aside: a file of their own, with where they were and why they left; and their way back."""

from nanguard.clean.quarantine._aside import Quarantine, open, rows_of
from nanguard.clean.quarantine._restore import restore

__all__ = ["Quarantine", "open", "restore", "rows_of"]
