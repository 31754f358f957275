"""What all kinds of clipping share, and how one is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nanguard.clipping._sparse import Gradient, half_square
from nanguard.errors import UsageError


class Clip:
    """Bounds gradients. Each kind is a class of its own, such as `ClipByGlobalNorm`.

    A clip that keeps statistics keeps them of the weights of one optimizer: make one for each.

    Example:

    >>> clip = ng.clipping.ClipByGlobalNorm(1.0)
    >>> clip([tf.constant([3.0, 4.0])])[0].numpy()
    array([0.6, 0.8], dtype=float32)
    """

    def __init__(self) -> None:
        self.built = False
        self.variables: list[Any] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the state for these weights, under the distribution strategy that is in force; once.

        Args:
            variables: The weights.
        """
        if self.built:
            return
        with tf.init_scope():
            self._build(list(variables))
        self.built = True

    def clip(
        self, grads: Sequence[Gradient], variables: Sequence[Any], half_squares: Sequence[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        """Gives the clipped gradients and the smallest factor by which a number was multiplied.

        Args:
            grads: Floating tensors or `tf.IndexedSlices`.
            variables: Their weights.
            half_squares: Half the sum of squares of each gradient, float32. That of a sparse gradient is not used:
                slices of one row are summed first.

        Returns:
            Gradients of the same kinds and dtypes, and a float32 scalar, 1 if all are as they were.
        """
        if not grads:
            return [], tf.constant(1.0)
        self.build(variables)
        half_squares = [
            half_square(grad) if isinstance(grad, tf.IndexedSlices) else half
            for grad, half in zip(grads, half_squares, strict=True)
        ]
        return self._clip(list(grads), list(variables), half_squares)

    def __call__(self, grads: Sequence[Gradient | None], variables: Sequence[Any] | None = None) -> list[Any]:
        """Gives the clipped gradients; a None stays None.

        Args:
            grads: Floating tensors, `tf.IndexedSlices` or None.
            variables: Their weights. Only AGC and AdaGC need them.
        """
        grads = list(grads)
        places = [place for place, grad in enumerate(grads) if grad is not None]
        given = [grads[place] if _is_gradient(grads[place]) else tf.convert_to_tensor(grads[place]) for place in places]
        weights = list(grads if variables is None else variables)
        if variables is None:
            self._check_weights_are_optional()
        clipped, _ = self.clip(given, [weights[place] for place in places], [half_square(grad) for grad in given])
        for place, grad in zip(places, clipped, strict=True):
            grads[place] = grad
        return grads

    def rate(self, optimizer: Any, gradient: Gradient, variable: Any) -> tf.Tensor | None:
        """Gives the factor for the learning rate of one update, or None if there is none.

        Args:
            optimizer: Keras optimizer.
            gradient: Gradient that `optimizer.update_step` is about to apply.
            variable: Its weight.
        """
        return None

    def get_config(self) -> dict[str, Any]:
        """Gives the arguments that make this clip."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Clip:
        """Makes the clip of a `get_config()`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def _build(self, variables: list[Any]) -> None:
        """Makes the state."""

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        return grads, tf.constant(1.0)

    def _check_weights_are_optional(self) -> None:
        """Raises if the weights are needed."""

    def _new_state(self, name: str, value: tf.Tensor) -> Any:
        # Each replica writes its own copy of an ON_READ variable, which is allowed inside a conditional; others
        # would have to leave it for a merge_call. The copies are equal, for all replicas clip the same gradients.
        state = tf.Variable(
            value,
            trainable=False,
            name=name,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.variables.append(state)
        return state


def _is_gradient(value: Any) -> bool:
    return isinstance(value, tf.IndexedSlices) or tf.is_tensor(value)


def checked(name: str, value: float, needs: str, is_right: bool) -> float:
    """Gives a number that is as it must be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not is_right:
        raise UsageError(f"`{name}` must be {needs}. Received: {name}={value!r}.")
    return value


def positive(name: str, value: float) -> float:
    """Gives a number that is positive and finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return checked(name, value, "a positive, finite number", is_number and value > 0)


def fraction(name: str, value: float) -> float:
    """Gives a number that is from 0 up to below 1."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return checked(name, value, "at least 0 and below 1", is_number and 0 <= value < 1)


def count(name: str, value: int) -> int:
    """Gives a whole number of at least 1."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return int(checked(name, value, "a whole number of at least 1", is_whole and value >= 1))
