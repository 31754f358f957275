"""Which numbers an operand may be: probabilities, logits, images, labels, ids, masks, or any float there is.

A domain gives its special points, random ones, the nearest point of the domain to any other, and a Hypothesis strategy.

Example:

>>> domain = probabilities((2, 3))
>>> point = domain.random(np.random.default_rng(0), 1, "float32")[0]
>>> bool(np.allclose(point.sum(axis=-1), 1, atol=1e-6))
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanguard.errors import UsageError
from nanguard.testing._domain import Domain, Fixed, Floats, Integers, OneHot, Positive, Rows

__all__ = [
    "Domain",
    "any_float",
    "fixed",
    "images",
    "integers",
    "labels",
    "logits",
    "masks",
    "one_hot",
    "padded_ids",
    "positive",
    "probabilities",
    "unit_vectors",
]


def any_float(
    shape: Sequence[int] = (4, 6),
    *,
    low: float | None = None,
    high: float | None = None,
    infinities: bool = False,
    nan: bool = False,
) -> Domain:
    """Gives every finite number of the dtype, subnormal ones and both zeros included.

    Args:
        shape: Shape of a point.
        low: Smallest number. Defaults to the dtype's own.
        high: Largest number. Defaults to the dtype's own.
        infinities: Whether infinities are among them, as in a mask of scores.
        nan: Whether NaN is among them. An op that hands a NaN on is then a counterexample.

    Example:

    >>> any_float((3,), low=-1, high=1).specials("float32")[0]
    array([-1., -1., -1.])
    """
    extras = ((math.inf, -math.inf) if infinities else ()) + ((math.nan,) if nan else ())
    return _floats(shape, -math.inf if low is None else low, math.inf if high is None else high, extras=extras)


def positive(shape: Sequence[int] = (4, 6), *, high: float | None = None) -> Domain:
    """Gives the numbers above 0, from the dtype's smallest normal number.

    Args:
        shape: Shape of a point.
        high: Largest number. Defaults to the dtype's own.

    Example:

    >>> positive((1,), high=2.0).specials("float16")[0]
    array([6.10351562e-05])
    """
    return Positive(tuple(shape), low=0.0, high=math.inf if high is None else high)


def logits(shape: Sequence[int] = (8, 10), *, limit: float = 1000.0) -> Domain:
    """Gives unbounded scores, with those at which sigmoid and softmax saturate.

    Args:
        shape: Shape of a point, classes last.
        limit: Largest magnitude. Defaults to 1000: what a network gives that has begun to go astray, and small
            enough for float16 to sum.

    Example:

    >>> logits((2,), limit=5.0).specials("float32")[1]
    array([5., 5.])
    """
    return _floats(shape, -limit, limit, marks=(8.0, 17.0, 20.0, 100.0, -8.0, -20.0, -100.0))


def images(shape: Sequence[int] = (2, 8, 8, 3), *, high: float = 1.0) -> Domain:
    """Gives pixels from 0 to `high`: black, white and constant images included.

    Args:
        shape: Shape of a point: batch, height, width, channels.
        high: The white. Defaults to 1.0.

    Example:

    >>> float(images((1, 2, 2, 1), high=255.0).specials("float32")[1].max())
    255.0
    """
    return _floats(shape, 0.0, high, marks=(high / 2,))


def probabilities(shape: Sequence[int] = (8, 10), *, independent: bool = False) -> Domain:
    """Gives probabilities, exactly 0 and exactly 1 included.

    Args:
        shape: Shape of a point, classes last.
        independent: Whether each is by itself, as those of a sigmoid are. By default they sum to 1 along the last
            axis as far as the dtype can say, unless that has one element.

    Example:

    >>> probabilities((1, 3)).specials("float32")[0]
    array([[1., 0., 0.]])
    """
    shape = tuple(shape)
    if independent or not shape or shape[-1] == 1:
        return _floats(shape, 0.0, 1.0)
    return Rows(shape)


def unit_vectors(shape: Sequence[int] = (8, 4)) -> Domain:
    """Gives vectors of length 1 along the last axis, as far as the dtype can say.

    Example:

    >>> unit_vectors((1, 2)).specials("float32")[1]
    array([[0., 1.]])
    """
    return Rows(_with_axis(shape), is_unit=True)


def one_hot(classes: int = 10, *, batch: int | Sequence[int] = 8) -> Domain:
    """Gives one-hot labels, as floats.

    Args:
        classes: Length of the last axis.
        batch: The leading axes.

    Example:

    >>> one_hot(3, batch=2).specials("float32")[2]
    array([[1., 0., 0.],
           [0., 1., 0.]])
    """
    return OneHot((*_axes(batch), classes))


def labels(classes: int = 10, *, shape: int | Sequence[int] = 8) -> Domain:
    """Gives class ids from 0 to `classes - 1`, as int32.

    Example:

    >>> labels(3, shape=2).specials("float32")[1]
    array([2, 2])
    """
    return integers(0, classes - 1, shape=shape)


def integers(low: int, high: int, *, shape: int | Sequence[int] = 8, dtype: str = "int32") -> Domain:
    """Gives whole numbers from `low` to `high`, both included.

    Example:

    >>> integers(-1, 4, shape=3).specials("float32")[0]
    array([-1, -1, -1])
    """
    if low > high:
        raise UsageError(f"`low` must not be above `high`. Received: low={low}, high={high}. Swap them.")
    return Integers(_axes(shape), dtype, low, high)


def padded_ids(vocabulary: int = 20, *, shape: Sequence[int] = (4, 7)) -> Domain:
    """Gives rows of ids from 1 to `vocabulary - 1` that end in padding of 0; a row may be padding alone.

    Example:

    >>> padded_ids(5, shape=(1, 3)).specials("float32")[0]
    array([[0, 0, 0]])
    """
    return Integers(_with_axis(shape), "int32", 0, vocabulary - 1, is_padded=True)


def masks(shape: Sequence[int] = (8,), *, dtype: str | None = "bool") -> Domain:
    """Gives masks: all kept, none kept, and all between.

    Args:
        shape: Shape of a point.
        dtype: Dtype of the mask; None for the float dtype that is being tested, as a mask that is multiplied has.

    Example:

    >>> masks((3,)).specials("float32")[0]
    array([0, 0, 0])
    """
    return Integers(tuple(shape), dtype, 0, 1)


def fixed(point: Any, *, dtype: str | None = None) -> Domain:
    """Gives one point and no other.

    Args:
        point: Numbers that NumPy can read.
        dtype: Dtype of the operand. Defaults to the float dtype that is being tested for floats, int32 for others.

    Example:

    >>> fixed([1.0, 0.0]).specials("float32")
    [array([1., 0.])]
    """
    held = np.asarray(point)
    if dtype is None and held.dtype.kind != "f":
        dtype = "bool" if held.dtype.kind == "b" else "int32"
    return Fixed(held.shape, dtype, tuple(held.reshape(-1).tolist()))


def _floats(
    shape: Sequence[int], low: float, high: float, *, marks: tuple[float, ...] = (), extras: tuple[float, ...] = ()
) -> Domain:
    if not low <= high:
        raise UsageError(f"`low` must not be above `high`. Received: low={low}, high={high}. Swap them.")
    return Floats(tuple(shape), None, float(low), float(high), marks, extras)


def _axes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _with_axis(shape: Sequence[int]) -> tuple[int, ...]:
    if not shape:
        raise UsageError("`shape` must have at least one axis. Received: shape=(). Give the length of a row, (4,).")
    return tuple(shape)
