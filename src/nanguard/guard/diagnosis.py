"""A step that was refused, run again under the watch: a capture of it, or the proof that it was a passing fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture import Capture
from nanguard.errors import NanguardError
from nanguard.guard import flag, hooks
from nanguard.guard import variables as script_variables

# How a capture is explained. The replay is below the guard in the house, so whoever brings the two together says it.
explain: Callable[[Capture], Any] | None = None
describe: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Fit:
    """A call of Keras's `fit`.

    Args:
        model: Its model.
        epoch: The epoch under way, from 0.
        given: The arrays or data set that it was given.
    """

    model: Any
    epoch: int | None
    given: tuple[Any, ...]


class _Seen(BaseException):
    """Ends the second run once its capture is there; nothing of the script's can swallow it."""


class _Watch:
    """What the hooks of the watch report to."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.capture: Capture | None = None

    def on_capture(self, capture: Capture) -> bool:
        self.capture = capture
        raise _Seen


def run_again(step: Callable[[], Any], variables: list[Any], *, fit: Fit | None = None) -> tuple[Capture | None, bool]:
    """Runs a step again under the watch, and puts back all that it writes.

    Args:
        step: Runs the plain step.
        variables: All variables that it may write.
        fit: The `fit` that it is a part of, or None.

    Returns:
        The capture, or None if there is none; and whether the step failed again. It may do so without a capture: the
        watch does not see into a function that was traced before it came.
    """
    watch = _Watch()
    attached = hooks.Hooks(watch)
    if fit is not None:
        attached.begin_fit(fit.model, fit.epoch, {"args": fit.given})
    held = [
        (component.handle, component.read_value())
        for variable in variables
        for component in script_variables.components(script_variables.raw(variable))
    ]
    has_failed = False
    try:
        attached.install_tensorflow()
        attached.install_keras()
        step()
        has_failed = not bool(flag.are_finite([execution.read_variable(handle, value.dtype) for handle, value in held]))
    except _Seen:
        pass
    except (tf.errors.OpError, NanguardError, ValueError, TypeError) as error:
        if watch.capture is None:
            watch.notes.append(f"the second run failed: {error}".split("\n")[0])
    finally:
        attached.remove()
        for handle, value in held:
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    return watch.capture, has_failed or watch.capture is not None


def explained(capture: Capture) -> Any:
    """What the replay says of a capture; None if it is an ordinary step, or if nobody here can replay."""
    if explain is None:
        return None
    return explain(capture)
