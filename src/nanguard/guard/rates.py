"""The search for a learning rate: which of a ladder of rates leads to the lowest loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

SMALLEST = 2.0**-80  # times the rate of the script: lower than any mistake
_LEAST_GAIN = 0.01  # of the loss: less is no reason for another rate
_NUM_WORSE = 2  # rates in a row that did worse than the best, before the search turns round


class Rates:
    """The rates that were tried, with the loss that each led to and what the best of them ended in.

    Args:
        attempt: Trains at a rate; gives the loss that it led to, infinite if it failed, and the state that it ended in.

    Example:

    >>> rates = Rates(lambda rate: (abs(math.log(rate / 0.01)), f"state at {rate:.3g}"))
    >>> rates.search_below(1.0, factor=0.5)
    >>> rates.best, rates.end
    (0.0078125, 'state at 0.00781')
    """

    def __init__(self, attempt: Callable[[float], tuple[float, Any]]) -> None:
        self._attempt = attempt
        self.losses: dict[float, float] = {}
        self.best = math.nan
        self.end: Any = None

    def note(self, rate: float, loss: float, end: Any) -> None:
        """Takes in what a rate has led to."""
        self.losses[rate] = loss
        if loss < self._limit(-1.0):
            self.best, self.end = rate, end

    def try_at(self, rate: float) -> None:
        """Tries a rate, once."""
        if rate not in self.losses:
            self.note(rate, *self._attempt(rate))

    def search_below(self, rate: float, *, factor: float) -> None:
        """Looks for the best rate below one that has failed: in steps of `factor` squared, then of `factor`."""
        num_worse = 0
        while num_worse < _NUM_WORSE and rate > SMALLEST:
            rate *= factor**2
            self.try_at(rate)
            is_found = not math.isnan(self.best)
            num_worse = num_worse + 1 if is_found and rate != self.best else 0
        if not math.isnan(self.best):
            middle = self.best
            self.try_at(middle * factor)
            self.try_at(middle / factor)

    def search_around(self, rate: float, *, factor: float) -> None:
        """Looks below a rate in steps of `factor` for as long as it gets better, and above, up to 1, until it is worse.

        At a rate that is far too low twice the rate makes no difference that could be seen: such rates are passed over
        in steps of the square.
        """
        other = rate * factor
        while other > SMALLEST:
            self.try_at(other)
            if self.best != other:
                break
            other *= factor
        other = rate / factor
        while other <= 1.0:
            self.try_at(other)
            if self.losses[other] > self._limit(1.0):
                break
            other /= factor if self.best == other else factor**2

    def _limit(self, sign: float) -> float:
        """The loss that would be worse than the best (1), or better (-1)."""
        lowest = self.losses.get(self.best, math.inf)
        return lowest + (sign * _LEAST_GAIN * abs(lowest) if lowest < math.inf else 0.0)
