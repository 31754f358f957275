"""Each kind of clipping against its paper's formula, written anew in float64, over 40 steps, and its defaults."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from kinds import gradients, runner, weights

from nanguard import clipping
from nanguard.backend.updates import scaled_updates


def norm_of(arrays):
    return math.sqrt(sum(float(np.sum(array.astype("float64") ** 2)) for array in arrays))


def hold(clip, formula, mode="graph"):
    """Clips 40 gradients and compares each with the formula's; gives how many were clipped."""
    variables = weights()
    step = runner(clip, variables, mode)
    num_clipped = 0
    for grads in gradients():
        got = step(*[tf.constant(grad) for grad in grads])
        want = formula(grads)
        for one, other, grad in zip(got, want, grads, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=5e-6, atol=1e-12)
            num_clipped += not np.array_equal(one.numpy(), grad)
    assert 0 < num_clipped < 3 * 40
    return num_clipped


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_by_value(mode):
    """Each number is cut to the limit."""
    hold(clipping.ClipByValue(1.5), lambda grads: [np.clip(grad, -1.5, 1.5) for grad in grads], mode)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_by_norm(mode):
    """Each gradient is g * min(1, limit / |g|)."""
    hold(clipping.ClipByNorm(3.0), lambda grads: [grad * min(1, 3.0 / norm_of([grad])) for grad in grads], mode)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_by_global_norm(mode):
    """All gradients together are g * min(1, limit / |g|), Pascanu et al.'s rule."""
    hold(clipping.ClipByGlobalNorm(5.0), lambda grads: [grad * min(1, 5.0 / norm_of(grads)) for grad in grads], mode)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_agc(mode):
    """The gradient of each unit is bounded by a fraction of the norm of its weights, Brock et al.'s rule."""
    variables = [variable.numpy().astype("float64") for variable in weights()]

    def formula(grads):
        clipped = []
        for grad, weight in zip(grads, variables, strict=True):
            units = [()] if grad.ndim == 1 else [(..., last) for last in range(grad.shape[-1])]
            result = grad.astype("float64")
            for unit in units:
                norm, size = np.linalg.norm(result[unit]), max(np.linalg.norm(weight[unit]), 1e-3)
                if norm / size > 1.0:
                    result[unit] = 1.0 * size / norm * result[unit]
            clipped.append(result)
        return clipped

    hold(clipping.AGC(1.0), formula, mode)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("percentile", [10, 30, 99.9])
def test_autoclip(mode, percentile):
    """The limit is the percentile of all norms so far, this one included, Seetharaman et al.'s rule."""
    history = []

    def formula(grads):
        history.append(norm_of(grads))
        limit = np.percentile(history, percentile)
        return [grad * min(1, limit / history[-1]) for grad in grads]

    hold(clipping.AutoClip(percentile), formula, mode)


def test_autoclip_forgets():
    """Only the last norms count, as many as are kept."""
    norms = np.random.default_rng(0).uniform(1, 9, 40).astype("float32")
    clip = clipping.AutoClip(50, history=7)
    for step, norm in enumerate(norms):
        limit = np.percentile(norms[max(0, step - 6) : step + 1], 50)
        np.testing.assert_allclose(clip([tf.constant([norm])])[0].numpy(), [min(norm, limit)], rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_zclip(mode):
    """A norm whose z-score is above the threshold is lowered by the reciprocal of the score, Kumar et al.'s rule."""
    threshold, alpha, first, state = 1.0, 0.97, [], {}

    def formula(grads):
        norm = norm_of(grads)
        if len(first) < 5:
            first.append(norm)
            if len(first) == 5:
                state.update(mean=np.mean(first), variance=np.var(first))
            return grads
        deviation = math.sqrt(state["variance"])
        score = (norm - state["mean"]) / (deviation + 1e-6)
        new = norm if score <= threshold else state["mean"] + threshold * deviation / (score / threshold)
        state["mean"] = alpha * state["mean"] + (1 - alpha) * new
        state["variance"] = alpha * state["variance"] + (1 - alpha) * (new - state["mean"]) ** 2
        return [grad * (new / norm) for grad in grads]

    hold(clipping.ZClip(threshold, alpha, warmup=5), formula, mode)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_adagc(mode):
    """Each gradient is clipped to a multiple of the average of its clipped norms, Wang et al.'s Algorithm 1."""
    absolute, relative, beta, warmup = 5.0, 1.05, 0.98, 5
    averages, steps = [math.inf] * 3, []

    def formula(grads):
        steps.append(None)
        clipped = []
        for i, grad in enumerate(grads):
            norm = norm_of([grad])
            if len(steps) <= warmup:
                factor = min(absolute / norm_of(grads), 1.0)
                averages[i] = min(averages[i], factor * norm)
            else:
                factor = min(relative * averages[i] / norm, 1.0)
                averages[i] = beta * averages[i] + (1 - beta) * factor * norm
            clipped.append(factor * grad)
        return clipped

    hold(clipping.AdaGC(absolute, relative, beta, warmup), formula, mode)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("agc", {"clipping": 0.01, "epsilon": 1e-3}),
        ("autoclip", {"percentile": 10}),
        ("zclip", {"z_threshold": 2.5, "alpha": 0.97, "warmup": 25, "epsilon": 1e-6}),
        ("adagc", {"absolute": 1.0, "relative": 1.04, "beta": 0.99, "warmup": 100}),
    ],
)
def test_defaults(kind, defaults):
    """The defaults are those of the paper, or of the authors' code where the paper's versions differ."""
    assert clipping.get(kind).get_config().items() >= defaults.items()


@pytest.mark.parametrize("options", [None, {}, {"jit_compile": True}], ids=["eager", "graph", "xla"])
def test_stable_adamw(options):
    """The weights are those of Wortsman et al.'s code, where weight decay keeps the full rate."""
    rate, decay, beta_1, beta_2, epsilon = 0.01, 0.2, 0.9, 0.99, 1e-6
    variables = weights()
    want = [variable.numpy().astype("float64") for variable in variables]
    moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in want]
    adam = keras.optimizers.AdamW(rate, decay, beta_1, beta_2, epsilon)
    adam.build(variables)
    clip = clipping.StableAdamW()

    def step(*grads):
        with scaled_updates(adam, clip):
            adam.apply(list(grads), variables)

    step = step if options is None else tf.function(step, **options)
    lowest = 1.0
    for t, grads in enumerate(gradients(), 1):
        step(*[tf.constant(grad) for grad in grads])
        for i, grad in enumerate(grads):
            grad = grad.astype("float64")
            kept_1 = beta_1 * (1 - beta_1 ** (t - 1)) / (1 - beta_1**t)
            kept_2 = beta_2 * (1 - beta_2 ** (t - 1)) / (1 - beta_2**t)
            first = kept_1 * moments[i][0] + (1 - kept_1) * grad
            second = kept_2 * moments[i][1] + (1 - kept_2) * grad**2
            moments[i] = first, second
            size = math.sqrt(np.mean(grad**2 / np.maximum(second, epsilon**2)))
            lowest = min(lowest, 1 / max(1, size))
            want[i] = want[i] * (1 - rate * decay) - rate / max(1, size) * first / (np.sqrt(second) + epsilon)
    assert lowest < 0.5
    for variable, weight in zip(variables, want, strict=True):
        np.testing.assert_allclose(variable.numpy(), weight, rtol=2e-5, atol=2e-6)
