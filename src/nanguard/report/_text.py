"""The report as text: what a person reads when the training has failed."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence

from nanguard.findings import HistoryStep, Incident, Operand, Where
from nanguard.report._report import Report

_WIDTH = 100
_LABEL = 12  # two blanks, the longest label and two more
_SCREEN = 23  # lines of an incident: with the verdict below it, it fits a terminal of 24
_PHASES = {
    "data": "from the data",
    "forward": "forward pass",
    "backward": "backward pass",
    "update": "optimizer's update",
    "divergence": "divergence",
}
# What goes first when an incident has more to say than a screen holds.
_EXPENDABLE = ("chain", "seen in", "received", "columns", "layer")


def text(report: Report) -> str:
    """Gives the report as lines of text; the last one is the verdict.

    An incident takes at most a screen: 24 lines of 100 columns with the verdict. Only a path or a name that is longer
    by itself goes beyond.

    Args:
        report: What to show.

    Returns:
        The text, with a newline at its end.

    Example:

    >>> print(text(Report(script="train.py", script_exit=0, steps=412)), end="")
    All finite.
    """
    lines = []
    for incident in report.incidents:
        lines += _incident(incident)
    # Why nothing was watched is not said here: it is no finding.
    for note in report.notes if report.watched else ():
        lines += _wrapped("note", note, most=2)
    return "\n".join([*lines, verdict_line(report)]) + "\n"


def describe(incident: Incident) -> str:
    """Gives one incident as lines of text, as in the report."""
    return "\n".join(_incident(incident))


def verdict_line(report: Report) -> str:
    """Gives the verdict as one sentence.

    Example:

    >>> verdict_line(Report(script="train.py", script_exit=3, steps=12))
    'The script ended with exit code 3; 12 steps, all finite.'
    """
    if report.incidents:
        count = len(report.incidents)
        found = "Found 1 incident" if count == 1 else f"Found {count} incidents, the first"
        return f"{found}: {_name(report.incidents[0])}{_place(report.incidents[0])}."
    if report.verdict == "finite":
        return "All finite." if report.watched else "Nothing was watched."
    ending = "Interrupted" if report.script_exit == 130 else f"The script ended with exit code {report.script_exit}"
    return f"{ending}; {_steps(report)}."


def _steps(report: Report) -> str:
    if not report.watched:
        return "nothing was watched"
    return {0: "no training step was seen", 1: "1 step, finite"}.get(report.steps, f"{report.steps} steps, all finite")


def _name(incident: Incident) -> str:
    if incident.hazard is None:
        return "not explained"
    return f"{incident.hazard} {incident.hazard_name or ''}".strip()


def _place(incident: Incident) -> str:
    step = f"step {incident.step}"
    return f" at {incident.where.file}:{incident.where.line}, {step}" if incident.where else f", {step}"


def _incident(incident: Incident) -> list[str]:
    fields = {
        "what": _wrapped("what", _what(incident), most=2),
        "where": _where(incident.where),
        "layer": _wrapped("layer", incident.layer or "", most=1),
        "received": _received(incident.operands),
        "rows": _wrapped("rows", _rows(incident), most=2),
        "columns": _wrapped("columns", _columns(incident), most=1),
        "seen in": _wrapped("seen in", ", ".join(incident.seen_in), most=1),
        "chain": _wrapped("chain", _chain(incident.chain), most=2),
        "history": _history(incident.history if incident.born_in == "divergence" else ()),
        "grew": _wrapped("grew", _grew(incident), most=1),
        "needs": _wrapped("needs", incident.needs, most=1),
        "fix": _fix(incident),
        "note": [line for note in _notes(incident)[:2] for line in _wrapped("note", note, most=2)][:3],
        "more": _wrapped("more", f"nanguard explain {incident.hazard}" if incident.hazard else "", most=1),
    }
    for label in _EXPENDABLE:
        if 1 + sum(map(len, fields.values())) > _SCREEN:
            fields[label] = []
    header = "Not explained" if incident.hazard is None else _name(incident)
    return [header, *itertools.chain(*fields.values())]


def _what(incident: Incident) -> str:
    origin = f"{incident.op} gave the first" if incident.op else "There was a"
    summary = incident.summary or f"{origin} number that is not finite"
    epoch = "" if incident.epoch is None else f"epoch {incident.epoch}, "
    return f"{summary.rstrip().rstrip('.')} (step {incident.step}, {epoch}{_PHASES[incident.born_in]})"


def _where(where: Where | None) -> list[str]:
    if where is None:
        return []
    function = "" if where.function in ("", "<module>") else f", in {where.function}"
    place = f"{where.file}:{where.line}{function}"
    if not where.code:
        return [_labelled("where", place)]
    line = _labelled("where", f"{place}:  {where.code}")
    if len(line) <= _WIDTH:
        return [line]
    return [_labelled("where", f"{place}:"), _labelled("", _clipped(where.code))]


def _received(operands: Sequence[Operand]) -> list[str]:
    lines = [_operand(operand) for operand in operands[:3]]
    if len(operands) > 3:
        lines[2] = f"and {len(operands) - 2} more"
    return [_labelled("" if index else "received", _clipped(line)) for index, line in enumerate(lines)]


def _operand(operand: Operand) -> str:
    shape = f"({', '.join(map(str, operand.shape))}{',' if len(operand.shape) == 1 else ''})"
    parts = [f"{operand.name}: {operand.dtype} {shape if operand.shape else 'scalar'}"]
    if operand.min is None or operand.max is None:
        parts.append("no finite value")
    elif operand.min == operand.max:
        parts.append(f"all {_number(operand.min)}" if not _num_nonfinite(operand) else f"finite {_number(operand.min)}")
    else:
        parts.append(f"min {_number(operand.min)}, max {_number(operand.max)}")
    counts = ((operand.nan, "NaN"), (operand.posinf, "inf"), (operand.neginf, "-inf"))
    parts += [f"{count} {what}" for count, what in counts if count]
    example = ""
    if operand.example_index and operand.example_value is not None:
        index = ", ".join(map(str, operand.example_index))
        is_one_of_many = not math.isfinite(operand.example_value) and _num_nonfinite(operand) > 1
        example = f"; {'one' if is_one_of_many else 'the'} {_number(operand.example_value)} is at [{index}]"
    return ", ".join(parts) + example


def _num_nonfinite(operand: Operand) -> int:
    return operand.nan + operand.posinf + operand.neginf


def _rows(incident: Incident) -> str:
    if not incident.rows:
        return ""
    of = f", of the {incident.batch_size}" if incident.batch_size else ""
    them = "it" if len(incident.rows) == 1 else "them"
    if len(incident.rows) == incident.batch_size:
        return f"all {incident.batch_size} of the batch"
    dataset = f" ({_list(incident.dataset_rows)} in the data set)" if incident.dataset_rows else ""
    return f"{_list(incident.rows)}{of} in the batch{dataset}; without {them} the step is finite"


def _columns(incident: Incident) -> str:
    return f"{_list(incident.columns)} of the features" if incident.columns else ""


def _chain(chain: Sequence[str]) -> str:
    if len(chain) > 10:
        chain = [*chain[:5], f"({len(chain) - 9} more)", *chain[-4:]]
    return " > ".join(chain)


def _history(history: Sequence[HistoryStep]) -> list[str]:
    if not history:
        return []
    rows = [("step", "loss", "gradient norm", "learning rate")]
    rows += [
        (str(past.step), _number(past.loss), _number(past.gradient_norm), _number(past.learning_rate))
        for past in history[-5:]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        _labelled(
            "" if index else "history", "   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        )
        for index, row in enumerate(rows)
    ]


def _grew(incident: Incident) -> str:
    return f"first the gradient of {incident.first_to_grow}" if incident.first_to_grow else ""


def _fix(incident: Incident) -> list[str]:
    if incident.cure is None:
        return []
    cure = incident.cure
    proof = "Checked: with it, the failed step is finite." if cure.verified else ""
    words = f"{cure.text.rstrip()} {proof}".strip()
    if proof and not cure.text.rstrip().endswith((".", "!", "?")):
        words = f"{cure.text.rstrip()}. {proof}".lstrip(". ")
    if cure.replacement and cure.replacement not in cure.text:
        return [_labelled("fix", _clipped(cure.replacement)), *_wrapped("", words, most=2)]
    return _wrapped("fix", words, most=3)


def _notes(incident: Incident) -> Sequence[str]:
    if incident.notes or incident.reproduced:
        return incident.notes
    return ["The replay of this step was finite: the fault may be a passing one, of the machine or of a race."]


def _list(numbers: Sequence[int] | None) -> str:
    numbers = numbers or ()
    if len(numbers) > 8:
        return f"{', '.join(map(str, numbers[:7]))} and {len(numbers) - 7} more"
    return ", ".join(map(str, numbers))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    short = f"{value:.6g}"
    return f"{short}.0" if short.lstrip("-").isdigit() else short


def _wrapped(label: str, content: str, *, most: int) -> list[str]:
    """Gives one field on at most `most` lines; none if there is nothing to say."""
    if not content.strip():
        return []
    lines = textwrap.wrap(
        content,
        _WIDTH - _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
        max_lines=most,
        placeholder=" ...",
    )
    return _under(label, lines)


def _clipped(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _WIDTH - _LABEL else f"{line[: _WIDTH - _LABEL - 4]} ..."


def _under(label: str, lines: Iterable[str]) -> list[str]:
    return [_labelled("" if index else label, line) for index, line in enumerate(lines)]


def _labelled(label: str, content: str) -> str:
    return f"  {label:<{_LABEL - 2}}{content}"
