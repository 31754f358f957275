"""Helpers that cases import from a sub-folder."""
