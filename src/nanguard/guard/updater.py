"""The guarded updates of one guard, whichever way a step is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs, seams
from nanguard.guard import flag
from nanguard.guard import variables as script_variables
from nanguard.guard.journal import Entry, Journal, busy, whole_step
from nanguard.guard.ledger import Ledger
from nanguard.guard.measured import measurements
from nanguard.guard.update import Parts, Update, nothing


class Updater:
    """Makes the updates of one guard, and keeps what it counts.

    Args:
        clip: How gradients are clipped, or None. Each further optimizer of a step gets one of its own like it.
    """

    def __init__(self, clip: Any = None) -> None:
        self.clip = clip
        self.ledger: Ledger | None = None
        self.rate: Any = None  # variable that learning rates are multiplied by, or None
        self.optimizers: list[Any] = []
        self.layout: dict[int, list[Any]] = {}  # an optimizer's trained variables, by its id
        self._norms: dict[int, Any] = {}
        self._clips: dict[int, Any] = {}
        self._names: dict[int, list[str]] = {}  # of the weights that had a gradient, by their optimizer's id
        self._has_several_updates = False
        self.makes_one_update = False  # whether a step is known to make no more, as Keras's own is

    @property
    def variables(self) -> list[Any]:
        """All variables of the guard's own that a checkpoint has to hold."""
        return [*(self.ledger.variables if self.ledger is not None else ()), *self.clip_variables]

    def counting(self) -> set[int]:
        """The identities of the variables that count and measure: they are no part of the training."""
        own = [*self.counters().variables, *self._norms.values(), *([] if self.rate is None else [self.rate])]
        return {execution.identity_of(script_variables.raw(variable).handle) for variable in own}

    @property
    def clip_variables(self) -> list[Any]:
        """What the clips have learnt."""
        return [variable for clip in self._clips.values() for variable in clip.variables]

    def expect_several_updates(self) -> None:
        """Has the next eager step note what its updates write over."""
        self._has_several_updates = True

    def counters(self) -> Ledger:
        """The counters, from before the first step on."""
        if self.ledger is None:
            self.ledger = Ledger()
        return self.ledger

    def norms(self) -> dict[str, float]:
        """The gradient norm of each weight in the last step that was refused."""
        found = {}
        for key, variables in self.layout.items():
            for variable, half in zip(variables, self._norms[key].numpy(), strict=True):
                found[getattr(variable, "path", variable.name)] = float(2.0 * half) ** 0.5
        return found

    def names(self) -> list[str]:
        """Names of the weights that have a gradient, in the order in which a step makes its updates."""
        return [name for names in self._names.values() for name in names]

    def places(self) -> tuple[str, ...]:
        """Where the last step that was refused was not finite."""
        return self.ledger.places() if self.ledger is not None else ()

    def clip_of(self, optimizer: Any) -> Any:
        """The clip of an optimizer that has been prepared, or None."""
        return self._clips.get(id(optimizer))

    def prepare(self, optimizer: Any, variables: list[Any]) -> None:
        """Makes all variables, those of the optimizer too, before the first update is traced."""
        key = id(optimizer)
        if not optimizer.built:
            seams.build_optimizer(optimizer, variables)
        self.counters()
        if key not in self._norms:
            self._norms[key] = seams.new_variable(lambda: tf.zeros([len(variables)]), "nanguard_half_squares")
            self.layout[key] = variables
            self.optimizers.append(optimizer)
            if self.clip is not None:
                clip = self.clip if not self._clips else type(self.clip).from_config(self.clip.get_config())
                self._clips[key] = clip
                with tf.init_scope():
                    clip.build(variables)

    def update(
        self, apply: Callable[[Any, Any], Any], optimizer: Any, grads: list[Any], variables: list[Any],
        journal: Journal, clip: Any = None,
    ) -> Any:  # fmt: skip
        """Applies gradients if all is finite, and else puts back what the step has written.

        Args:
            apply: The plain update; takes gradients and variables.
            optimizer: The Keras optimizer behind it.
            grads: One for each variable: a tensor, `tf.IndexedSlices` or None.
            variables: The trained variables.
            journal: What the step has written so far.
            clip: How the gradients of this optimizer are clipped. Defaults to the guard's own clip.

        Returns:
            Whether the update went ahead.
        """
        if graphs.current() is not journal.graph:
            return self._update_inside(apply, optimizer, grads, variables, journal, clip)
        self.prepare(optimizer, variables)
        if all(grad is None for grad in grads):
            with busy():
                apply(grads, variables)  # Keras says what is wrong
            return True if journal.verdict is None else journal.verdict
        ledger = self.counters()
        with busy(), tf.name_scope("nanguard"):
            parts = _parts(optimizer, grads, variables, journal)
            update = Update(
                apply, optimizer, grads, variables, parts, ledger, self._norms[id(optimizer)],
                clip or self.clip_of(optimizer), journal.verdict, self.rate,
            )  # fmt: skip
            journal.note_update([*variables, *script_variables.optimizer_variables(optimizer)])
            journal.loss = tf.add_n([flag.total(loss) for loss in parts.losses]) if parts.losses else tf.zeros([])
            half_squares = tf.stack(parts.half_squares)
            if parts.scale is not None:
                half_squares /= parts.scale * parts.scale
            journal.half_squares.append(half_squares)
            journal.grad_norm = tf.sqrt(2.0 * tf.reduce_sum(half_squares))
            self._names[id(optimizer)] = [
                getattr(v, "path", v.name) for v, grad in zip(variables, grads, strict=True) if grad is not None
            ]
            context = tf.distribute.get_replica_context()
            if context is not None and context.num_replicas_in_sync > 1:
                journal.verdict, journal.clip = update.make_on_all_replicas(journal, context)
            else:
                journal.verdict, journal.clip = update.make(journal)
        journal.num_updates += 1
        return journal.verdict

    def _update_inside(
        self, apply: Callable[[Any, Any], Any], optimizer: Any, grads: list[Any], variables: list[Any],
        journal: Journal, clip: Any,
    ) -> Any:  # fmt: skip
        """Makes an update in a loop, a branch or a function inside of the step: its verdict holds in there alone."""
        if journal.num_skipped is None:
            with busy(), journal.at_its_beginning():
                journal.num_skipped = self.counters().skipped.read_value()
        inside = Journal(journal.update)
        inside.entries = journal.entries
        inside.losses = journal.losses_at_hand()
        verdict = self.update(apply, optimizer, grads, variables, inside, clip)
        journal.num_updates += 1
        return verdict

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def tell(self, made: Any, then: Callable[[], None]) -> None:
        """Has `then` called when the traced step turns out to be refused. Not under XLA, where no host code runs."""
        graph = graphs.current()
        if graph is None or graphs.is_compiled(graph):
            return

        def call() -> None:
            # Its operation is no result: the other branch has none.
            tf.py_function(lambda: then(), [], [])

        flag.branch(made, nothing, call)

    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Journal]:
        """Runs a whole step function, or traces it, so that a step that is refused leaves nothing behind."""
        with whole_step(
            self.update, has_several_updates=self._has_several_updates, on_replica=self._on_replica
        ) as journal:
            journal.has_one_update = self.makes_one_update
            result = step(*args, **kwargs)
            self._finish(journal)
        return result, journal

    def _on_replica(self, journal: Journal, step: Callable[..., Any]) -> tuple[Any, Callable[[Any, Any], Any]]:
        """Guards what a strategy is to run on each replica: there the updates are made, and the decisions."""

        def run(*args: Any, **kwargs: Any) -> Any:
            result, own = self.run(step, *args, **kwargs)
            verdict = tf.constant(True) if own.verdict is None else own.verdict
            return result, (tf.cast(verdict, tf.float32), measurements(own, self.counters()))

        def gather(strategy: Any, results: Any) -> Any:
            result, measured = results
            with busy(), tf.name_scope("nanguard"):
                made, journal.measured = strategy.reduce(tf.distribute.ReduceOp.MEAN, measured, axis=None)
                journal.verdict = made > 0.5
            journal.num_updates += 1
            return result

        return run, gather

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _finish(self, journal: Journal) -> None:
        """Judges what no optimizer has written, and undoes the first of several updates if a later one was refused."""
        self._has_several_updates = journal.num_updates > 1
        if journal.num_skipped is not None:
            with busy(), tf.name_scope("nanguard"):
                journal.verdict = tf.equal(self.counters().skipped.read_value(), journal.num_skipped)
                flag.branch(journal.verdict, nothing, journal.put_back)
            return
        by_hand = [entry for entry in journal.entries.values() if entry.kind in ("weight", "slot")]
        if journal.num_updates and not by_hand:
            if journal.num_updates > 1:
                with busy():
                    flag.branch(journal.verdict, nothing, journal.undo_updates)
            return
        ledger = self.counters()
        with busy(), tf.name_scope("nanguard"):
            numbers = [*journal.losses_at_hand(), *(entry.variable.read_value() for entry in by_hand), *journal.state()]
            if not numbers:
                return
            made = flag.branch(
                flag.is_clean(tf.add_n([flag.total(number) for number in numbers if flag.holds_floats(number)])),
                lambda: tf.constant(True),
                lambda: flag.are_finite(numbers),
            )
            so_far = True if journal.verdict is None else journal.verdict

            def undo() -> None:
                flag.branch(so_far, ledger.count_by_hand, nothing)
                journal.put_back()
                journal.undo_updates()

            journal.verdict = made = tf.logical_and(made, so_far)
            flag.branch(made, nothing if self.rate is None else lambda: self._damp(by_hand), undo)

    def _damp(self, by_hand: list[Entry]) -> None:
        """Shortens the step of weights that were written by hand, as a lower learning rate would have."""

        def shorten() -> None:
            for entry in by_hand:
                if entry.kind == "weight" and flag.holds_floats(entry.variable):
                    rate = tf.cast(self.rate, entry.before.dtype)
                    new = entry.before + rate * (entry.variable.read_value() - entry.before)
                    tf.raw_ops.AssignVariableOp(resource=entry.variable.handle, value=new)

        flag.branch(tf.equal(self.rate, 1.0), nothing, shorten)


def _parts(optimizer: Any, grads: list[Any], variables: list[Any], journal: Journal) -> Parts:
    numbers = [flag.values(grad) for grad in grads if grad is not None]
    own = [script_variables.local(v) for v in (*variables, *script_variables.optimizer_variables(optimizer))]
    scale = script_variables.dynamic_scale(optimizer)
    rate = seams.scheduled_rate(optimizer)
    # Not their values: one that is at hand while the update writes makes TensorFlow copy the variable first.
    weights = [v for v in own if flag.holds_floats(v)]
    return Parts(
        losses=journal.losses_at_hand(),
        grads=numbers,
        state=journal.state(),
        weights=[*weights, *([rate] if rate is not None else [])],
        half_squares=[flag.half_square(tensor) for tensor in numbers],
        scale=None if scale is None else tf.convert_to_tensor(script_variables.local(scale)),
    )
