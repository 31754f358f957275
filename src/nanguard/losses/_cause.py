"""Why a loss is not finite: the message that stops a training under `on_nonfinite="raise"`."""

from __future__ import annotations

import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard import hazards
from nanguard.backend import execution
from nanguard.findings import Where
from nanguard.hazards import MISSING_LABELS, Hazard
from nanguard.intervals import Interval
from nanguard.losses._samples import Rows, Samples, finite_rows

_MOST_ROWS = 8
_LIBRARIES = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})
_OWN = __file__.rpartition("nanguard")[0] + "nanguard"


@dataclass
class Birth:
    """The first op of a loss that made something not finite of finite numbers."""

    op: str
    phase: hazards.Phase
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    where: Where | None = None

    @property
    def hazard(self) -> Hazard | None:
        """What the catalogue says of the op, given what it received."""
        floats = [x for x in self.inputs if x.dtype.is_floating]
        if not floats:
            return None
        operands = [_interval(x) if x.dtype.is_floating else Interval(0, 0) for x in self.inputs]
        for hazard in hazards.for_op(self.op, self.phase):
            if hazard.struck_by(operands, floats[0].dtype.name, self.op) is not None:
                return hazard
        return None


def message(name: str, loss: Callable[..., Any], samples: Samples, good: Rows) -> str:
    """Gives the message that says which samples a loss is not finite for, and why.

    Args:
        name: Name of the loss.
        loss: The loss, without a reduction.
        samples: The batch, as eager tensors.
        good: The samples that are not to blame.
    """
    rows = np.flatnonzero(~np.asarray(good))
    lines = [("what", f"the loss {name!r} is not usable in {_counted(rows, len(np.asarray(good)))}")]
    inputs = {"y_true": samples.y_true, "y_pred": samples.y_pred, "sample_weight": samples.sample_weight}
    bad_inputs = {what: np.flatnonzero(~np.asarray(finite_rows(x, samples.num))) for what, x in inputs.items()}
    named = [f"{what} in {_listed(bad)}" for what, bad in bad_inputs.items() if len(np.intersect1d(bad, rows))]
    if named:
        lines.append(("received", f"NaN or Inf: {'; '.join(named)}"))
    hazard = MISSING_LABELS if len(bad_inputs["y_true"]) else None
    explained = np.unique(np.concatenate(list(bad_inputs.values())))
    unexplained = np.setdiff1d(rows, explained)
    if len(unexplained):
        birth = _birth(loss, samples, unexplained)
        if birth is not None:
            hazard = hazard or birth.hazard
            lines += list(_told(birth))
        else:
            lines.append(("received", f"finite numbers in {_listed(unexplained)}"))
    if hazard is not None:
        lines += [("needs", hazard.needs), ("fix", hazard.cure), ("more", f"nanguard explain {hazard.code}")]
    elif len(bad_inputs["y_pred"]):
        lines.append(("fix", "the model made them: `nanguard run` finds where"))
    title = f"{hazard.code} {hazard.name}" if hazard is not None else "a loss is not finite"
    return "\n".join([title, *(f"  {label:<9} {text}" for label, text in lines)])


def _told(birth: Birth) -> Iterator[tuple[str, str]]:
    phase = {"forward": "forward pass", "backward": "gradient alone: the value is finite"}[birth.phase]
    verb = "gave" if birth.phase == "forward" else "has a gradient of"
    yield "", f"{birth.op} {verb} {_kinds(birth.outputs)} ({phase})"
    if birth.where is not None:
        where = birth.where
        yield "where", f"{where.file}:{where.line}, in {where.function}:  {where.code}"
    for index, x in enumerate(birth.inputs):
        if x.dtype.is_floating:
            shape = tuple(x.shape)
            yield "received", f"operand {index}: {x.dtype.name} {shape}, min {np.min(x):.6g}, max {np.max(x):.6g}"


def _birth(loss: Callable[..., Any], samples: Samples, rows: Any) -> Birth | None:
    """Runs the loss and its gradient on the rows, and gives the first op that made something not finite."""
    keep = tf.constant(np.isin(np.arange(int(samples.num)), rows))
    births: list[Birth] = []
    # The tape keeps only those inputs of an op that its gradient reads.
    made_by: dict[int, tuple[tuple[Any, ...], Where | None]] = {}

    def saw(op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        op_type = op_type.decode() if isinstance(op_type, bytes) else op_type
        where = _users_line()
        for output in outputs or ():
            made_by[execution.identity_of(output)] = (tuple(inputs), where)
        if not is_backward[0] and not births and _all_finite(inputs) and not _all_finite(outputs or ()):
            births.append(Birth(op_type, "forward", tuple(inputs), tuple(outputs), where))

    def saw_gradient(op_type: str, inputs: Any, outputs: Any, upstream: Any, gradients: Any) -> None:
        if not births and _all_finite(upstream) and _all_finite(inputs) and not _all_finite(gradients):
            known = [made_by[i] for x in outputs if (i := execution.identity_of(x)) in made_by]
            received, where = known[0] if known else (inputs, None)
            births.append(Birth(op_type, "backward", tuple(received), tuple(_tensors(gradients)), where))

    is_backward = [False]
    taken = samples.only(keep)
    with _watched(saw, saw_gradient):
        sources = taken.sources
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            value = taken.value(loss)
        is_backward[0] = True
        tape.gradient(value, sources)
    return births[0] if births else None


@contextmanager
def _watched(saw: Callable[..., None], saw_gradient: Callable[..., None]) -> Iterator[None]:
    """Tells of each op that runs eagerly, and of each gradient of a recorded op."""
    original = execution.gradient_function()

    def gradient_function(
        op_name: Any, attrs: Any, num_inputs: int, inputs: Any, outputs: Any, out_grads: Any, *rest: Any
    ) -> Any:
        gradients = original(op_name, attrs, num_inputs, inputs, outputs, out_grads, *rest)
        op_type = op_name.decode() if isinstance(op_name, bytes) else op_name
        saw_gradient(op_type, _tensors(inputs), _tensors(outputs), _tensors(out_grads), gradients)
        return gradients

    execution.watch_ops(saw)
    execution.set_gradient_function(gradient_function)
    try:
        yield
    finally:
        execution.set_gradient_function(original)
        execution.unwatch_ops(saw)


def _tensors(x: Any) -> list[Any]:
    return [leaf for leaf in (x if isinstance(x, list | tuple) else [x]) if isinstance(leaf, tf.Tensor)]


def _all_finite(tensors: Any) -> bool:
    return all(bool(np.all(np.isfinite(np.asarray(x, np.float64)))) for x in _tensors(tensors) if x.dtype.is_floating)


def _interval(x: Any) -> Interval:
    numbers = np.asarray(x, np.float64)
    return Interval(float(numbers.min()), float(numbers.max())) if numbers.size else Interval(1, 0)


def _kinds(tensors: Any) -> str:
    numbers = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tensors if x.dtype.is_floating])
    kinds = (("NaN", np.isnan(numbers)), ("+inf", np.isposinf(numbers)), ("-inf", np.isneginf(numbers)))
    return " and ".join(kind for kind, found in kinds if found.any())


def _users_line() -> Where | None:
    """The innermost line on the stack that is neither a library's nor nanguard's own."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_LIBRARIES, _OWN, "<frozen")):
            line = linecache.getline(file, frame.f_lineno).strip()
            return Where(file, frame.f_lineno, frame.f_code.co_name, line)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _counted(rows: Any, total: int) -> str:
    return f"{len(rows)} of {total} samples: {_listed(rows)}"


def _listed(rows: Any) -> str:
    shown = ", ".join(map(str, rows[:_MOST_ROWS])) + (", ..." if len(rows) > _MOST_ROWS else "")
    return f"row{'s' if len(rows) != 1 else ''} {shown}"
