"""What each loss is fed with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

import nanguard.losses
from verification import batches, grids
from verification.grids import Family
from verification.loss_truth import EXACT, Exact

ABSTRACT = ("Loss", "FunctionLoss", "Coupled", "Guarded", "LossFunctionWrapper")


@dataclass(frozen=True)
class Kind:
    """What a loss is fed with.

    Args:
        family: Its labels and predictions; of probabilities where it takes logits too.
        logits: Those of its `from_logits=True`, where it has that.
        arguments: Arguments that make it give one value for each row.
        whole: Whether a row is a batch, since its samples are compared with each other.
        unpack: Makes of a tensor of predictions what the loss takes.
        teaches: Whether the grid tells wrong predictions.
    """

    family: Family
    logits: Family | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    unpack: Callable[[tf.Tensor], Any] | None = None
    teaches: bool = True


KINDS = {
    "ArcFace": Kind(batches.cosines, teaches=False),
    "BetaNLL": Kind(batches.fractions, teaches=False),
    "BinaryCrossentropy": Kind(grids.binary, grids.binary_logits),
    "BinaryFocalCrossentropy": Kind(grids.binary, grids.binary_logits),
    "CTC": Kind(grids.alignments, teaches=False),
    "CategoricalCrossentropy": Kind(grids.categorical, grids.categorical_logits),
    "CategoricalFocalCrossentropy": Kind(grids.categorical, grids.categorical_logits),
    "CategoricalGeneralizedCrossEntropy": Kind(grids.sparse(grids.categorical)),
    "CategoricalHinge": Kind(grids.scores),
    "Circle": Kind(batches.labelled_embeddings, whole=True, teaches=False),
    "Contrastive": Kind(batches.distances),
    "CosineSimilarity": Kind(grids.vectors),
    "CoxPartialLikelihood": Kind(batches.survivals, whole=True, teaches=False),
    "Dice": Kind(grids.masks, arguments={"axis": 1}),
    "ELBO": Kind(batches.latents, unpack=lambda p: (p[:, :2], p[:, 2:]), teaches=False),
    "FocalTversky": Kind(batches.images),
    "GaussianNLL": Kind(batches.gaussians),
    "GeneralizedDice": Kind(batches.images),
    "Hinge": Kind(grids.margin),
    "Huber": Kind(grids.regression),
    "Jaccard": Kind(batches.images),
    "KLDivergence": Kind(grids.distributions),
    "LogCosh": Kind(grids.regression),
    "MeanAbsoluteError": Kind(grids.regression),
    "MeanAbsolutePercentageError": Kind(grids.regression),
    "MeanSquaredError": Kind(grids.regression),
    "MeanSquaredLogarithmicError": Kind(grids.counts),
    "MixtureDensity": Kind(batches.mixtures, arguments={"components": 2}, teaches=False),
    "NTXent": Kind(batches.two_views, whole=True, teaches=False),
    "NegativeBinomialNLL": Kind(batches.dispersed_counts, teaches=False),
    "NormalKL": Kind(batches.normals),
    "PPO": Kind(batches.policies, teaches=False),
    "Poisson": Kind(grids.counts),
    "PoissonNLL": Kind(batches.log_rates),
    "Quantile": Kind(grids.regression),
    "RootMeanSquaredError": Kind(grids.regression),
    "SigmoidFocal": Kind(grids.binary, grids.binary_logits),
    "SoftmaxFocal": Kind(grids.categorical, grids.categorical_logits),
    "SparseCategoricalCrossentropy": Kind(grids.sparse(grids.categorical), grids.sparse(grids.categorical_logits)),
    "SquaredHinge": Kind(grids.margin),
    "SupervisedContrastive": Kind(batches.labelled_embeddings, whole=True, teaches=False),
    "Triplet": Kind(batches.labelled_embeddings, whole=True, teaches=False),
    "Tversky": Kind(grids.masks, arguments={"axis": 1}),
    "Wasserstein": Kind(batches.critics),
}


@dataclass(frozen=True)
class Variant:
    """A loss as it is measured.

    Args:
        title: Name of the class, with the word that tells it from the class's other variants.
        name: Name of the class.
        arguments: Arguments of the class.
        family: Labels and predictions.
        kind: What the class is fed with.
        exact: The right value of a row, if it is written down.
    """

    title: str
    name: str
    arguments: Mapping[str, Any]
    family: Family
    kind: Kind
    exact: Exact | None

    @property
    def takes_logits(self) -> bool:
        """Whether its predictions are logits."""
        return bool(self.arguments.get("from_logits"))

    def function(self, module: Any, dtype: str) -> Callable[..., Any] | None:
        """Gives the loss of a module as a function of labels and predictions, None if the module has none."""
        loss_class = getattr(module, self.name, None)
        if loss_class is None:
            return None
        loss = loss_class(**self.arguments, reduction="none", dtype=dtype)
        if self.kind.whole:
            one = tf.autograph.experimental.do_not_convert(lambda batch: loss(*batch))
            return lambda y_true, y_pred: tf.map_fn(one, (y_true, y_pred), fn_output_signature=dtype)
        if (unpack := self.kind.unpack) is not None:
            return lambda y_true, y_pred: loss(y_true, unpack(y_pred))
        return loss  # type: ignore[no-any-return]


def loss_names() -> list[str]:
    """Gives the names of all loss classes of nanguard."""
    return sorted(
        name
        for name, found in vars(nanguard.losses).items()
        if inspect.isclass(found) and issubclass(found, keras.losses.Loss) and name not in ABSTRACT
    )


def variants(name: str) -> list[Variant]:
    """Gives the ways in which a loss is measured: of probabilities and of logits where it takes both.

    Raises:
        KeyError: If it is not written down in `KINDS` what the loss is fed with.
    """
    kind = KINDS[name]
    of_values, of_logits = EXACT.get(name, (None, None))
    if kind.logits is None:
        return [Variant(name, name, kind.arguments, kind.family, kind, of_values)]
    # Said in both, since some take logits by default.
    arguments = [{**kind.arguments, "from_logits": takes_logits} for takes_logits in (False, True)]
    return [
        Variant(name, name, arguments[0], kind.family, kind, of_values),
        Variant(f"{name}, logits", name, arguments[1], kind.logits, kind, of_logits),
    ]
