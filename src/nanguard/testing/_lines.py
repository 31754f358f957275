"""The line of a function whose plain Python or NumPy made a number that is not finite.

No op of TensorFlow ran there, so that a replay has nothing to look at; Python itself can be watched line by line.
"""

from __future__ import annotations

import ast
import linecache
import math
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from nanguard import hazards
from nanguard.findings import Cure, Incident
from nanguard.guard import source
from nanguard.hazards import Hazard
from nanguard.replay import names, origin

_FITS = ("fit", "evaluate", "train_on_batch", "test_on_batch")
_MOST_NUMBERS = 1000
_MOST_CALLS = 3
# What a line may compute, with the op whose hazard it then has; a division in NumPy most often scales data.
_KINDS: dict[str, Hazard] = {
    "RealDiv": hazards.PREPROCESSING_MADE_NONFINITE,
    "Log": hazards.LOG_OF_NONPOSITIVE,
    "Sqrt": hazards.SQRT_OF_NEGATIVE,
    "Pow": hazards.POW_OF_NEGATIVE_BASE,
    "Exp": hazards.EXP_OVERFLOW,
}


def explain(call: Callable[[], Any]) -> Incident | None:
    """Runs a call and tells the first line after which a number is not finite; None if no line shows one."""
    # Where weights are drawn in the call, not every call goes wrong.
    line = next(filter(None, (_first_bad_line(call) for _ in range(_MOST_CALLS))), None)
    if line is None:
        return None
    hazard = _hazard(line)
    return Incident(
        step=0,
        epoch=None,
        seen_in=("loss",),
        born_in="forward",
        where=origin.where(line),
        hazard=hazard.code,
        hazard_name=hazard.name,
        cause=hazard.cause,
        cure=Cure(hazard.cure),
        needs=hazard.needs,
        summary="Plain Python or NumPy made a number that is not finite"
        if hazard is not hazards.METRIC_NONFINITE_ONLY
        else "A number in the logs of a training is not finite, and no loss, gradient or weight is to blame",
    )


def _hazard(line: origin.Line) -> Hazard:
    code = linecache.getline(line[0], line[1]).strip()
    try:
        called = {each.func.attr for each in ast.walk(ast.parse(code))
                  if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)}  # fmt: skip
    except SyntaxError:  # a statement of several lines
        called = set()
    if called & set(_FITS):
        return hazards.METRIC_NONFINITE_ONLY
    found = [hazard for op, hazard in _KINDS.items() if names.is_made(op, line[0], line[1])]
    return found[0] if len(found) == 1 else hazards.PREPROCESSING_MADE_NONFINITE


def _first_bad_line(call: Callable[[], Any]) -> origin.Line | None:
    found: list[origin.Line] = []
    before: dict[FrameType, tuple[int, set[str]]] = {}  # the line that runs in each frame, and what was bad before it

    def trace(frame: FrameType, event: str, result: Any) -> Any:
        file = frame.f_code.co_filename
        # Generated code, such as the methods of a dataclass, has no file.
        if event == "call" and (file == "<string>" or not source.is_users(file)):
            return None
        last, known = before.get(frame, (frame.f_lineno, set()))
        bad = {name for name, value in list(frame.f_locals.items()) if _is_bad(value)}
        if event == "call":
            known = bad
        elif event in ("line", "return") and not found:
            if bad - known:
                found.append((file, last, frame.f_code.co_name))
            elif event == "return" and not bad and _is_bad(result):
                found.append((file, frame.f_lineno, frame.f_code.co_name))
        before[frame] = (frame.f_lineno, known | bad)
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Exception:  # whatever a user's function may raise
        return None
    finally:
        sys.settrace(outer)
    return found[0] if found else None


def _is_bad(value: Any) -> bool:
    """Whether a plain number, or one of an array or a short list of numbers, is not finite."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind == "f" and not bool(np.isfinite(value).all())
    if isinstance(value, list | tuple) and len(value) <= _MOST_NUMBERS:
        return any(isinstance(each, float) and not math.isfinite(each) for each in value)
    return False
