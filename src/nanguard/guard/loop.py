"""A guarded step function of a loop of one's own: called from Python, its batch is in hand, as in `fit`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from nanguard.backend import execution, functions, graphs, random
from nanguard.errors import UsageError
from nanguard.guard import diagnosis
from nanguard.guard import variables as script_variables
from nanguard.guard.event import Event
from nanguard.guard.journal import Entry, Handle, Journal, busy
from nanguard.guard.measured import Measured, measurements
from nanguard.guard.reactions import Reactions
from nanguard.guard.updater import Updater


class Call(NamedTuple):
    """What a step was called with, as its batch."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def guarded_step(function: Callable[..., Any], updater: Updater, reactions: Reactions) -> Callable[..., Any]:
    """Makes a step function leave nothing behind when it is refused.

    Args:
        function: A plain function or a `tf.function`.
        updater: Makes its updates.
        reactions: Does what follows from a step that is called from Python.

    Returns:
        A function that may be called from Python, and traced.
    """
    loop = Loop(function, updater, reactions)
    # Traced as a part of a function of the user's, a traced function is one more level that would hide its updates.
    is_inlined = functions.is_function(function) and not functions.is_compiled(function)
    python_function = function.python_function if is_inlined else function  # type: ignore[attr-defined]

    def step(*args: Any, **kwargs: Any) -> Any:
        if tf.executing_eagerly():
            return loop(args, kwargs)
        if reactions.on_nonfinite == "rollback":
            raise UsageError(
                'on_nonfinite="rollback" needs the step from outside, to have its batch in hand, and here it is called '
                "inside of a tf.function. Put the guard around it: train_step = guard.step(tf.function(train_step))."
            )
        result, journal = updater.run(python_function, *args, **kwargs)
        if journal.verdict is not None:
            updater.tell(journal.verdict, reactions.refused_in_graph)
        return result

    step.__name__ = getattr(python_function, "__name__", "step")
    return step


class Loop:
    """Runs the steps of a loop of one's own.

    Args:
        function: The plain step: a function, or a `tf.function`.
        updater: Makes its updates.
        reactions: Does what follows from a step.
    """

    def __init__(self, function: Callable[..., Any], updater: Updater, reactions: Reactions) -> None:
        self._function = function
        self._updater = updater
        self._reactions = reactions
        self._now: Call | None = None  # the step under way
        self._traced: Any = None
        self._graphs: list[Any] = []  # of its traces
        self._written: dict[int, Any] = {}  # what a function that is not traced has written
        if functions.is_function(function):
            self._traced = functions.remade(function, self._traceable(function.python_function))  # type: ignore[attr-defined]

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one step, and does what follows from it."""
        self._now = Call(args, kwargs)
        if self._reactions.may_roll_back:
            self._now = tf.nest.map_structure(_copied, self._now)
            self._reactions.prepare_to_roll_back()
        result, _ = self._reactions.run(self, None if _pulls_its_batch(self._now) else self._now)
        self._now = None
        return result

    def prepare(self, batch: Call | None) -> None:
        """Traces the step, which makes what variables it makes."""
        call = batch or self._now
        if self._traced is not None and call is not None:
            self._traced.get_concrete_function(*call.args, **call.kwargs)

    def run(self, batch: Call | None) -> tuple[Any, Measured | None]:
        """Runs the guarded step; gives its result, and what it measured if it made an update that could be seen."""
        call = batch or self._now
        assert call is not None
        if self._traced is None:
            return self._run_eagerly(call)
        result, numbers = self._traced(*call.args, **call.kwargs)
        return result, None if numbers is None else Measured.of(numbers)

    def capture(self, batch: Call, event: Event) -> Any:
        """Runs the plain step again under the watch; gives what `diagnosis.run_again` does."""
        again = self._function
        if self._traced is not None:
            # Under XLA no host code runs inside the step. Its graph is the same.
            again = functions.remade(again, again.python_function, is_compiled=False)  # type: ignore[attr-defined]
        return diagnosis.run_again(lambda: again(*batch.args, **batch.kwargs), self.variables())

    def variables(self) -> list[Any]:
        """All variables that a step may write, as far as is known."""
        own = self._updater.counting()
        found = dict(self._written)
        for handle in (handle for graph in self._graphs for handle in graphs.captured(graph)):
            dtype = script_variables.dtype_of(handle)
            if dtype is not None:
                found[execution.identity_of(handle)] = Handle(handle, dtype)
        return [variable for key, variable in found.items() if key not in own]

    def _traceable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            self._graphs.append(graphs.current())
            result, journal = self._updater.run(function, *args, **kwargs)
            return result, self._measured(journal)

        return step

    def _run_eagerly(self, call: Call) -> tuple[Any, Measured | None]:
        is_first = self._reactions.may_roll_back and not self._written
        generators = random.state() if is_first else None
        if is_first:
            self._updater.expect_several_updates()
        result, journal = self._updater.run(self._function, *call.args, **call.kwargs)
        # By variable, with what it held before the first of several writes.
        before = {execution.identity_of(entry.variable.handle): entry for entry in reversed(_entries(journal))}
        self._written.update({key: entry.variable for key, entry in before.items()})
        if generators is not None:
            # Only now is it known what a step writes.
            self._reactions.has_begun_with([(e.variable, e.before) for e in before.values()], generators)
        numbers = self._measured(journal)
        return result, None if numbers is None else Measured.of(numbers)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _measured(self, journal: Journal) -> Any:
        if journal.verdict is None:  # no update was made
            return None
        with busy(), tf.name_scope("nanguard"):
            return measurements(journal, self._updater.counters())


def _entries(journal: Journal) -> list[Entry]:
    """All that a step has written, in the order in which it did."""
    return [*journal.entries.values(), *journal.updated, *journal.later]


def _copied(value: Any) -> Any:
    """An array that the loop may fill anew for its next batch is kept as it is now."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _pulls_its_batch(call: Call) -> bool:
    return any(isinstance(leaf, Iterator) for leaf in tf.nest.flatten(call))
