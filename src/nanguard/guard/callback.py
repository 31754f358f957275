"""`nanguard.Guard`: training that goes on, with nothing poisoned and nothing lost."""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import keras
import tensorflow as tf

from nanguard import clipping
from nanguard.backend import seams, training
from nanguard.errors import NonFiniteError, UsageError
from nanguard.guard import flag
from nanguard.guard import variables as script_variables
from nanguard.guard.event import Action, Event, Reason
from nanguard.guard.fit import GuardedFit, Measured, measured
from nanguard.guard.journal import HOOKS, THREAD, Journal
from nanguard.guard.keeping import Keeping
from nanguard.guard.rollback import Rollback
from nanguard.guard.spikes import LayerNorms, SpikeDetector
from nanguard.guard.teller import Lines, say
from nanguard.guard.updater import Updater

_ACTIONS = ("skip", "rollback", "raise")
OnNonfinite = str | Callable[[Event], str | None]


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
        max_rollbacks: Rollbacks before the training is stopped.
        backoff: What the learning rate is multiplied by at each rollback, `0 < backoff <= 1`.
        warmup: Steps over which the learning rate grows back after a rollback.
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
        if not callable(on_nonfinite) and on_nonfinite not in _ACTIONS:
            raise UsageError(
                f"`on_nonfinite` must be one of {', '.join(_ACTIONS)}, or a function. Received: {on_nonfinite!r}."
            )
        for name, value, least in (
            ("max_in_row", max_in_row, 1), ("num_explained", num_explained, 0), ("snapshot_every", snapshot_every, 1),
            ("max_rollbacks", max_rollbacks, 1), ("warmup", warmup, 0),
        ):  # fmt: skip
            if value < least:
                raise UsageError(f"`{name}` must be at least {least}. Received: {name}={value}.")
        if not 0 < backoff <= 1:
            raise UsageError(f"`backoff` must lie in (0, 1]. Received: backoff={backoff}.")
        self.on_nonfinite = on_nonfinite
        self.max_in_row = max_in_row
        self.verbose = verbose
        self.events: list[Event] = []  # what happened, oldest first
        self.num_skipped = 0
        self.num_not_reproducible = 0
        self._updater = Updater(clipping.get(clip))
        self._keeping = Keeping(quarantine if quarantine is not True else "nanguard-quarantine", num_explained)
        self._spikes = SpikeDetector()
        self._layers = LayerNorms()
        self._rollback: Rollback | None = None
        self._rollback_options: dict[str, Any] = {
            "every": snapshot_every, "limit": max_rollbacks, "factor": backoff, "warmup": warmup,
        }  # fmt: skip
        self._fit: GuardedFit | None = None
        self._optimizer = optimizer
        self._epoch: int | None = None
        self._batch = 0
        self._in_row = 0
        self._is_muted = False
        self._lines = Lines(is_silent=not verbose)
        self._skipped_before = 0  # in earlier epochs
        self._overflows = 0
        self._last_norm, self._last_clip = 0.0, 1.0
        self._good_logs: dict[str, Any] = {}
        self._has_good_logs = False  # from this epoch
        self._steps = 0
        if model is not None:
            self.set_model(model)
            self._optimizer = optimizer if optimizer is not None else getattr(model, "optimizer", None)
            HOOKS.acquire()
            weakref.finalize(self, HOOKS.release)

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
            self._updater.tell(made, self._on_refused_in_graph)
        return made

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a whole step function leave nothing behind when it is refused: also metrics, and several optimizers.

        Put it inside of `tf.function`: `tf.function(guard.step(train_step))`.

        Args:
            function: A step: forward pass, gradients, updates, metrics.

        Returns:
            The function, guarded; it gives what the plain one gives.
        """

        def step(*args: Any, **kwargs: Any) -> Any:
            result, journal = self._updater.run(function, *args, **kwargs)
            if tf.executing_eagerly():
                self._after_eager_step(journal, args)
            elif journal.verdict is not None:
                self._updater.tell(journal.verdict, self._on_refused_in_graph)
            return result

        step.__name__ = getattr(function, "__name__", "step")
        return step

    def _after_eager_step(self, journal: Any, batch: Any) -> None:
        if journal.verdict is None or bool(journal.verdict):
            self._in_row = 0
            return
        numbers = self._numbers(journal)
        if numbers.skipped != self.num_skipped:
            self._refused(numbers, batch, None)
        self._overflows = numbers.overflows

    def _on_refused_in_graph(self) -> None:
        ledger = self._updater.ledger
        assert ledger is not None
        self._overflows = int(ledger.overflows.numpy())
        if int(ledger.skipped.numpy()) == self.num_skipped:
            return  # scaled gradients overflowed, and their optimizer has seen to it
        # Steps that go ahead call nobody here: only the counter in the graph knows of them.
        self._in_row = int(ledger.in_row.numpy()) - 1
        self._refused(Measured(math.nan, math.nan, 1.0, int(ledger.skipped.numpy()), 0), None, None)

    def _numbers(self, journal: Any) -> Measured:
        ledger = self._updater.ledger
        assert ledger is not None
        loss = 0.0 if journal.loss is None else float(journal.loss)
        norm = 0.0 if journal.grad_norm is None else float(journal.grad_norm)
        return Measured(loss, norm, 1.0, int(ledger.skipped.numpy()), int(ledger.overflows.numpy()))

    # -- inside of fit

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the place of the model's train function."""
        if self._updater.rate is None and (self.on_nonfinite == "rollback" or callable(self.on_nonfinite)):
            self._rollback = Rollback(self._everything, **self._rollback_options)
            self._updater.rate = self._rollback.rate
        self._build_optimizer()
        if self._fit is None or self._fit.model is not self.model or self._fit.is_stale():
            self._fit = GuardedFit(self.model, self._updater, self._run_step)
        self._fit.attach()
        seams.keep_log_keys(self.model, "nanguard/")
        self._keeping.begin(training.calling_fit())

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
        self._epoch, self._batch = epoch, 0
        self._skipped_before = self.num_skipped
        self._has_good_logs = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model its own train function back, and says what happened."""
        self._leave()
        if self.verbose:
            say(self.summary())

    def _leave(self) -> None:
        if self._fit is not None:
            self._fit.detach()
        seams.forget_log_keys(self.model)
        self._keeping.end()
        self._epoch = None

    @contextlib.contextmanager
    def nanguard_muted(self) -> Iterator[None]:
        """While it is open steps are run and nothing follows from them: a checkpoint is about to set their state."""
        self._is_muted = True
        try:
            yield
        finally:
            self._is_muted = False

    def _run_step(self, run: Callable[[Any], dict[str, Any]], batch: Any) -> dict[str, Any]:
        """Runs one step of `fit`, and what follows from it."""
        if self._is_muted:
            logs = run(batch)
            measured(logs)
            return logs
        try:
            if self._rollback is not None:
                self._rollback.before_step(self._steps)
            logs = run(batch)
            numbers = measured(logs)
            if numbers is None:
                return logs
            self._steps += 1
            if numbers.overflows != self._overflows:
                self._overflows = numbers.overflows
                logs = self._mended(logs)
            elif numbers.skipped != self.num_skipped:
                # What a step gives of its metrics may be from before they were put back.
                logs = {**logs, **self._good_logs} if self._has_good_logs else self._mended(logs)
                self._refused(numbers, batch, run)
            else:
                self._good_logs, self._has_good_logs = dict(logs), True
                self._went_ahead(numbers, batch, run)
            self._batch += 1
        except BaseException:
            self._leave()
            raise
        logs["nanguard/skipped"] = float(self.num_skipped - self._skipped_before)
        logs["nanguard/grad_norm"] = self._last_norm
        logs["nanguard/clip"] = self._last_clip
        return logs

    def _mended(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs without what is not finite in them."""
        return {key: value if _is_finite(value) else self._good_logs.get(key, value) for key, value in logs.items()}

    def _went_ahead(self, numbers: Measured, batch: Any, run: Any) -> None:
        self._in_row = 0
        self._last_norm, self._last_clip = numbers.grad_norm, numbers.clip
        spike = self._spikes.observe(numbers.loss, numbers.grad_norm)
        diverges = False
        if self._rollback is not None:
            diverges = self._rollback.diverges(numbers.loss, numbers.grad_norm)
            self._rollback.after_step(batch)
        if spike is not None or diverges:
            reason: Reason = "divergence" if spike is None or spike.what == "divergence" else "spike"
            event = Event(reason, self._iterations(), self._epoch, self._batch, (), numbers.loss, numbers.grad_norm)
            event.norms = dict(zip(self._updater.names(), numbers.norms, strict=False))
            event.grown = tuple(self._layers.grown(list(event.norms), list(event.norms.values())))
            event.action = "rollback" if self.on_nonfinite == "rollback" else "none"
            if callable(self.on_nonfinite):
                event.action = self._asked(event, "none")
            self._act(event, batch, run, num_offending=1)
        else:
            self._layers.observe(numbers.norms)

    def _refused(self, numbers: Measured, batch: Any, run: Any) -> None:
        self.num_skipped = numbers.skipped
        self._in_row += 1
        event = Event(
            "nonfinite", self._iterations(), self._epoch, self._batch if self._epoch is not None else None,
            self._updater.places(), numbers.loss, numbers.grad_norm, norms=self._updater.norms(), in_row=self._in_row,
        )  # fmt: skip
        event.corrupt = self._corrupt()
        self._keeping.investigate(event, batch, self._fit if run is not None else None, self._everything())
        if event.reproduced is False:
            self.num_not_reproducible += 1
        event.action = "skip" if callable(self.on_nonfinite) else self.on_nonfinite  # type: ignore[assignment]
        if callable(self.on_nonfinite):
            event.action = self._asked(event, "skip")
        if self._in_row >= self.max_in_row and event.action != "raise":
            event.action = "raise"
        self._act(event, batch, run)

    def _asked(self, event: Event, default: Action) -> Action:
        answer = self.on_nonfinite(event)  # type: ignore[operator]
        if answer is None:
            return default
        if answer not in _ACTIONS:
            raise UsageError(f"`on_nonfinite` must return one of {', '.join(_ACTIONS)}, or None. Received: {answer!r}.")
        return cast(Action, answer)

    def _act(self, event: Event, batch: Any, run: Any, num_offending: int = 0) -> None:
        self.events.append(event)
        again: list[Any] = []
        if event.action == "rollback":
            if self._rollback is None or run is None:
                event.action = "skip"  # there is nothing to go back to
            elif self._rollback.is_exhausted():
                event.action = "raise"
            elif event.reason == "nonfinite" and event.in_row == 1 and not event.corrupt:
                event.action = "skip"  # one bad batch is no divergence: refusing it is enough
            else:
                # A weight that something else has broken is no fault of the batch, nor of the learning rate.
                snapshot, again = self._rollback.go_back(num_offending, is_rate_kept=bool(event.corrupt))
                again += [batch] if event.corrupt and batch is not None else []
                self._in_row = 0
                if snapshot is None:
                    event.action = "skip"
        if event.action == "raise":
            raise NonFiniteError(self._diagnosed(event))
        self._lines.add(event.headline())
        for healthy in again:
            logs = run(healthy)
            numbers = measured(logs)
            if numbers is not None:
                self.num_skipped = numbers.skipped
                self._rollback.after_step(healthy)  # type: ignore[union-attr]

    def _diagnosed(self, event: Event) -> str:
        lines = [event.headline()]
        if event.reason == "nonfinite" and event.in_row >= self.max_in_row:
            lines[0] += f": {event.in_row} steps in a row were not finite, and none of them was applied"
        elif self._rollback is not None and self._rollback.is_exhausted():
            lines[0] += f": {self._rollback.attempts} rollbacks did not help"
        lines += self._keeping.advice(event, self.events)
        return "\n".join(lines)

    def _everything(self) -> list[Any]:
        """All variables of the training."""
        found = [*self.model.variables]
        for optimizer in self._updater.optimizers or [self.model.optimizer]:
            found += script_variables.optimizer_variables(optimizer)
        for metric in self.model.metrics:
            found += metric.variables
        return list({id(v): v for v in found}.values())

    def _corrupt(self) -> tuple[str, ...]:
        """Variables that are not finite though no step left them so: something else has written them."""
        if self.model is None or not tf.executing_eagerly():
            return ()
        metrics = {id(variable) for metric in self.model.metrics for variable in metric.variables}
        return tuple(
            getattr(variable, "path", variable.name)
            for variable in self._everything()
            if id(variable) not in metrics
            and not bool(flag.are_finite([tf.convert_to_tensor(script_variables.local(variable))]))
        )

    def _iterations(self) -> int:
        optimizer = next(iter(self._updater.optimizers), None)
        return 0 if optimizer is None else int(tf.convert_to_tensor(optimizer.iterations))

    # -- what it tells

    def summary(self) -> str:
        """What the guard did, in one line."""
        parts = [f"{self._steps} steps, {self.num_skipped} skipped"]
        if self.num_not_reproducible:
            parts.append(f"{self.num_not_reproducible} of them not reproducible")
        if self._overflows:
            parts.append(f"{self._overflows} overflows of scaled gradients")
        if self._rollback is not None and self._rollback.attempts:
            parts.append(f"{self._rollback.attempts} rollbacks")
        causes = sorted({event.incident.cause for event in self.events if getattr(event.incident, "cause", None)})
        if causes:
            parts.append("causes: " + ", ".join(causes))
        return ", ".join(parts) + self._keeping.summary()

    # -- what a checkpoint keeps

    def nanguard_state(self) -> dict[str, Any]:
        """The guard's own statistics, as JSON."""
        return {
            "num_skipped": self.num_skipped,
            "num_not_reproducible": self.num_not_reproducible,
            "skipped_before": self._skipped_before,
            "in_row": self._in_row,
            "overflows": self._overflows,
            "steps": self._steps,
            "last": [self._last_norm, self._last_clip],
            "spikes": self._spikes.state(),
            "rollback": None if self._rollback is None else self._rollback.state(),
        }

    def restore_nanguard_state(self, state: dict[str, Any]) -> None:
        """Takes up what `nanguard_state` gave."""
        self.num_skipped = int(state["num_skipped"])
        self.num_not_reproducible = int(state["num_not_reproducible"])
        self._skipped_before = int(state["skipped_before"])
        self._in_row, self._overflows = int(state["in_row"]), int(state["overflows"])
        self._steps = int(state["steps"])
        self._last_norm, self._last_clip = state["last"]
        self._spikes.restore(state["spikes"])
        if self._rollback is not None and state["rollback"] is not None:
            self._rollback.restore(state["rollback"])

    @property
    def nanguard_variables(self) -> list[Any]:
        """The guard's own variables."""
        return self._updater.variables


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return True
