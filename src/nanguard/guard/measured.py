"""What one step measured of itself, as one vector that leaves the step with its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.guard import flag
from nanguard.guard.journal import Journal
from nanguard.guard.ledger import Ledger


@dataclass(frozen=True)
class Measured:
    """What one step measured of itself.

    Args:
        loss: The loss of the batch alone.
        grad_norm: L2 norm of all gradients together, before they were clipped.
        clip: The smallest factor by which a gradient was multiplied.
        skipped: Steps that were refused since training began, this one included.
        overflows: Steps that the loss scale optimizer skipped.
        norms: L2 norm of each gradient, in the order of `Updater.names`.
    """

    loss: float
    grad_norm: float
    clip: float
    skipped: int
    overflows: int
    norms: tuple[float, ...] = ()

    @classmethod
    def of(cls, numbers: Any) -> Measured:
        """Reads what `measurements` gave."""
        loss, grad_norm, clip, skipped, overflows, *half_squares = numbers.numpy().tolist()
        norms = tuple([(2.0 * half) ** 0.5 for half in half_squares])
        return cls(loss, grad_norm, clip, int(skipped), int(overflows), norms)


def measurements(journal: Journal, ledger: Ledger) -> Any:
    """Gives a step's measurements as a float32 vector, which `Measured.of` reads."""
    if journal.measured is not None:  # by its replicas
        return journal.measured
    losses = journal.losses_at_hand()
    if journal.loss is None and losses and journal.grads:
        # Weights were written by hand: no optimizer has added anything up.
        journal.loss = tf.add_n([flag.total(loss) for loss in losses])
        journal.half_squares = [tf.stack([flag.half_square(flag.values(grad)) for grad in journal.grads])]
        journal.grad_norm = tf.sqrt(2.0 * tf.reduce_sum(journal.half_squares[0]))
    one, zero = tf.ones([]), tf.zeros([])
    numbers = [
        zero if journal.loss is None else journal.loss,
        zero if journal.grad_norm is None else journal.grad_norm,
        one if journal.clip is None else journal.clip,
        tf.cast(ledger.skipped.read_value(), tf.float32),
        tf.cast(ledger.overflows.read_value(), tf.float32),
    ]
    return tf.concat([tf.stack(numbers), *journal.half_squares], 0)
