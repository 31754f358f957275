"""What the learning rate was, and where a schedule made it non-finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture import Capture, RecordedStep, Targets
from nanguard.guard.eager import Recorder
from nanguard.replay import births, program


class _Thread:
    """A thread that calls no layer and runs no gradient."""

    layers: tuple[str, ...] = ()
    forward = None


def _schedule(optimizer: Any) -> Any | None:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = getattr(optimizer, "_learning_rate", None)
    return schedule if callable(schedule) and not isinstance(schedule, tf.Variable) else None


def rate(capture: Capture) -> float | None:
    """The learning rate as it is now; None if the optimizer has none that can be read."""
    if not capture.is_stored:
        try:
            capture.answers.rate = float(np.asarray(capture.optimizer.learning_rate))
        except Exception:  # no optimizer, or one whose rate cannot be asked for outside of a step
            capture.answers.rate = None
    return capture.answers.rate


def rates(capture: Capture, steps: list[int]) -> dict[int, float]:
    """The learning rate of each step: from the schedule, or else the rate of now for all."""
    if capture.is_stored:
        return {step: capture.answers.rates[step] for step in steps if step in capture.answers.rates}
    found = _asked(capture, steps)
    capture.answers.rates.update(found)
    return found


def _asked(capture: Capture, steps: list[int]) -> dict[int, float]:
    schedule = _schedule(capture.optimizer)
    if schedule is None:
        now = rate(capture)
        return dict.fromkeys(steps, now) if now is not None and np.isfinite(now) else {}
    found = {}
    for step in steps:
        try:
            value = float(np.asarray(schedule(tf.constant(step, tf.int64))))
        except Exception:  # the user's own code, asked outside of its step
            continue
        if np.isfinite(value):
            found[step] = value
    return found


def birth(capture: Capture, step: int) -> tuple[program.Program, births.Birth] | None:
    """Asks the schedule once more for a step's rate, and finds the op in it that gave a non-finite number."""
    if not capture.is_stored:
        capture.answers.schedule = _recorded(capture.optimizer, step)
    if capture.answers.schedule is None or capture.answers.schedule[0] != step:
        return None
    _, body, number = capture.answers.schedule
    replayed = program.build(Capture(step, None, (), Targets(), body))
    if number not in replayed.values or replayed.is_finite(number):
        return None
    steps = births.Steps(replayed, [number], [])
    found = births.find(replayed, [number], steps, set(replayed.leaves), is_loss_finite=False)
    return (replayed, found[0]) if found else None


def _recorded(optimizer: Any, step: int) -> tuple[int, RecordedStep, int] | None:
    schedule = _schedule(optimizer)
    if schedule is None:
        return None
    recorder = Recorder(_Thread())
    recorder.is_recording = True
    iterations = tf.constant(step, tf.convert_to_tensor(optimizer.iterations).dtype)
    execution.watch_ops(recorder)
    try:
        value = tf.convert_to_tensor(schedule(iterations))
    finally:
        execution.unwatch_ops(recorder)
    return step, RecordedStep(recorder.events, recorder.tensors), execution.identity_of(value)
