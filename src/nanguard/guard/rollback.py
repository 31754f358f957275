"""Going back to a good state: snapshots, the batches since the newest of them, and a learning rate that is lowered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from nanguard.backend import seams
from nanguard.guard.snapshots import Snapshot, Snapshots

_FIRST_STEPS = 64  # in which a spike has too few numbers to be judged by: the detector needs 32
_AT_ONCE = 10  # steps
_DIVERGED = 10.0  # times the loss and the gradient norm of the first step


class Rollback:
    """Keeps what is needed to go back, and goes back.

    The batches since the newest snapshot are held by reference. After going back those that were healthy are trained on
    again, so that the offending ones are all that is lost; beyond `max_bytes` of them a snapshot is taken early.

    A rate that fails twice is given up: after a failure in the first steps of a training, or before the rate has grown
    back, it grows no higher than `factor` times the rate that failed. Where the lowered rate fails at once, the
    next is lowered by the square of the factor before: a rate that is wrong by 10**6 takes five attempts, not twenty.

    Args:
        variables: Gives all variables of the training.
        every: Steps between two snapshots.
        keep: Number of snapshots.
        factor: What the learning rate is multiplied by at each rollback, `0 < factor <= 1`.
        warmup: Steps over which it grows back afterwards, by the same factor in each.
        limit: Number of rollbacks before the training is stopped.
        max_bytes: Most bytes of batches to hold.
    """

    def __init__(
        self,
        variables: Callable[[], Iterable[Any]],
        *,
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
        self.rate = seams.new_variable(lambda: tf.ones([]), "nanguard_rate")
        self._lowest = self._ceiling = 1.0
        self._restored: int | None = None  # step of the snapshot that was gone back to last
        self._since = 0  # steps since the last rollback
        self._step = 0  # steps since the beginning
        self._num_at_once = 0  # rollbacks in a row that failed at once
        self._first: tuple[float, float] | None = None  # loss and gradient norm of the first step
        self._batches: deque[Any] = deque()
        self._nbytes = 0
        self._is_complete = True  # whether the held batches are all since the newest snapshot

    def before_step(self, step: int) -> None:
        """Takes a snapshot if one is due."""
        if self.snapshots.due(step) or self._nbytes > self.max_bytes:
            self.take(step)

    def take(self, step: int) -> None:
        """Takes a snapshot of now."""
        if self.snapshots.take(step):
            self._batches.clear()
            self._nbytes = 0
            self._is_complete = True

    def after_step(self, batch: Any) -> None:
        """Notes a batch whose step went ahead, and lets the learning rate grow back."""
        if batch is None:
            self._is_complete = False
        else:
            self._batches.append(batch)
            self._nbytes += sum(_nbytes(leaf) for leaf in tf.nest.flatten(batch))
        self._since += 1
        self._step += 1
        if self._lowest < self._ceiling:
            part = min(1.0, self._since / max(self.warmup, 1))
            self.rate.assign(self._ceiling if part == 1.0 else self._lowest * (self._ceiling / self._lowest) ** part)
            if part == 1.0:
                self._lowest = self._ceiling

    def diverges(self, loss: float, grad_norm: float) -> bool:
        """Whether one of the first steps is far from the first of all, which a spike has no statistics for yet."""
        if self._first is None:
            self._first = abs(loss), grad_norm
        if self._step >= _FIRST_STEPS:
            return False
        first_loss, first_norm = self._first
        return loss > _DIVERGED * first_loss > 0.0 and grad_norm > _DIVERGED * first_norm > 0.0

    def is_exhausted(self) -> bool:
        """Whether there were as many rollbacks as are allowed."""
        return self.attempts >= self.limit

    def go_back(self, num_offending: int = 0, *, is_rate_kept: bool = False) -> tuple[Snapshot | None, list[Any]]:
        """Restores a snapshot and lowers the learning rate.

        Args:
            num_offending: How many of the newest batches that went ahead are to blame too.
            is_rate_kept: Whether the learning rate stays as it is.

        Returns:
            The snapshot, or None if there is none; and the healthy batches since, which are to be trained on again.
        """
        if not len(self.snapshots):
            return None, []
        # Where the last attempt from this very state has failed, an older one is the better bet.
        which = -2 if self.snapshots.steps[-1] == self._restored and len(self.snapshots) > 1 else -1
        batches = list(self._batches) if which == -1 and self._is_complete else []
        snapshot = self.snapshots.restore(which)
        self._restored = snapshot.step
        self.attempts += 1
        if not is_rate_kept:
            self._lower()
        self._batches.clear()
        self._nbytes = 0
        return snapshot, batches[: len(batches) - num_offending]

    def _lower(self) -> None:
        failed = float(self.rate.numpy())
        has_failed_again = self.attempts > 1 and self._since < self.warmup
        if has_failed_again or self._step < _FIRST_STEPS:
            self._ceiling = failed * self.factor
        self._num_at_once = self._num_at_once + 1 if self.attempts > 1 and self._since < _AT_ONCE else 0
        self._lowest = failed * self.factor ** (2**self._num_at_once)
        self._since = 0
        self.rate.assign(self._lowest)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold; snapshots and batches are not kept across a restart."""
        return {
            "attempts": self.attempts, "lowest": self._lowest, "since": self._since, "rate": float(self.rate.numpy()),
            "ceiling": self._ceiling, "step": self._step, "num_at_once": self._num_at_once, "first": self._first,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.attempts, self._lowest, self._since = int(state["attempts"]), float(state["lowest"]), int(state["since"])
        self.rate.assign(float(state["rate"]))
        self._ceiling, self._step = float(state["ceiling"]), int(state["step"])
        self._num_at_once = int(state["num_at_once"])
        first = state["first"]
        self._first = None if first is None else (float(first[0]), float(first[1]))


def _nbytes(leaf: Any) -> int:
    if isinstance(leaf, tf.Tensor):
        # Not tf.size, which runs an op.
        return int(leaf.shape.num_elements() or 0) * int(leaf.dtype.size)
    return int(getattr(leaf, "nbytes", 0))
