"""What a step has written so far, with the values from before, so that all of it can be put back.

A journal begins where the step begins: with its outermost gradient tape, or around a whole step function. While a
function is traced the journal holds graph tensors, and putting back becomes a branch of the graph that never runs
while all is well; in eager mode it holds values by reference. Either way nothing is copied.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs, seams
from nanguard.backend.patches import Patches
from nanguard.errors import UsageError
from nanguard.guard import flag
from nanguard.guard import variables as script_variables

Update = Callable[..., Any]
# Takes this journal and a function; gives the guarded one, and what to do with what it gives on all replicas.
OnReplica = Callable[["Journal", Any], tuple[Any, Callable[[Any, Any], Any]]]


class Entry:
    """One variable that the step wrote, and what it held before."""

    __slots__ = ("before", "kind", "variable")

    def __init__(self, variable: Any, before: Any, kind: str) -> None:
        self.variable = variable
        self.before = before
        self.kind = kind

    def put_back(self) -> None:
        """Writes the old value, bit for bit. Under a strategy: into the copy of this replica alone."""
        tf.raw_ops.AssignVariableOp(resource=self.variable.handle, value=self.before)


class Handle:
    """A variable of which only the handle is known."""

    def __init__(self, handle: Any, dtype: tf.DType) -> None:
        self.handle = handle
        self.dtype = dtype

    def read_value(self) -> Any:
        """The value."""
        return execution.read_variable(self.handle, self.dtype)


class Journal:
    """What one step on one thread has written.

    Args:
        update: Makes the updates of a whole step: called with the plain `apply`, the optimizer, the gradients, the
            variables and this journal. None for a journal that does not know where the step ends.
        has_several_updates: Whether an eager step is known to make several. A traced step notes for itself.
        on_replica: Makes of a function that a strategy is to run on its replicas one that guards it on each of them.
    """

    def __init__(
        self, update: Update | None = None, *, has_several_updates: bool = False, on_replica: OnReplica | None = None
    ) -> None:
        self.update = update
        self.on_replica = on_replica
        self.is_whole = update is not None
        self.has_several_updates = has_several_updates
        self.has_one_update = False  # whether it is known to make no more
        self.graph = graphs.current()
        self.entries: dict[int, Entry] = {}
        self.losses: list[Any] = []
        self.grads: list[Any] = []  # what the tapes of the step gave for variables
        self.num_skipped: Any = None  # steps refused before this one, if updates were made in inner graphs
        self.measured: Any = None  # the measurements of its replicas together
        self.verdict: Any = None  # whether the updates so far went ahead: a bool, or a tensor of this graph
        self.updated: list[Entry] = []  # what the updates so far have written
        self.later: list[Entry] = []  # what was written after them
        self.loss: Any = None
        self.grad_norm: Any = None
        self.half_squares: list[Any] = []  # of the updates so far, one vector each: of their gradients, unscaled
        self.clip: Any = None
        self.num_updates = 0
        self.has_gradient = False
        self.tape: Any = None

    def awaits_update(self) -> bool:
        """Whether an update now is that of this journal's step. A tape that was never differentiated began no step."""
        if not self.is_open():
            return False
        return self.is_whole or (self.has_gradient and self.verdict is None)

    def is_open(self) -> bool:
        """Whether what runs now is a part of this journal's step: its graph, or one nested in it.

        A function that is traced while an eager step calls it is none: its tensors have no values yet.
        """
        graph = graphs.current()
        if self.graph is None:
            return graph is None
        while graph is not None and graph is not self.graph:
            graph = graphs.outer(graph)
        return graph is self.graph

    def note(self, variable: Any, kind: str | None = None) -> None:
        """Notes the value of a variable that is about to be written for the first time."""
        variable = script_variables.local(variable)
        key = _identity(variable.handle)
        if key in self.entries:
            return
        self.entries[key] = Entry(variable, self._read(variable), kind or script_variables.kind_of_write())

    def note_update(self, variables: list[Any]) -> None:
        """Notes what an update is about to write over, should a later part of the step be refused."""
        if self.is_whole and not self.has_one_update and (self.graph is not None or self.has_several_updates):
            self.updated += [Entry(v, self._read(v), "slot") for v in map(script_variables.local, variables)]

    def note_handles(self, tensors: list[Any]) -> None:
        """Notes the values of the variables that a traced function is given, for it may write them."""
        for handle in tensors:
            if handle.dtype == tf.resource and _identity(handle) not in self.entries:
                dtype = script_variables.dtype_of(handle)
                if dtype is None:
                    continue
                before = execution.read_variable(handle, dtype)
                # A variable that the function has made has no value yet when its initializer is called.
                if script_variables.shape_of(handle).is_compatible_with(before.shape):
                    self.entries[_identity(handle)] = Entry(Handle(handle, dtype), before, "state")

    @contextlib.contextmanager
    def at_its_beginning(self) -> Iterator[None]:
        """In a branch, a loop or a nested function: what is read here is what the step itself began with."""
        with contextlib.ExitStack() as stack:
            if self.graph is not None and graphs.current() is not self.graph:
                stack.enter_context(self.graph.as_default())
                stack.enter_context(tf.control_dependencies(None))
            yield

    def _read(self, variable: Any) -> Any:
        with self.at_its_beginning():
            before = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
            before.set_shape(variable.shape)
        return before

    def put_back(self) -> None:
        """Writes all old values."""
        for entry in self.entries.values():
            entry.put_back()

    def undo_updates(self) -> None:
        """Writes the values from before the updates."""
        for entry in self.updated:
            entry.put_back()

    def losses_at_hand(self) -> list[Any]:
        """The losses but those of an inner function or loop, whose tensors do not leave it."""
        return [loss for loss in self.losses if graphs.is_at_hand(loss)]

    def state(self) -> list[Any]:
        """Values that the step has written into layers and the like, as they are now."""
        return [
            entry.variable.read_value()
            for entry in self.entries.values()
            if entry.kind in ("state", "weight") and flag.holds_floats(entry.variable)
        ]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.journal: Journal | None = None
        self.is_busy = 0  # in an update, or in an op of the guard's own
        self.unscaled: list[tuple[Any, Any]] = []  # pairs of scaled loss and loss


THREAD = _Thread()


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Around writes that are no business of the journal."""
    THREAD.is_busy += 1
    try:
        yield
    finally:
        THREAD.is_busy -= 1


def _identity(handle: Any) -> int:
    return execution.identity_of(handle) if hasattr(handle, "_id") else id(handle)


@contextlib.contextmanager
def whole_step(
    update: Update, *, has_several_updates: bool = False, on_replica: OnReplica | None = None
) -> Iterator[Journal]:
    """A journal around a whole step function, whose updates are made by `update`."""
    before = THREAD.journal
    journal = THREAD.journal = Journal(update, has_several_updates=has_several_updates, on_replica=on_replica)
    try:
        with HOOKS.installed():
            yield journal
    finally:
        THREAD.journal = before


class Hooks:
    """The places of TensorFlow and Keras that tell the journal. They are in while somebody needs them.

    There is one for the process: a step is noted once, whoever asks.
    """

    def __init__(self) -> None:
        self._num_users = 0
        self._patches = Patches()
        # The garbage collector may let go of a user while another one comes.
        self._lock = threading.RLock()

    def acquire(self) -> None:
        """Puts the hooks in, if they are not in yet."""
        with self._lock:
            self._num_users += 1
            if self._num_users == 1:
                self._install()

    def release(self) -> None:
        """Takes the hooks out with their last user."""
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                self._patches.remove()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks for the time of one step, or of its trace."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _install(self) -> None:
        self._patches.wrap(tf.GradientTape, "__enter__", _wrap_enter)
        self._patches.wrap(tf.GradientTape, "gradient", _wrap_gradient)
        self._patches.wrap(execution.context_class(), "call_function", _wrap_call_function)
        for name in ("assign", "assign_add", "assign_sub", "scatter_add", "scatter_sub", "scatter_update"):
            for kind in (*seams.variable_classes(), *seams.distributed_variable_classes()):
                if name in kind.__dict__:
                    self._patches.wrap(kind, name, _wrap_write)
        self._patches.wrap(seams.keras_optimizer_class(), "apply", _wrap_apply)
        self._patches.wrap(seams.keras_loss_scale_class(), "apply", _wrap_apply)
        self._patches.wrap(seams.keras_loss_scale_class(), "scale_loss", _wrap_scale_loss)
        for kind in tf.distribute.Strategy.__mro__:
            if "run" in vars(kind):
                self._patches.wrap(kind, "run", _wrap_run)


HOOKS = Hooks()


def _wrap_apply(apply: Any) -> Any:
    def wrapped(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
        journal = THREAD.journal
        if getattr(getattr(optimizer, "inner_optimizer", None), "is_guarded", False) and not THREAD.is_busy:
            raise UsageError(
                "A LossScaleOptimizer around a GuardedOptimizer hands it nothing that could be judged. Received: "
                f"{optimizer.name} around {optimizer.inner_optimizer.name}. Wrap them the other way round, "
                "GuardedOptimizer(LossScaleOptimizer(...)); in `compile` under mixed_float16, which wraps optimizers "
                "by itself, add auto_scale_loss=False, or give the plain one and callbacks=[nanguard.Guard()]."
            )
        # A function that an eager step calls is traced as it is: its variables are noted when it is called.
        if THREAD.is_busy or journal is None or journal.update is None or not journal.is_open():
            return apply(optimizer, grads, trainable_variables)
        variables = trained(optimizer, trainable_variables)
        return journal.update(functools.partial(apply, optimizer), optimizer, list(grads), variables, journal)

    return wrapped


def _wrap_run(run: Any) -> Any:
    def wrapped(strategy: Any, fn: Any, args: Any = (), kwargs: Any = None, options: Any = None) -> Any:
        journal = THREAD.journal
        if THREAD.is_busy or journal is None or journal.on_replica is None or not journal.is_open():
            return run(strategy, fn, args, kwargs, options)
        guarded, gather = journal.on_replica(journal, fn)
        return gather(strategy, run(strategy, guarded, args, kwargs, options))

    return wrapped


def trained(optimizer: Any, trainable_variables: Any) -> list[Any]:
    """The variables that a call of `apply` trains."""
    if trainable_variables is not None:
        return list(trainable_variables)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "_trainable_variables", ()))


def _wrap_enter(enter: Any) -> Any:
    def __enter__(tape: Any) -> Any:
        journal = THREAD.journal
        if not THREAD.is_busy and (journal is None or not journal.is_whole):
            is_inner = (
                journal is not None
                and journal.tape is not None
                and seams.is_recording(journal.tape)
                and journal.is_open()
            )
            if not is_inner:
                THREAD.journal = Journal()
                THREAD.journal.tape = tape
        return enter(tape)

    return __enter__


def _wrap_gradient(gradient: Any) -> Any:
    def wrapped(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        journal = THREAD.journal
        is_step = False
        if journal is not None and not THREAD.is_busy and journal.is_open():
            is_step = any(script_variables.is_variable(source) for source in tf.nest.flatten(sources))
            if is_step:
                journal.has_gradient = True
                unscaled = {id(scaled): loss for scaled, loss in THREAD.unscaled}
                for tensor in tf.nest.flatten(target):
                    loss = unscaled.get(id(tensor), tensor)
                    if isinstance(loss, tf.Tensor) and flag.holds_floats(loss):
                        journal.losses.append(loss)
                THREAD.unscaled.clear()
        grads = gradient(tape, target, sources, *args, **kwargs)
        if is_step and journal.is_whole and graphs.current() is journal.graph:  # type: ignore[union-attr]
            journal.grads += [grad for grad in tf.nest.flatten(grads) if grad is not None]  # type: ignore[union-attr]
        return grads

    return wrapped


def _wrap_scale_loss(scale_loss: Any) -> Any:
    def wrapped(optimizer: Any, loss: Any) -> Any:
        scaled = scale_loss(optimizer, loss)
        THREAD.unscaled.append((scaled, loss))
        return scaled

    return wrapped


def _wrap_write(write: Any) -> Any:
    def wrapped(variable: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        journal = THREAD.journal
        if journal is None or THREAD.is_busy or not journal.is_open() or variable.name.startswith("nanguard"):
            return write(variable, value, *args, **kwargs)
        if journal.verdict is None:
            journal.note(variable)
            return write(variable, value, *args, **kwargs)
        # After the update: what a refused batch adds to a metric is taken back at once.
        kind = script_variables.kind_of_write()
        if kind != "metric" and not journal.is_whole:
            return write(variable, value, *args, **kwargs)
        local = script_variables.local(variable)
        with busy():
            entry = Entry(local, local.read_value(), kind)
            journal.later.append(entry)
            result = write(variable, value, *args, **kwargs)
            flag.branch(journal.verdict, lambda: None, entry.put_back)
        return result

    return wrapped


def _wrap_call_function(call: Any) -> Any:
    def call_function(context: Any, name: bytes, inputs: Any, num_outputs: int) -> Any:
        journal = THREAD.journal
        if journal is not None and not THREAD.is_busy and journal.graph is None and journal.verdict is None:
            journal.note_handles(inputs)
        return call(context, name, inputs, num_outputs)

    return call_function
