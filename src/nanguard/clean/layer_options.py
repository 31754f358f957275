"""Options as the layer has them: what it cannot do is refused, and sentinels become what a config holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nanguard.clean.options import IN_MODEL, OF_ROWS, OUT_OF_MODEL, Options
from nanguard.clean.recipe import Recipe

# What of `Options` concerns a layer.
_OWN = (
    "impute",
    "outliers",
    "bounds",
    "threshold",
    "indicators",
    "infinite",
    "sentinels",
    "fill_value",
    "covariance",
)


def arguments(options: Options) -> dict[str, Any]:
    """Options as arguments of a layer, such as a config holds."""
    return {name: getattr(options, name) for name in _OWN}


def in_model(**given: Any) -> Options:
    """The options of a layer, which sees one batch and gives as many rows as it got.

    Raises:
        ValueError: If it cannot do what is asked.
    """
    away = "Clean the data beforehand with `nanguard clean`"
    impute, outliers, bounds = given["impute"], given["outliers"], given["bounds"]
    if impute in OUT_OF_MODEL:
        names = ", ".join(map(repr, IN_MODEL))
        raise ValueError(
            f"`impute={impute!r}` looks at other rows, which a model lacks. {away}, or take one of {names}."
        )
    if outliers in ("drop", "quarantine"):
        raise ValueError(
            f"`outliers={outliers!r}` takes rows out, which a layer cannot. {away}, or take 'clip' or 'impute'."
        )
    if bounds in (*OF_ROWS, "hampel"):
        raise ValueError(
            f"`bounds={bounds!r}` judges rows, not cells. {away}, or take 'iqr', 'mad', 'zscore' or 'quantile'."
        )
    return Options(**given)


def plain(sentinels: Any) -> Any:
    """Sentinels as a config holds them."""
    if isinstance(sentinels, Mapping):
        return {str(name): [float(number) for number in numbers] for name, numbers in sentinels.items()}
    return [float(number) for number in sentinels]


def of_recipe(recipe: Recipe) -> Options:
    """Options by which a layer does what a recipe says, as far as it can.

    It takes no row out, and fills by one number for each column what was filled from other rows.
    """
    if np.isnan(recipe.fill).all():
        impute = None
    else:
        impute = "gaussian" if recipe.gaussian is not None and recipe.fills_by_gaussian else "median"
    return Options(
        impute=impute,
        outliers=recipe.action if recipe.action in ("clip", "impute") else None,
        indicators=bool(recipe.has_indicator.any()),
        infinite="clip" if recipe.clips_infinite else "missing",
        sentinels={
            name: list(numbers) for name, numbers in zip(recipe.names, recipe.sentinels, strict=True) if numbers
        },
    )
