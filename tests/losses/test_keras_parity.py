"""Every loss of Keras is here: same names, same arguments, and the same numbers wherever Keras's own are right."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RANDOM = np.random.default_rng(0)
ROWS, CLASSES = 64, 7
ERRORS = RANDOM.normal(size=(ROWS, CLASSES)).astype("float32") * 2
TARGETS = RANDOM.normal(size=(ROWS, CLASSES)).astype("float32")
COUNTS = RANDOM.poisson(2.0, (ROWS, CLASSES)).astype("float32")
YES_OR_NO = RANDOM.integers(0, 2, (ROWS, CLASSES)).astype("float32")
UNIT = RANDOM.uniform(0.02, 0.98, (ROWS, CLASSES)).astype("float32")
LABELS = RANDOM.integers(0, CLASSES, ROWS)
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
SHARES = np.asarray(tf.nn.softmax(ERRORS))
OTHER_SHARES = np.asarray(tf.nn.softmax(TARGETS))
VECTORS = np.asarray(tf.math.l2_normalize(ERRORS, -1))


@dataclass(frozen=True)
class Case:
    """One loss with inputs on which Keras's own is right.

    Args:
        name: Of the function.
        y_true: Targets.
        y_pred: Predictions.
        arguments: Further ones.
        ulp: How many units in the last place of the value ours may differ; None where Keras itself is no nearer than
            its 1e-7, and four digits are asked.
    """

    name: str
    y_true: np.ndarray
    y_pred: np.ndarray
    arguments: dict[str, Any] = field(default_factory=dict)
    ulp: float | None = 2

    def __str__(self) -> str:
        return self.name + "".join(f"-{name}={value}" for name, value in self.arguments.items())

    def of(self, module: Any) -> Callable[..., Any]:
        """Gives value and slope by Keras's loss or ours."""
        return lambda *inputs: value_and_slope(getattr(module, self.name), *inputs, **self.arguments)


def value_and_slope(loss: Callable[..., Any], y_true: Any, y_pred: Any, **arguments: Any) -> tuple[Any, Any]:
    """Gives the values of a loss, and the gradient of their sum."""
    y_pred = tf.convert_to_tensor(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = loss(y_true, y_pred, **arguments)
    return values, tape.gradient(values, y_pred)


def skip_unless_keras_takes(case: Case) -> None:
    """Skips where an older Keras lacks the loss, or an argument of it."""
    theirs = getattr(keras.losses, case.name, None)
    if theirs is None or not case.arguments.keys() <= inspect.signature(theirs).parameters.keys():
        pytest.skip("This Keras does not have it.")


def crossentropies() -> list[Case]:
    """Gives the cases of all crossentropies, from probabilities and from logits."""
    cases = []
    for logits, ulp in ((False, None), (True, 2)):
        for extra in ({}, {"label_smoothing": 0.1}):
            arguments = {"from_logits": logits, **extra}
            cases += [
                Case("binary_crossentropy", YES_OR_NO, ERRORS if logits else UNIT, arguments, ulp),
                Case("categorical_crossentropy", ONE_HOT, ERRORS if logits else SHARES, arguments, ulp),
            ]
        for gamma in (0.5, 1.0, 2.0, 2.5):
            arguments = {"from_logits": logits, "gamma": gamma}
            cases += [
                Case("binary_focal_crossentropy", YES_OR_NO, ERRORS if logits else UNIT, arguments, None),
                Case("categorical_focal_crossentropy", ONE_HOT, ERRORS if logits else SHARES, arguments, None),
            ]
        inputs = (LABELS, ERRORS if logits else SHARES)
        cases += [
            Case("sparse_categorical_crossentropy", *inputs, {"from_logits": logits}, ulp),
            Case("sparse_categorical_crossentropy", *inputs, {"from_logits": logits, "ignore_class": 2}, ulp),
        ]
    balanced = {"apply_class_balancing": True, "alpha": 0.7, "label_smoothing": 0.2}
    each = {"alpha": [0.1 * place for place in range(CLASSES)]}
    return [
        *cases,
        Case("binary_focal_crossentropy", YES_OR_NO, UNIT, balanced, None),
        Case("categorical_focal_crossentropy", ONE_HOT, SHARES, each, None),
        Case("binary_crossentropy", YES_OR_NO, ERRORS, {"from_logits": True, "axis": 0}),
        Case("categorical_crossentropy", ONE_HOT.T, ERRORS.T, {"from_logits": True, "axis": 0}),
    ]


CASES = [
    *(Case(name, TARGETS, ERRORS) for name in ("mean_squared_error", "mean_absolute_error")),
    Case("mean_absolute_percentage_error", TARGETS, ERRORS),
    Case("mean_squared_logarithmic_error", COUNTS, UNIT, {}, None),
    Case("huber", TARGETS, ERRORS),
    # Both round three times on the straight part, at different places.
    Case("huber", TARGETS, ERRORS, {"delta": 0.3}, 4),
    Case("log_cosh", TARGETS, ERRORS, {}, None),
    Case("cosine_similarity", TARGETS, ERRORS, {}, None),
    Case("cosine_similarity", TARGETS, ERRORS, {"axis": 0}, None),
    *(Case(name, 2 * YES_OR_NO - 1, ERRORS) for name in ("hinge", "squared_hinge", "categorical_hinge")),
    *(Case(name, YES_OR_NO, ERRORS) for name in ("hinge", "squared_hinge")),
    Case("categorical_hinge", ONE_HOT, ERRORS),
    Case("kl_divergence", OTHER_SHARES, SHARES, {}, None),
    Case("poisson", COUNTS, UNIT, {}, None),
    *crossentropies(),
    Case("categorical_generalized_cross_entropy", LABELS, SHARES, {"q": 0.3}, None),
    Case("ctc", RANDOM.integers(1, 5, (8, 3)), RANDOM.normal(size=(8, 9, 5)).astype("float32")),
    *(Case("dice", YES_OR_NO, UNIT, {"axis": axis}, None) for axis in (None, 1, (0, 1))),
    *(Case("tversky", YES_OR_NO, UNIT, {"axis": axis, "alpha": 0.3, "beta": 0.9}, None) for axis in (None, -1)),
    Case("circle", LABELS, VECTORS, {}, None),
    Case("circle", LABELS, VECTORS, {"gamma": 16.0, "margin": 0.2, "remove_diagonal": False}, None),
    Case("circle", LABELS, VECTORS, {"ref_labels": LABELS[::-1].copy(), "ref_embeddings": VECTORS[::-1].copy()}, None),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_slope_are_keras_s(case: Case) -> None:
    """On ordinary inputs a loss has Keras's shape, dtype, value and slope."""
    skip_unless_keras_takes(case)
    (theirs, their_slope), (ours, our_slope) = (
        case.of(keras.losses)(case.y_true, case.y_pred),
        case.of(losses)(case.y_true, case.y_pred),
    )
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    if case.ulp is None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    else:
        assert np.all(np.abs(ours - theirs) <= case.ulp * np.spacing(np.abs(theirs)))
    np.testing.assert_allclose(np.asarray(our_slope), np.asarray(their_slope), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slope_of_the_target_is_right(case: Case) -> None:
    """The gradient of the targets is what TensorFlow works out for Keras's loss, where that has one."""
    if case.y_true.dtype.kind != "f":
        pytest.skip("Class numbers have no gradient.")
    skip_unless_keras_takes(case)
    y_true = tf.constant(case.y_true) * 0.98 + 0.01

    def slope(module: Any) -> np.ndarray:
        loss = getattr(module, case.name)
        return np.asarray(value_and_slope(lambda y, x: loss(x, y, **case.arguments), case.y_pred, y_true)[1])

    np.testing.assert_allclose(slope(losses), slope(keras.losses), rtol=1e-3, atol=2e-5)


NAMES = sorted(
    name
    for name in dir(keras.losses)
    if inspect.isfunction(getattr(keras.losses, name)) and name not in ("serialize", "deserialize", "get")
)
CLASSES_OF_KERAS = sorted(
    name for name in dir(keras.losses) if inspect.isclass(getattr(keras.losses, name)) and name != "Loss"
)


# Older versions took fewer, some in another order.
is_newest = pytest.mark.skipif(tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15), reason="Keras 3.15 counts.")


@is_newest
@pytest.mark.parametrize("name", NAMES)
def test_function_takes_the_same_arguments(name: str) -> None:
    """Each function of Keras has one of its name, whose first arguments are the same, in order, with their defaults."""
    theirs = inspect.signature(getattr(keras.losses, name)).parameters
    ours = inspect.signature(getattr(losses, name)).parameters
    assert [(each.name, each.default) for each in ours.values()][: len(theirs)] == [
        (each.name, each.default) for each in theirs.values()
    ]


@is_newest
@pytest.mark.parametrize("name", CLASSES_OF_KERAS)
def test_class_takes_the_same_arguments(name: str) -> None:
    """Each class of Keras has one of its name, whose first arguments are the same, in order, with their defaults."""
    theirs = inspect.signature(getattr(keras.losses, name)).parameters
    ours = inspect.signature(getattr(losses, name)).parameters
    assert [(each.name, each.default) for each in ours.values()][: len(theirs)] == [
        (each.name, each.default) for each in theirs.values()
    ]


INPUTS = {case.name: case for case in CASES[::-1]}
FUNCTION_OF = {
    **{name: "".join("_" + each.lower() if each.isupper() else each for each in name)[1:] for name in CLASSES_OF_KERAS},
} | {"CTC": "ctc", "KLDivergence": "kl_divergence"}


@pytest.mark.parametrize("name", CLASSES_OF_KERAS)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none", "mean_with_sample_weight"])
def test_class_reduces_as_keras_does(name: str, reduction: str) -> None:
    """With weights, and with each reduction, a class gives what Keras's class gives."""
    case = INPUTS[FUNCTION_OF[name]]
    arguments = {each: case.arguments[each] for each in case.arguments if each in ("q", "from_logits")}
    weights = np.linspace(0.5, 2.0, len(case.y_true)).astype("float32")
    if name in ("Dice", "Tversky"):
        arguments["axis"] = 1
    try:
        theirs = getattr(keras.losses, name)(reduction=reduction, **arguments)(case.y_true, case.y_pred, weights)
    except (TypeError, ValueError):
        pytest.skip("This Keras does not know the argument or the reduction.")
    ours = getattr(losses, name)(reduction=reduction, **arguments)(case.y_true, case.y_pred, weights)
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CLASSES_OF_KERAS)
def test_class_comes_back_from_its_config(name: str) -> None:
    """A class made from its own config computes the same, by way of Keras's serialization too."""
    loss = getattr(losses, name)(reduction="sum")
    case = INPUTS[FUNCTION_OF[name]]
    copies = [type(loss).from_config(loss.get_config()), keras.losses.deserialize(keras.losses.serialize(loss))]
    for copy in copies:
        assert type(copy) is type(loss)
        assert copy.get_config() == loss.get_config()
        assert copy(case.y_true, case.y_pred) == loss(case.y_true, case.y_pred)
