"""Spikes and divergence: whether a finite loss or gradient norm is far from what it was in the last steps."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SIGMA = 1.4826  # of a normal distribution, in units of its median absolute deviation
_EVERY = 16  # steps between two looks at the window, each of which sorts it
_BLOCKS = 32  # windows that the largest excess is remembered for
# What comes this often within that memory is the data's own, up to this factor above the median.
_FAMILIAR_TIMES, _FAMILIAR_FACTOR = 3, math.log(100.0)
_RISES = 3  # windows in a row with a higher median, before a climb is a divergence
_LARGEST = sys.float_info.max
_LEAST_CLIMB = 1.0  # on the loss's own scale: a positive loss that has more than tripled


@dataclass(frozen=True)
class Spike:
    """A number that is far above what it was.

    Args:
        what: `loss`, `grad_norm`, or `divergence` (of the loss, over many steps).
        value: The number; for a divergence the median of the last window.
        center: What it is held against: the median of the window; for a divergence the lowest median so far.
        spread: What counts as one sigma, a heavy tail included: in nats for a norm (`e^spread` is a factor), on the
            scale of `asinh(loss / unit)` for a loss.
        score: How many of them the number lies above the center.
    """

    what: str
    value: float
    center: float
    spread: float
    score: float


class _Series:
    """The running statistics of one number. `scale` is "log", or "asinh" for numbers that may be negative."""

    def __init__(self, scale: str, least: float, window: int, threshold: float, min_steps: int, adapt: int) -> None:
        self.scale, self.least = scale, least
        self.size, self.threshold, self.min_steps, self.adapt = window, threshold, min_steps, adapt
        self.num = 0  # numbers that entered
        self.due = min_steps  # countdown to the next look at the window
        self.unit = 1.0
        self.center = 0.0
        self.limit = math.inf
        self.window: deque[float] = deque(maxlen=window)
        self.peak = 0.0  # largest excess over the median since the last block
        self.peaks: deque[float] = deque(maxlen=_BLOCKS)
        self.held: list[float] = []  # spikes in a row, which did not enter
        self.spikes: list[tuple[int, float]] = []  # (time, excess) of those within the memory
        self.lowest: float | None = None  # the lowest median of a whole window
        self.medians: deque[float] = deque(maxlen=_RISES + 1)

    def place(self, value: float) -> float:
        """Where a number lies on the scale that the statistics are taken on."""
        return math.log(value) if self.scale == "log" else math.asinh(_bounded(value / self.unit))

    def number(self, place: float) -> float:
        """The number that lies at a place."""
        try:
            return math.exp(place) if self.scale == "log" else _bounded(math.sinh(place) * self.unit)
        except OverflowError:
            return math.inf

    def enter(self, place: float) -> bool:
        """Takes a number in; whether a whole window has passed."""
        self.window.append(place)
        self.num += 1
        excess = place - self.center
        if excess > self.peak:
            self.peak = excess
        self.due -= 1
        if self.due:
            return False
        self.due = _EVERY
        return self.look()

    def look(self) -> bool:
        """Takes the statistics anew; whether a whole window has passed since this was so last."""
        is_first = self.limit == math.inf
        is_block = self.num % self.size < _EVERY and self.num >= self.size
        if self.scale == "asinh" and (is_first or is_block):
            self._change_unit()
        ordered = sorted(self.window)
        center = ordered[len(ordered) // 2]
        # Two sorted runs, which is what Python's sort is fast at.
        spread = _SIGMA * sorted([abs(place - center) for place in ordered])[len(ordered) // 2]
        if is_first:
            self.peak = ordered[-1] - center
        self.center = center
        reach = max(self.peak, *self.peaks) if self.peaks else self.peak
        if is_block:
            self.peaks.append(self.peak)
            self.peak = 0.0
            self.spikes = [spike for spike in self.spikes if spike[0] > self.num - self.size * _BLOCKS]
        # With few numbers the largest of them says little about the tail.
        headroom = 2.0 + 2.0 * self.min_steps / self.num
        self.limit = center + max(self.threshold * spread, headroom * max(reach, self._familiar()), self.least)
        return is_block

    def hold(self, place: float) -> None:
        """Keeps a spike out; after `adapt` of them in a row they are the new level, and the statistics start again."""
        self.held.append(place)
        if len(self.held) >= self.adapt:
            level, self.held = self.held, []
            self.window.clear()
            self.window.extend(level)
            self.num = len(self.window)
            self.due = max(self.min_steps - self.num, 1)
            self.limit, self.peak = math.inf, 0.0
            self.peaks.clear()
            self.spikes = []
            self.forget_climb()

    def release(self) -> None:
        """Ends a row of spikes. A short one may be of a rare kind of batch; a longer one is no kind of batch."""
        excesses = [(self.num, place - self.center) for place in self.held if place - self.center <= _FAMILIAR_FACTOR]
        if excesses and len(self.held) < _FAMILIAR_TIMES:
            self.spikes = [*self.spikes, *excesses][-64:]
            self.limit = max(self.limit, self.center + 2.0 * self._familiar())
        self.held = []

    def climb(self) -> Spike | None:
        """Looks for a divergence; to be called once a window."""
        value = self.number(self.center)
        self.medians.append(value)
        if self.lowest is None or value < self.lowest:
            self.lowest = value
        lowest, medians = self.lowest, list(self.medians)
        if len(medians) <= _RISES or any(a >= b for a, b in itertools.pairwise(medians)):
            return None
        unit = abs(lowest) or self.unit
        score = (math.asinh(value / unit) - math.asinh(lowest / unit)) / _LEAST_CLIMB
        if score <= 1.0:
            return None
        self.forget_climb()
        return Spike("divergence", value, lowest, _LEAST_CLIMB, score)

    def forget_climb(self) -> None:
        """Holds later medians against those that are still to come."""
        self.lowest = None
        self.medians.clear()

    def spike(self, what: str, value: float, place: float) -> Spike:
        """The spike that a number is."""
        spread = (self.limit - self.center) / self.threshold
        return Spike(what, value, self.number(self.center), spread, (place - self.center) / spread)

    def _familiar(self) -> float:
        excesses = sorted((excess for _, excess in self.spikes), reverse=True)
        return excesses[_FAMILIAR_TIMES - 1] if len(excesses) >= _FAMILIAR_TIMES else 0.0

    def _change_unit(self) -> None:
        numbers = [self.number(place) for place in self.window]
        unit = statistics.median(abs(number) for number in numbers)
        if not 0.0 < unit < math.inf or (0.8 < unit / self.unit < 1.25):
            return
        center = self.number(self.center)
        self.unit = unit
        self.window = deque(map(self.place, numbers), self.size)
        self.center = self.place(center)

    def state(self) -> dict[str, Any]:
        """All that changes, for JSON."""
        kept = {name: getattr(self, name) for name in ("num", "due", "unit", "center", "peak", "lowest")}
        lists = {name: list(getattr(self, name)) for name in ("window", "peaks", "held", "medians")}
        spikes = [list(spike) for spike in self.spikes]
        return {**kept, **lists, "spikes": spikes, "limit": None if self.limit == math.inf else self.limit}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        for name in ("num", "due", "unit", "center", "peak", "lowest"):
            setattr(self, name, state[name])
        self.window = deque(state["window"], self.size)
        self.peaks = deque(state["peaks"], _BLOCKS)
        self.medians = deque(state["medians"], _RISES + 1)
        self.held = list(state["held"])
        self.spikes = [(time, excess) for time, excess in state["spikes"]]
        self.limit = math.inf if state["limit"] is None else state["limit"]


def _bounded(number: float) -> float:
    return max(-_LARGEST, min(_LARGEST, number))


class SpikeDetector:
    """Says whether a step's loss or gradient norm is a spike, and whether the loss has been climbing.

    The statistics are the median and the median absolute deviation of a window: of the logarithm of the norm, and of
    `asinh(loss / unit)`, where `unit` is the median magnitude of the loss, so that a loss may be negative. A number is
    a spike if it lies above the median by more than each of

    - `threshold` sigma,
    - twice the largest excess over the median of the last 32 windows (a heavy tail shows itself there, and not in the
      deviation); up to four times in the first steps,
    - a factor of 2 (norm), or about 30 % of the typical magnitude (loss).

    A spike does not enter the window, so that it does not hide the next one. What comes back alone or in pairs, three
    times within 32 windows, and is at most a hundred times the median, is taken for the data's own (a rare kind of
    batch) and is no spike from then on. After `adapt` spikes in a row the level has changed: they become the window,
    and the next spike is called after `min_steps` numbers. The statistics are taken anew every 16 steps; `limit`
    changes no more often.

    A NaN or an infinity neither enters nor is a spike: it is the finite check's to see.

    A *divergence* is called when the median loss of a window was higher than that of the window before three times in
    a row, and is above the lowest one so far by 1 on the `asinh` scale: a positive loss has then more than tripled. It
    is called once a climb.

    False alarms, in four simulated runs of 100,000 steps each: none in log-normal noise with a sigma of 0.2, 0.5 and 1,
    in autocorrelated noise, with warm-up, cyclic rates, a negative loss, one that crosses 0, and one that falls to
    1e-6; one in all with Pareto tails (exponent 1.5); one to four a run where the logarithms have Student tails (5
    degrees of freedom); three in a run where every hundredth batch has a tenfold norm, until it was learnt. Where the
    level jumps, about three a jump. One call of `observe` takes about 2 microseconds.

    The price is that a noisy series needs a large spike: the limit is 4 times the median norm at a sigma of 0.2, and 40
    times at 0.5.

    Args:
        window: Numbers that the statistics are taken of, at least 16. 128 as in OLMo's skip-step optimizer.
        threshold: Sigmas above the median, `> 0`. 6, as there. With 128 log-normal numbers to estimate from, the next
            one passes 6 once in 9 million steps, and 5 once in 270,000 (by simulation).
        min_steps: Numbers before the first judgement: the first steps of a training are unlike the others. 32, a
            quarter of the window.
        patience: Spikes in a row before the first one is told. 1: a step that is to be skipped must be told at once.
        adapt: Spikes in a row that make a new level. 8: fewer would take a few bad batches for one, more would keep a
            training that has really changed waiting.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> detector = SpikeDetector()
    >>> for step in range(100):
    ...     assert detector.observe(2.0 - 0.01 * step, 1.0 + 0.1 * (step % 7)) is None
    >>> detector.observe(1.0, 40.0).what
    'grad_norm'
    >>> detector.observe(1.0, float("nan")) is None
    True

    References:
        OLMo 2: Team OLMo, 2 OLMo 2 Furious, 2025, arXiv 2501.00656; `SkipStepOptimizer` of OLMo-core.
        PaLM: Chowdhery et al., 2022, arXiv 2204.02311, section 5.1.
        Rousseeuw, Croux, Alternatives to the Median Absolute Deviation, JASA 88, 1993.
    """

    def __init__(
        self, *, window: int = 128, threshold: float = 6.0, min_steps: int = 32, patience: int = 1, adapt: int = 8
    ) -> None:
        if window < _EVERY:
            raise ValueError(f"`window` must be at least {_EVERY}. Received: window={window}. Leave it out for 128.")
        if not threshold > 0:
            raise ValueError(f"`threshold` must be positive. Received: threshold={threshold}. Leave it out for 6.")
        if not 2 <= min_steps <= window:
            raise ValueError(
                f"`min_steps` must be from 2 to `window`, here {window}. Received: min_steps={min_steps}. "
                "To wait longer, make the window larger."
            )
        if not 1 <= patience <= adapt:
            raise ValueError(
                f"`patience` must be from 1 to `adapt`, here {adapt}. Received: patience={patience}. "
                "To tell no spike at all, leave the detector out."
            )
        self.patience = patience
        self._loss = _Series("asinh", 0.25, window, threshold, min_steps, adapt)
        self._norm = _Series("log", math.log(2.0), window, threshold, min_steps, adapt)

    def observe(self, loss: float, grad_norm: float) -> Spike | None:
        """Judges the numbers of a step, and takes them in if they are no spikes.

        Args:
            loss: The step's loss.
            grad_norm: The global norm of its gradients, `>= 0`. A norm of 0 says nothing and is passed over.

        Returns:
            The spike, or None. Of two the one with the higher score; a spike goes before a divergence.
        """
        found = climbing = None
        series = self._norm
        # Comparisons alone, in the order that lets a healthy step through with the fewest of them.
        if 0.0 < grad_norm < math.inf:
            place = math.log(grad_norm)
            if place <= series.limit:
                if series.held:
                    series.release()
                series.enter(place)
            else:
                found = self._spike(series, "grad_norm", grad_norm, place)
        series = self._loss
        if -math.inf < loss < math.inf:
            ratio = loss / series.unit
            place = math.asinh(ratio) if -_LARGEST <= ratio <= _LARGEST else series.place(loss)
            if place <= series.limit:
                if series.held:
                    series.release()
                if series.enter(place):
                    climbing = series.climb()
            else:
                other = self._spike(series, "loss", loss, place)
                if found is None or (other is not None and other.score > found.score):
                    found = other
        return found or climbing

    @property
    def limit(self) -> float:
        """The largest gradient norm that would be no spike now; infinite while there are too few numbers."""
        return self._norm.number(self._norm.limit)

    def _spike(self, series: _Series, what: str, value: float, place: float) -> Spike | None:
        spike = series.spike(what, value, place)
        is_told = len(series.held) + 1 >= self.patience
        series.hold(place)
        return spike if is_told else None

    def state(self) -> dict[str, Any]:
        """Gives all that the detector knows, as plain values for JSON."""
        return {"loss": self._loss.state(), "grad_norm": self._norm.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave, to the last bit.

        Args:
            state: What `state` gave, in a detector with the same arguments.
        """
        self._loss.restore(state["loss"])
        self._norm.restore(state["grad_norm"])


class LayerNorms:
    """The last gradient norms of each variable, to name those that grew when a step is a spike.

    Args:
        window: Steps that are kept. 32: layers change their level with the schedule, and 16 healthy ones make a median.

    Example:

    >>> norms = LayerNorms()
    >>> for step in range(10):
    ...     norms.observe([1.0, 0.5])
    >>> norms.grown(["dense/kernel", "head/kernel"], [1.1, 40.0])
    [('head/kernel', 80.0)]
    """

    def __init__(self, *, window: int = 32) -> None:
        self._rows: deque[tuple[float, ...]] = deque(maxlen=window)

    def observe(self, norms: Sequence[float]) -> None:
        """Takes in the norms of a healthy step, one per variable, always in the same order."""
        self._rows.append(tuple(norms))

    def grown(self, names: Sequence[str], norms: Sequence[float], *, factor: float = 3.0) -> list[tuple[str, float]]:
        """Names the variables whose gradient is far larger than it was.

        Args:
            names: What the variables are called.
            norms: Their norms in the step concerned, in the order that `observe` was given.
            factor: Growth that is worth a name. 3: the norm of one layer doubles from batch to batch in healthy
                training.

        Returns:
            Pairs of name and growth over the median of the last steps, the largest growth first. It is infinite for a
            norm that is not finite, or whose median is 0.
        """
        rows = [row for row in self._rows if len(row) == len(norms)]
        found = []
        for place, (name, norm) in enumerate(zip(names, norms, strict=True)):
            before = [row[place] for row in rows if math.isfinite(row[place])]
            usual = statistics.median(before) if before else math.nan
            ratio = math.inf if not math.isfinite(norm) or (usual == 0.0 < norm) else norm / usual if usual else 1.0
            if ratio > factor:
                found.append((name, ratio))
        return sorted(found, key=lambda pair: -pair[1])

    def state(self) -> list[list[float | None]]:
        """Gives the rows as plain values for JSON."""
        return [[norm if math.isfinite(norm) else None for norm in row] for row in self._rows]

    def restore(self, state: Sequence[Sequence[float | None]]) -> None:
        """Goes on from what `state` gave; a norm that was not finite comes back as NaN."""
        self._rows.clear()
        self._rows.extend(tuple(math.nan if norm is None else norm for norm in row) for row in state)
