"""The samples of one batch: which of them hold finite numbers, and the batch without some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from nanguard.backend.losses import is_compiled_by_xla
from nanguard.backend.predictions import logits_behind, map_prediction, mask_of, set_logits, set_mask
from nanguard.losses._base import to_tensors

Rows: TypeAlias = tf.Tensor
"""One bool for each sample of a batch."""

# Losses take the logits from in front of these ops, though only the graph tells of them.
_ACTIVATIONS = {"Softmax": tf.nn.softmax, "Sigmoid": tf.math.sigmoid}


@dataclass(frozen=True)
class Samples:
    """What a loss is given: any structure of tensors, whose first axis is that of the samples.

    Args:
        y_true: Labels.
        y_pred: Predictions, as the very tensors that came: Keras leaves logits and masks on them.
        sample_weight: Weights, or None.
    """

    y_true: Any
    y_pred: Any
    sample_weight: Any = None

    @classmethod
    def of(cls, y_true: Any, y_pred: Any, sample_weight: Any) -> Samples:
        """Makes tensors of what a loss was called with.

        Raises:
            ValueError: If `y_pred` has no axis of samples.
        """
        samples = cls(to_tensors(y_true), to_tensors(y_pred), to_tensors(sample_weight))
        if samples._lead.shape.rank == 0:
            raise ValueError(
                "`y_pred` must have an axis of samples, the first one. Received: shape=(). For a single number take "
                "y_pred[None]."
            )
        return samples

    @property
    def num(self) -> tf.Tensor:
        """How many samples there are."""
        return tf.shape(self._lead)[0]

    @property
    def rows_shape(self) -> tf.TensorShape:
        """The same, as far as it is known before anything runs."""
        return self._lead.shape[:1]

    @property
    def _lead(self) -> tf.Tensor:
        return keras.tree.flatten(self.y_pred)[0]

    @property
    def sources(self) -> list[tf.Tensor]:
        """The tensors with respect to which a loss has a gradient: predictions, and the logits behind them."""
        leaves = floats_of(self.y_pred)
        behind = [logits for leaf in leaves if (logits := _logits(leaf)) is not None]
        return [*leaves, *behind]

    def value(self, loss: Callable[..., Any]) -> tf.Tensor:
        """Gives what the loss makes of the samples."""
        return tf.convert_to_tensor(loss(self.y_true, self.y_pred, self.sample_weight))

    def value_and_gradients(self, loss: Callable[..., Any]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Gives what the loss makes of the samples, and its gradients for those of `sources` that it uses."""
        sources = self.sources
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            value = self.value(loss)
        return value, [_dense(gradient) for gradient in tape.gradient(value, sources) if gradient is not None]

    def only(self, keep: Rows) -> Samples:
        """Gives the batch without the others; one sample of zeros where none is kept.

        Under XLA, whose shapes are fixed, the first that is kept takes the place of each of the others instead. No
        gradient goes to what was taken out, nor to what took its place, whatever comes from above.
        """
        return self._taken(_in_place(keep) if is_compiled_by_xla() else _removed(keep), keep)

    def with_stand_ins(self, keep: Rows) -> Samples:
        """Gives the batch, of the same size, with the first that is kept in the place of each of the others."""
        return self._taken(_in_place(keep), keep)

    def tensors(self) -> list[tf.Tensor]:
        """Gives all that the batch holds, as a flat list."""
        predictions = keras.tree.flatten(self.y_pred)
        left = [part for leaf in predictions for part in (_logits(leaf), mask_of(leaf))]
        return [
            x for x in [*keras.tree.flatten((self.y_true, self.y_pred, self.sample_weight)), *left] if x is not None
        ]

    def with_tensors(self, tensors: Sequence[tf.Tensor]) -> Samples:
        """Gives a batch of the same structure that holds other tensors, in the order of `tensors()`."""
        remaining = iter(tensors)
        structures = (self.y_true, self.y_pred, self.sample_weight)
        new = [keras.tree.map_structure(lambda x: None if x is None else next(remaining), x) for x in structures]
        for old_leaf, leaf in zip(keras.tree.flatten(self.y_pred), keras.tree.flatten(new[1]), strict=True):
            if _logits(old_leaf) is not None:
                set_logits(leaf, next(remaining))
            if mask_of(old_leaf) is not None:
                set_mask(leaf, next(remaining))
        return Samples(*new)

    def _taken(self, take: Callable[[tf.Tensor], tf.Tensor], keep: Rows) -> Samples:
        def take_leaf(leaf: Any) -> Any:
            return take(leaf) if _has_rows(leaf, keep) else leaf

        def take_prediction(leaf: tf.Tensor) -> tf.Tensor:
            if not _has_rows(leaf, keep):
                return leaf
            made_by, mask = _activation_op(leaf), mask_of(leaf)
            if made_by is None:
                taken = map_prediction(take, leaf)
            else:
                taken = tf.cast(_ACTIVATIONS[made_by.type](take(made_by.inputs[0])), leaf.dtype)
            return taken if mask is None else set_mask(taken, take_leaf(mask))

        return Samples(
            keras.tree.map_structure(take_leaf, self.y_true),
            keras.tree.map_structure(take_prediction, self.y_pred),
            keras.tree.map_structure(take_leaf, self.sample_weight),
        )


def floats_of(x: Any) -> list[tf.Tensor]:
    """Gives the floating tensors of a structure."""
    return [leaf for leaf in keras.tree.flatten(x) if leaf is not None and leaf.dtype.is_floating]


def finite_rows(x: Any, num: tf.Tensor) -> Rows:
    """Gives for each sample whether all that a structure of tensors holds of it is finite."""
    good = tf.ones([num], tf.bool)
    for leaf in floats_of(x):
        if _has_rows(leaf, good):
            good &= tf.reduce_all(tf.math.is_finite(leaf), axis=tf.range(1, tf.rank(leaf)))
    return good


def all_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Gives whether every number is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in tensors])


def surely_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Gives whether the sum of all squares is finite, and so every number.

    One pass over the numbers, where `all_finite` takes two. It is false for finite numbers whose squares are not.
    """
    floats = [x if x.dtype.size > 2 else tf.cast(x, tf.float32) for x in tensors]
    return tf.math.is_finite(tf.add_n([tf.cast(tf.nn.l2_loss(x), tf.float64) for x in floats]))


def along_rows(rows: Rows, x: tf.Tensor) -> tf.Tensor:
    """Gives one bool for each sample in a shape that broadcasts over all that `x` holds of it."""
    return tf.reshape(rows, tf.concat([tf.shape(rows), tf.ones([tf.rank(x) - 1], tf.int32)], 0))


def at_least_one(keep: Rows) -> Rows:
    """Gives the same samples, or the first one if there are none."""
    return keep | (~tf.reduce_any(keep) & tf.equal(tf.range(tf.shape(keep)[0]), 0))


def _removed(keep: Rows) -> Callable[[tf.Tensor], tf.Tensor]:
    is_any, partitions = tf.reduce_any(keep), tf.cast(at_least_one(keep), tf.int32)

    def take(x: tf.Tensor) -> tf.Tensor:
        # Not tf.boolean_mask: the gradient of its gather is IndexedSlices, and Keras warns when these become a tensor.
        return tf.dynamic_partition(tf.where(is_any, x, tf.zeros_like(x)), partitions, 2)[1]

    return take


def _in_place(keep: Rows) -> Callable[[tf.Tensor], tf.Tensor]:
    first = tf.argmax(tf.cast(keep, tf.int32), output_type=tf.int32)

    def take(x: tf.Tensor) -> tf.Tensor:
        # Zeros where none is kept: a class id of 0 can be looked up, one of NaN cannot.
        stand_in = tf.where(tf.reduce_any(keep), tf.gather(x, [first]), tf.zeros_like(x[:1]))
        # The select also stops a NaN that comes from above, which a product with 0 would not.
        return tf.where(along_rows(keep, x), x, tf.stop_gradient(stand_in))

    return take


def _has_rows(leaf: Any, rows: Rows) -> bool:
    if leaf is None or leaf.shape.rank == 0:
        return False
    sizes = (leaf.shape.rank and leaf.shape[0], rows.shape[0])
    return None in sizes or sizes[0] == sizes[1]


def _activation_op(y_pred: tf.Tensor) -> Any:
    """The op of the graph, if there is one, that made probabilities of logits."""
    if not tf.is_symbolic_tensor(y_pred) or logits_behind(y_pred) is not None:
        return None
    op = y_pred.op
    while op.type == "Cast" and op.inputs[0].dtype.is_floating:
        op = op.inputs[0].op
    return op if op.type in _ACTIVATIONS else None


def _logits(y_pred: tf.Tensor) -> tf.Tensor | None:
    made_by = _activation_op(y_pred)
    return logits_behind(y_pred) if made_by is None else made_by.inputs[0]


def _dense(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])
