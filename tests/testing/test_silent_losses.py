"""No loss of nanguard is accused, on targets of its own kind and predictions that may be any float there is."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import pytest

from nanguard import losses
from nanguard.testing import assert_finite, domains

ROWS, CLASSES = 4, 3
ANY = domains.any_float((ROWS, CLASSES))
TWICE = domains.any_float((ROWS, 2 * CLASSES))
PARTS = domains.probabilities((ROWS, CLASSES))
SHARES = domains.probabilities((ROWS, CLASSES), independent=True)
ONE_HOT = domains.one_hot(CLASSES, batch=ROWS)
LABELS = domains.labels(CLASSES, shape=ROWS)
IDS = domains.padded_ids(4, shape=(ROWS, 3))

# What the targets are, and the predictions; all else takes any float for both.
OPERANDS: dict[str, tuple[domains.Domain, domains.Domain]] = {
    "ArcFace": (LABELS, domains.any_float((ROWS, CLASSES), low=-1, high=1)),
    "BetaNLL": (SHARES, TWICE),
    "BinaryCrossentropy": (SHARES, ANY),
    "BinaryFocalCrossentropy": (SHARES, ANY),
    "CTC": (IDS, domains.any_float((ROWS, 6, 5))),
    "CategoricalCrossentropy": (ONE_HOT, ANY),
    "CategoricalFocalCrossentropy": (ONE_HOT, ANY),
    "CategoricalGeneralizedCrossEntropy": (LABELS, PARTS),
    "CategoricalHinge": (ONE_HOT, ANY),
    "Circle": (LABELS, domains.unit_vectors((ROWS, 5))),
    "Contrastive": (domains.masks((ROWS, 1), dtype=None), domains.positive((ROWS, 1))),
    "CoxPartialLikelihood": (domains.any_float((ROWS, 2), low=0), domains.any_float((ROWS,))),
    "Dice": (SHARES, SHARES),
    "FocalTversky": (SHARES, SHARES),
    "GaussianNLL": (ANY, TWICE),
    "GeneralizedDice": (SHARES, SHARES),
    "Jaccard": (SHARES, SHARES),
    "KLDivergence": (PARTS, ANY),
    "NTXent": (ANY, ANY),
    "MixtureDensity": (ANY, domains.any_float((ROWS, 2 + 2 * 2 * CLASSES))),
    "NegativeBinomialNLL": (domains.any_float((ROWS, CLASSES), low=0), TWICE),
    "NormalKL": (TWICE, TWICE),
    "PPO": (domains.any_float((ROWS, 2)), domains.any_float((ROWS,))),
    "PoissonNLL": (domains.any_float((ROWS, CLASSES), low=0), ANY),
    "SigmoidFocal": (SHARES, ANY),
    "SoftmaxFocal": (LABELS, ANY),
    "SparseCategoricalCrossentropy": (LABELS, ANY),
    "SupervisedContrastive": (LABELS, ANY),
    "Triplet": (LABELS, ANY),
    "Tversky": (SHARES, SHARES),
}
ARGUMENTS: dict[str, dict[str, Any]] = {"MixtureDensity": {"components": 2}}
# What takes other operands than one array each.
LEFT_OUT = {"Loss", "FunctionLoss", "Guarded", "ELBO"}
LOSSES = [
    name
    for name, each in vars(losses).items()
    if inspect.isclass(each) and issubclass(each, keras.losses.Loss) and name not in LEFT_OUT
]


def of(name: str, dtype: str) -> keras.losses.Loss:
    """A loss by its name."""
    loss: keras.losses.Loss = getattr(losses, name)(dtype=dtype, **ARGUMENTS.get(name, {}))
    return loss


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_not_accused(name: str) -> None:
    """Value and gradient are finite in eager mode and a graph; `tools/hunts.py` has XLA and half precision too."""
    y_true, y_pred = OPERANDS.get(name, (ANY, ANY))
    assert_finite(of(name, "float32"), y_true=y_true, y_pred=y_pred, seconds=3, modes=["eager", "graph"])


@pytest.mark.parametrize("name", [*OPERANDS, *ARGUMENTS])
def test_table_names_losses(name: str) -> None:
    """Each name of the tables is that of a loss."""
    assert name in LOSSES
