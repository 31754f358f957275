"""What nanguard raises. Everything that it raises on purpose is a `NanguardError`."""

from __future__ import annotations


class NanguardError(Exception):
    """Base of all errors that nanguard raises on purpose."""


class NonFiniteError(NanguardError):
    """A number that training depends on stopped being finite; the message says which, where and why."""


class UsageError(NanguardError):
    """A bad argument: the message is one line with the rule, what came, and the way out. The command exits 2."""


class UnknownHazardError(UsageError, LookupError):
    """No hazard has this code or name; the message holds the nearest ones."""


class ReplayError(NanguardError):
    """A failed step could not be run again; the message says why."""
