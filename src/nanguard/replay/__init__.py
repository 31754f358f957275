"""Runs a captured step again, op by op, and tells where the first non-finite number was born and why."""

from nanguard.replay.explain import explain, outline

__all__ = ["explain", "outline"]
