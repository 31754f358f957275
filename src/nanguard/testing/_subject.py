"""What is tested: a function with the domains of its operands, and what it gives in one dtype and one mode."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from nanguard.errors import UsageError
from nanguard.testing import _numbers
from nanguard.testing._domain import Domain

Mode: TypeAlias = Literal["eager", "graph", "xla"]
Part: TypeAlias = Literal["value", "gradient"]
Outcome: TypeAlias = Literal["finite", "value", "gradient", "raised"]
"""Which part of a call is not finite, the value before the gradient, or that it raised."""
Point: TypeAlias = tuple[np.ndarray, ...]
"""One array for each operand."""

_HOPELESS = {"eager": 40, "graph": 12, "xla": 2}  # calls that raised, and none that did not
_OUTCOMES: tuple[Outcome, ...] = ("finite", "value", "gradient")


@dataclass(frozen=True)
class Subject:
    """A function and what it takes.

    Args:
        function: What is called.
        names: Names of the operands, those by position first.
        num_positional: How many are given by position.
        domains: Their domains.
        sources: Places of the operands whose gradient is asked for.
        weights: Trainable variables whose gradient is asked for.
        state: Variables that a call may write, and that are put back after it.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]
    num_positional: int
    domains: tuple[Domain, ...]
    sources: tuple[int, ...]
    weights: tuple[Any, ...] = ()
    state: tuple[Any, ...] = ()

    def call(self, operands: Sequence[Any]) -> Any:
        """Calls the function."""
        named = dict(zip(self.names[self.num_positional :], operands[self.num_positional :], strict=True))
        return self.function(*operands[: self.num_positional], **named)

    def floats(self, operands: Sequence[Any]) -> list[Any]:
        """Calls the function and gives its outputs that are floats."""
        return floats_of(self.call(operands))

    def call_watched(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Calls the function and gives its outputs that are floats, and their gradients."""
        variables = [getattr(each, "value", each) for each in self.weights]
        with tf.GradientTape() as tape:
            for place in self.sources:
                tape.watch(operands[place])
            outputs = self.floats(operands)
        asked = [*(operands[place] for place in self.sources), *variables]
        try:
            gradients = tape.gradient(outputs, asked) if asked and outputs else []
        except LookupError:  # an op that has no gradient
            gradients = []
        values = [each.values if isinstance(each, tf.IndexedSlices) else each for each in gradients if each is not None]
        return outputs, values

    def tensors(self, point: Point, dtype: str) -> list[Any]:
        """Gives a point as eager tensors."""
        return [
            tf.constant(values.astype(_numbers.numpy_dtype(domain.dtype_in(dtype))))
            for values, domain in zip(point, self.domains, strict=True)
        ]

    def fits(self, point: Point, dtype: str) -> bool:
        """Whether each operand lies in its domain, whatever its shape."""
        return all(domain.contains(values, dtype) for values, domain in zip(point, self.domains, strict=True))


def floats_of(result: Any) -> list[Any]:
    """Gives the floating and complex tensors of what a function gave; arrays and Python floats count."""
    found = []
    for leaf in tf.nest.flatten(result, expand_composites=True):
        if isinstance(leaf, keras.KerasTensor) or leaf is None or isinstance(leaf, str | bytes):
            continue
        if hasattr(leaf, "value") and isinstance(leaf, keras.Variable):
            leaf = leaf.value
        if not tf.is_tensor(leaf):
            array = np.asarray(leaf)
            if array.dtype.kind not in "fcV":
                continue
        tensor = tf.convert_to_tensor(leaf)
        if tensor.dtype.is_floating or tensor.dtype.is_complex:
            found.append(tensor)
    return found


def subject_of(
    function: Any, positional: Sequence[Domain], named: dict[str, Domain], *, gradients: bool | Sequence[str | int]
) -> Subject:
    """Gives the subject of a call of `assert_finite`; raises UsageError for operands that are no domains."""
    names = (*_positional_names(function, len(positional)), *named)
    domains = (*positional, *named.values())
    for name, domain in zip(names, domains, strict=True):
        if not isinstance(domain, Domain):
            raise UsageError(
                f"`{name}` must be a domain. Received: {type(domain).__name__}. Say domains.any_float(shape) for any "
                "number, or domains.fixed(x) for this one."
            )
    floats = [place for place, domain in enumerate(domains) if domain.is_float]
    if gradients is True:
        sources = [place for place in floats if names[place] != "y_true"]
    elif gradients is False:
        sources = []
    else:
        unknown = [each for each in gradients if each not in names and each not in range(len(names))]
        if unknown:
            raise UsageError(
                f"`gradients` must name operands. Received: {unknown[0]!r}. The operands are {', '.join(names)}."
            )
        wanted = {names.index(each) if isinstance(each, str) else each for each in gradients}
        sources = [place for place in floats if place in wanted]
    weights: tuple[Any, ...] = ()
    state: tuple[Any, ...] = ()
    if isinstance(function, keras.Layer):
        _build(function, domains, len(positional), tuple(named))
        weights = tuple(function.trainable_variables) if gradients is True else ()
        state = tuple(each for each in function.variables if not any(each is weight for weight in weights))
    return Subject(function, names, len(positional), domains, tuple(sources), weights, state)


def own_dtype(function: Any) -> str | None:
    """Gives the dtype that a layer or Keras loss casts its operands to; None for a plain function."""
    if isinstance(function, keras.Layer):
        return str(function.compute_dtype)
    if isinstance(function, keras.losses.Loss):
        return str(function.dtype)
    return None


def _build(layer: keras.Layer, domains: Sequence[Domain], num_positional: int, named: tuple[str, ...]) -> None:
    """Calls a layer once, so that its weights are made before a function is traced."""
    if layer.built and layer.variables:
        return
    dtype = str(layer.compute_dtype)
    # Symbolic operands: numbers would leave their trace in the state of layers that write one.
    operands = [keras.KerasTensor(domain.shape, domain.dtype_in(dtype)) for domain in domains]
    layer(*operands[:num_positional], **dict(zip(named, operands[num_positional:], strict=True)))


def _positional_names(function: Any, count: int) -> tuple[str, ...]:
    if isinstance(function, keras.losses.Loss):
        return ("y_true", "y_pred", "sample_weight")[:count]
    code = getattr(function, "python_function", function)
    code = getattr(code, "__wrapped__", code)
    known = getattr(getattr(code, "__code__", None), "co_varnames", ())
    known = known[: getattr(getattr(code, "__code__", None), "co_argcount", 0)]
    if known[:1] == ("self",):
        known = known[1:]
    return tuple(known[place] if place < len(known) else f"x{place}" for place in range(count))


class Runner:
    """Runs a subject in one dtype and one mode.

    Args:
        subject: What is run.
        dtype: The float dtype of its operands.
        mode: "eager", "graph" or "xla".
        end: When `outcomes` leaves the rest of its points undone, by `time.monotonic`.
    """

    def __init__(self, subject: Subject, dtype: str, mode: Mode, *, end: float = math.inf) -> None:
        self.subject = subject
        self.dtype = dtype
        self.mode = mode
        self.end = end
        self.error: Exception | None = None
        self.num_done = 0
        self.num_raised = 0
        self._state = [each.numpy() for each in subject.state]
        self.is_batched = mode == "graph"
        self._concrete: dict[tuple[tuple[int, ...], ...], Any] = {}

    @property
    def is_hopeless(self) -> bool:
        """Whether the subject does not seem to run here at all."""
        return self.num_done == 0 and self.num_raised >= _HOPELESS[self.mode]

    def outcome(self, point: Point) -> Outcome:
        """Runs the subject on one point."""
        try:
            tensors = self.subject.tensors(point, self.dtype)
            is_ok = self._eager(tensors) if self.mode == "eager" else self._traced(tensors)(*tensors)[0].numpy()
        except Exception as error:  # whatever a user's function may raise
            self.error = self.error or error
            self.num_raised += 1
            return "raised"
        finally:
            self.restore()
        self.num_done += 1
        return "value" if not is_ok[0] else "gradient" if not is_ok[1] else "finite"

    def outcomes(self, points: Point) -> tuple[list[Outcome], np.ndarray]:
        """Runs the subject on points that are stacked along a first axis.

        In a graph hundreds of points are one call where the function can be vectorised. What such a call finds is to
        be confirmed by `outcome`: it may compute a sum in another order.

        Returns:
            The outcome of each, "raised" for those left undone, and the largest magnitude of its values and of its
            gradients, 0 where not known.
        """
        count = len(points[0]) if points else 1
        if self.is_batched and points:
            try:
                tensors = self.subject.tensors(points, self.dtype)
                is_ok, sizes = (each.numpy() for each in self._batched(*tensors))
                self.num_done += count
                ok = [_OUTCOMES[0 if value and gradient else 1 if not value else 2] for value, gradient in is_ok]
                return ok, sizes
            except Exception as error:  # whatever a user's function, or its vectorisation, may raise
                # One point that raises stops the batch; a function that cannot be vectorised stops every one.
                self.is_batched = isinstance(error, tf.errors.OpError)
            finally:
                self.restore()
        found: list[Outcome] = []
        for place in range(count):
            found.append(self.outcome(tuple(values[place] for values in points)))
            if self.is_hopeless or time.monotonic() > self.end:
                break
        return found + ["raised"] * (count - len(found)), np.zeros((count, 2), np.float32)

    def _eager(self, tensors: list[Any]) -> tuple[bool, bool]:
        outputs, gradients = self.subject.call_watched(tensors)
        return _all_finite(outputs), _all_finite(gradients)

    def _traced(self, tensors: list[Any]) -> Any:
        # By shape: TensorFlow's own cache warns of each new one, and the shrinking asks for many.
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        if key not in self._concrete:
            function = tf.function(self._judged, autograph=False, jit_compile=self.mode == "xla")
            self._concrete[key] = function.get_concrete_function(*tensors)
        return self._concrete[key]

    @functools.cached_property
    def _batched(self) -> Any:
        def run(*points: Any) -> Any:
            # Ops that have no vectorised form run in a loop inside of the graph, which still beats many calls.
            return tf.vectorized_map(lambda point: self._judged(*point), points, fallback_to_while_loop=True)

        domains = self.subject.domains
        specs = [tf.TensorSpec((None, *domain.shape), domain.dtype_in(self.dtype)) for domain in domains]
        return tf.function(run, input_signature=specs, autograph=False)

    def _judged(self, *operands: Any) -> tuple[Any, Any]:
        outputs, gradients = self.subject.call_watched(operands)
        is_ok = [_all_finite_in_graph(each) for each in (outputs, gradients)]
        return tf.stack(is_ok), tf.stack([_size(outputs), _size(gradients)])

    def restore(self) -> None:
        """Puts the variables that a call may have written back to what they were."""
        for variable, value in zip(self.subject.state, self._state, strict=True):
            variable.assign(value)


def _all_finite(tensors: Sequence[Any]) -> bool:
    return all(bool(np.isfinite(each.numpy()).all()) for each in tensors)


def _all_finite_in_graph(tensors: Sequence[Any]) -> Any:
    found = tf.constant(True)
    for tensor in tensors:
        parts = [tf.math.real(tensor), tf.math.imag(tensor)] if tensor.dtype.is_complex else [tensor]
        for part in parts:
            found = tf.logical_and(found, tf.reduce_all(tf.math.is_finite(part)))
    return found


def _size(tensors: Sequence[Any]) -> Any:
    found = tf.constant(0.0)
    for tensor in tensors:
        magnitude = tf.cast(tf.abs(tensor), tf.float32)
        found = tf.maximum(found, tf.reduce_max(tf.concat([[0.0], tf.reshape(magnitude, [-1])], 0)))
    return found
