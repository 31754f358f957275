"""The state of a training as named tensors: what there is, whether it is finite, to disk and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from nanguard.backend import training
from nanguard.guard import variables

_PREFIX = "state"
# What must be finite. A metric may well hold an infinity, as the minimum of nothing does.
_FINITE = ("model", "optimizer")


def of(models: Iterable[Any], optimizers: Iterable[Any], others: Iterable[Any]) -> dict[str, list[Any]]:
    """Gives all variables by what they are: model, optimizer, metrics, and other; each once."""
    groups: dict[str, list[Any]] = {"model": [], "optimizer": [], "metrics": [], "other": []}
    seen: set[int] = set()

    def add(group: str, found: Iterable[Any]) -> None:
        for variable in found:
            if variables.is_variable(variable) and id(variables.raw(variable)) not in seen:
                seen.add(id(variables.raw(variable)))
                groups[group].append(variable)

    for model in models:
        add("model", model.variables)
        add("metrics", getattr(model, "metrics_variables", ()))
        if getattr(model, "optimizer", None) is not None:
            add("optimizer", variables.optimizer_variables(model.optimizer))
        for thing in _attributes(model):
            if isinstance(thing, keras.optimizers.Optimizer):
                add("optimizer", variables.optimizer_variables(thing))
            elif isinstance(thing, keras.metrics.Metric):
                add("metrics", thing.variables)
            elif isinstance(thing, keras.random.SeedGenerator):
                add("model", [thing.state])
            elif variables.is_variable(thing):
                add("model", [thing])
    for optimizer in optimizers:
        add("optimizer", variables.optimizer_variables(optimizer))
    add("other", others)
    return groups


def _attributes(model: Any) -> Iterator[Any]:
    layers = model._flatten_layers() if isinstance(model, keras.Layer) else [model]
    for layer in layers:
        waiting = [(value, 0) for value in vars(layer).values()]
        while waiting:
            value, depth = waiting.pop(0)
            if isinstance(value, dict | list | tuple) and depth < 3:
                inner = value.values() if isinstance(value, dict) else value
                waiting += [(item, depth + 1) for item in inner]
            else:
                yield value


def described(groups: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Gives the key, shape and dtype of each variable, in the order of the groups."""
    found = []
    for group, members in groups.items():
        for index, variable in enumerate(members):
            inner = variables.raw(variable)
            name = getattr(variable, "path", inner.name).partition(":")[0]
            key = f"{group}/{index:04d}/{name}"
            found.append({"key": key, "shape": list(inner.shape), "dtype": inner.dtype.name})
    return found


def fits(groups: dict[str, list[Any]], wanted: list[dict[str, Any]]) -> str | None:
    """Gives in words where the variables are not those that were written; None if they are the same.

    The names are not compared: they hold counters that depend on what else the process has made.
    """
    there = described(groups)
    for now, then in zip(there, wanted, strict=False):
        if _kind(now) != _kind(then):
            return f"{then['key']} {then['dtype']}{then['shape']} against {now['key']} {now['dtype']}{now['shape']}"
    if len(there) != len(wanted):
        more = (there if len(there) > len(wanted) else wanted)[min(len(there), len(wanted))]
        return f"{len(wanted)} variables against {len(there)}; the first that only one of them has is {more['key']}"
    return None


def _kind(entry: dict[str, Any]) -> tuple[str, list[int], str]:
    return entry["key"].partition("/")[0], entry["shape"], entry["dtype"]


class Snapshot:
    """The values of all variables at one moment, by reference.

    Args:
        groups: The variables, as `of` gives them.
        arrays: More NumPy arrays to keep, by name.
    """

    def __init__(self, groups: dict[str, list[Any]], arrays: dict[str, Any]) -> None:
        self.entries = described(groups)
        self._names: list[str] = []
        self._tensors: list[tf.Tensor] = []
        for entry, variable in zip(self.entries, (v for members in groups.values() for v in members), strict=True):
            values = [part.read_value() for part in training.components(variables.raw(variable))]
            if len(values) > 1 and all(_is_same(values[0], value) for value in values[1:]):
                values = values[:1]
            entry["replicas"] = len(values)
            self._names += [entry["key"], *(f"{entry['key']}/replica_{n}" for n in range(1, len(values)))]
            self._tensors += values
        self._names += arrays
        self._tensors += [tf.convert_to_tensor(array) for array in arrays.values()]

    def nonfinite(self) -> str | None:
        """Gives in words the first weight, slot or layer state that is not finite; None if all are."""
        for name, tensor in zip(self._names, self._tensors, strict=True):
            if name.partition("/")[0] not in _FINITE or not (tensor.dtype.is_floating or tensor.dtype.is_complex):
                continue
            parts = [tensor] if tensor.dtype.is_floating else [tf.math.real(tensor), tf.math.imag(tensor)]
            for part in parts:
                # One pass and no mask to write: 0 * x is 0 for a finite x, and NaN for any other.
                if not bool(tf.reduce_sum(part * tf.zeros([], part.dtype)) == 0):
                    bad = int(tf.reduce_sum(tf.cast(~tf.math.is_finite(part), tf.int64)))
                    return f"{name} has {bad} of {int(tf.size(part))} values that are not finite"
        return None

    def write(self, folder: Path) -> None:
        """Writes the tensors into a folder, in TensorFlow's own checkpoint format."""
        with tf.device("CPU:0"):
            tf.raw_ops.SaveV2(
                prefix=str(folder / _PREFIX),
                tensor_names=self._names,
                shape_and_slices=[""] * len(self._names),
                tensors=self._tensors,
            )


def load(folder: Path) -> dict[str, Any]:
    """Gives all tensors of a checkpoint by name.

    Raises:
        ValueError: If the files are damaged.
    """
    try:
        reader = tf.train.load_checkpoint(str(folder / _PREFIX))
        names = sorted(reader.get_variable_to_shape_map())
        dtypes = [reader.get_variable_to_dtype_map()[name] for name in names]
        with tf.device("CPU:0"):
            # Reads through the same checksums; 16-bit floats come as they are.
            tensors = tf.raw_ops.RestoreV2(
                prefix=str(folder / _PREFIX), tensor_names=names, shape_and_slices=[""] * len(names), dtypes=dtypes
            )
    except (tf.errors.OpError, RuntimeError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    return dict(zip(names, tensors, strict=True))


def put(groups: dict[str, list[Any]], entries: list[dict[str, Any]], tensors: dict[str, Any]) -> None:
    """Gives each variable the value that was written of it, on each replica."""
    members = [variable for group in groups.values() for variable in group]
    for entry, variable in zip(entries, members, strict=True):
        for index, part in enumerate(training.components(variables.raw(variable))):
            last = min(index, entry["replicas"] - 1)
            part.assign(tensors[f"{entry['key']}/replica_{last}" if last else entry["key"]])


def _is_same(one: tf.Tensor, other: tf.Tensor) -> bool:
    return bool(one.numpy().tobytes() == other.numpy().tobytes())
