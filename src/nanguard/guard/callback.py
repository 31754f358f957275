"""`nanguard.Guard`: training that goes on, with nothing poisoned and nothing lost."""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from nanguard import clipping
from nanguard.backend import seams, training
from nanguard.errors import UsageError
from nanguard.guard.event import Event
from nanguard.guard.fit import GuardedFit
from nanguard.guard.journal import HOOKS, THREAD, Journal
from nanguard.guard.keeping import Keeping
from nanguard.guard.loop import guarded_step
from nanguard.guard.measured import Measured, measurements
from nanguard.guard.reactions import ACTIONS, OnNonfinite, Reactions
from nanguard.guard.teller import Lines, say
from nanguard.guard.updater import Updater


class Guard(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps a training finite: refuses each step that is not, and goes on as if its batch had never come.

    In `fit` it is one callback, and nothing else changes:

        model.fit(..., callbacks=[nanguard.Guard()])

    In a loop of one's own, whichever is handier (see also `GuardedOptimizer`, which needs no guard):

        guard = nanguard.Guard(model, optimizer)
        guard.apply(grads, loss=loss, batch=(x, y))     # in the place of optimizer.apply
        train_step = guard.step(train_step)             # or around a whole step, with its metrics

    A step is refused if its loss, a gradient, a number that it wrote into a layer, a weight or a slot of the
    optimizer is not finite. Then all that it wrote is put back bit for bit: weights, slots, moving statistics, seeds,
    metrics, the running loss. The question costs one sum per tensor inside the step; it works in graphs, under XLA,
    eagerly, in mixed precision (a dynamic loss scale goes on working, and gets a floor of 1), with gradient
    accumulation, several optimizers, and distribution strategies. On a step that is finite not one bit changes.

    The logs get `nanguard/skipped` (steps refused in this epoch), `nanguard/grad_norm` (L2 norm of the last gradient
    that went ahead, before clipping) and `nanguard/clip` (the factor by which it was clipped; 1 is untouched).

    Args:
        model: The model, outside of `fit`.
        optimizer: Its optimizer, outside of `fit`. Defaults to the one that the model was compiled with.
        on_nonfinite: What to do with a step that is not finite: "skip" it; "rollback", which also goes back to the last
            snapshot when the loss spikes or diverges; "raise" a `NonFiniteError` with the diagnosis; or a function
            that is given the `Event` and returns one of these words, or None for "skip".
        clip: How gradients are clipped: a clip of `nanguard.clipping`, its name, or a number for the global norm.
            Defaults to no clipping.
        max_in_row: Refused steps in a row before the training is stopped with a diagnosis, `>= 1`. 10: one bad file has
            passed by then, and a broken model does not mend itself.
        quarantine: Folder for the batches that were refused, with the failed steps as capture files. Defaults to
            "nanguard-quarantine"; it is made when the first batch goes there. None or False to keep nothing.
        num_explained: Refused steps that are run again and explained, `>= 0`. 3: each takes a second or more, and the
            reasons repeat themselves.
        snapshot_every: Steps between two snapshots in memory, for "rollback".
        max_rollbacks: Rollbacks in a row, with fewer than `snapshot_every` steps between them, before the training is
            stopped.
        backoff: Ratio of one learning rate to the next that is tried after a divergence, `0 < backoff <= 1`. At 1 the
            rate stays as it is.
        warmup: Steps over which a lowered rate grows back where the batches are not at hand to try rates on.
        verbose: Whether to print a line when it acts and a summary at the end, to stderr.

    Raises:
        UsageError: If an argument is not as above.
        NonFiniteError: In `fit`: with "raise", after `max_in_row` refused steps in a row, after `max_rollbacks`. The
            model is finite then.

    Example:

    >>> x, y = np.ones((64, 3), "float32"), np.ones((64, 1), "float32")
    >>> x[40, 1] = np.nan
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> guard = ng.Guard(quarantine=None, verbose=False)
    >>> history = model.fit(x, y, batch_size=16, callbacks=[guard], verbose=0)
    >>> history.history["nanguard/skipped"], bool(np.isfinite(history.history["loss"][0]))
    ([1.0], True)
    """

    def __init__(
        self,
        model: Any = None,
        optimizer: Any = None,
        *,
        on_nonfinite: OnNonfinite = "skip",
        clip: Any = None,
        max_in_row: int = 10,
        quarantine: str | os.PathLike[str] | bool | None = "nanguard-quarantine",
        num_explained: int = 3,
        snapshot_every: int = 100,
        max_rollbacks: int = 5,
        backoff: float = 0.5,
        warmup: int = 100,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        if not callable(on_nonfinite) and on_nonfinite not in ACTIONS:
            raise UsageError(
                f"`on_nonfinite` must be one of {', '.join(ACTIONS)}, or a function. Received: {on_nonfinite!r}."
            )
        if model is not None and not isinstance(model, keras.Model):
            raise UsageError(
                f"`model` must be a Keras model. Received: {model!r}. What to do is said by name: "
                'Guard(on_nonfinite="rollback").'
            )
        if not (quarantine is None or isinstance(quarantine, str | os.PathLike | bool)):
            raise UsageError(f"`quarantine` must be a folder, or None. Received: {quarantine!r}.")
        for name, value, least in (
            ("max_in_row", max_in_row, 1), ("num_explained", num_explained, 0), ("snapshot_every", snapshot_every, 1),
            ("max_rollbacks", max_rollbacks, 1), ("warmup", warmup, 0),
        ):  # fmt: skip
            if not isinstance(value, int) or value < least:
                raise UsageError(f"`{name}` must be at least {least}. Received: {name}={value!r}.")
        if not isinstance(backoff, int | float) or not 0 < backoff <= 1:
            raise UsageError(f"`backoff` must lie in (0, 1]. Received: backoff={backoff}.")
        self.verbose = verbose
        self._updater = Updater(clipping.get(clip))
        self._reactions = Reactions(
            self._updater,
            Keeping(quarantine if quarantine is not True else "nanguard-quarantine", num_explained),
            on_nonfinite=on_nonfinite,
            max_in_row=max_in_row,
            lines=Lines(is_silent=not verbose),
            rollback_options={
                "every": snapshot_every, "limit": max_rollbacks, "factor": backoff, "warmup": warmup,
            },
        )  # fmt: skip
        self._fit: GuardedFit | None = None
        self._optimizer = optimizer
        self._skipped_before = 0  # in earlier epochs
        self._good_logs: dict[str, Any] = {}
        self._has_good_logs = False  # from this epoch
        self._metric_names: list[str] = []
        if model is not None:
            self.set_model(model)
            self._optimizer = optimizer if optimizer is not None else getattr(model, "optimizer", None)
            HOOKS.acquire()
            weakref.finalize(self, HOOKS.release)

    @property
    def events(self) -> list[Event]:
        """What happened, oldest first."""
        return self._reactions.events

    @property
    def num_skipped(self) -> int:
        """Steps that were refused."""
        return self._reactions.num_skipped

    @property
    def num_not_reproducible(self) -> int:
        """Those of them that were finite when they were run again."""
        return self._reactions.num_not_reproducible

    # -- a loop of one's own

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def apply(self, grads: Any, variables: Any = None, *, loss: Any = None, batch: Any = None) -> Any:
        """Applies gradients if the step is finite, and else puts back what it has written since its tape began.

        Args:
            grads: Gradients, one for each variable.
            variables: The trained variables. Defaults to the model's.
            loss: The loss, if it was not differentiated by a `tf.GradientTape`.
            batch: The batch, for the quarantine: any nested structure of tensors.

        Returns:
            Whether the update went ahead: a bool tensor.
        """
        if self._optimizer is None:
            raise UsageError("`apply` needs an optimizer: nanguard.Guard(model, optimizer).")
        self._refuse_rollback("`apply` sees the end of a step alone")
        variables = list(variables if variables is not None else self.model.trainable_variables)
        journal = THREAD.journal
        if journal is None or not journal.awaits_update():
            journal = THREAD.journal = Journal()
        if loss is not None and not any(loss is known for known in journal.losses):
            journal.losses.append(tf.convert_to_tensor(loss))
        optimizer = self._optimizer
        made = self._updater.update(optimizer.apply, optimizer, list(grads), variables, journal)
        if tf.executing_eagerly():
            self._after_eager_step(journal, batch)
        else:
            self._updater.tell(made, self._reactions.refused_in_graph)
        return made

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a whole step function leave nothing behind when it is refused: also metrics, and several optimizers.

        Around a `tf.function` or a plain function it has all that there is in `fit`, under XLA too: each call is a
        step, its arguments are the batch, a refused step is kept and explained, and "rollback" goes back. The step may
        call `strategy.run`, and write weights by hand. Inside of a `tf.function`, as in a loop over a whole data set,
        refused steps are counted and told.

        Args:
            function: A step: forward pass, gradients, updates, metrics.

        Returns:
            The function, guarded; it gives what the plain one gives.

        Example:

        >>> weight, optimizer = keras.Variable([1.0]), keras.optimizers.SGD(0.5)
        >>> @tf.function
        ... def train_step(x):
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(weight.value * x)
        ...     optimizer.apply(tape.gradient(loss, [weight]), [weight])
        ...     return loss
        >>> guard = ng.Guard(quarantine=None, verbose=False)
        >>> guarded = guard.step(train_step)
        >>> for x in (1.0, float("nan"), 1.0):
        ...     loss = guarded(tf.constant([x]))
        >>> weight.numpy(), guard.num_skipped
        (array([0.], dtype=float32), 1)
        """
        if not callable(function):
            raise UsageError(f"`step` takes the function that makes a training step. Received: {function!r}.")
        return guarded_step(function, self._updater, self._reactions)

    def _refuse_rollback(self, why: str) -> None:
        if self._reactions.on_nonfinite == "rollback":
            raise UsageError(
                f'on_nonfinite="rollback" needs the whole step from outside, and {why}. '
                "Put the guard around it: train_step = guard.step(train_step)."
            )

    def _after_eager_step(self, journal: Journal, batch: Any) -> None:
        self._reactions.steps += 1
        if journal.verdict is None or bool(journal.verdict):
            self._reactions.in_row = 0
            return
        numbers = Measured.of(measurements(journal, self._updater.counters()))
        if numbers.skipped != self.num_skipped:
            self._reactions.refused(numbers, batch, None)
        self._reactions.overflows = numbers.overflows

    # -- inside of fit

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the place of the model's train function."""
        given = training.calling_fit()
        if sum(isinstance(each, Guard) for each in getattr(given.get("callbacks"), "callbacks", ())) > 1:
            raise UsageError(
                "A `fit` must have one Guard among its callbacks. Received: several. Take all but one out."
            )
        GuardedFit.release(self.model)
        self._reactions.prepare_to_roll_back()
        if self._fit is None or self._fit.model is not self.model or self._fit.is_stale():
            self._fit = GuardedFit(self.model, self._updater, self._run_step)
        self._build_optimizer()
        self._fit.attach()
        seams.keep_log_keys(self.model, "nanguard/")
        self._fit.given = tuple(given[name] for name in ("x", "y", "sample_weight") if given.get(name) is not None)

    def _build_optimizer(self) -> None:
        """Makes the slots before the first step, as it would itself.

        A step in which variables are made is traced twice. And the first snapshot has to hold them.
        """
        model, optimizer, strategy = self.model, self.model.optimizer, self.model.distribute_strategy
        is_alone = strategy is None or strategy.num_replicas_in_sync == 1
        if model.built and optimizer is not None and not optimizer.built and is_alone and seams.is_keras_step(model):
            seams.build_optimizer(optimizer, model.trainable_variables)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts anew, as Keras's metrics do."""
        self._reactions.epoch, self._reactions.batch = epoch, 0
        self._skipped_before = self.num_skipped
        self._has_good_logs = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes back what Keras's metrics give of an epoch in which no step went ahead: a loss of 0 is no best loss."""
        if logs and not self._has_good_logs and self.num_skipped > self._skipped_before:
            logs.update({key: math.nan for key in self._metric_names if key in logs})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model its own train function back, and says what happened."""
        self._leave()
        if self.verbose:
            say(self.summary())

    def _leave(self) -> None:
        if self._fit is not None:
            self._fit.detach()
            self._fit.given = ()
        seams.forget_log_keys(self.model)
        self._reactions.epoch = self._reactions.batch = None

    @contextlib.contextmanager
    def nanguard_muted(self) -> Iterator[None]:
        """While it is open steps are run and nothing follows from them: a checkpoint is about to set their state."""
        self._reactions.is_muted = True
        try:
            yield
        finally:
            self._reactions.is_muted = False

    def _run_step(self, batch: Any) -> dict[str, Any]:
        """Runs one step of `fit`, and what follows from it."""
        reactions = self._reactions
        assert self._fit is not None
        try:
            logs, went_ahead = reactions.run(self._fit, batch)
        except BaseException:
            self._leave()
            raise
        if went_ahead is None:
            return logs  # type: ignore[no-any-return]
        if went_ahead:
            self._good_logs, self._has_good_logs = dict(logs), True
        else:
            # What a step gives of its metrics may be from before they were put back.
            self._metric_names = list(logs)
            logs = {**logs, **self._good_logs} if self._has_good_logs else self._mended(logs)
        reactions.batch = (reactions.batch or 0) + 1
        logs["nanguard/skipped"] = float(self.num_skipped - self._skipped_before)
        logs["nanguard/grad_norm"] = reactions.last_norm
        logs["nanguard/clip"] = reactions.last_clip
        return logs  # type: ignore[no-any-return]

    def _mended(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs without what is not finite in them."""
        return {key: value if _is_finite(value) else self._good_logs.get(key, value) for key, value in logs.items()}

    # -- what it tells

    def summary(self) -> str:
        """What the guard did, in one line."""
        return self._reactions.summary()

    # -- what a checkpoint keeps

    def nanguard_state(self) -> dict[str, Any]:
        """The guard's own statistics, as JSON."""
        return {**self._reactions.state(), "skipped_before": self._skipped_before}

    def restore_nanguard_state(self, state: dict[str, Any]) -> None:
        """Takes up what `nanguard_state` gave."""
        self._skipped_before = int(state["skipped_before"])
        self._reactions.restore(state)

    @property
    def nanguard_variables(self) -> list[Any]:
        """The guard's own variables."""
        return self._updater.variables


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return True
