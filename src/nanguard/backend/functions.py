"""A `tf.function` of a user's, made anew around another Python function, with all its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def is_function(thing: Any) -> bool:
    """Whether the thing is a `tf.function`."""
    return isinstance(thing, tf.types.experimental.PolymorphicFunction) and hasattr(thing, "_clone")


def is_compiled(function: Any) -> bool:
    """Whether a `tf.function` is compiled by XLA."""
    return bool(function._jit_compile)


def remade(function: Any, python_function: Callable[..., Any], *, is_compiled: bool | None = None) -> Any:
    """Makes a `tf.function` like another.

    Args:
        function: The other.
        python_function: What the new one traces; takes what the other's takes.
        is_compiled: Whether XLA compiles the new one. Defaults to what the other does.
    """
    made = function._clone(python_function)
    if is_compiled is not None:
        made._jit_compile = is_compiled or None
    return made
