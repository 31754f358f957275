"""The `nanguard` command with a make-believe watch in place of the one that needs TensorFlow.

A script under test trains by importing `faketrain`: `faketrain.step()` is a healthy step, `faketrain.step(nan=True)`
one that is not finite. Options of the make-believe come by the environment:

FAKE_REPLAY: how the replay ends: `found` (the default), `ordinary`, `memory`, `error`, `prints` or `killed`.
FAKE_SAVE: why the capture cannot be written.
FAKE_PROBLEM: why the watch could not be installed.
FAKE_TENSORFLOW: `missing` where the script is not to find it, `unused` where it does not ask for it.
FAKE_LEAVE: after how many seconds a stopped script is left.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from nanguard import cli
from nanguard.cli import _run
from nanguard.errors import ReplayError
from nanguard.findings import Cure, Incident, Operand, Where


@dataclasses.dataclass
class Capture:
    """All that the command reads of a capture."""

    step: int


class FakeWatch:
    """A watch whose steps come from the script's calls of `faketrain.step`."""

    def __init__(self, on_capture: Callable[[Any], bool]) -> None:
        self.on_capture = on_capture
        self.steps = 0
        self.notes: list[str] = []
        self.problem = os.environ.get("FAKE_PROBLEM")

    def arm(self) -> None:
        faketrain = types.ModuleType("faketrain")
        faketrain.step = self.step  # type: ignore[attr-defined]
        faketrain.note = self.notes.append  # type: ignore[attr-defined]
        sys.modules["faketrain"] = faketrain
        if os.environ.get("FAKE_TENSORFLOW") == "missing":
            sys.modules["tensorflow"] = None  # type: ignore[assignment]  # how Python marks what cannot be imported
        elif os.environ.get("FAKE_TENSORFLOW") != "unused":
            sys.modules["tensorflow"] = types.ModuleType("tensorflow")

    def disarm(self) -> None:
        sys.modules.pop("faketrain", None)

    def step(self, nan: bool = False) -> None:
        if nan:
            self.on_capture(Capture(self.steps))
        self.steps += 1


def explain(capture: Capture) -> Incident | None:
    """Ends as FAKE_REPLAY says."""
    how = os.environ.get("FAKE_REPLAY", "found")
    if how == "ordinary":
        return None
    if how == "memory":
        raise MemoryError
    if how == "error":
        raise ReplayError("the optimizer's state\ncould not be restored")
    if how == "killed":
        os._exit(137)
    if how == "prints":
        print("printed by the replay")
    return Incident(
        step=capture.step,
        epoch=0,
        seen_in=("loss", "gradients"),
        born_in="forward",
        op="Log",
        where=Where("train.py", 88, "Classifier.call", "tf.math.log(p)"),
        operands=(Operand("p", "float32", (64, 10), 0.0, 0.97, example_index=(3, 7), example_value=0.0),),
        hazard="NG101",
        hazard_name="log-of-nonpositive",
        cause="log_of_zero",
        chain=("Log", "Mul", "Neg", "Mean"),
        batch_size=64,
        rows=(3,),
        cure=Cure("Take nanguard.ops.log(p), or give the loss logits: from_logits=True.", "nanguard.ops.log(p)", True),
        summary="Log gave -inf in 1 of 640 values.",
        needs="x > 0",
    )


def outline(capture: Capture, reason: str) -> Incident:
    """What a watch knows by itself."""
    return Incident(
        step=capture.step,
        epoch=None,
        seen_in=("gradients",),
        born_in="forward",
        reproduced=False,
        summary="The gradients stopped being finite",
        notes=(f"The replay failed: {reason}.",),
    )


def save(capture: Capture, path: str, script: str, steps: int, notes: Any) -> None:
    """Writes some words in the place of a capture."""
    if "FAKE_SAVE" in os.environ:
        raise OSError(28, os.environ["FAKE_SAVE"])
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(f"step {capture.step} of {script}\n")


def main() -> int:
    """Runs the command with the make-believe in place."""
    if "FAKE_LEAVE" in os.environ:
        _run.Session.seconds_to_report = float(os.environ["FAKE_LEAVE"]) / 2
        _run.Session.seconds_to_leave = float(os.environ["FAKE_LEAVE"])
    return cli.main(instruments=_run.Instruments(FakeWatch, explain, outline, save))


if __name__ == "__main__":
    sys.exit(main())
