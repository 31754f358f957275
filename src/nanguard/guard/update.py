"""One update of the weights that goes ahead only if the step is finite: the flag, the branch, and what is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.backend import graphs, seams, updates
from nanguard.guard import flag
from nanguard.guard import variables as script_variables
from nanguard.guard.journal import Entry, Journal, busy
from nanguard.guard.ledger import Ledger

# Below it the scale of a loss makes gradients smaller and no safer.
SMALLEST_SCALE = 1.0


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

    def half_square(self) -> Any:
        """Half the sum of the squares of all numbers."""
        rest = [flag.half_square(tensor) for tensor in (*self.losses, *self.state, *self.weights)]
        return tf.add_n([*self.half_squares, *rest])

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
        is_plain = flag.is_calm(self.parts.half_square())
        if self.so_far is not None:
            is_plain = tf.logical_and(is_plain, self.so_far)

        def settle(made: Any) -> None:
            if journal.entries:
                flag.branch(made, nothing, journal.put_back)

        return self._decide(is_plain, _Actions(
            apply=lambda: self._apply(self.grads, self.parts.half_squares),
            look=self.parts.are_finite,
            # Computed anew: each tensor from outside costs the branch that is taken in every step, too.
            half_squares=lambda: map(flag.half_square, self.parts.grads),
            settle=settle,
        ))  # fmt: skip

    def _decide(self, is_plain: Any, actions: _Actions) -> tuple[Any, Any]:
        plain_graphs: list[Any] = []

        def plainly() -> Any:
            plain_graphs.append(graphs.current())
            return tf.constant(True), actions.apply()

        def again() -> Any:
            # To trace it takes the longer part of a guard's first step.
            if tf.executing_eagerly() or tf.distribute.has_strategy() or not plain_graphs:
                return actions.apply()
            return graphs.call_again(plain_graphs[0])[-1]

        def slowly() -> Any:
            finite = actions.look()
            made, factor = flag.branch(
                self._judge(finite),
                lambda: self._make_and_inspect(actions, finite, again),
                lambda: self._refuse(actions),
            )
            actions.settle(made)
            return made, factor

        made, factor = flag.branch(is_plain, plainly, slowly) if self.is_trusted else slowly()
        return made, factor

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

    def _judge(self, finite: list[Any]) -> Any:
        """Whether a step whose sum is not finite, or too large, may go ahead, by a look at every number of it."""
        losses, grads, state, weights = finite
        self.ledger.seen.assign(tf.logical_not(tf.stack(finite)))
        goes = losses & state & weights
        if self.parts.scale is None:
            # Scaled gradients overflow now and then: what to do about it is the loss scale optimizer's business.
            goes &= grads
        return goes if self.so_far is None else goes & self.so_far

    def _refuse(self, actions: _Actions) -> tuple[Any, Any]:
        self._count(actions)
        return tf.constant(False), tf.constant(1.0)

    def _count(self, actions: _Actions) -> None:
        def count() -> None:
            self.ledger.count(self.optimizer)
            numbers = iter(actions.half_squares())
            self.norms.assign(tf.stack([next(numbers) if grad is not None else tf.zeros([]) for grad in self.grads]))

        if self.so_far is None:
            count()
        else:
            flag.branch(self.so_far, count, nothing)

    def _make_and_inspect(self, actions: _Actions, finite: list[Any], apply: Callable[[], Any]) -> tuple[Any, Any]:
        """Makes an update of gradients that are huge, or scaled, or go to an optimizer that is not known; undoes it
        if it gave a number that is not finite."""
        entries = self._written()
        factor = apply()
        made = self._inspect(entries, actions)
        if self.parts.scale is not None:
            made = flag.branch(finite[1], lambda: made, lambda: self._overflow(actions))
        return made, factor

    def _written(self) -> list[Entry]:
        """The values, from before, of all that the update writes."""
        return [Entry(component, component.read_value(), "slot") for component in self._components()]

    def _components(self) -> list[Any]:
        return [
            component
            for variable in (*self.variables, *script_variables.optimizer_variables(self.optimizer))
            for component in script_variables.components(script_variables.raw(variable))
        ]

    def _inspect(self, entries: Sequence[Entry], actions: _Actions) -> Any:
        """Whether an update gave finite numbers; undoes it if not."""

        def undo() -> Any:
            for entry in entries:
                entry.put_back()
            self.ledger.seen.assign([False, False, False, True])
            self._count(actions)
            return tf.constant(False)

        finite = flag.are_finite([entry.variable.read_value() for entry in entries])
        return flag.branch(finite, lambda: tf.constant(True), undo)

    def _overflow(self, actions: _Actions) -> Any:
        """The gradients overflowed, and the loss scale optimizer has skipped the step and halved its scale."""
        before = self.parts.scale
        for scale in script_variables.components(script_variables.dynamic_scale(self.optimizer)):
            # After 142 bad batches in a row it would be 0, and the next good one would make all weights NaN.
            scale.assign(tf.maximum(scale.read_value(), SMALLEST_SCALE))
        is_at_floor = before <= SMALLEST_SCALE
        self.ledger.overflows.assign_add(tf.cast(tf.logical_not(is_at_floor), tf.int64))
        flag.branch(is_at_floor, lambda: self._count(actions), nothing)
        return tf.constant(False)

    # -- on several replicas

    def make_on_all_replicas(self, journal: Journal, context: Any) -> tuple[Any, Any]:
        """The same for a step that runs on several replicas: all of them come to the same decision.

        A number of one replica that is not finite refuses the step on all.
        """
        grads, half_squares = self.grads, self.parts.half_squares
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, self.parts.half_square())
        is_plain = flag.is_calm(total)
        places = [place for place, grad in enumerate(grads) if grad is not None]
        if self.clip is not None:
            # Clipped is the gradient of the whole batch. The optimizer adds up what it gets from the replicas.
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [grads[place] for place in places])
            half_squares = [flag.half_square(flag.values(grad)) for grad in summed]
            self.num_summed = context.num_replicas_in_sync
        else:
            summed = [grads[place] for place in places]
        seen = self.parts.losses, self.parts.grads, self.parts.state
        made, factor = context.merge_call(self._in_cross_replica_context, args=(is_plain, summed, half_squares, *seen))
        if journal.entries:
            flag.branch(made, nothing, journal.put_back)
        return made, factor

    def _in_cross_replica_context(
        self, strategy: Any, is_plain: Any, grads: Any, half_squares: Any, losses: Any, numbers: Any, state: Any
    ) -> tuple[Any, Any]:
        # TensorFlow allows no conditional around an update in a replica's own context.
        local, each = strategy.experimental_local_results, strategy.extended.call_for_each_replica
        is_plain = local(is_plain)[0]
        if self.so_far is not None:
            self.so_far = local(self.so_far)[0]
            is_plain &= self.so_far

        def apply_on_one(grads: list[Any], half_squares: list[Any]) -> Any:
            given = iter(grads)
            with busy():
                return self._apply([None if grad is None else next(given) for grad in self.grads], half_squares)

        def look_on_one(*parts: Any) -> Any:
            return [tf.cast(tf.logical_not(flag.are_finite(part)), tf.float32) for part in parts]

        def look() -> list[Any]:
            counts = each(look_on_one, args=(losses, numbers, state))
            rates = [part for part in self.parts.weights if not isinstance(part, tf.Variable)]
            return [
                *(strategy.reduce(tf.distribute.ReduceOp.SUM, count, axis=None) < 0.5 for count in counts),
                flag.are_finite([*self._components(), *rates]),
            ]

        return self._decide(is_plain, _Actions(
            apply=lambda: local(each(apply_on_one, args=(grads, half_squares)))[0],
            look=look,
            half_squares=lambda: [tf.add_n([flag.half_square(part) for part in local(grad)]) for grad in numbers],
        ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Actions:
    """What can be done about a step, on one replica or on all of them.

    Args:
        apply: Makes the update; gives the factor by which the gradients were clipped.
        look: Gives, for each place of `ledger.PLACES`, whether every number is finite.
        half_squares: Gives one number for each gradient.
        settle: Called after a close look with whether the update was made.
    """

    apply: Callable[[], Any]
    look: Callable[[], list[Any]]
    half_squares: Callable[[], Iterable[Any]]
    settle: Callable[[Any], None] = lambda made: None


def _divided(grad: Any, number: int) -> Any:
    if isinstance(grad, tf.IndexedSlices):
        return tf.IndexedSlices(grad.values / number, grad.indices, grad.dense_shape)
    return grad / number


def nothing() -> None:
    """The branch in which there is nothing to do."""
