"""The same faults under what Keras and optax have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from faults import judge
from faults.families import STEPS, build
from faults.judge import Verdict
from faults.ours import counts_of, new_guard, start_anew
from faults.runs import Bench, Loop, Plan, faults_of

PLAIN, OURS = "nothing", "nanguard"


class ApplyIfFinite(keras.optimizers.Optimizer):
    """Another optimizer, whose update is left out while the gradients that come in are not finite.

    As `optax.apply_if_finite`: after more than `max_consecutive_errors` such steps in a row it makes the update all the
    same. It looks at the gradients, and at nothing else.
    """

    def __init__(self, inner: Any, max_consecutive_errors: int = 5) -> None:
        super().__init__(learning_rate=0.0)
        self.inner = inner
        self.max_consecutive_errors = max_consecutive_errors
        self.notfinite_count = tf.Variable(0, trainable=False)

    def build(self, variables: Any) -> None:
        """Makes the variables of the inner optimizer."""
        self.inner.build(variables)
        self.built = True

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables."""
        return list(self.inner.variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Makes the update, or not."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(grad))) for grad in grads])
        self.notfinite_count.assign(tf.where(finite, 0, self.notfinite_count + 1))

        def update() -> None:
            self.inner.apply(grads, trainable_variables)

        tf.cond(finite | (self.notfinite_count > self.max_consecutive_errors), update, lambda: None)


def _configured(**options: Any) -> Callable[[Any], Any]:
    return lambda optimizer: type(optimizer).from_config({**optimizer.get_config(), **options})


PEERS: dict[str, Callable[[Any], Any]] = {
    PLAIN: lambda optimizer: optimizer,
    "TerminateOnNaN": lambda optimizer: optimizer,
    "LossScaleOptimizer": lambda optimizer: keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=128.0),
    "clipvalue=1": _configured(clipvalue=1.0),
    "clipnorm=1": _configured(clipnorm=1.0),
    "global_clipnorm=1": _configured(global_clipnorm=1.0),
    "apply_if_finite": ApplyIfFinite,
    OURS: lambda optimizer: optimizer,
}


def run(family_name: str, every: int = 1) -> list[Verdict]:
    """Puts the faults that make something non-finite into one family under each peer, in a loop, as a graph.

    Args:
        family_name: A key of `FAMILIES`.
        every: Takes every so many faults.
    """
    found: list[Verdict] = []
    everything = tuple(range(STEPS))
    truth: list[int | None] = []
    for arm, around in PEERS.items():
        family = build(family_name, "float32", around)
        family.compile(jit=False)
        bench = Bench(family)
        if arm == PLAIN:
            plans = [Plan(everything, fault) for fault in faults_of(family)[::every]]
            bare = Loop(bench, family.step(), jit=False, looks=True)
            truth = [judge.first_bad(seen) for seen in bare.run(plans, [None] * len(plans))]
            plans = [plan for plan, at in zip(plans, truth, strict=True) if at is not None]
            truth = [at for at in truth if at is not None]
        step, options = family.step(), {}
        if arm == "TerminateOnNaN":
            options = {"callback": keras.callbacks.TerminateOnNaN()}
        elif arm == OURS:
            guard = new_guard(family.model, family.optimizer)
            step = guard.step(step)
            options = {"counts": counts_of(guard), "restart": lambda guard=guard: start_anew(guard)}
        runs = Loop(bench, step, jit=False, **options)
        clean, *seen = runs.run([Plan(everything), *plans], [None, *truth])
        own = family.scales()
        weights = [place for place, v in enumerate(family.variables()) if _is_updated(family, v) and id(v) not in own]
        found += [
            _verdict(arm, family_name, plan, each, clean, weights) for plan, each in zip(plans, seen, strict=True)
        ]
    return found


def _is_updated(family: Any, variable: Any) -> bool:
    mine = [*family.model.trainable_variables, *(v for each in family.optimizers for v in each.variables)]
    return any(variable is each for each in mine)


def _verdict(arm: str, family: str, plan: Plan, seen: Any, clean: Any, weights: list[int]) -> Verdict:
    assert plan.fault is not None
    around = seen.around
    if "after" not in around:  # it was stopped before
        around = {"before": around["end"], "after": around["end"], "end": around["end"]}
    places = judge.differing(around["before"], around["after"])
    # Left out, or stopped at: whether the training was kept from going on with it.
    is_caught = not set(places) & set(weights) or seen.stopped is not None
    return Verdict(
        arm, family, "loop, graph, float32", plan.fault, True, is_caught, not places,
        judge.are_finite(around["end"]), judge.change(seen.final, clean.final),
    )  # fmt: skip
