"""Steps that are run to see what comes of them, and put back: the losses at a state, and a training from it."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from nanguard.guard.snapshots import Snapshot, Snapshots

Run = Callable[[Any], Any]  # runs the step on a batch; gives its `Measured`, or None if it made no update
Variables = Callable[[], Iterable[Any]]

_LEAST = 0.2  # of the loss: what is less is not worth a return
_SIGMAS = 2.0  # standard errors of the mean difference
_UNLIKE = 10.0  # times the median, in magnitude


class Trials:
    """Runs the training's own step from states in memory.

    A loss is that of the step itself, so that it holds what the training holds: dropout, the statistics of the batch,
    the penalty of the weights. Each is measured from the same state, the layers' random numbers included. It costs
    a step.

    Args:
        variables: Gives all variables of the training.
        counters: Gives what counts its steps, in which a trial is to leave no trace.
        rate: Variable that learning rates are multiplied by.
    """

    def __init__(self, variables: Variables, counters: Variables, rate: Any) -> None:
        self._variables, self._counters, self._rate = variables, counters, rate
        self.num_skipped = 0  # steps refused so far, as the training counts them

    def now(self) -> Snapshot:
        """The present state."""
        return _state(self._variables)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[Snapshot]:
        """While it is open nothing is counted, and afterwards the learning rate is what it was.

        Gives the state before, which an error leaves behind; else the caller says in which state to go on.
        """
        counters = [(variable, tf.convert_to_tensor(variable)) for variable in self._counters()]
        now, rate, num_skipped = self.now(), self._rate.numpy(), self.num_skipped
        try:
            yield now
        except BaseException:
            now.restore()
            raise
        finally:
            for variable, value in counters:
                variable.assign(value)
            self._rate.assign(rate)
            self.num_skipped = num_skipped

    def losses(self, state: Snapshot, batches: Sequence[Any], run: Run) -> list[float]:
        """The loss of each batch at a state; infinite where the step is refused."""
        found = []
        for batch in batches:
            state.write()
            found.append(self._loss(batch, run))
        return found

    def train(self, state: Snapshot, batches: Sequence[Any], rate: float, run: Run) -> Snapshot | None:
        """Trains on the batches; gives the state that it ends in, or None if a step was refused."""
        state.write()
        self._rate.assign(rate)
        for batch in batches:
            if self._loss(batch, run) == math.inf:
                return None
        return self.now()

    def _loss(self, batch: Any, run: Run) -> float:
        numbers = run(batch)
        if numbers is None:
            return math.inf
        is_refused, self.num_skipped = numbers.skipped != self.num_skipped, numbers.skipped
        return math.inf if is_refused or not math.isfinite(numbers.loss) else float(numbers.loss)


def is_worse(after: Sequence[float], before: Sequence[float]) -> bool:
    """Whether losses of the same batches have risen: by a fifth in the mean, and by two standard errors.

    Args:
        after: The losses at one state; infinite where there is none.
        before: Those at another, all finite.
    """
    rises = [new - old for new, old in zip(after, before, strict=True)]
    rise = statistics.fmean(rises)
    if not math.isfinite(rise):
        return True
    error = statistics.stdev(rises) / len(rises) ** 0.5 if len(rises) > 1 else 0.0
    return rise > max(_LEAST * statistics.fmean(map(abs, before)), _SIGMAS * error)


def are_ordinary(losses: Sequence[float]) -> list[bool]:
    """For each batch whether its loss, at a state at which the others' are usual, is like theirs and not far above."""
    finite = [loss for loss in losses if loss < math.inf]
    if not finite:
        return [False] * len(losses)
    median = statistics.median(finite)
    return [loss < math.inf and loss - median <= _UNLIKE * abs(median) for loss in losses]


def _state(variables: Variables) -> Snapshot:
    snapshots = Snapshots(variables, keep=1)
    snapshots.take(0, is_known_finite=True)
    return next(iter(snapshots))
