"""Going back to a good state: whether there is a reason to, what was to blame, and which learning rate holds."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.backend import seams
from nanguard.guard.rates import Rates
from nanguard.guard.snapshots import Snapshot, Snapshots
from nanguard.guard.trials import Run, Trials, are_ordinary, is_worse

_FIRST_STEPS = 64  # in which a spike has too few numbers to be judged by: the detector needs 32
_AT_ONCE = 10  # steps
_DIVERGED = 10.0  # times the loss and the gradient norm of the first step
_NUM_PROBES = 8  # batches that a state is judged by: of fewer the mean says little, of more it costs more
_FIRST_LOOK = 4  # steps after a rollback
_NEXT_LOOK = 1.5  # times as many steps


@dataclass(eq=False)
class _Held:
    """A batch whose step was run."""

    batch: Any
    is_refused: bool


class Rollback:
    """Keeps what is needed to go back, finds out whether that would help, and goes back.

    An alarm is a suspicion. Up to eight of the last batches are run again at the present state and at the snapshots,
    without a trace. If their losses are no higher now, no harm is done, and the training goes on as it is. Else the
    mildest of three remedies is taken that undoes the harm, each tried from the snapshot:

    1. all batches since are trained on once more. Where that goes well the fault was a passing one;
    2. the same without those whose loss at the snapshot is far above the others', and then without the newest either,
       if no rollback was within ten steps before: they were to blame;
    3. the same at lower learning rates, with all batches but those that are unlike the others: the rate was to blame.
       Rates in steps of `factor` squared, and then of `factor`, are tried until the loss gets worse again.

    A few batches say little about a rate. So it is looked at again after 4, 6, 9, 14, ... steps: the batches since the
    snapshot are trained on at the rates above and below, and where one of them ends lower the training goes on from
    there. That is how the rate grows back, too. All this is paid for after a rollback only, and ever more rarely.

    The batches since the newest snapshot are held by reference; beyond `max_bytes` of them a snapshot is taken early.
    Where they are not at hand nothing can be tried: the training goes back, and the learning rate is multiplied by
    `factor`, by its square at the next failure. It grows back in `warmup` steps, but after a failure in the first
    steps, or soon after another, no higher than `factor` times what has failed.

    Args:
        variables: Gives all variables of the training.
        counters: Gives what counts its steps, which a trial leaves as it was.
        every: Steps between two snapshots.
        keep: Number of snapshots.
        factor: Ratio of one learning rate to the next that is tried, `0 < factor <= 1`. At 1 the rate stays as it is.
        warmup: Steps over which it grows back where no batches are at hand.
        limit: Number of rollbacks in a row, with fewer than `every` steps between them, before the training is stopped.
        max_bytes: Most bytes of batches to hold.
    """

    def __init__(
        self,
        variables: Callable[[], Iterable[Any]],
        *,
        counters: Callable[[], Iterable[Any]] = tuple,
        every: int = 100,
        keep: int = 3,
        factor: float = 0.5,
        warmup: int = 100,
        limit: int = 5,
        max_bytes: int = 1 << 28,
    ) -> None:
        self.snapshots = Snapshots(variables, every=every, keep=keep)
        self.factor, self.warmup, self.limit, self.max_bytes = factor, warmup, limit, max_bytes
        self.attempts = 0
        self._in_row = 0  # rollbacks without a snapshot's time between them
        self.rate = seams.new_variable(lambda: tf.ones([]), "nanguard_rate")
        self._trials = Trials(variables, counters, self.rate)
        self._first: tuple[float, float] | None = None  # loss and gradient norm that the first steps are held against
        self._step = 0  # steps since the beginning
        self._since = 0  # steps since the last rollback
        self._look: int | None = None  # steps since then after which the rate is looked at again
        self._held: deque[_Held] = deque()  # since the newest snapshot
        self._last: deque[_Held] = deque(maxlen=_NUM_PROBES + 1)  # across snapshots
        self._nbytes = 0
        self._is_complete = True  # whether `_held` are all since the newest snapshot
        # Without batches at hand:
        self._lowest = self._ceiling = 1.0
        self._num_at_once = 0  # rollbacks in a row that failed at once
        self._restored: int | None = None  # step of the snapshot that was gone back to last

    def before_step(self, step: int, run: Run | None = None) -> None:
        """Looks at the learning rate again and takes a snapshot, if it is time for either."""
        is_due = self.snapshots.due(step) or self._nbytes > self.max_bytes
        if self._look is not None and self._since >= self._look:
            self._look_again(run)
        if is_due:
            self.take(step)

    def take(self, step: int) -> None:
        """Takes a snapshot of now."""
        if self.snapshots.take(step):
            self._hold(())

    def forget(self) -> None:
        """Lets go of all snapshots and batches, and of the lowered rate: what comes is another training."""
        self.snapshots.clear()
        self._last.clear()
        self._hold(())
        self._first = self._look = self._restored = None
        self._lowest = self._ceiling = 1.0
        self.rate.assign(1.0)

    def after_step(self, batch: Any, numbers: Any = None, *, is_refused: bool = False) -> None:
        """Notes a batch whose step was run.

        Args:
            batch: The batch, or None if it is not at hand.
            numbers: What the step has measured.
            is_refused: Whether it was refused.
        """
        if batch is None:
            self._is_complete = False
        else:
            held = _Held(batch, is_refused)
            self._held.append(held)
            self._last.append(held)
            self._nbytes += _nbytes(batch)
        if numbers is not None:
            self._trials.num_skipped = numbers.skipped
        if is_refused:
            return
        self._since += 1
        self._step += 1
        if self._lowest < self._ceiling:
            self._grow_back()

    def diverges(self, loss: float, grad_norm: float) -> bool:
        """Whether one of the first steps is far from the first of all, which a spike has no statistics for yet."""
        if self._first is None:
            self._first = abs(loss), grad_norm
        if self._step >= _FIRST_STEPS:
            return False
        first_loss, first_norm = self._first
        return loss > _DIVERGED * first_loss > 0.0 and grad_norm > _DIVERGED * first_norm > 0.0

    def is_exhausted(self) -> bool:
        """Whether there were as many rollbacks in a row as are allowed."""
        return self._in_row >= self.limit and self._since < self.snapshots.every

    def go_back(
        self, num_offending: int = 0, *, is_rate_kept: bool = False, run: Run | None = None
    ) -> tuple[Snapshot | None, list[Any]]:
        """Goes back to a snapshot, if the training has taken harm since.

        Args:
            num_offending: How many of the newest batches are accused.
            is_rate_kept: Whether it is known that neither the batches nor the learning rate are to blame.
            run: Runs a step on a batch. None if that cannot be done outside of the training's own order.

        Returns:
            The snapshot, or None if the training goes on from where it is; and the batches since that are to be trained
            on again.
        """
        if not len(self.snapshots):
            return None, []
        if is_rate_kept or run is None or not self._held or not self._is_complete:
            return self._go_back_blindly(num_offending, is_rate_kept=is_rate_kept)
        with self._trials.uncounted() as now:
            snapshot, rate = self._remedy(now, num_offending, run)
        if snapshot is not None:
            self._count()
            self._since = 0
            self.rate.assign(rate)
        return snapshot, []

    def _count(self) -> None:
        self._in_row = self._in_row + 1 if self._since < self.snapshots.every else 1
        self.attempts += 1

    # -- with the batches at hand

    def _remedy(self, now: Snapshot, num_offending: int, run: Run) -> tuple[Snapshot | None, float]:
        """Undoes what harm there is; gives the snapshot that it went back to, and the rate to go on with."""
        rate = float(self.rate)
        accused = list(self._last)[-num_offending:] if num_offending else []
        known = max(self._held, self._last, key=len)
        probes = _spread([held for held in known if held not in accused]) or accused
        start, probes, usual = self._good_snapshot(probes, run)
        batches = [held.batch for held in probes]
        if start is None or not is_worse(self._trials.losses(now, batches, run), usual):
            self._first = None  # what was taken for a divergence is what is usual
            now.restore()
            return None, rate

        losses = self._trials.losses(start, [each.batch for each in self._held], run)
        held = [each for each, loss in zip(self._held, losses, strict=True) if loss < math.inf]
        ordinary = [each for each, is_one in zip(self._held, are_ordinary(losses), strict=True) if is_one]
        remedies = [held, ordinary]
        if not (self.attempts and self._since < _AT_ONCE):  # batch after batch is not to blame
            remedies.append([each for each in ordinary if each not in accused])
        for kept in (each for place, each in enumerate(remedies) if each not in remedies[:place]):
            end = self._trials.train(start, [each.batch for each in kept], rate, run)
            if end is not None and not is_worse(self._trials.losses(end, batches, run), usual):
                return self._go_on(start, end, kept), rate

        def attempt(rate: float) -> tuple[float, Snapshot | None]:
            return self._attempt(start, ordinary, batches, rate, run)

        rates = Rates(attempt)
        if self.factor < 1.0:
            rates.search_below(rate, factor=self.factor)
        if rates.end is None or is_worse(self._trials.losses(rates.end, batches, run), usual):
            return self._go_on(start, start, []), rate  # no rate helps: the batches since are lost
        self._look = _FIRST_LOOK
        return self._go_on(start, rates.end, ordinary), rates.best

    def _good_snapshot(self, probes: list[_Held], run: Run) -> tuple[Any, list[_Held], list[float]]:
        """The newest snapshot at which the losses are not worse than at an older one, with those batches' losses."""
        start, usual = None, [math.inf]
        for snapshot in reversed(list(self.snapshots)):
            losses = self._trials.losses(snapshot, [held.batch for held in probes], run)
            if start is None:
                good = [place for place, is_one in enumerate(are_ordinary(losses)) if is_one]
                if good:
                    probes, losses = [probes[place] for place in good], [losses[place] for place in good]
                    start, usual = snapshot, losses
            elif math.isfinite(sum(losses)) and is_worse(usual, losses):
                start, usual = snapshot, losses
        return start, probes, usual

    def _attempt(
        self, start: Snapshot, held: list[_Held], probes: list[Any], rate: float, run: Run
    ) -> tuple[float, Snapshot | None]:
        """Trains from a snapshot at a rate; gives the loss that it led to and the state that it ended in."""
        end = self._trials.train(start, [each.batch for each in held], rate, run)
        if end is None:
            return math.inf, None
        return statistics.fmean(self._trials.losses(end, probes, run)), end

    def _go_on(self, start: Snapshot, end: Snapshot, held: Iterable[_Held]) -> Snapshot:
        """Goes on from the end of a trial, which is that of a training from `start` on the batches held."""
        self.snapshots.restore(self.snapshots.steps.index(start.step))
        end.restore()
        left_out = {id(each) for each in self._held} - {id(each) for each in held}
        self._last = deque((each for each in self._last if id(each) not in left_out), self._last.maxlen)
        for each in held:
            each.is_refused = False
        self._hold(held)
        return start

    def _look_again(self, run: Run | None) -> None:
        """Trains on the batches since the snapshot at the rates around the present one, and keeps the best."""
        held = [each for each in self._held if not each.is_refused]
        num_wanted = min(self._since, self.snapshots.every // 2)
        if run is None or not self._is_complete or len(held) < num_wanted:
            return
        self._look = math.ceil(_NEXT_LOOK * self._since)
        start = list(self.snapshots)[-1]
        probes = [each.batch for each in _spread(held)]
        with self._trials.uncounted() as now:
            losses = self._trials.losses(now, probes, run)
            good = [place for place, is_one in enumerate(are_ordinary(losses)) if is_one]
            probes, losses = [probes[place] for place in good], [losses[place] for place in good]
            rates, rate = Rates(lambda rate: self._attempt(start, held, probes, rate, run)), float(self.rate)
            rates.note(rate, statistics.fmean(losses) if losses else -math.inf, now)
            if losses:
                rates.search_around(rate, factor=self.factor)
            rates.end.restore()
        self.rate.assign(rates.best)

    # -- without

    def _go_back_blindly(self, num_offending: int, *, is_rate_kept: bool) -> tuple[Snapshot, list[Any]]:
        # Where the last attempt from this very state has failed, an older one is the better bet.
        which = -2 if self.snapshots.steps[-1] == self._restored and len(self.snapshots) > 1 else -1
        went_ahead = [held.batch for held in self._held if not held.is_refused]
        batches = went_ahead[: len(went_ahead) - num_offending] if which == -1 and self._is_complete else []
        snapshot = self.snapshots.restore(which)
        self._restored = snapshot.step
        self._count()
        if not is_rate_kept:
            self._lower()
        self._since = 0
        self._hold(())
        return snapshot, batches

    def _lower(self) -> None:
        failed = float(self.rate)
        has_failed_again = self.attempts > 1 and self._since < self.warmup
        if has_failed_again or self._step < _FIRST_STEPS:
            self._ceiling = failed * self.factor
        self._num_at_once = self._num_at_once + 1 if self.attempts > 1 and self._since < _AT_ONCE else 0
        self._lowest = failed * self.factor ** (2**self._num_at_once)
        self._look = None
        self.rate.assign(self._lowest)

    def _grow_back(self) -> None:
        part = min(1.0, self._since / max(self.warmup, 1))
        self.rate.assign(self._ceiling if part == 1.0 else self._lowest * (self._ceiling / self._lowest) ** part)
        if part == 1.0:
            self._lowest = self._ceiling

    # -- what is kept

    def _hold(self, held: Iterable[_Held]) -> None:
        self._held = deque(held)
        self._nbytes = sum(_nbytes(each.batch) for each in self._held)
        self._is_complete = True

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold; snapshots and batches are not kept across a restart."""
        return {
            "attempts": self.attempts, "lowest": self._lowest, "since": self._since, "rate": float(self.rate),
            "ceiling": self._ceiling, "step": self._step, "num_at_once": self._num_at_once, "first": self._first,
            "look": self._look, "in_row": self._in_row,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.attempts, self._lowest, self._since = int(state["attempts"]), float(state["lowest"]), int(state["since"])
        self.rate.assign(float(state["rate"]))
        self._ceiling, self._step = float(state["ceiling"]), int(state["step"])
        self._num_at_once = int(state["num_at_once"])
        first = state["first"]
        self._first = None if first is None else (float(first[0]), float(first[1]))
        self._look = None if state["look"] is None else int(state["look"])
        self._in_row = int(state["in_row"])


def _spread(held: list[_Held]) -> list[_Held]:
    """Some of the batches, from all along: a state is best at those that it was trained on last."""
    num = min(len(held), _NUM_PROBES)
    return [held[(2 * place + 1) * len(held) // (2 * num)] for place in range(num)]


def _nbytes(batch: Any) -> int:
    return sum(map(_nbytes_of_leaf, tf.nest.flatten(batch, expand_composites=True)))


def _nbytes_of_leaf(leaf: Any) -> int:
    if isinstance(leaf, tf.Tensor):
        # Not tf.size, which runs an op.
        return int(leaf.shape.num_elements() or 0) * int(leaf.dtype.size)
    return int(getattr(leaf, "nbytes", 0))
