"""What follows from a step that has run: it is counted, told and kept, gone back from, or the end of the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import tensorflow as tf

from nanguard.backend import execution, updates
from nanguard.errors import NonFiniteError, UsageError
from nanguard.guard import flag
from nanguard.guard import variables as script_variables
from nanguard.guard.event import Action, Event, Reason
from nanguard.guard.keeping import Keeping
from nanguard.guard.measured import Measured
from nanguard.guard.rollback import Rollback
from nanguard.guard.spikes import LayerNorms, SpikeDetector
from nanguard.guard.teller import Lines
from nanguard.guard.updater import Updater

ACTIONS = ("skip", "rollback", "raise")
OnNonfinite = str | Callable[[Event], str | None]


class Runner(Protocol):
    """What runs the steps of a training, one batch each."""

    def prepare(self, batch: Any) -> None:
        """Makes what variables the first step would make, where that can be done without running it."""

    def run(self, batch: Any) -> tuple[Any, Measured | None]:
        """Runs the guarded step; gives its result, and what it measured if it made an update that could be seen."""

    def capture(self, batch: Any, event: Event) -> Any:
        """Runs the plain step once more under the watch; gives what `diagnosis.run_again` does."""

    def variables(self) -> list[Any]:
        """All variables that a step may write."""


class Reactions:
    """Runs the steps of one guard, and does what follows from each.

    Args:
        updater: What makes the updates.
        keeping: What becomes of refused steps.
        on_nonfinite: What is done about them: as `Guard` has it.
        max_in_row: Refused steps in a row before the training is stopped.
        lines: What is told.
        rollback_options: Arguments of `Rollback`.
    """

    def __init__(
        self,
        updater: Updater,
        keeping: Keeping,
        *,
        on_nonfinite: OnNonfinite,
        max_in_row: int,
        lines: Lines,
        rollback_options: dict[str, Any],
    ) -> None:
        self.events: list[Event] = []  # what happened, oldest first
        self.num_skipped = 0
        self.num_not_reproducible = 0
        self.overflows = 0
        self.in_row = 0
        self.steps = 0
        self.last_norm, self.last_clip = 0.0, 1.0
        self.rollback: Rollback | None = None
        self.is_muted = False
        self.epoch: int | None = None
        self.batch: int | None = None
        self._updater = updater
        self._keeping = keeping
        self.on_nonfinite = on_nonfinite
        self._max_in_row = max_in_row
        self._lines = lines
        self._rollback_options = rollback_options
        self._runner: Runner | None = None  # of the newest step
        self._spikes = SpikeDetector()
        self._layers = LayerNorms()

    @property
    def may_roll_back(self) -> bool:
        """Whether there can be a need to go back."""
        return self.on_nonfinite == "rollback" or callable(self.on_nonfinite)

    def prepare_to_roll_back(self) -> None:
        """To be called before the first step is traced: there a variable for the learning rate comes in."""
        if self.may_roll_back and self.rollback is None:
            counters = self._updater.counters()
            self.rollback = Rollback(
                lambda: self._runner.variables(),  # type: ignore[union-attr]
                counters=lambda: counters.variables, **self._rollback_options,
            )  # fmt: skip
            self._updater.rate = self.rollback.rate

    def has_begun_with(self, tensors: list[tuple[Any, Any]], generators: Any) -> None:
        """Takes the first snapshot, of before the first step, where only that step has shown what there is."""
        if self.rollback is not None:
            self.rollback.snapshots.put(self.steps, tensors, generators)

    def run(self, runner: Runner, batch: Any) -> tuple[Any, bool | None]:
        """Runs one step, and does what follows from it.

        Args:
            runner: Runs it.
            batch: What it is run on, or None where only the device knows it.

        Returns:
            The step's result; and whether it went ahead, None if that is not known.

        Raises:
            NonFiniteError: If that is what is to be done about it.
        """
        if self.is_muted:
            return runner.run(batch)[0], None
        if self.rollback is not None:
            if self._runner not in (None, runner):
                self.rollback.forget()  # another training's snapshots, batches and rate
            self._runner = runner
            if not len(self.rollback.snapshots):
                runner.prepare(batch)  # the first snapshot has to hold all variables
            self.rollback.before_step(self.steps, lambda data: runner.run(data)[1])
        result, numbers = runner.run(batch)
        if numbers is None:
            return result, None
        self.steps += 1
        if numbers.overflows != self.overflows:
            self.overflows = numbers.overflows
            return result, False
        if numbers.skipped != self.num_skipped:
            self.refused(numbers, batch, runner)
            return result, False
        self._went_ahead(numbers, batch, runner)
        return result, True

    def _went_ahead(self, numbers: Measured, batch: Any, runner: Runner) -> None:
        self.in_row = 0
        self.last_norm, self.last_clip = numbers.grad_norm, numbers.clip
        spike = self._spikes.observe(numbers.loss, numbers.grad_norm)
        diverges = False
        if self.rollback is not None:
            diverges = self.rollback.diverges(numbers.loss, numbers.grad_norm)
            self.rollback.after_step(batch, numbers)
        if spike is None and not diverges:
            self._layers.observe(numbers.norms)
            return
        reason: Reason = "divergence" if spike is None or spike.what == "divergence" else "spike"
        event = Event(reason, self._step() - 1, self.epoch, self.batch, (), numbers.loss, numbers.grad_norm)
        event.norms = dict(zip(self._updater.names(), numbers.norms, strict=False))
        event.grown = tuple(self._layers.grown(list(event.norms), list(event.norms.values())))
        event.action = "rollback" if self.on_nonfinite == "rollback" else "none"
        if callable(self.on_nonfinite):
            event.action = self._asked(event, "none")
        self._act(event, batch, runner, num_offending=1)

    def refused(self, numbers: Measured, batch: Any, runner: Runner | None) -> None:
        """Does what follows from a step that was refused.

        Args:
            numbers: What it measured.
            batch: What it was run on, or None.
            runner: Runs it again; None where the guard cannot.
        """
        self.num_skipped = numbers.skipped
        if self.rollback is not None:
            self.rollback.after_step(batch, numbers, is_refused=True)
        self.in_row += 1
        event = Event(
            "nonfinite", self._step(), self.epoch, self.batch, self._updater.places(), numbers.loss, numbers.grad_norm,
            norms=self._updater.norms(), in_row=self.in_row,
        )  # fmt: skip
        event.corrupt = self._corrupt(runner)
        self._keeping.investigate(event, batch, None if runner is None else lambda: runner.capture(batch, event))
        if event.reproduced is False:
            self.num_not_reproducible += 1
        event.action = "skip" if callable(self.on_nonfinite) else cast(Action, self.on_nonfinite)
        if callable(self.on_nonfinite):
            event.action = self._asked(event, "skip")
        if self.in_row >= self._max_in_row and event.action != "raise":
            event.action = "raise"
        self._act(event, batch, runner)

    def refused_in_graph(self) -> None:
        """The same for a step inside a function that runs as a whole: only the counters in its graph know of it."""
        ledger = self._updater.counters()
        self.overflows = int(ledger.overflows.numpy())
        skipped = int(ledger.skipped.numpy())
        if skipped == self.num_skipped:
            return  # scaled gradients overflowed, and their optimizer has seen to it
        self.in_row = int(ledger.in_row.numpy()) - 1
        self.refused(Measured(math.nan, math.nan, 1.0, skipped, 0), None, None)

    def _asked(self, event: Event, default: Action) -> Action:
        answer = self.on_nonfinite(event)  # type: ignore[operator]
        if answer is None:
            return default
        if answer not in ACTIONS:
            raise UsageError(f"`on_nonfinite` must return one of {', '.join(ACTIONS)}, or None. Received: {answer!r}.")
        return cast(Action, answer)

    def _act(self, event: Event, batch: Any, runner: Runner | None, num_offending: int = 0) -> None:
        self.events.append(event)
        again: list[Any] = []
        if event.action == "rollback":
            if self.rollback is None or runner is None:
                event.action = "skip"  # there is nothing to go back to
            elif self.rollback.is_exhausted():
                if len(self.rollback.snapshots):
                    self.rollback.snapshots.restore()
                event.action = "raise"
            elif event.reason == "nonfinite" and event.in_row == 1 and not event.corrupt:
                event.action = "skip"  # one bad batch is no divergence: refusing it is enough
            else:
                # A weight that something else has broken is no fault of the batch, nor of the learning rate.
                snapshot, again = self.rollback.go_back(
                    num_offending, is_rate_kept=bool(event.corrupt), run=lambda data: runner.run(data)[1]
                )
                again += [batch] if event.corrupt and batch is not None else []
                if snapshot is not None:
                    self.in_row = 0
                else:
                    event.action = "skip" if event.reason == "nonfinite" else "none"
                    event.why = event.why or "The last batches fare no worse than before: nothing was undone"
        if event.action == "raise":
            raise NonFiniteError(self._diagnosed(event))
        self._lines.add(event.headline())
        for healthy in again:
            numbers = runner.run(healthy)[1]  # type: ignore[union-attr]
            if numbers is not None:
                self.num_skipped = numbers.skipped
                self.rollback.after_step(healthy, numbers)  # type: ignore[union-attr]

    def _diagnosed(self, event: Event) -> str:
        lines = [event.headline()]
        if event.reason == "nonfinite" and event.in_row >= self._max_in_row:
            lines[0] += f": {event.in_row} steps in a row were not finite, and none of them was applied"
        elif self.rollback is not None and self.rollback.is_exhausted():
            lines[0] += f": {self.rollback.attempts} rollbacks did not help"
        lines += self._keeping.advice(event, self.events)
        return "\n".join(lines)

    def _corrupt(self, runner: Runner | None) -> tuple[str, ...]:
        """Variables that are not finite though no step left them so: something else has written them."""
        if runner is None or not tf.executing_eagerly():
            return ()
        broken = [
            part
            for variable in runner.variables()
            for part in script_variables.components(script_variables.raw(variable))
            if not bool(flag.are_finite([part.read_value()]))
        ]
        if not broken:
            return ()
        known = script_variables.named()
        found = [known.get(execution.identity_of(part.handle)) for part in broken]
        # The minimum of nothing is an infinity.
        return tuple(dict.fromkeys(each.path for each in found if each is not None and each.kind != "metric"))

    def _step(self) -> int:
        optimizer = self._updater.optimizers[-1] if self._updater.optimizers else None
        return self.steps if optimizer is None else int(tf.convert_to_tensor(updates.iterations(optimizer)))

    def summary(self) -> str:
        """What happened, in one line."""
        # Of steps inside of traced functions nobody tells that went ahead.
        steps = self.steps or self._step() + self.num_skipped
        parts = [f"{steps} steps, {self.num_skipped} skipped"]
        if self.num_not_reproducible:
            parts.append(f"{self.num_not_reproducible} of them not reproducible")
        if self.overflows:
            parts.append(f"{self.overflows} overflows of scaled gradients")
        if self.rollback is not None and self.rollback.attempts:
            parts.append(f"{self.rollback.attempts} rollbacks")
        causes = sorted({event.incident.cause for event in self.events if getattr(event.incident, "cause", None)})
        if causes:
            parts.append("causes: " + ", ".join(causes))
        return ", ".join(parts) + self._keeping.summary()

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold, as JSON."""
        return {
            "num_skipped": self.num_skipped,
            "num_not_reproducible": self.num_not_reproducible,
            "in_row": self.in_row,
            "overflows": self.overflows,
            "steps": self.steps,
            "last": [self.last_norm, self.last_clip],
            "spikes": self._spikes.state(),
            "rollback": None if self.rollback is None else self.rollback.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.num_skipped = int(state["num_skipped"])
        self.num_not_reproducible = int(state["num_not_reproducible"])
        self.in_row, self.overflows = int(state["in_row"]), int(state["overflows"])
        self.steps = int(state["steps"])
        self.last_norm, self.last_clip = state["last"]
        self._spikes.restore(state["spikes"])
        if self.rollback is not None and state["rollback"] is not None:
            self.rollback.restore(state["rollback"])
