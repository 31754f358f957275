"""Runs of a few steps with a fault in one of them, in a loop or in `fit`, and what was seen on the way."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from faults.families import ROWS, STEPS, Family

LABELS = {"NaN": np.nan, "+Inf": np.inf, "-Inf": -np.inf, "1e30": 1e30}
INTO_BATCH = ("inputs", "labels")
INTO_STEP = ("activations", "gradients")
INTO_STATE = ("weights", "slots", "BN statistics")
TARGETS = (*INTO_BATCH, *INTO_STEP, *INTO_STATE)
PLACES = {"first": 0, "middle": STEPS // 2, "last": STEPS - 1}


@dataclass(frozen=True)
class Fault:
    """One bad number.

    Args:
        target: One of `TARGETS`.
        label: A key of `LABELS`, or `bit 23` to `bit 30`: a bit of the exponent that is flipped.
        step: Before or in which step.
        draw: Chooses the place.
    """

    target: str
    label: str
    step: int
    draw: int = 0

    @property
    def stays(self) -> bool:
        """Whether the number is in the state, so that it is there in the next step too."""
        return self.target in INTO_STATE

    @property
    def bit(self) -> int | None:
        """The bit that is flipped, or None."""
        return int(self.label.removeprefix("bit ")) if self.label.startswith("bit ") else None


@dataclass(frozen=True)
class Plan:
    """A run: the batches in their order, and a fault or none."""

    order: tuple[int, ...]
    fault: Fault | None = None


@dataclass
class Seen:
    """What was seen of a run.

    Args:
        losses: Of each step; of `fit` the running mean.
        skipped: Steps that were refused, up to each step.
        overflows: Steps that a loss scale optimizer skipped, up to each step.
        bad: Whether loss or state were not finite after each step; only where it was looked at.
        around: State before and after the step that was asked for, and the state at the end.
        final: Loss on the clean batches after the run.
        stopped: The step after which a callback stopped the training, or None.
    """

    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    overflows: list[int] = field(default_factory=list)
    bad: list[bool] = field(default_factory=list)
    around: dict[str, list[np.ndarray]] = field(default_factory=dict)
    final: float = 0.0
    stopped: int | None = None


def faults_of(family: Family, labels: Sequence[str] = tuple(LABELS)) -> list[Fault]:
    """Every fault that this family can be given."""
    targets = [target for target in TARGETS if target != "BN statistics" or family.moving()]
    return [
        Fault(target, label, step, draw)
        for draw, (target, label, step) in enumerate(
            (target, label, step) for target in targets for label in labels for step in PLACES.values()
        )
    ]


class Bench:
    """A family with its state from before, to which it goes back between two runs."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.keep()
        self._evaluate = tf.function(self._losses)
        self._are_finite = tf.function(self._finite)

    def reset(self) -> None:
        """Sets every variable to what it was at the beginning, and all metrics to 0."""
        for variable, value in self._start:
            variable.assign(value)
        for metric in (*self.family.model.metrics, self.family.seen):
            metric.reset_state()
        for tap in self.family.taps:
            tap.disarm()

    def keep(self) -> None:
        """Takes the state of now for the beginning."""
        self._start = [(v, v.numpy()) for v in self.family.variables()]

    def values(self) -> list[np.ndarray]:
        """All variables as they are."""
        return [v.numpy() for v in self.family.variables()]

    def are_finite(self) -> bool:
        """Whether all variables are finite."""
        return bool(self._are_finite())

    def final(self) -> float:
        """The loss on all clean batches; leaves the metrics as they are not."""
        return float(self._evaluate())

    def _finite(self) -> Any:
        floats = [v for v in map(tf.convert_to_tensor, self.family.variables()) if v.dtype.is_floating]
        return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(v)) for v in floats]))

    def _losses(self) -> Any:
        batches = [self.family.batch(number) for number in range(STEPS)]
        as_tensors = tf.nest.map_structure(tf.constant, batches)
        return tf.add_n([tf.reduce_mean(self.family.loss_of(x, y)) for x, y in as_tensors]) / STEPS

    def batch(self, plan: Plan, step: int) -> tuple[Any, Any]:
        """The batch of a step, with its fault."""
        x, y = self.family.batch(plan.order[step])
        fault = plan.fault
        if fault is not None and fault.target in INTO_BATCH and step == fault.step:
            array = tf.nest.flatten(x if fault.target == "inputs" else y)[0].reshape(-1)
            array[fault.draw * 7 % array.size] = LABELS[fault.label]
        return x, y

    def arm(self, fault: Fault) -> None:
        """Puts in a fault that is not in the batch."""
        taps = self.family.taps
        tap = taps[fault.draw % len(taps)]
        if fault.target in INTO_STEP and fault.bit is not None:
            (tap.forward_flip if fault.target == "activations" else tap.backward_flip).assign(1 << fault.bit)
        elif fault.target == "activations":
            tap.forward.assign(LABELS[fault.label])
        elif fault.target == "gradients":
            tap.backward.assign(LABELS[fault.label])
        elif fault.stays:
            kinds = {
                "weights": self.family.model.trainable_variables,
                "slots": self.family.slots(),
                "BN statistics": self.family.moving(),
            }
            choice = random.Random(fault.draw)
            variable = choice.choice(list(kinds[fault.target]))
            value = variable.numpy()
            place = choice.randrange(value.size)
            if fault.bit is None:
                value.reshape(-1)[place] = LABELS[fault.label]
            else:
                value.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << fault.bit)
            variable.assign(value)


class Loop:
    """A loop of one's own over a traced step.

    Args:
        bench: The training.
        step: The step, which may be guarded.
        counts: Gives how many steps were refused, and how many overflowed.
        jit: Whether XLA compiles it.
        looks: Whether to look after each step at whether all is finite.
        restart: Called before each run.
        callback: A Keras callback that is told of each step's running mean, and may stop the training.
    """

    def __init__(
        self, bench: Bench, step: Any, *, jit: bool, counts: Any = lambda: (0, 0), looks: bool = False,
        restart: Callable[[], None] = lambda: None, callback: Any = None,
    ) -> None:  # fmt: skip
        self.bench = bench
        self._step = tf.function(step, jit_compile=jit)
        self._counts = counts
        self._looks = looks
        self._restart = restart
        self._callback = callback

    def run(self, plans: Sequence[Plan], watched: Sequence[int | None]) -> Iterator[Seen]:
        """Makes each run.

        Args:
            plans: The runs.
            watched: The step of each, around which the state is kept.
        """
        for plan, at in zip(plans, watched, strict=True):
            self.bench.reset()
            self._restart()
            recorder = Recorder(self.bench, plan, at, self._counts, looks=self._looks)
            for number in range(len(plan.order)):
                recorder.before(number)
                x, y = tf.nest.map_structure(tf.constant, self.bench.batch(plan, number))
                loss = float(tf.reduce_mean(self._step(x, y)))
                recorder.after(number, loss)
                if self._callback is not None and self._stops(number):
                    recorder.seen.stopped = number
                    break
            yield recorder.finished()

    def _stops(self, number: int) -> bool:
        model = self.bench.family.model
        model.stop_training = False
        self._callback.set_model(model)
        with contextlib.redirect_stdout(io.StringIO()):
            self._callback.on_batch_end(number, {"loss": float(self.bench.family.seen.result())})
        return bool(model.stop_training)


class Recorder:
    """Puts the fault in at its step and writes down what is seen."""

    def __init__(self, bench: Bench, plan: Plan, at: int | None, counts: Any, *, looks: bool = False) -> None:
        self.bench, self.plan, self.at, self._counts, self._looks = bench, plan, at, counts, looks
        self.seen = Seen()
        self._base = counts()

    def before(self, step: int) -> None:
        """Before a step."""
        fault = self.plan.fault
        if fault is not None and fault.step == step:
            self.bench.arm(fault)
        if step == self.at:
            self.seen.around["before"] = self.bench.values()

    def after(self, step: int, loss: float) -> None:
        """After a step."""
        seen = self.seen
        if step == self.at:
            seen.around["after"] = self.bench.values()
        fault = self.plan.fault
        if fault is not None and fault.step == step and fault.target in INTO_STEP:
            for tap in self.bench.family.taps:
                tap.disarm()
        skipped, overflows = self._counts()
        seen.losses.append(loss)
        seen.skipped.append(skipped - self._base[0])
        seen.overflows.append(overflows - self._base[1])
        if self._looks:
            seen.bad.append(not (np.isfinite(loss) and self.bench.are_finite()))

    def finished(self) -> Seen:
        """The end of the run."""
        self.seen.around["end"] = self.bench.values()
        self.seen.final = self.bench.final()
        return self.seen


class Fit:
    """`fit` with a guard: each run is one epoch of it.

    Args:
        bench: The training, compiled.
        guard: The guard.
        counts: Gives how many steps were refused, and how many overflowed.
        restart: Called before each run.
    """

    def __init__(self, bench: Bench, guard: Any, *, counts: Any, restart: Callable[[], None] = lambda: None) -> None:
        self.bench = bench
        self.guard = guard
        self._counts = counts
        self._restart = restart

    def run(
        self, plans: Sequence[Plan], watched: Sequence[int | None], *, resets: bool = True, told: Any = None
    ) -> list[Seen]:
        """Makes each run; all have as many steps.

        Args:
            plans: The runs.
            watched: The step of each, around which the state is kept.
            resets: Whether each starts anew, and does not go on from the one before.
            told: Called after each run.
        """
        batches = [self.bench.batch(plan, step) for plan in plans for step in range(len(plan.order))]
        parts = [
            tf.nest.map_structure(lambda *each: np.concatenate(each), *part) for part in zip(*batches, strict=True)
        ]
        data = tf.data.Dataset.from_tensor_slices(tuple(parts)).batch(ROWS, drop_remainder=True)
        hooks = _Epochs(self.bench, plans, watched, self._counts, self._restart)
        hooks.resets, hooks.told = resets, told
        self.bench.family.model.fit(
            data, epochs=len(plans), steps_per_epoch=len(plans[0].order), verbose=0, shuffle=False,
            callbacks=[hooks, self.guard],
        )  # fmt: skip
        return hooks.found


class _Epochs(keras.callbacks.Callback):
    def __init__(self, bench: Bench, plans: Any, watched: Any, counts: Any, restart: Any) -> None:
        super().__init__()
        self._bench, self._plans, self._watched, self._counts = bench, plans, watched, counts
        self._restart = restart
        self._recorder: Any = None
        self.found: list[Seen] = []
        self.resets, self.told = True, None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.resets:
            self._bench.reset()
            self._restart()
        self._recorder = Recorder(self._bench, self._plans[epoch], self._watched[epoch], self._counts)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._recorder.before(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._recorder.after(batch, float(logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.found.append(self._recorder.finished())
        if self.told is not None:
            self.told()
