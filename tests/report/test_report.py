"""The report: its JSON, its schema and its documentation say the same."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from nanguard import report
from nanguard.findings import Cure, HistoryStep, Incident, Operand, Where
from nanguard.report import Report

DOCS = Path(__file__).parents[2] / "docs" / "report.md"

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=300)
lines = st.text(st.characters(codec="ascii", min_codepoint=32), max_size=300)
floats = st.none() | st.floats()
indices = st.none() | st.lists(st.integers(0, 10**9), max_size=300).map(tuple)
wheres = st.builds(
    Where, lines.map(lambda text: text[:40]), st.integers(1, 9999), lines.map(lambda text: text[:30]), lines
)
operands = st.builds(
    Operand,
    name=lines,
    dtype=st.sampled_from(["float32", "bfloat16"]),
    shape=st.lists(st.integers(0, 999), max_size=6).map(tuple),
    min=floats,
    max=floats,
    nan=st.integers(0, 999),
    posinf=st.integers(0, 999),
    neginf=st.integers(0, 999),
    example_index=indices,
    example_value=floats,
)
histories = st.builds(
    HistoryStep,
    step=st.integers(0, 10**9),
    loss=floats,
    gradient_norm=floats,
    learning_rate=floats,
    layer_norms=st.dictionaries(lines, st.floats(), max_size=3),
)
incidents = st.builds(
    Incident,
    step=st.integers(0, 10**9),
    epoch=st.none() | st.integers(0, 999),
    seen_in=st.lists(st.sampled_from(["loss", "gradients", "weights", "state"]), unique=True).map(tuple),
    born_in=st.sampled_from(["data", "forward", "backward", "update", "divergence"]),
    op=st.none() | st.just("Log"),
    where=st.none() | wheres,
    layer=st.none() | lines,
    operands=st.lists(operands, max_size=6).map(tuple),
    hazard=st.none() | st.just("NG101"),
    hazard_name=st.none() | st.just("log-of-nonpositive"),
    cause=st.none() | st.just("log_of_zero"),
    chain=st.lists(st.just("MatMul"), max_size=40).map(tuple),
    batch_size=st.none() | st.integers(1, 999),
    rows=indices,
    dataset_rows=indices,
    columns=indices,
    reproduced=st.booleans(),
    cure=st.none() | st.builds(Cure, words, st.none() | lines, st.booleans()),
    summary=words,
    needs=lines,
    notes=st.lists(words, max_size=4).map(tuple),
    history=st.lists(histories, max_size=30).map(tuple),
    first_to_grow=st.none() | lines,
)


@pytest.mark.parametrize(
    ("code", "born_in", "verdict"),
    [
        (0, None, "finite"),
        (3, None, "crashed"),
        (None, None, "crashed"),
        (0, "data", "nonfinite"),
        (1, "divergence", "diverged"),
    ],
)
def test_verdict(code: int | None, born_in: Any, verdict: str, checked_report: Any) -> None:
    """An incident outweighs the exit code, and a divergence is told apart."""
    found = () if born_in is None else (Incident(step=1, epoch=None, seen_in=("loss",), born_in=born_in),)
    assert checked_report(Report("train.py", code, 2, found))["verdict"] == verdict


@given(incidents)
def test_any_incident_fits_the_schema(checked_report: Any, incident: Incident) -> None:
    """The JSON of any incident is strict JSON and as the schema says."""
    assert len(checked_report(Report("train.py", 1, 2, (incident,)))["incidents"]) == 1


@given(incidents)
def test_any_incident_fits_a_screen(incident: Incident) -> None:
    """Any incident takes at most 24 lines of 100 columns; only a word that is longer by itself goes beyond."""
    shown = report.text(Report("train.py", 1, 2, (incident,)))
    assert shown.endswith(".\n")
    *message, verdict = shown[:-1].split("\n")
    assert len(message) < 24
    assert verdict.startswith("Found 1 incident: ")
    for line in message:
        assert len(line) <= 100 or max(map(len, line[12:].split())) > 20


def test_numbers_of_numpy_and_numbers_that_are_not_finite() -> None:
    """NumPy's scalars become plain numbers, and NaN and infinity strings that `float` reads back."""
    operand = Operand("p", "float32", (np.int64(2),), np.float32(-0.5), float("inf"), example_value=float("nan"))
    written = Report("train.py", 1, 2, (Incident(1, 0, ("loss",), "forward", operands=(operand,)),)).to_json()
    (back,) = json.loads(json.dumps(written, allow_nan=False))["incidents"][0]["operands"]
    assert (back["shape"], back["min"], back["max"], back["example_value"]) == ([2], -0.5, "Infinity", "NaN")
    assert math.isnan(float(back["example_value"]))
    assert float(back["max"]) == math.inf


def test_schema_is_a_schema() -> None:
    """The schema in the package is valid under draft 2020-12."""
    Draft202012Validator.check_schema(report.schema())


@pytest.mark.parametrize("key", report.schema()["required"])
def test_schema_asks_for_what_is_promised(key: str) -> None:
    """A report without one of the promised fields is refused."""
    broken = Report("train.py", 0, 2).to_json()
    del broken[key]
    with pytest.raises(ValidationError):
        Draft202012Validator(report.schema()).validate(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "fine"},
        {"verdict": "nonfinite"},
        {"steps": -1},
        {"script_exit": "0"},
        {"extra": 1},
        {"incidents": [{}]},
    ],
    ids=str,
)
def test_schema_refuses(change: dict[str, Any]) -> None:
    """A report that contradicts itself, or says what nobody documented, is refused."""
    with pytest.raises(ValidationError):
        Draft202012Validator(report.schema()).validate({**Report("train.py", 0, 2).to_json(), **change})


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Incident, "incident"), (Where, "where"), (Operand, "operand"), (Cure, "cure"), (HistoryStep, "historyStep")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schema_knows_every_field(kind: Any, name: str) -> None:
    """The schema has the fields of the findings, neither fewer nor more."""
    assert set(report.schema()["$defs"][name]["properties"]) == {field.name for field in dataclasses.fields(kind)}


def test_docs_know_every_field() -> None:
    """docs/report.md has a row for every field of the schema, and for none that there is not."""
    documented = set()
    for row in re.findall(r"^\| (`.*?`) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE):
        documented |= set(re.findall(r"`(\w+)`", row))
    schema = report.schema()
    fields = set(schema["properties"]).union(*(set(part.get("properties", ())) for part in schema["$defs"].values()))
    assert documented == fields
