"""The options that all comparisons share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path


class Options(argparse.ArgumentParser):
    """The options of one comparison: `--short`, `--only`, `--rounds` and `--markdown`, to which it adds its own.

    Args:
        module: The module that is run.
        about: What it does, as in its docstring.
        short: What is measured with `--short`.
        rounds: Measured rounds, and those with `--short`.
    """

    def __init__(self, module: str, about: str | None, *, short: str, rounds: tuple[int, int]) -> None:
        super().__init__(prog=f"python -m {module}", description=(about or "").split("\n")[0])
        self._rounds = rounds
        usual, few = rounds
        self.add_argument("--short", action="store_true", help=f"a few rounds of {short}; no bar is asserted")
        self.add_argument("--only", action="append", metavar="GLOB", help="what to measure by name; may be repeated")
        self.add_argument("--rounds", type=int, default=None, help=f"measured rounds ({usual}; {few} with --short)")
        self.add_argument(
            "--markdown", type=Path, metavar="FILE", help="rewrite the tables between this page's markers"
        )

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Reads the arguments; the process ends if they make no sense."""
        options = self.parse_args(arguments)
        options.rounds = options.rounds or self._rounds[options.short]
        if options.rounds < 2:
            self.error("--rounds must be at least 2: quartiles need them.")
        return options

    def matching(self, patterns: Iterable[str], names: Iterable[str]) -> list[str]:
        """Gives the names that match a pattern; the process ends if a pattern matches none."""
        names = list(names)
        for pattern in patterns:
            if not any(fnmatch(name, pattern) for name in names):
                self.error(f"nothing is called {pattern}. Choose from: {', '.join(names)}.")
        return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]

    def listed(self, option: str, text: str, known: Iterable[str]) -> list[str]:
        """Splits a comma-separated list; the process ends if something in it is not known."""
        known, asked = list(known), text.split(",")
        if unknown := set(asked) - set(known):
            self.error(f"unknown {option}: {', '.join(sorted(unknown))}. Choose from: {', '.join(known)}.")
        return asked
