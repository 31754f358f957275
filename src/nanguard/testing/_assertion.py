"""`assert_finite`: the one call of this room."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from nanguard.errors import NonFiniteError, UsageError
from nanguard.findings import Incident
from nanguard.intervals import FLOAT_FORMATS
from nanguard.testing import _explanation, _message, _numbers, _shrink
from nanguard.testing._domain import Domain
from nanguard.testing._search import Found, Hunt
from nanguard.testing._subject import Mode, Part, Runner, own_dtype, subject_of

_MODES: tuple[Mode, ...] = ("eager", "graph", "xla")
_DTYPES = ("float32", "float16", "bfloat16")


class NonFiniteAssertion(AssertionError, NonFiniteError):
    """A function gave a value or gradient that is not finite; the message says where, why, and how to see it again.

    Args:
        message: What is printed.
        operands: The counterexample by operand, as NumPy arrays of the operand's dtype.
        dtype: The float dtype that was tested.
        mode: The first mode in which it is not finite: "eager", "graph" or "xla".
        part: What is not finite: "value" or "gradient".
        code: Lines of Python that make the same call.
        incident: What the replay made of it, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        operands: dict[str, Any],
        dtype: str,
        mode: Mode,
        part: Part,
        code: str,
        incident: Incident | None,
    ) -> None:
        super().__init__(message)
        self.operands = operands
        self.dtype = dtype
        self.mode = mode
        self.part = part
        self.code = code
        self.incident = incident

    @property
    def hazard(self) -> str | None:
        """Code of the hazard, such as `NG101`, or None."""
        return self.incident.hazard if self.incident is not None else None


def assert_finite(
    function: Callable[..., Any],
    /,
    *positional: Domain,
    dtypes: Sequence[str] | None = None,
    modes: Sequence[Mode] = _MODES,
    gradients: bool | Sequence[str | int] = True,
    seconds: float = 10.0,
    max_examples: int = 5000,
    seed: int = 0,
    **named: Domain,
) -> None:
    """Asserts that a loss, op or layer gives finite values and gradients wherever its operands may lie.

    It hunts for a point where one is not finite: special points of the domains, random ones, what grows, and what the
    gradients of the function's own ops lead to. The point is then made as small and simple as it goes.

    A call that raises is no counterexample, for a function may refuse operands; only if no call at all succeeds is its
    error raised. A dtype or mode in which no call succeeds is left out.

    The points are the same in each run. Where `seconds` ends the hunt, how far it comes depends on the machine.

    Args:
        function: A function, an op, a `keras.losses.Loss`, a layer or a model. Layers are called as in inference, and
            the variables that they write are put back after each call.
        positional: Domains of the operands that are given by position, from `nanguard.testing.domains`.
        dtypes: Float dtypes of the operands. Defaults to float32, float16 and bfloat16; a layer or Keras loss casts
            its operands and is tested in its own dtype alone.
        modes: Where to look: "eager", "graph", and "xla" for `jit_compile=True`.
        gradients: Whether gradients are looked at, or the operands whose gradients are, by name or place. By default
            those of all floating operands but `y_true`, which nothing trains, and those of the weights of a layer.
        seconds: How long to hunt, for all dtypes together; shrinking a counterexample may take 1.5 to 3 seconds more.
            Most functions that are finite take less.
        max_examples: How many random points to try for each dtype; a fifth of them for a function that cannot be
            vectorised.
        seed: Of the random points.
        named: Domains of the operands that are given by name.

    Raises:
        NonFiniteAssertion: If a point was found.
        UsageError: If an argument is none of those named here, or Hypothesis is not installed.

    Example:

    >>> from nanguard.testing import domains
    >>> assert_finite(tf.math.softplus, domains.logits(shape=(4,)), modes=["eager"])
    >>> try:
    ...     assert_finite(tf.math.log, domains.probabilities(shape=(1,)), modes=["eager"])
    ... except NonFiniteAssertion as failure:
    ...     print(failure.part, failure.operands, failure.hazard)
    value {'x': array([0.], dtype=float32)} NG101
    """
    if importlib.util.find_spec("hypothesis") is None:
        raise UsageError(
            "`assert_finite` needs Hypothesis, which is not installed. Run: pip install nanguard[testing]."
        )
    dtypes = _checked_dtypes(function, dtypes)
    if not modes or set(modes) - set(_MODES):
        raise UsageError(f"`modes` must be some of {', '.join(_MODES)}. Received: {list(modes)}.")
    if seconds <= 0 or max_examples < 0:
        raise UsageError(
            f"`seconds` must be positive and `max_examples` not negative. Received: seconds={seconds}, "
            f"max_examples={max_examples}. Leave them out for 10 seconds and 5000 examples."
        )
    subject = subject_of(function, positional, named, gradients=gradients)
    ordered = [mode for mode in _MODES if mode in modes]
    hunt = Hunt(subject, ordered, seconds=seconds, max_examples=max_examples, seed=seed)
    with _quiet():
        found = hunt.run(dtypes)
        failure = _failure(_shrink.shrink(found)) if found is not None else None
    if failure is not None:
        raise failure from None
    _raise_if_nothing_ran(hunt)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow from logging that a function is traced often, or that it cannot be vectorised."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _failure(found: Found) -> NonFiniteAssertion:
    runner, subject = found.runner, found.runner.subject
    incident = _explanation.explain(found)
    error = None
    if runner.mode != "eager":
        eager = Runner(subject, runner.dtype, "eager")
        error = eager.error if eager.outcome(found.point) == "raised" else None
    operands = {
        name: values.astype(_numbers.numpy_dtype(domain.dtype_in(runner.dtype)))
        for name, domain, values in zip(subject.names, subject.domains, found.point, strict=True)
    }
    return NonFiniteAssertion(
        _message.message(found, incident, error),
        operands=operands,
        dtype=runner.dtype,
        mode=runner.mode,
        part=found.part,
        code=_message.code(found),
        incident=incident,
    )


def _checked_dtypes(function: Any, dtypes: Sequence[str] | None) -> Sequence[str]:
    own = own_dtype(function)
    if dtypes is None:
        return _DTYPES if own is None else (own,)
    if not dtypes or set(dtypes) - set(FLOAT_FORMATS):
        raise UsageError(f"`dtypes` must be some of {', '.join(FLOAT_FORMATS)}. Received: {list(dtypes)}.")
    return dtypes


def _raise_if_nothing_ran(hunt: Hunt) -> None:
    if any(runner.num_done for runner in hunt.runners):
        return
    error = next((runner.error for runner in hunt.runners if runner.error is not None), None)
    if error is not None:
        raise error
