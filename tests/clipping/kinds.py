"""The kinds of clipping, and gradients to try them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from nanguard import clipping

# Each with settings that clip some gradients of `gradients()` and leave others.
KINDS: dict[str, Callable[[], clipping.Clip]] = {
    "ClipByValue": lambda: clipping.ClipByValue(1.5),
    "ClipByNorm": lambda: clipping.ClipByNorm(3.0),
    "ClipByGlobalNorm": lambda: clipping.ClipByGlobalNorm(5.0),
    "AGC": lambda: clipping.AGC(1.0),
    "AutoClip": lambda: clipping.AutoClip(30),
    "ZClip": lambda: clipping.ZClip(1.0, warmup=5),
    "AdaGC": lambda: clipping.AdaGC(absolute=5.0, warmup=5),
    "StableAdamW": clipping.StableAdamW,
}
# Those that change a gradient.
GRADIENT_KINDS = [name for name in KINDS if name != "StableAdamW"]
MODES: dict[str, dict[str, bool] | None] = {"eager": None, "graph": {}, "xla": {"jit_compile": True}}
SHAPES = [(5, 3), (3,), (2, 2, 3, 4)]


def gradients(num: int = 40, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Gives lists of gradients of all sizes, with some spikes."""
    rng = np.random.default_rng(seed)
    for step in range(num):
        size = 10 ** rng.uniform(-1, 1) * (30 if step % 11 == 10 else 1)
        yield [(size * rng.normal(size=shape)).astype("float32") for shape in SHAPES]


def weights(dtype: str = "float32", seed: int = 1) -> list[keras.Variable]:
    """Gives weights for these gradients."""
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in SHAPES]


def runner(clip: clipping.Clip, variables: list[keras.Variable], mode: str) -> Callable[..., list[tf.Tensor]]:
    """Gives a function that clips a list of gradients in eager mode, in a graph or under XLA."""
    clip.build(variables)

    def step(*grads: tf.Tensor) -> list[tf.Tensor]:
        return clip(list(grads), variables)

    options = MODES[mode]
    return step if options is None else tf.function(step, **options)
