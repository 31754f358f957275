"""Whether a non-finite number is only where a divergence ended, and what made training diverge."""

from __future__ import annotations

import numpy as np

from nanguard import hazards
from nanguard.backend import graphs
from nanguard.backend.values import array
from nanguard.capture import Capture, Event, TracedStep
from nanguard.hazards import Hazard
from nanguard.replay.dependence import Dependence
from nanguard.replay.program import Program

# An operand beyond this is no number that a healthy network computes with, in whatever op it overflows.
_HUGE = 1e9
_GROWTH = 1e3
_RECURRENT = ("rnn", "lstm", "gru")
_UNSCALED = 1e2


def of(
    capture: Capture, program: Program, dependence: Dependence, event: Event, hazard: Hazard | None
) -> Hazard | None:
    """The cause of a divergence that ended in the event, or None if the event is to blame itself."""
    values = [
        np.abs(array(program.values[number])[np.isfinite(array(program.values[number]))])
        for number in event.inputs
        if number in program.values and program.values[number].dtype.is_floating
    ]
    largest = max((float(value.max()) for value in values if value.size), default=0.0)
    is_overflow = hazard in (None, hazards.ARITHMETIC_OVERFLOW, hazards.GRADIENT_OVERFLOW)
    if not (is_overflow and largest > _HUGE) and not (largest > _HUGE and has_grown(capture)):
        return None
    if capture.operands is not None:
        return hazards.EXPLODING_RECURRENCE if is_recurrent(capture, event) else None
    if dependence.is_data_only(event):
        return hazards.OUTLIER_ROWS
    return cause(capture, program, dependence, event)


def has_grown(capture: Capture) -> bool:
    """Whether loss or gradients grew over the last steps as they do when training diverges."""
    losses = [abs(loss) for _, loss, _ in capture.history if np.isfinite(loss)]
    norms = [norm for norm in map(total_norm, capture.history) if np.isfinite(norm)]
    return any(
        len(series) > 1 and max(series[-3:]) > _GROWTH * (float(np.median(series[: max(len(series) // 2, 1)])) + 1e-6)
        for series in (losses, norms)
    )


def total_norm(row: tuple[int, float, dict[str, float]]) -> float:
    """L2 norm of all gradients of one row of the history."""
    return float(np.sqrt(sum(norm * norm for norm in row[2].values())))


def cause(
    capture: Capture, program: Program, dependence: Dependence, event: Event, *, with_outliers: bool = True
) -> Hazard:
    """What made training diverge: recurrence, the scale of the inputs, an outlier row, or the learning rate."""
    features = [
        array(program.values[number])
        for number in dependence.batch
        if program.values[number].dtype.is_floating and not dependence.is_label(number)
    ]
    labels = [
        array(program.values[number])
        for number in dependence.batch
        if program.values[number].dtype.is_floating and dependence.is_label(number)
    ]
    for values in (*features, *labels):
        if with_outliers and outlier_rows(values).size:
            return hazards.OUTLIER_ROWS
    if is_recurrent(capture, event):
        return hazards.EXPLODING_RECURRENCE
    if any(is_unscaled(values) for values in features) or any(is_unscaled(values, 1e3) for values in labels):
        return hazards.UNSCALED_INPUTS
    return hazards.DIVERGING_LEARNING_RATE


def outlying(values: np.ndarray) -> np.ndarray:
    """Which values are a thousand times the size of what most rows hold in that column, as rows by columns."""
    flat = np.abs(np.nan_to_num(values.reshape(values.shape[0], -1).astype(np.float64)))
    usual = np.maximum(np.quantile(flat, 0.75, axis=0), np.quantile(flat, 0.75) * 0.1 + 1e-6)
    found: np.ndarray = (flat > 1e3 * usual) & (flat > 1e2)
    return found


def outlier_rows(values: np.ndarray) -> np.ndarray:
    """Rows that hold an outlying value."""
    if values.ndim == 0 or values.shape[0] < 4:
        return np.array([], int)
    return np.flatnonzero(outlying(values).any(axis=1))


def is_unscaled(values: np.ndarray, limit: float = _UNSCALED) -> bool:
    """Whether the columns are far from the scale that networks are initialised for."""
    finite = values[np.isfinite(values)]
    return bool(finite.size) and float(np.sqrt(np.mean(np.square(finite.astype(np.float64))))) > limit


def is_recurrent(capture: Capture, event: Event) -> bool:
    """Whether the event belongs to a recurrence: a loop inside the step, or a recurrent layer."""
    op = event.line
    if op is not None and not isinstance(op, tuple):
        step = capture.body.graph if isinstance(capture.body, TracedStep) else None
        graph = op.graph
        while graph is not None and graph is not step:
            if graphs.is_loop(graph):
                return True
            graph = getattr(graph, "outer_graph", None)
        path = graphs.layer(op) or (graphs.layer(event.forward) if hasattr(event.forward, "graph") else None)
    else:
        path = event.layer
    return path is not None and any(word in path.lower() for word in _RECURRENT)
