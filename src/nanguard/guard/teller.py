"""What a guard says on stderr: a line when it acts, few where it acts often, and a last one for what no line told."""

from __future__ import annotations

import sys
from typing import Any

import tensorflow as tf

from nanguard.backend import updates
from nanguard.errors import NonFiniteError
from nanguard.guard.updater import Updater

_MOST_LINES = 20  # then one line for each further hundred


def say(text: str) -> None:
    """Prints one line."""
    print(f"nanguard: {text}", file=sys.stderr, flush=True)


class Lines:
    """Prints what happens again and again: the first of it, then only how often.

    Args:
        is_silent: Whether nothing is printed.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self.is_silent = is_silent
        self._num = 0

    def add(self, text: str) -> None:
        """Prints a line, or counts it."""
        self._num += 1
        if self.is_silent:
            return
        if self._num <= _MOST_LINES:
            say(text)
        elif self._num % 100 == 0:
            say(f"{text}. From here on every hundredth such line is printed")


class Teller:
    """Tells of the refused steps of a loop that is not `fit`.

    Args:
        name: Who tells.
        updater: What counts.
        max_in_row: Refused steps in a row before it raises.
        is_silent: Whether nothing is printed.
    """

    def __init__(self, name: str, updater: Updater, *, max_in_row: int, is_silent: bool) -> None:
        self._name = name
        self._updater = updater
        self._max_in_row = max_in_row
        self._lines = Lines(is_silent=is_silent)
        self._told = 0

    def after(self, made: Any, optimizer: Any) -> None:
        """To be called after each update, with whether it was made; while a step is traced, too."""

        def tell() -> None:
            self._tell(optimizer)

        if not tf.executing_eagerly():
            self._updater.tell(made, tell)
        elif not bool(made):
            tell()

    def _tell(self, optimizer: Any) -> None:
        ledger = self._updater.counters()
        skipped = int(ledger.skipped.numpy())
        if skipped == self._told:
            return  # an overflow of scaled gradients
        self._told = skipped
        in_row = int(ledger.row(optimizer).numpy())
        step = int(tf.convert_to_tensor(updates.iterations(optimizer)))
        where = " and ".join(ledger.places()) or "an update"
        told = f"step {step} of {optimizer.name} was not finite in {where}"
        if in_row >= self._max_in_row:
            raise NonFiniteError(
                f"{told}; stopped: {in_row} steps in a row were not finite, and none of them was applied. "
                "To see where it was born: nanguard run SCRIPT"
            )
        self._lines.add(f"{told}; skipped")

    def tell_the_rest(self) -> None:
        """Says how many steps were refused without a line, as under XLA. To be called when the owner goes."""
        with tf.init_scope():  # the owner may go while some other function is being traced
            skipped = 0 if self._updater.ledger is None else int(self._updater.ledger.skipped.numpy())
        if skipped > self._told and not self._lines.is_silent:
            say(f"{self._name}: {skipped} steps were not finite and were skipped")
