"""The operands of an op as a report shows them: what they held, and what the user calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend.values import array, holds_floats
from nanguard.findings import Operand
from nanguard.replay import names, origin, program
from nanguard.replay.diagnosis import Struck


def of_op(
    source_program: program.Program,
    op: str,
    numbers: Sequence[int | None],
    struck: Struck | None,
    line: origin.Line | None,
) -> tuple[Operand, ...]:
    """The operands of an op, at most four, with the place where one was struck.

    Args:
        source_program: The replay that holds their values.
        op: TensorFlow's type of the op.
        numbers: Numbers of the operands.
        struck: Which was struck and where; None if that is not known.
        line: The user's line that made the op, for their names.
    """
    spelled = names.operands(op, line[0], line[1]) if line is not None else []
    result = []
    for place, number in enumerate(numbers):
        value = source_program.values.get(number) if number is not None else None
        if value is None or value.dtype in (tf.resource, tf.variant, tf.string):
            continue
        is_struck = struck is not None and struck.operand == place
        if not is_struck and not holds_floats(value) and len(numbers) > 1:
            continue  # an axis, a shape, an index
        index = struck.index if struck is not None and is_struck else None
        name = spelled[place] if place < len(spelled) else ("x" if len(numbers) == 1 else f"operand {place}")
        result.append(_operand(name, value, index))
    return tuple(result[:4])


def _operand(name: str, value: Any, index: tuple[int, ...] | None) -> Operand:
    values = array(value)
    is_float = values.dtype.kind == "f"
    finite = values[np.isfinite(values)] if is_float else values
    if index is None and is_float and not np.isfinite(values).all():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(~np.isfinite(values))), values.shape))
    return Operand(
        name,
        value.dtype.name,
        tuple(int(size) for size in values.shape),
        float(finite.min()) if finite.size and finite.dtype.kind in "fiu" else None,
        float(finite.max()) if finite.size and finite.dtype.kind in "fiu" else None,
        int(np.isnan(values).sum()) if is_float else 0,
        int(np.isposinf(values).sum()) if is_float else 0,
        int(np.isneginf(values).sum()) if is_float else 0,
        index,
        float(values[index]) if index is not None and values.dtype.kind in "fiu" else None,
    )


def are_spelled(operands: tuple[Operand, ...]) -> bool:
    """Whether all operands are known by what the user's line calls them."""
    return bool(operands) and all(
        not operand.name.startswith("operand ") and operand.name != "x" for operand in operands
    )
