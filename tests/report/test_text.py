"""The report as text, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from nanguard import report
from nanguard.findings import Cure, HistoryStep, Incident, Operand, Where
from nanguard.report import Report

DATA = Incident(
    step=0,
    epoch=0,
    seen_in=("loss", "gradients"),
    born_in="data",
    op="MatMul",
    where=Where("penguins.py", 31, "<module>", "model.fit(x, y, batch_size=32)"),
    layer="classifier/dense",
    operands=(Operand("x", "float32", (32, 4), 13.1, 6300.0, nan=8, example_index=(3, 0), example_value=float("nan")),),
    hazard="NG701",
    hazard_name="nan-or-inf-in-features",
    cause="data_nan_inf",
    chain=("MatMul", "BiasAdd", "Softmax", "Log", "Mean"),
    batch_size=32,
    rows=(3, 17),
    dataset_rows=(3, 17),
    columns=(0, 1, 2, 3),
    cure=Cure("Drop or fill the missing cells before training", "table.dropna()", verified=True),
    summary="2 of the 32 rows of the batch hold NaN.",
    needs="finite features",
)
DATA_TEXT = """\
NG701 nan-or-inf-in-features
  what      2 of the 32 rows of the batch hold NaN (step 0, epoch 0, from the data)
  where     penguins.py:31:  model.fit(x, y, batch_size=32)
  layer     classifier/dense
  received  x: float32 (32, 4), min 13.1, max 6300.0, 8 NaN; one NaN is at [3, 0]
  rows      3, 17, of the 32 in the batch (3, 17 in the data set); without them the step is finite
  columns   0, 1, 2, 3 of the features
  seen in   loss, gradients
  chain     MatMul > BiasAdd > Softmax > Log > Mean
  needs     finite features
  fix       table.dropna()
            Drop or fill the missing cells before training. Checked: with it, the failed step is
            finite.
  more      nanguard explain NG701
Found 1 incident: NG701 nan-or-inf-in-features at penguins.py:31, step 0.
"""

DIVERGENCE = Incident(
    step=9,
    epoch=None,
    seen_in=("loss",),
    born_in="divergence",
    hazard="NG601",
    hazard_name="diverging-learning-rate",
    cause="lr_too_high",
    cure=Cure("Lower the learning rate of 1.0; at 0.1 the loss falls."),
    summary="The loss grew from 12.5 to inf over 9 steps",
    history=tuple(HistoryStep(step, 10.0 ** (4 * (step - 5)), 2.5 * 10.0 ** (2 * step), 1.0) for step in range(3, 9)),
    first_to_grow="dense_2/kernel",
)
DIVERGENCE_TEXT = """\
NG601 diverging-learning-rate
  what      The loss grew from 12.5 to inf over 9 steps (step 9, divergence)
  seen in   loss
  history   step      loss   gradient norm   learning rate
               4    0.0001         2.5e+08             1.0
               5       1.0         2.5e+10             1.0
               6   10000.0         2.5e+12             1.0
               7     1e+08         2.5e+14             1.0
               8     1e+12         2.5e+16             1.0
  grew      first the gradient of dense_2/kernel
  fix       Lower the learning rate of 1.0; at 0.1 the loss falls.
  more      nanguard explain NG601
Found 1 incident: NG601 diverging-learning-rate, step 9.
"""


@pytest.mark.parametrize(
    ("incident", "expected"), [(DATA, DATA_TEXT), (DIVERGENCE, DIVERGENCE_TEXT)], ids=["data", "divergence"]
)
def test_message(incident: Incident, expected: str) -> None:
    """An incident is told in the labels that every message has, and the verdict is the last line."""
    assert report.text(Report("train.py", 1, 9, (incident,))) == expected


def test_history_is_told_of_a_divergence_alone() -> None:
    """Where one step went wrong by itself, the steps before it explain nothing."""
    assert field("history", born_in="divergence", history=DIVERGENCE.history)
    assert not field("history", born_in="forward", history=DIVERGENCE.history)


def field(label: str, **changes: Any) -> str:
    """Gives one field of the text of an incident, on one line."""
    incident = Incident(**{"step": 1, "epoch": None, "seen_in": ("loss",), "born_in": "forward", **changes})
    lines = report.text(Report("train.py", 1, 2, (incident,))).splitlines()
    found = [index for index, line in enumerate(lines) if line.startswith(f"  {label} ")]
    if not found:
        return ""
    text = [lines[found[0]][12:]]
    for line in lines[found[0] + 1 :]:
        if not line.startswith(" " * 12):
            break
        text.append(line.strip())
    return " | ".join(text)


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        (Operand("p", "float32", (64, 10), 0.0, 0.97, example_index=(3, 7), example_value=0.0),
         "p: float32 (64, 10), min 0.0, max 0.97; the 0.0 is at [3, 7]"),
        (Operand("x", "float16", (5,), -65504.0, 3.0, posinf=1, example_index=(4,), example_value=float("inf")),
         "x: float16 (5,), min -65504.0, max 3.0, 1 inf; the inf is at [4]"),
        (Operand("x", "float32", (2, 2), None, None, nan=4), "x: float32 (2, 2), no finite value, 4 NaN"),
        (Operand("r", "float32", (), 0.0, 0.0, example_index=(), example_value=0.0), "r: float32 scalar, all 0.0"),
        (Operand("x", "float32", (3,), 1e-30, 1e-30, neginf=2), "x: float32 (3,), finite 1e-30, 2 -inf"),
    ],
)  # fmt: skip
def test_operand(operand: Operand, expected: str) -> None:
    """An operand is told by its range, what is not finite in it, and one bad index."""
    assert field("received", operands=(operand,)) == expected


def test_many_operands() -> None:
    """Of many operands two are told."""
    operands = tuple(Operand(name, "float32", (1,), 0.0, 1.0) for name in "abcd")
    assert field("received", operands=operands).endswith("| and 2 more")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rows": (3,), "batch_size": 64}, "3, of the 64 in the batch; without it the step is finite"),
        ({"rows": (0, 1), "batch_size": 2}, "all 2 of the batch"),
        ({"rows": tuple(range(20)), "batch_size": 64},
         "0, 1, 2, 3, 4, 5, 6 and 13 more, of the 64 in the batch; without them the step is finite"),
        ({"rows": None}, ""),
        ({"rows": ()}, ""),
    ],
)  # fmt: skip
def test_rows(changes: dict[str, Any], expected: str) -> None:
    """Rows are told with what they count in, and what was proven of them."""
    assert field("rows", **changes) == expected


@pytest.mark.parametrize(
    ("cure", "expected"),
    [
        (Cure("Take nanguard.ops.log(p)", "nanguard.ops.log(p)"), "Take nanguard.ops.log(p)"),
        (Cure("Give the loss logits.", verified=True),
         "Give the loss logits. Checked: with it, the failed step is finite."),
        (Cure("Give the loss logits", verified=True),
         "Give the loss logits. Checked: with it, the failed step is finite."),
        (Cure("Bound it from below.", "tf.maximum(p, 1e-7)"), "tf.maximum(p, 1e-7) | Bound it from below."),
    ],
)  # fmt: skip
def test_fix(cure: Cure, expected: str) -> None:
    """A cure is told with its code, and with the proof if there is one."""
    assert field("fix", cure=cure) == expected


def test_long_line_of_the_user_stands_below_its_place() -> None:
    """A line that does not fit beside its place gets its own, cut where the screen ends."""
    where = Where("train.py", 7, "f", "loss = " + " + ".join(f"tf.math.log(p{i})" for i in range(20)))
    place, code = field("where", where=where).split(" | ")
    assert place == "train.py:7, in f:"
    assert code.startswith("loss = tf.math.log(p0) + tf.math.log(p1)")
    assert code.endswith(" ...")
    assert len(code) <= 88


def test_replay_that_stayed_finite() -> None:
    """A fault that the replay did not show is told as one that may have passed, unless the notes say more."""
    assert field("note", reproduced=False).startswith("The replay of this step was finite")
    assert field("note", reproduced=False, notes=("The replay failed: no memory.",)) == "The replay failed: no memory."
    assert field("note") == ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Report("train.py", 0, 5), "All finite."),
        (Report("train.py", 0, 0, watched=False), "Nothing was watched."),
        (Report("train.py", 3, 5), "The script ended with exit code 3; 5 steps, all finite."),
        (Report("train.py", 3, 1), "The script ended with exit code 3; 1 step, finite."),
        (Report("train.py", 3, 0), "The script ended with exit code 3; no training step was seen."),
        (Report("train.py", 1, 0, watched=False), "The script ended with exit code 1; nothing was watched."),
        (Report("train.py", 130, 5), "Interrupted; 5 steps, all finite."),
        (Report("train.py", 1, 5, (DATA, DIVERGENCE)),
         "Found 2 incidents, the first: NG701 nan-or-inf-in-features at penguins.py:31, step 0."),
    ],
)  # fmt: skip
def test_verdict_line(found: Report, expected: str) -> None:
    """The last line is the verdict, and says no more than is known."""
    assert report.text(found).splitlines()[-1] == expected


def test_notes_stand_above_the_verdict() -> None:
    """A note is shown, and the run stays healthy."""
    shown = report.text(Report("train.py", 0, 5, notes=("metric 'psnr' became inf; training is healthy",)))
    assert shown == "  note      metric 'psnr' became inf; training is healthy\nAll finite.\n"
