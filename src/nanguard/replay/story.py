"""An incident in words and in its history."""

from __future__ import annotations

import numpy as np

from nanguard import hazards
from nanguard.capture import Capture
from nanguard.findings import HistoryStep
from nanguard.replay import divergence, origin, schedule
from nanguard.replay.diagnosis import Diagnosis

_HISTORY_SHOWN = 8


def shortened(chain: tuple[str, ...], limit: int = 12) -> tuple[str, ...]:
    """A chain of ops with its middle left out if it is long."""
    return chain if len(chain) <= limit else (*chain[: limit // 2], "...", *chain[-limit // 2 + 1 :])


def listed(seen: tuple[str, ...]) -> str:
    """Where an incident was seen, in words."""
    words = list(seen)
    text = words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}" if words else "a number"
    return f"the {text}"


def history(capture: Capture) -> tuple[HistoryStep, ...]:
    """The last steps before an incident."""
    rate = schedule.rates(capture, [step for step, _, _ in capture.history])
    return tuple(
        HistoryStep(step, _number(loss), _number(divergence.total_norm((step, loss, norms))), rate.get(step), norms)
        for step, loss, norms in capture.history[-_HISTORY_SHOWN:]
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def first_to_grow(capture: Capture) -> str | None:
    """The variable whose gradient norm was the first to leave its usual range."""
    steps = capture.history
    if len(steps) < 3:
        return max(steps[-1][2], key=lambda path: _sortable(steps[-1][2][path]), default=None) if steps else None
    best: tuple[int, float, str] | None = None
    for path in steps[0][2]:
        series = [row[2].get(path, 0.0) for row in steps]
        usual = float(np.median(series[: max(len(series) // 2, 1)])) + 1e-12
        grown = [place for place, norm in enumerate(series) if not norm <= 10 * usual]
        if grown:
            key = (grown[0], -_sortable(series[grown[0]]) / usual, path)
            best = key if best is None or key < best else best
    return best[2] if best is not None else None


def _sortable(value: float) -> float:
    return value if np.isfinite(value) else 3e38


def summary(diagnosis: Diagnosis, op: str | None, forward: origin.Origin | None, made: str, capture: Capture) -> str:
    """What happened, in one sentence without a full stop; phase and step are told beside it."""
    if diagnosis.born_in == "divergence" and capture.operands is not None:
        return f"A recurrence grew from step to step until {op} gave {made}"
    if diagnosis.born_in == "divergence":
        first, last = (capture.history[0], capture.history[-1]) if capture.history else (None, None)
        grew = ""
        if first is not None and last is not None and len(capture.history) > 1:
            grew = f": the loss went from {first[1]:.4g} at step {first[0]} to {last[1]:.4g} at step {last[0]}"
        return f"Training diverged{grew}"
    if capture.operands is not None and diagnosis.hazard is hazards.BATCHNORM_POISONED:
        return "The call wrote a number into the moving statistics of a layer that is not finite"
    if op is None:
        if diagnosis.hazard is hazards.WEIGHTS_NONFINITE_BEFORE_TRAINING:
            return "A weight was not finite before training began"
        if diagnosis.hazard is hazards.BATCHNORM_POISONED:
            return "The moving statistics of a layer stopped being finite"
        if diagnosis.hazard is hazards.OUTLIER_ROWS:
            return "The data holds values far beyond all others"
        if capture.operands is not None and diagnosis.born_in == "data":
            return "An operand holds numbers that are not finite"
        return "The data holds numbers that are not finite" if diagnosis.born_in == "data" else "The update went wrong"
    if forward is not None and forward.op != op:
        return f"{op}, in the gradient of {forward.op}, gave {made}"
    return f"The gradient of {op} gave {made}" if forward is not None else f"{op} gave {made}"
