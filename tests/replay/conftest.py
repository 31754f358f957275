"""Steps as captures, made without a watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture import Capture, Targets, TracedStep
from nanguard.guard import variables as script_variables
from nanguard.replay import program

Capturing = Callable[..., tuple[Capture, Any]]


def capture_of(function: Any, *args: Any, **targets: Any) -> tuple[Capture, Any]:
    """A traced function on some arguments as a captured step, and its concrete function; runs nothing."""
    concrete = tf.function(function).get_concrete_function(*args)
    graph = concrete.graph
    given = tf.nest.flatten(args)
    values = {id(inside): value for inside, value in zip(graph.inputs, given, strict=False)}
    handles, before = {}, {}
    for outside, _ in graph.captures:
        dtype = script_variables.dtype_of(outside) if outside.dtype == tf.resource else None
        if dtype is not None:
            handles[execution.identity_of(outside)] = outside
            before[execution.identity_of(outside)] = execution.read_variable(outside, dtype)
    body = TracedStep(graph, values, before, handles)
    return Capture(0, None, ("loss",), Targets(**targets), body), concrete


def outputs_of(replayed: program.Program, graph: Any) -> list[Any]:
    """What a replay gave for the outputs of a graph."""
    return [replayed.values[replayed.numbers[id(tensor)]] for tensor in graph.outputs]


@pytest.fixture
def capturing() -> Capturing:
    """Gives `capture_of`."""
    return capture_of


@pytest.fixture
def replayed_outputs() -> Callable[..., list[Any]]:
    """Gives `outputs_of`."""
    return outputs_of
