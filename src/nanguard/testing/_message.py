"""A counterexample in words and as code."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import keras
import numpy as np

from nanguard import hazards
from nanguard.findings import Incident, Operand
from nanguard.intervals import float_format
from nanguard.testing import _numbers
from nanguard.testing._search import Found
from nanguard.testing._subject import Subject

_WIDTH = 100
_MODES = {"eager": "eager mode", "graph": "a graph", "xla": "XLA"}


def message(found: Found, incident: Incident | None, error: Exception | None) -> str:
    """Gives the whole message: what, where, received, needs, fix, more, and code that reproduces it.

    Args:
        found: The counterexample.
        incident: What the replay made of it, or None.
        error: What the same call raises in eager mode, or None.
    """
    runner = found.runner
    which = "the value" if found.part == "value" else "the gradient"
    seen = f"{runner.dtype}, in {_MODES[runner.mode]}"
    if found.also:
        seen += "".join(f" and {_MODES[mode]}" for mode in found.also)
    is_known = incident is not None and incident.hazard is not None
    header = f"{incident.hazard} {incident.hazard_name}" if incident is not None and is_known else "Not explained"
    told = incident.summary if incident is not None and incident.reproduced and incident.summary else ""
    told = told.rstrip().rstrip(".") or f"{_name(runner.subject)} gave a number that is not finite"
    lines = [header, *_field("what", f"{told} ({which}; {seen})")]
    if incident is not None:
        lines += _explained(incident)
    else:
        where = f"{_name(runner.subject)}, {_source(runner.subject.function)}".rstrip(", ")
        lines += _field("where", where)
    lines += _received(runner.subject, found, incident)
    if incident is not None and is_known:
        lines += _cured(incident)
    lines += _notes(found, incident, error)
    if incident is not None and is_known:
        lines += _field("more", f"nanguard explain {incident.hazard}")
    return "\n".join([*lines, "", "  To reproduce:", "", textwrap.indent(code(found), "    ")])


def _explained(incident: Incident) -> list[str]:
    where = incident.where
    if where is None:
        return []
    function = "" if where.function in ("", "<module>") else f", in {where.function}"
    place = f"{where.file}:{where.line}{function}"
    return [_labelled("where", f"{place}:  {where.code}" if where.code else place)]


def _cured(incident: Incident) -> list[str]:
    cure = incident.cure
    if cure is None:
        return _field("needs", incident.needs)
    hazard = hazards.get(incident.hazard or "")
    return [
        *_field("needs", hazard.needs),
        *([_labelled("fix", cure.replacement)] if cure.replacement else []),
        *_field("" if cure.replacement else "fix", cure.text),
    ]


def _received(subject: Subject, found: Found, incident: Incident | None) -> list[str]:
    """The operands of the op that the replay blames, or else those of the function."""
    if incident is not None and incident.operands:
        lines = list(dict.fromkeys(map(_operand, incident.operands)))[:3]
    else:
        lines = [
            f"{name}: {domain.dtype_in(found.runner.dtype)} {values.shape}"
            for name, domain, values in zip(subject.names, subject.domains, found.point, strict=True)
        ][:3]
    return [_labelled("" if place else "received", line) for place, line in enumerate(lines)]


def _operand(operand: Operand) -> str:
    parts = [f"{operand.name}: {operand.dtype} {operand.shape}"]
    if operand.min is not None and operand.max is not None:
        parts.append(f"min {operand.min:.6g}, max {operand.max:.6g}")
    parts += [
        f"{count} {kind}"
        for count, kind in ((operand.nan, "NaN"), (operand.posinf, "inf"), (operand.neginf, "-inf"))
        if count
    ]
    told = ", ".join(parts)
    if operand.example_index and operand.example_value is not None:
        told += f"; the {operand.example_value:.6g} is at [{', '.join(map(str, operand.example_index))}]"
    return told


def _notes(found: Found, incident: Incident | None, error: Exception | None) -> list[str]:
    mode = found.runner.mode
    if mode == "eager":
        return []
    if error is not None:
        told = " ".join(str(error).split())[:200]
        return _field(
            "note", f"Only in {_MODES[mode]}; in eager mode the same call raises {type(error).__name__}: {told}"
        )
    if incident is None or not incident.reproduced:
        return _field("note", f"Only in {_MODES[mode]}: op by op the same call is finite, so no op can be named.")
    return []


def code(found: Found) -> str:
    """Gives lines of Python that make the same call; they need the function by its name and no more."""
    runner, subject = found.runner, found.runner.subject
    name = _name(subject)
    constants = [
        f"{operand} = {_constant(values, domain.dtype_in(runner.dtype))}"
        for operand, domain, values in zip(subject.names, subject.domains, found.point, strict=True)
    ]
    given = [
        operand if place < subject.num_positional else f"{operand}={operand}"
        for place, operand in enumerate(subject.names)
    ]
    call = f"{name}({', '.join(given)})"
    asked = [subject.names[place] for place in subject.sources] + (
        [f"{name}.trainable_variables"] if subject.weights else []
    )
    if found.part == "value":
        body = [f"value = {call}"]
    else:
        watched = ", ".join(subject.names[place] for place in subject.sources)
        body = ["with tf.GradientTape() as tape:"]
        if watched:
            body.append(f"    tape.watch([{watched}])")
        body += [f"    value = {call}", f"gradient = tape.gradient(value, [{', '.join(asked)}])"]
    result = "value" if found.part == "value" else "gradient"
    if runner.mode != "eager":
        jit = ", jit_compile=True" if runner.mode == "xla" else ""
        lines = [f"@tf.function(autograph=False{jit})", f"def run({', '.join(subject.names)}):"]
        lines += [f"    {line}" for line in [*body, f"return {result}"]]
        body = [*lines, f"{result} = run({', '.join(subject.names)})"]
    text = "\n".join([*constants, *body, f"print({result})"])
    imports = ["import numpy as np"] if "np." in text else []
    return "\n".join([*imports, "import tensorflow as tf", *_import(subject, name), text])


def _constant(values: np.ndarray, dtype: str) -> str:
    kind = f"tf.{dtype}"
    if values.size == 0:
        return f"tf.zeros({values.shape}, {kind})"
    if dtype == "bfloat16" and (np.abs(values[values != 0]) < float_format(dtype).smallest_normal).any():
        # tf.constant takes a Python number that is subnormal in bfloat16 for 0.
        return f"tf.cast({_constant(values, 'float32')}, {kind})"
    flat = values.reshape(-1)
    if values.size > 8 and (flat.view(np.int64) == flat.view(np.int64)[0]).all():
        return f"tf.fill({values.shape}, tf.constant({_element(flat[0], dtype)}, {kind}))"
    return f"tf.constant({_nested(values, dtype)}, {kind})"


def _nested(values: np.ndarray, dtype: str) -> str:
    if values.ndim == 0:
        return _element(values[()], dtype)
    return f"[{', '.join(_nested(each, dtype) for each in values)}]"


def _element(value: Any, dtype: str) -> str:
    if dtype == "bool":
        return str(bool(value))
    if dtype.startswith(("float", "bfloat")):
        return _numbers.spelled(float(value), dtype)
    return str(int(value))


def _name(subject: Subject) -> str:
    function = subject.function
    name = getattr(function, "__name__", "")
    if isinstance(function, keras.losses.Loss):
        return "loss"
    if isinstance(function, keras.Layer):
        return "model" if isinstance(function, keras.Model) else "layer"
    return name if isinstance(name, str) and name.isidentifier() else "fn"


def _import(subject: Subject, name: str) -> list[str]:
    function = subject.function
    module = getattr(function, "__module__", None)
    if module and getattr(function, "__qualname__", None) == name and module not in ("__main__", "builtins"):
        return [f"from {module} import {name}"]
    if isinstance(function, keras.losses.Loss | keras.Layer):
        return [f"# {name} is a {type(function).__module__}.{type(function).__qualname__}"]
    return []


def _source(function: Any) -> str:
    try:
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (TypeError, OSError):
        return ""


def _field(label: str, content: str) -> list[str]:
    wrapped = textwrap.wrap(content, _WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    return [_labelled("" if place else label, line) for place, line in enumerate(wrapped)]


def _labelled(label: str, content: str) -> str:
    return f"  {label:<10}{content}"
