"""Going back to a good state: snapshots, the batches since the newest of them, and a learning rate that is lowered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from nanguard.backend import seams
from nanguard.guard.snapshots import Snapshot, Snapshots


class Rollback:
    """Keeps what is needed to go back, and goes back.

    The batches since the newest snapshot are held by reference. After going back those that were healthy are trained on
    again, so that the offending ones are all that is lost; beyond `max_bytes` of them a snapshot is taken early.

    Args:
        variables: Gives all variables of the training.
        every: Steps between two snapshots.
        keep: Number of snapshots.
        factor: What the learning rate is multiplied by at each rollback, `0 < factor <= 1`.
        warmup: Steps over which it grows back afterwards.
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
        self._lowest = 1.0
        self._since = 0  # steps since the last rollback
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
        if self._lowest < 1.0:
            self._since += 1
            grown = min(1.0, self._lowest + (1.0 - self._lowest) * self._since / max(self.warmup, 1))
            self.rate.assign(grown)
            if grown == 1.0:
                self._lowest = 1.0

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
        which = -1 if self.attempts == 0 or self._since > 0 or len(self.snapshots) == 1 else -2
        batches = list(self._batches) if which == -1 and self._is_complete else []
        snapshot = self.snapshots.restore(which)
        self.attempts += 1
        if not is_rate_kept:
            self._lowest = float(self.rate.numpy()) * self.factor
            self._since = 0
            self.rate.assign(self._lowest)
        self._batches.clear()
        self._nbytes = 0
        return snapshot, batches[: len(batches) - num_offending]

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold; snapshots and batches are not kept across a restart."""
        return {
            "attempts": self.attempts, "lowest": self._lowest, "since": self._since, "rate": float(self.rate.numpy()),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.attempts, self._lowest, self._since = int(state["attempts"]), float(state["lowest"]), int(state["since"])
        self.rate.assign(float(state["rate"]))


def _nbytes(leaf: Any) -> int:
    size = getattr(leaf, "nbytes", None)
    if size is None and isinstance(leaf, tf.Tensor) and leaf.dtype not in (tf.string, tf.variant, tf.resource):
        size = int(tf.size(leaf)) * leaf.dtype.size
    return int(size or 0)
