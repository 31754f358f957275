"""A hazard's `bad` or `good` as a function of the numbers that stand in it, with a domain for each."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import nanguard as ng
from nanguard.testing import domains
from nanguard.testing.domains import Domain

# Calls whose result is an array of numbers that stand in the source, or are said by a shape.
_TENSORS = ("tf.constant", "tf.zeros", "tf.ones", "tf.fill")
_FILE = "snippet.py"
_ARRAYS = ("np.array", "np.zeros", "np.ones", "np.full", "np.linspace", "np.arange")


@dataclass(frozen=True)
class Snippet:
    """A snippet as a function.

    Args:
        function: Takes a tensor for each array of numbers that the snippet wrote down.
        values: What the snippet had written there.
        domains: Numbers around those: twice their range, with infinities and NaN where they have any.
    """

    function: Callable[..., Any]
    values: tuple[np.ndarray, ...]
    domains: tuple[Domain, ...]

    @property
    def fixed(self) -> tuple[Domain, ...]:
        """Domains of the values alone."""
        return tuple(domains.fixed(value) for value in self.values)


def function_of(code: str) -> Snippet:
    """Turns a snippet into a function of its numbers; of none if it has none that stand in a list or an array."""
    lifter = _Lifter()
    *lines, last = lifter.visit(ast.parse(code)).body
    assert isinstance(last, ast.Expr)
    body = [*lines, ast.Return(last.value)]
    names = [f"x{place}" for place in range(len(lifter.values))]
    header = ast.parse(f"def snippet({', '.join(names)}): pass")
    header.body[0].body = body
    scope: dict[str, Any] = {"tf": tf, "keras": keras, "np": np, "ng": ng, "nanguard": ng}
    source = ast.unparse(ast.fix_missing_locations(header))
    # With its lines where Python looks for them, as those of a file.
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    exec(compile(source, _FILE, "exec"), scope)
    return Snippet(scope["snippet"], tuple(lifter.values), tuple(map(_around, lifter.values)))


class _Lifter(ast.NodeTransformer):
    """Puts a parameter in the place of each array of numbers."""

    def __init__(self) -> None:
        self.values: list[np.ndarray] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func)
        if name in _TENSORS + _ARRAYS:
            value = _evaluated(node)
            if value is not None and value.dtype.kind in "fi" and value.ndim:
                return self._parameter(value, node, is_tensor=name in _TENSORS)
        self.generic_visit(node)
        return node

    def visit_List(self, node: ast.List) -> ast.AST:
        value = None if any(isinstance(each, ast.Call) for each in ast.walk(node)) else _evaluated(node)
        if value is not None and value.dtype.kind == "f":
            return self._parameter(value, node, is_tensor=True)
        self.generic_visit(node)
        return node

    def _parameter(self, value: np.ndarray, node: ast.expr, *, is_tensor: bool) -> ast.AST:
        name = f"x{len(self.values)}"
        self.values.append(value)
        if not is_tensor:
            return ast.parse(f"np.asarray({name}, {value.dtype.name!r})", mode="eval").body
        dtypes = [ast.unparse(each) for each in ast.walk(node) if ast.unparse(each).startswith("tf.float")]
        return ast.parse(f"tf.cast({name}, {dtypes[0]})" if dtypes else name, mode="eval").body


def _evaluated(node: ast.expr) -> np.ndarray | None:
    """What an expression of literals gives; None if there is a variable in it."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    if not names <= {"np", "tf"}:
        return None
    try:
        found = eval(compile(ast.Expression(node), "<string>", "eval"), {"np": np, "tf": tf})
        array = np.asarray(found)
    except (TypeError, ValueError):
        return None
    if array.dtype.name == "bfloat16" or array.dtype == np.float16:
        array = array.astype(np.float32)
    return array if array.dtype.kind in "fi" else None


def _around(value: np.ndarray) -> Domain:
    """Numbers from one range below the values to one above."""
    finite = value[np.isfinite(value)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-10.0, 10.0)
    margin = max(high - low, abs(low), 1.0)
    if value.dtype.kind == "i":
        return domains.integers(int(low - 2), int(high + 2), shape=value.shape)
    largest = float(np.finfo(np.float32).max)
    return domains.any_float(
        value.shape,
        low=max(low - margin, -largest),
        high=min(high + margin, largest),
        infinities=bool(np.isinf(value).any()),
        nan=bool(np.isnan(value).any()),
    )
