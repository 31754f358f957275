"""One update of the weights that goes ahead only if the step is finite: the flag, the branch, and what is put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.backend import seams, updates
from nanguard.guard import flag
from nanguard.guard import variables as script_variables
from nanguard.guard.journal import Entry, Journal, busy
from nanguard.guard.ledger import Ledger

# Below it the scale of a loss makes gradients smaller and no safer.
SMALLEST_SCALE = 1.0
# A step whose state adds up to 1e16 is inspected after its update. Below that no trusted optimizer makes an infinity of
# its slots; above, it can: accumulated gradients of 1e30 are finite, and their squares are not.
REST = flag.LIMIT / 1e16


@dataclass(eq=False)
class Parts:
    """All that a step is judged by.

    Args:
        losses: What was differentiated.
        grads: The gradients' numbers.
        state: What the step wrote into layers.
        weights: The weights and slots that the update starts from, as variables, and its learning rate.
        half_squares: One number for each gradient, float32.
        scale: The dynamic loss scale that the gradients carry, or None.
    """

    losses: list[Any]
    grads: list[Any]
    state: list[Any]
    weights: list[Any]
    half_squares: list[Any]
    scale: Any

    def totals(self) -> tuple[Any, Any]:
        """Two sums: of the gradients' half squares, and of all else."""
        rest = [flag.total(tensor) for tensor in (*self.losses, *self.state, *self.weights)]
        return tf.add_n(self.half_squares), tf.add_n(rest)

    def are_finite(self) -> list[Any]:
        """Whether each place of `ledger.PLACES` is finite, number by number."""
        return [flag.are_finite(part) for part in (self.losses, self.grads, self.state, self.weights)]


@dataclass(eq=False)
class Update:
    """One call of an optimizer.

    Args:
        apply: The plain call; takes gradients and variables.
        optimizer: The Keras optimizer.
        grads: One for each variable: a tensor, `tf.IndexedSlices` or None.
        variables: The trained variables.
        parts: What the step is judged by.
        ledger: Where it is counted.
        norms: Variable for the half squares of a refused step's gradients.
        clip: How gradients are clipped, or None.
        so_far: Whether the updates that the step made before this one went ahead; None if it is the first.
        rate: Variable that the learning rate is multiplied by, or None.
    """

    apply: Callable[[Any, Any], Any]
    optimizer: Any
    grads: list[Any]
    variables: list[Any]
    parts: Parts
    ledger: Ledger
    norms: Any
    clip: Any
    so_far: Any
    rate: Any = None
    num_summed: int = 1  # replicas whose gradients were added up before they are clipped

    @property
    def is_trusted(self) -> bool:
        """Whether what the optimizer makes of numbers that pass the flag needs no look."""
        return script_variables.is_trusted(self.optimizer, self.variables)

    def make(self, journal: Journal) -> tuple[Any, Any]:
        """Makes the update if the step is finite, and else puts back what the journal holds.

        Returns:
            Whether the update was made, and the factor by which the gradients were clipped.
        """
        grads, rest = self.parts.totals()
        is_plain = flag.is_clean(grads + rest * REST)
        if self.so_far is not None:
            is_plain = tf.logical_and(is_plain, self.so_far)

        def slowly() -> Any:
            made, factor = flag.branch(self._judge(), self._make_and_inspect, self._refuse)
            if journal.entries:
                flag.branch(made, nothing, journal.put_back)
            return made, factor

        return flag.branch(is_plain, self._make if self.is_trusted else slowly, slowly)  # type: ignore[no-any-return]

    def _make(self) -> tuple[Any, Any]:
        factor = self._apply(self.grads, self.parts.half_squares)
        return tf.constant(True), factor

    def _apply(self, grads: list[Any], half_squares: list[Any]) -> Any:
        factor = tf.constant(1.0)
        if self.clip is not None:
            places = [place for place, grad in enumerate(grads) if grad is not None]
            variables = [self.variables[place] for place in places]
            clipped, factor = self.clip.clip([grads[place] for place in places], variables, half_squares)
            grads = list(grads)
            num_replicas = self.num_summed
            for place, grad in zip(places, clipped, strict=True):
                grads[place] = grad if num_replicas == 1 else _divided(grad, num_replicas)
        with (
            updates.shared_reads(self.optimizer),
            seams.scaled_rate(self.optimizer, self.rate),
            updates.scaled_updates(self.optimizer, self.clip),
        ):
            self.apply(grads, self.variables)
        return factor

    def _judge(self) -> Any:
        """Looks at every number of a step whose sum is not finite, or too large."""
        losses, grads, state, weights = self.parts.are_finite()
        self.ledger.seen.assign(tf.logical_not(tf.stack([losses, grads, state, weights])))
        goes = losses & state & weights
        if self.parts.scale is None:
            # Scaled gradients overflow now and then: what to do about it is the loss scale optimizer's business.
            goes &= grads
        return goes if self.so_far is None else goes & self.so_far

    def _refuse(self) -> tuple[Any, Any]:
        self._count()
        return tf.constant(False), tf.constant(1.0)

    def _count(self) -> None:
        def count() -> None:
            self.ledger.count(self.optimizer)
            # Computed anew: each tensor from outside costs the branch that is taken in every step, too.
            numbers = map(flag.half_square, self.parts.grads)
            self.norms.assign(tf.stack([next(numbers) if grad is not None else tf.zeros([]) for grad in self.grads]))

        if self.so_far is None:
            count()
        else:
            flag.branch(self.so_far, count, nothing)

    def _make_and_inspect(self) -> tuple[Any, Any]:
        """Makes an update of gradients that are huge, or scaled, or go to an optimizer that is not known; undoes it
        if it gave a number that is not finite."""
        entries = self._written()
        factor = self._apply(self.grads, self.parts.half_squares)
        made = self._inspect(entries)
        if self.parts.scale is not None:
            made = flag.branch(flag.are_finite(self.parts.grads), lambda: made, self._overflow)
        return made, factor

    def _written(self) -> list[Entry]:
        """The values, from before, of all that the update writes."""
        return [
            Entry(component, component.read_value(), "slot")
            for variable in (*self.variables, *script_variables.optimizer_variables(self.optimizer))
            for component in script_variables.components(script_variables.raw(variable))
        ]

    def _inspect(self, entries: Sequence[Entry]) -> Any:
        """Whether an update gave finite numbers; undoes it if not."""

        def undo() -> Any:
            for entry in entries:
                entry.put_back()
            self.ledger.seen.assign([False, False, False, True])
            self._count()
            return tf.constant(False)

        finite = flag.are_finite([entry.variable.read_value() for entry in entries])
        return flag.branch(finite, lambda: tf.constant(True), undo)

    def _overflow(self) -> Any:
        """The gradients overflowed, and the loss scale optimizer has skipped the step and halved its scale."""
        before = self.parts.scale
        for scale in script_variables.components(script_variables.dynamic_scale(self.optimizer)):
            # After 142 bad batches in a row it would be 0, and the next good one would make all weights NaN.
            scale.assign(tf.maximum(scale.read_value(), SMALLEST_SCALE))
        is_at_floor = before <= SMALLEST_SCALE
        self.ledger.overflows.assign_add(tf.cast(tf.logical_not(is_at_floor), tf.int64))
        flag.branch(is_at_floor, self._count, nothing)
        return tf.constant(False)

    # -- on several replicas

    def make_on_all_replicas(self, journal: Journal, context: Any) -> tuple[Any, Any]:
        """The same for a step that runs on several replicas: all of them come to the same decision.

        A number of one replica that is not finite refuses the step on all. So does a gradient whose square overflows.
        """
        grads, half_squares = self.grads, self.parts.half_squares
        total, rest = self.parts.totals()
        total, rest = context.all_reduce(tf.distribute.ReduceOp.SUM, [total, rest])
        places = [place for place, grad in enumerate(grads) if grad is not None]
        if self.clip is not None:
            # Clipped is the gradient of the whole batch. The optimizer adds up what it gets from the replicas.
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [grads[place] for place in places])
            half_squares = [flag.half_square(flag.values(grad)) for grad in summed]
            self.num_summed = context.num_replicas_in_sync
        else:
            summed = [grads[place] for place in places]
        finite = tf.stack([flag.is_clean(total), flag.is_clean(rest)])
        made, factor = context.merge_call(self._in_cross_replica_context, args=(finite, summed, half_squares))
        if journal.entries:
            flag.branch(made, nothing, journal.put_back)
        return made, factor

    def _in_cross_replica_context(self, strategy: Any, finite: Any, grads: Any, half_squares: Any) -> tuple[Any, Any]:
        # TensorFlow allows no conditional around an update in a replica's own context.
        of_gradients, of_others = tf.unstack(strategy.experimental_local_results(finite)[0])
        goes = of_others if self.parts.scale is not None else of_others & of_gradients
        if self.so_far is not None:
            goes &= strategy.experimental_local_results(self.so_far)[0]
        is_inspected = self.parts.scale is not None or not self.is_trusted

        def apply(grads: list[Any], half_squares: list[Any]) -> Any:
            given = iter(grads)
            with busy():
                return self._apply([None if grad is None else next(given) for grad in self.grads], half_squares)

        def proceed() -> Any:
            entries = self._written() if is_inspected else []
            factors = strategy.extended.call_for_each_replica(apply, args=(grads, half_squares))
            made = self._inspect(entries) if is_inspected else tf.constant(True)
            if self.parts.scale is not None:
                made = flag.branch(of_gradients, lambda: made, self._overflow)
            return made, strategy.experimental_local_results(factors)[0]

        def refuse() -> Any:
            self.ledger.seen.assign(tf.stack([False, tf.logical_not(of_gradients), tf.logical_not(of_others), False]))
            return self._refuse()

        return flag.branch(goes, proceed, refuse)  # type: ignore[no-any-return]


def _divided(grad: Any, number: int) -> Any:
    if isinstance(grad, tf.IndexedSlices):
        return tf.IndexedSlices(grad.values / number, grad.indices, grad.dense_shape)
    return grad / number


def nothing() -> None:
    """The branch in which there is nothing to do."""
