"""How the user's own line spells the operands of an op."""

from __future__ import annotations

import ast
import linecache

# The last part of the functions that make an op, where it is not the op's own name in lower case.
_CALLS = {
    "Log": ("log", "log2", "log10"),
    "Sqrt": ("sqrt",),
    "Rsqrt": ("rsqrt",),
    "RealDiv": ("divide", "truediv", "divide_no_nan"),
    "DivNoNan": ("divide_no_nan", "div_no_nan"),
    "Pow": ("pow", "power"),
    "Exp": ("exp",),
    "Mean": ("reduce_mean", "mean"),
    "Sum": ("reduce_sum", "sum"),
    "Mul": ("multiply",),
    "MatMul": ("matmul",),
    "Softmax": ("softmax",),
}
# Functions in which the op is one of several: they tell the line, but what they are given is not its operand.
_INSIDE = {
    "Sqrt": ("norm", "reduce_std", "std", "cosine_similarity"),
    "Rsqrt": ("l2_normalize", "normalize"),
}
_OPERATORS: dict[str, tuple[type[ast.operator], ...]] = {
    "RealDiv": (ast.Div,),
    "Pow": (ast.Pow,),
    "Mul": (ast.Mult,),
    "Sub": (ast.Sub,),
    "AddV2": (ast.Add,),
    "MatMul": (ast.MatMult,),
    "BatchMatMulV2": (ast.MatMult,),
    "FloorMod": (ast.Mod,),
}


def operands(op: str, file: str, line: int) -> list[str]:
    """The operands of an op as the source line spells them; empty where that cannot be told for certain.

    Example:

    >>> operands("Log", "no such file", 1)
    []
    """
    found = _makers(op, file, line)
    here = [node for node in found if node.lineno <= line <= (node.end_lineno or node.lineno)] or found
    if len(here) != 1:
        return []
    node = here[0]
    parts = [node.left, node.right] if isinstance(node, ast.BinOp) else node.args
    return [ast.unparse(part) for part in parts]


def is_made(op: str, file: str, line: int) -> bool:
    """Whether the statement at a line has a call or an operator that makes an op of the given type."""
    return bool(_makers(op, file, line))


def line_of(op: str, file: str, line: int, turn: int = 0, turns: int = 1) -> int:
    """The line on which the op itself stands, in a statement of several lines of which Python named another one.

    Args:
        op: TensorFlow's type of the op.
        file: The source file.
        line: The line that Python named.
        turn: Which of the ops of this type that the statement made it is, in the order in which they were made.
        turns: How many the statement made.
    """
    found = sorted(
        _makers(op, file, line, with_inside=True), key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0)
    )
    if not found or (len(found) != turns and any(_own_line(node) == line for node in found)):
        return line
    if len(found) == turns:
        return _own_line(found[turn])
    return _own_line(found[0]) if len(found) == 1 else line


def _own_line(node: ast.BinOp | ast.Call) -> int:
    if isinstance(node, ast.BinOp):
        return node.left.end_lineno or node.lineno
    return node.func.end_lineno or node.lineno


def _makers(op: str, file: str, line: int, *, with_inside: bool = False) -> list[ast.BinOp | ast.Call]:
    """The calls and operators in the statement at a line that make an op of the given type."""
    statement = _statement(file, line)
    if statement is None:
        return []
    calls = (*_CALLS.get(op, ()), op.lower(), *(_INSIDE.get(op, ()) if with_inside else ()))
    found: list[ast.BinOp | ast.Call] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS.get(op, ())):
            found.append(node)
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in calls:
                found.append(node)
    return found


def _statement(file: str, line: int) -> ast.stmt | None:
    source = "".join(linecache.getlines(file))
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    inside = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    simple = [node for node in inside if not hasattr(node, "body")]
    return min(simple or inside, key=lambda node: (node.end_lineno or 0) - node.lineno, default=None)
