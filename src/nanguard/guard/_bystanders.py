"""What the other callbacks of a `fit` know, so that they go on where they stood."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import keras

from nanguard.guard import _plain

# What Keras gives every callback, and what is drawn on the screen.
_NOT_STATE = {"_model", "model", "params", "validation_data", "_chief_worker_only"}


def named(callbacks: list[Any]) -> dict[str, Any]:
    """Gives the callbacks that have a state of their own, by class; a second one of a class by class and number."""
    found: dict[str, Any] = {}
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            continue
        base = type(callback).__name__
        name, number = base, 1
        while name in found:
            number += 1
            name = f"{base}#{number}"
        found[name] = callback
    return found


def state(callback: Any, arrays: dict[str, Any], name: str) -> dict[str, Any]:
    """Gives the attributes of a callback that hold plain values or arrays, as JSON; arrays go into `arrays`."""
    found = {}
    for key, value in vars(callback).items():
        if key in _NOT_STATE:
            continue
        inner: dict[str, Any] = {}
        try:
            found[key] = _plain.encode(value, inner, f"callbacks/{name}/{key}")
        except _plain.NotPlainError:
            continue
        arrays.update(inner)
    return found


def changed(callback: Any, before: dict[str, Any], arrays: dict[str, Any], name: str) -> dict[str, Any]:
    """Gives what of a callback's state is not as it was when the training began.

    Only that is written: an option that the user changes between two runs must not be changed back.
    """
    inner: dict[str, Any] = {}
    now = state(callback, inner, name)
    found = {key: value for key, value in now.items() if key not in before or before[key] != value}
    # An array counts as changed: a reference says nothing of its values, and few callbacks hold any.
    found |= {key: value for key, value in now.items() if any(n.startswith(f"callbacks/{name}/{key}") for n in inner)}
    arrays.update(inner)
    return found


def put(callback: Any, wanted: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Gives a callback the state that `changed` gave of it."""
    for key, value in wanted.items():
        setattr(callback, key, _plain.decode(value, arrays))


def log_sizes(callbacks: list[Any]) -> dict[str, int]:
    """Gives how long the file of each CSVLogger is now."""
    found = {}
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            if callback.csv_file is not None and not callback.csv_file.closed:
                callback.csv_file.flush()
            found[os.fspath(callback.filename)] = Path(callback.filename).stat().st_size
    return found


def continue_logs(callbacks: list[Any], sizes: dict[str, int]) -> None:
    """Has each CSVLogger go on behind the lines that it had written at the checkpoint.

    Otherwise it would begin its file anew; lines behind the checkpoint are written again, and so are cut off.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            size = sizes.get(os.fspath(callback.filename))
            if size is not None and path.is_file() and path.stat().st_size >= size:
                os.truncate(path, size)
                callback.append = True


def say(text: str) -> None:
    """Prints one line for the user."""
    print(f"nanguard: {text}", file=sys.stderr, flush=True)
