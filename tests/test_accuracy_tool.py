"""The accuracy tool reads expectations as documented and grades reports by them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "tools" / "accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module
    spec.loader.exec_module(module)
    return module


accuracy = load()

FACTS = "# expect: step=7 born_in=forward op=Log|Log1p forward_op=null cause=log_of_zero rows=3,1 short=1"


def case(directory: Path, first_line: str, *lines: str) -> Path:
    script = directory / "case.py"
    script.write_text("\n".join([first_line, *lines]) + "\n", encoding="utf-8")
    return script


def incident(directory: Path, **changes: Any) -> dict[str, Any]:
    found = {
        "step": 7,
        "born_in": "forward",
        "op": "Log",
        "forward_op": None,
        "where": {"file": "case.py", "line": 3, "function": "loss", "code": "log(p)"},
        "hazard": "NG101",
        "cause": "log_of_zero",
        "rows": [3, 1],
        "dataset_rows": None,
    }
    return found | changes


@pytest.fixture
def expectation(tmp_path: Path) -> Any:
    return accuracy.parse(case(tmp_path, FACTS, "import keras", "x = log(p)  # NG101|NG103 here", "y = log(q)"))


def test_facts_are_read_with_null_alternatives_and_lists(expectation: Any, tmp_path: Path) -> None:
    """`null` is None, `|` parts alternatives, `,` parts a list's numbers."""
    assert expectation.answers == {
        "step": (7,),
        "born_in": ("forward",),
        "op": ("Log", "Log1p"),
        "forward_op": (None,),
        "cause": ("log_of_zero",),
        "rows": ([1, 3],),
        "line": (((tmp_path / "case.py").resolve(), 3),),
        "hazard": ("NG101", "NG103"),
    }
    assert expectation.short
    assert not expectation.healthy


def test_healthy_case_has_no_answers(tmp_path: Path) -> None:
    """A healthy script expects nothing to be found."""
    expectation = accuracy.parse(case(tmp_path, "# expect: healthy short=1"))
    assert expectation == accuracy.Expectation(healthy=True, answers={}, short=True)


def test_marked_line_may_stand_in_another_file(tmp_path: Path) -> None:
    """`file=` names the helper module that holds the mark."""
    helper = tmp_path / "pieces" / "helper.py"
    helper.parent.mkdir()
    helper.write_text("import tensorflow as tf\ny = tf.sqrt(x)  # NG301 here\n", encoding="utf-8")
    script = case(tmp_path, "# expect: step=0 born_in=backward cause=sqrt_norm_grad_at_zero file=pieces/helper.py")
    assert accuracy.parse(script).answers["line"] == ((helper.resolve(), 2),)


def test_divergence_needs_no_marked_line(tmp_path: Path) -> None:
    """A divergence was born in no line."""
    expectation = accuracy.parse(case(tmp_path, "# expect: step=4 born_in=divergence cause=lr_too_high"))
    assert "line" not in expectation.answers


@pytest.mark.parametrize(
    ("first_line", "complaint"),
    [
        ("import keras", "must begin with"),
        ("# expect: step=1 born_in=forward cause=a born_in=data", "given once"),
        ("# expect: step=1 born_in=forward", "`cause` must be given"),
        ("# expect: step=1 born_in=forward cause=a", "one line must be marked"),
        ("# expect: step=1 born_in=forward cause=a colour=red", "no such fact: colour"),
        ("# expect: step=1 born_in=forward cause=", "as key=value"),
        ("# expect: step=soon born_in=divergence cause=a", "invalid literal"),
        ("# expect: healthy step=3", "has no facts"),
    ],
)
def test_malformed_expectation_is_refused(tmp_path: Path, first_line: str, complaint: str) -> None:
    """A case that says nothing gradable is an error, not a pass."""
    with pytest.raises(ValueError, match=complaint):
        accuracy.parse(case(tmp_path, first_line))


def test_two_marked_lines_are_refused(tmp_path: Path) -> None:
    """Only one line can be the one."""
    with pytest.raises(ValueError, match="Found: 2"):
        accuracy.parse(case(tmp_path, FACTS, "a = 1  # NG101 here", "b = 2  # NG101 here"))


def test_right_incident_has_no_faults(expectation: Any, tmp_path: Path) -> None:
    """The order of rows does not matter, and a key without expectation is not graded."""
    grades, faults = accuracy.grade(expectation, incident(tmp_path), tmp_path)
    assert faults == []
    assert set(grades) == {"step", "born_in", "op", "forward_op", "line", "hazard", "cause", "rows"}
    assert all(grades.values())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"step": 8}, "step: expected 7, got 8"),
        ({"op": None}, 'op: expected "Log" or "Log1p", got null'),
        ({"rows": None}, "rows: expected [1, 3], got null"),
        ({"where": None}, "line: expected case.py:3, got null"),
        ({"where": {"file": "case.py", "line": 4}}, "line: expected case.py:3, got case.py:4"),
        ({"where": {"file": "other/case.py", "line": 3}}, "line: expected case.py:3, got case.py:3"),
        ({"hazard": "NG102"}, 'hazard: expected "NG101" or "NG103", got "NG102"'),
    ],
)
def test_wrong_answer_is_one_fault(expectation: Any, tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    """Each difference is told as expected and got."""
    grades, faults = accuracy.grade(expectation, incident(tmp_path, **changes), tmp_path)
    assert faults == [fault]
    assert list(grades.values()).count(False) == 1


def test_line_of_a_divergence_is_not_graded(tmp_path: Path) -> None:
    """Where forward and divergence are both right, a divergence owes no line."""
    script = case(
        tmp_path,
        "# expect: step=7 born_in=forward|divergence cause=exploding_rnn",
        "model.fit(x, y)  # NG602 here",
    )
    found = incident(tmp_path, born_in="divergence", where=None, hazard="NG601", cause="exploding_rnn")
    grades, faults = accuracy.grade(accuracy.parse(script), found, tmp_path)
    assert faults == []
    assert "line" not in grades


@pytest.mark.parametrize(("exit_code", "found"), [(0, [{"step": 3, "cause": "log_of_zero"}]), (1, [])])
def test_healthy_case_allows_no_incident_and_no_exit_code(tmp_path: Path, exit_code: int, found: list[Any]) -> None:
    """Either of them is a false alarm; neither of them is right."""
    healthy = accuracy.Expectation(healthy=True)
    assert accuracy.judge(healthy, [], 0, tmp_path) == ({}, [])
    (fault,) = accuracy.judge(healthy, found, exit_code, tmp_path)[1]
    assert fault.startswith("false alarm")


def test_what_was_not_found_is_wrong_in_every_key(expectation: Any, tmp_path: Path) -> None:
    """A miss cannot raise the share of right lines by leaving the count."""
    grades, faults = accuracy.judge(expectation, [], 0, tmp_path)
    assert faults == ["not found"]
    assert set(grades) == set(expectation.answers)
    assert not any(grades.values())


def test_incident_without_its_exit_code_is_a_fault(expectation: Any, tmp_path: Path) -> None:
    """A script in which something was found must end with 1."""
    faults = accuracy.judge(expectation, [incident(tmp_path)], 0, tmp_path)[1]
    assert faults == ["exit code: expected 1, got 0"]


def test_cases_are_selected_by_name_and_length(tmp_path: Path) -> None:
    """`only` is a glob over the names, `short` keeps the marked ones."""
    for name, mark in [("data_a", " short=1"), ("data_b", ""), ("ok_c", " short=1")]:
        (tmp_path / f"{name}.py").write_text(f"# expect: healthy{mark}\n", encoding="utf-8")
    assert [path.stem for path in accuracy.select(tmp_path, only="data_*")] == ["data_a", "data_b"]
    assert [path.stem for path in accuracy.select(tmp_path, short=True)] == ["data_a", "ok_c"]


def test_totals_count_false_alarms_and_misses() -> None:
    """A miss lowers `found`; a false alarm counts among the healthy."""
    outcomes = [
        accuracy.Outcome("a", False, True, {"step": True, "op": False}, ("op: ...",), False, 1.0),
        accuracy.Outcome("b", False, False, {}, ("not found",), False, 1.0),
        accuracy.Outcome("ok_c", True, True, {}, ("false alarm",), False, 1.0),
        accuracy.Outcome("ok_d", True, False, {}, ("no report",), True, 1.0),
    ]
    counts = accuracy.totals(outcomes)
    assert counts["found"] == (1, 2)
    assert counts["step"] == (1, 1)
    assert counts["op"] == (0, 1)
    assert counts["no false alarm"] == (0, 2)
    assert counts["no crash"] == (3, 4)


def test_every_case_of_the_repository_is_well_formed() -> None:
    """The set is as large as promised, and its short run holds both kinds."""
    scripts = accuracy.select(accuracy.CASES)
    expectations = [accuracy.parse(script) for script in scripts]
    assert sum(not expectation.healthy for expectation in expectations) >= 56
    assert sum(expectation.healthy for expectation in expectations) >= 18
    assert {expectation.healthy for expectation in expectations if expectation.short} == {True, False}
