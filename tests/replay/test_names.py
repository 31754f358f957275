"""How the user's own line spells the operands of an op, and on which line the op stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanguard.replay import names

# A statement (the op is asked for at its first line), the op, the operands and how many lines below the op stands.
TABLE = [
    ("loss = tf.math.log(p)", "Log", ["p"], 0),
    ("loss = -tf.reduce_mean(tf.math.log(1.0 - p[:, 1]))", "Log", ["1.0 - p[:, 1]"], 0),
    ("loss = keras.ops.log(self.head(x))", "Log", ["self.head(x)"], 0),
    ("loss = log(x)", "Log", ["x"], 0),
    ("y = a / b", "RealDiv", ["a", "b"], 0),
    ("y = (a - m) / tf.sqrt(v)", "RealDiv", ["a - m", "tf.sqrt(v)"], 0),
    ("y = (a - m) / tf.sqrt(v)", "Sqrt", ["v"], 0),
    ("y = tf.norm(a - b, axis=1)", "Sqrt", [], 0),
    ("y = x ** gamma", "Pow", ["x", "gamma"], 0),
    ("y = tf.pow(x, gamma)", "Pow", ["x", "gamma"], 0),
    ("y = q @ k", "BatchMatMulV2", ["q", "k"], 0),
    ("y = tf.acos(c)", "Acos", ["c"], 0),
    ("y = tf.math.lgamma(c)", "Lgamma", ["c"], 0),
    ("y = tf.math.log(a) + tf.math.log(b)", "Log", [], 0),  # which of the two, the line does not say
    ("y = a * b * c", "Mul", [], 0),
    ("y = model(x)", "Log", [], 0),
    ("y = tf.math.log(x=p)", "Log", [], 0),
    ("return tf.math.log(p)", "Log", ["p"], 0),
    ("y = (\n    tf.reduce_sum(p)\n    + tf.math.log(q)\n)", "Log", ["q"], 2),
    ("y = (\n    a\n    / tf.reduce_sum(b)\n)", "RealDiv", ["a", "tf.reduce_sum(b)"], 1),
    ("y = tf.reduce_mean(\n    tf.math.log(\n        q\n    )\n)", "Log", ["q"], 1),
    ("if tf.reduce_any(x > 0):\n    y = tf.math.log(x)", "Log", ["x"], 1),
    ("this is no Python", "Log", [], 0),
]


def write(folder: Path, statement: str) -> tuple[str, int]:
    """Writes a file with the statement in a function; gives the file and the statement's line."""
    file = folder / "script.py"
    body = "".join(f"    {line}\n" for line in statement.split("\n"))
    file.write_text(f"import tensorflow as tf\n\n\ndef loss(y, p):\n{body}", encoding="utf-8")
    return str(file), 5


@pytest.mark.parametrize(("statement", "op", "operands", "below"), TABLE, ids=[f"{row[1]}: {row[0]}" for row in TABLE])
def test_operands_and_line(tmp_path: Path, statement: str, op: str, operands: list[str], below: int):
    """Operands are spelled as the line spells them, or not at all; the line is the op's own."""
    file, first = write(tmp_path, statement)
    asked = first + 1 if statement.startswith("if ") else first
    assert names.operands(op, file, asked) == operands
    assert names.line_of(op, file, asked) == first + below


def test_line_of_each_of_several_ops(tmp_path: Path):
    """Several ops of one type in one statement are told apart by the order in which they were made."""
    file, first = write(tmp_path, "y = (\n    tf.math.log(a)\n    - tf.math.log(b)\n    - tf.math.log(c)\n)")
    assert [names.line_of("Log", file, first, turn, 3) for turn in range(3)] == [first + 1, first + 2, first + 3]


def test_file_that_is_not_there():
    """Without a source there is nothing to spell."""
    assert names.operands("Log", "no such file.py", 3) == []
    assert names.line_of("Log", "no such file.py", 3) == 3
