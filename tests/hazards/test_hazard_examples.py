"""Every hazard's `bad` is not finite and its `good` is, eagerly and in a graph; what it names exists."""

from __future__ import annotations

import ast

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard
from nanguard import hazards

STATELESS = [
    hazard for name in ("domain", "overflow", "gradient", "precision", "reduction") for hazard in hazards.FAMILIES[name]
]

every_hazard = pytest.mark.parametrize("hazard", hazards.ALL, ids=lambda hazard: hazard.code)
every_stateless_hazard = pytest.mark.parametrize("hazard", STATELESS, ids=lambda hazard: hazard.code)


def value_of(code: str):
    """Runs the lines of an example and gives the value of its last expression."""
    *lines, last = ast.parse(code).body
    assert isinstance(last, ast.Expr)
    scope = {"tf": tf, "keras": keras, "np": np, "ng": nanguard}
    exec(compile(ast.Module(lines, []), "<example>", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "<example>", "eval"), scope)


def is_all_finite(value) -> bool:
    leaves = tf.nest.flatten(value)
    assert leaves
    return all(bool(np.isfinite(np.array(leaf).astype("float64")).all()) for leaf in leaves)


@every_hazard
def test_bad_is_not_finite(hazard):
    """The bad example really gives NaN or infinity."""
    keras.utils.set_random_seed(0)
    assert not is_all_finite(value_of(hazard.bad))


@every_hazard
def test_good_is_finite(hazard):
    """The cured example is finite."""
    keras.utils.set_random_seed(0)
    assert is_all_finite(value_of(hazard.good))


@every_stateless_hazard
def test_examples_in_a_graph(hazard):
    """In a graph the examples come out as they do eagerly."""
    bad, good = (tf.function(lambda code=code: value_of(code), autograph=False)() for code in (hazard.bad, hazard.good))
    assert not is_all_finite(bad)
    assert is_all_finite(good)


@every_hazard
def test_ops_are_tensorflow_ops(hazard):
    """Every op type is one that TensorFlow has."""
    for op in hazard.ops:
        assert op == hazards.ANY_OP or hasattr(tf.raw_ops, op), op


@every_hazard
def test_calls_exist(hazard):
    """Every call is a public name of TensorFlow or Keras."""
    for call in hazard.calls:
        root, *path = call.split(".")
        found = {"tf": tf, "keras": keras}[root]
        for name in path:
            found = getattr(found, name)
        assert callable(found), call
