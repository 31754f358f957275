"""The watch inside a traced step: one flag, computed in the graph, that stands between the gradients and the update.

At trace time `tape.gradient` is given a check: the L2 norms of the gradients and the loss are added up, and if the sum
is not finite, a branch that never runs otherwise hands the step's inputs to Python. The gradients that the script gets
depend on that check, so that no update made of them can run before it; raising there stops the step with all weights
as they were.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend import execution, graphs, seams
from nanguard.backend.values import is_finite
from nanguard.guard import flag
from nanguard.guard import variables as script_variables

HISTORY_STEPS = 64
_RANDOM_OPS = frozenset({
    "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "ParameterizedTruncatedNormal",
    "RandomGamma", "RandomPoissonV2", "RandomShuffle", "Multinomial", "StatelessRandomGetKeyCounter",
})  # fmt: skip
_NOT_PASSED = (tf.resource, tf.variant)


@dataclass(eq=False)
class Check:
    """One place of a traced step where numbers are tested.

    Args:
        graph: The step's graph.
        losses: What was differentiated; under loss scaling what it was before.
        gradients: Pairs of variable and gradient tensor (of the values, for a sparse gradient).
        updates: Pairs of variable and tensor: new values of weights and slots.
        state: Pairs of variable and tensor: new values of layer state.
        is_scaled: Whether the differentiated loss was multiplied by a dynamic loss scale.
        inputs: The graph's inputs, random numbers and the like: all that is kept for a replay.
        before: Pairs of variable and tensor: values that the step itself had overwritten by then.
        written: Handles of the variables whose update runs before the check.
        ring: Variable with the last rows of loss and gradient norms, or None.
    """

    graph: Any
    losses: list[Any] = field(default_factory=list)
    gradients: list[tuple[Any, Any]] = field(default_factory=list)
    updates: list[tuple[Any, Any]] = field(default_factory=list)
    state: list[tuple[Any, Any]] = field(default_factory=list)
    is_scaled: bool = False
    inputs: list[Any] = field(default_factory=list)
    before: list[tuple[Any, Any]] = field(default_factory=list)
    written: list[Any] = field(default_factory=list)
    ring: Ring | None = None

    def count(self) -> int:
        """How many steps were checked before the one that failed."""
        return max(int(self.ring.count.numpy()) - 1, 0) if self.ring is not None else 0

    @property
    def tensors(self) -> list[Any]:
        """All that the check hands to Python, in one order."""
        return [
            *self.inputs,
            *(tensor for _, tensor in self.before),
            *self.losses,
            *(tensor for pairs in (self.gradients, self.updates, self.state) for _, tensor in pairs),
        ]


@dataclass(eq=False)
class Sighting:
    """A check that failed: where, and the values it was handed, by `id` of the graph tensor."""

    check: Check
    values: dict[int, Any]
    snapshot: dict[int, Any]
    handles: dict[int, Any]
    has_bad_loss: bool
    bad_gradients: list[int]
    bad_updates: list[int]
    bad_state: list[int]
    is_compiled: bool = False
    has_bad_weights: bool = False

    @property
    def is_only_scale(self) -> bool:
        """Whether all that is known to be wrong may come from a dynamic loss scale."""
        return self.check.is_scaled and not (self.has_bad_loss or self.bad_updates or self.bad_state)


@dataclass(frozen=True)
class Applying:
    """One `optimizer.apply` of a traced step.

    Args:
        waits: Ops that the update must wait for.
        before: Pairs of variable and its value before the update, where that is kept.
        variables: The variables that the update writes.
    """

    waits: list[Any]
    before: list[tuple[Any, Any]]
    variables: list[Any]


class Veto(Exception):
    """Stops a traced step before its update; never reaches the script."""


class Ring:
    """The last rows of loss and gradient norms, kept inside the graph.

    Args:
        variables: The variables whose gradients are noted.
    """

    def __init__(self, variables: list[Any]) -> None:
        width = 1 + len(variables)
        self.variables = variables
        self.rows = seams.new_variable(lambda: tf.zeros([HISTORY_STEPS, width]), "nanguard_history")
        self.count = seams.new_variable(lambda: tf.zeros([], tf.int64), "nanguard_count")

    def append(self, row: Any) -> None:
        """Adds ops that write one row."""
        place = tf.raw_ops.ResourceCountUpTo(resource=self.count.handle, limit=2**62, T=tf.int64)
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.rows.handle, indices=tf.math.floormod(place, HISTORY_STEPS), updates=row
        )

    def read(self) -> np.ndarray:
        """The rows, oldest first."""
        count = int(self.count.numpy())
        rows = self.rows.numpy()
        return rows[:count] if count <= HISTORY_STEPS else np.roll(rows, -(count % HISTORY_STEPS), axis=0)


class _Sheet:
    """What is known of one step graph while it is traced."""

    def __init__(self) -> None:
        self.before: dict[int, tuple[Any, Any]] = {}
        self.state: list[tuple[Any, Any]] = []
        self.checks: list[tuple[Any, Any]] = []  # pairs of graph and the check's op
        self.checked: set[int] = set()  # ids of gradient tensors that a check has seen
        self.guards: list[tuple[Any, Any]] = []  # pairs of graph and a tensor that is there once its check has passed
        self.written: list[Any] = []
        self.ring: Ring | None = None


class GraphWatch:
    """Adds the checks while functions are traced; `sightings` is where failed ones leave what they saw."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self.huge: Sighting | None = None
        self.rings_of_hand: list[Ring] = []  # of steps whose update no Keras optimizer makes
        self.compiled: weakref.WeakKeyDictionary[Any, list[Check]] = weakref.WeakKeyDictionary()
        self._sheets: weakref.WeakKeyDictionary[Any, _Sheet] = weakref.WeakKeyDictionary()
        self._scaled: deque[tuple[Any, Any]] = deque(maxlen=16)  # pairs of scaled loss and loss
        self._lock = threading.Lock()

    def on_scale_loss(self, loss: Any, scaled: Any) -> None:
        """Notes that `scaled` is the loss times a dynamic scale."""
        self._scaled.append((scaled, loss))

    def unscaled(self, loss: Any) -> Any:
        """The loss before a dynamic scale was applied to it; the loss itself if none was."""
        return next((before for scaled, before in self._scaled if scaled is loss), loss)

    def on_gradient(self, target: Any, pairs: list[tuple[Any, Any]]) -> list[Any]:
        """Checks the gradients of a traced step; gives them back so that they wait for the check.

        Args:
            target: What was differentiated, flat.
            pairs: Variables and their gradients; a gradient may be None or `tf.IndexedSlices`.
        """
        graph = graphs.current()
        sheet = self._sheet(graph)
        if graphs.is_compiled(graph):
            # No host callback runs under XLA: the check is only written down, for the replay to judge by.
            self.compiled.setdefault(graphs.step_graph(graph), []).append(
                self._gradient_check(graph, sheet, target, pairs)
            )
            return [grad for _, grad in pairs]
        check = self._gradient_check(graph, sheet, target, pairs)
        if graph is check.graph:  # a branch may not run; the end of the trace tests the state then
            check.state, sheet.state = sheet.state, []
        op = self._add(graph, check, keep_history=not tf.distribute.has_strategy())
        with tf.control_dependencies([op]):
            safe = [_identity(grad) for _, grad in pairs]
            sheet.guards.append((graph, tf.zeros([], name="nanguard_guard")))
        sheet.checked.update(id(flag.values(grad)) for grad in safe if grad is not None)
        return safe

    def _gradient_check(self, graph: Any, sheet: _Sheet, target: Any, pairs: list[tuple[Any, Any]]) -> Check:
        losses = [tensor for tensor in target if isinstance(tensor, tf.Tensor) and flag.holds_floats(tensor)]
        unscaled = [self.unscaled(tensor) for tensor in losses]
        return self._check(
            graph,
            losses=unscaled,
            gradients=[(variable, flag.values(grad)) for variable, grad in pairs if grad is not None],
            is_scaled=any(a is not b for a, b in zip(losses, unscaled, strict=True)),
        )

    def before_apply(self, optimizer: Any, grads: list[Any], variables: list[Any]) -> Applying:
        """Called before `optimizer.apply` in a traced step; its ops are to wait for `Applying.waits`."""
        graph = graphs.current()
        sheet = self._sheet(graph)
        unseen = [
            (variable, flag.values(grad))
            for variable, grad in zip(variables, grads, strict=False)
            if grad is not None and id(flag.values(grad)) not in sheet.checked
        ]
        if unseen:
            is_scaled = script_variables.dynamic_scale(optimizer) is not None
            self._add(graph, self._check(graph, gradients=unseen, is_scaled=is_scaled), keep_history=False)
        waits = [op for place, op in sheet.checks if place is graph]
        # A branch that is run as switches starts before all its inputs are there, unless it asks for them.
        waits += [tf.identity(guard).op for place, guard in sheet.guards if place is not graph and _sees(graph, place)]
        own = _float_variables(optimizer, variables)
        before = []
        if not script_variables.is_trusted(optimizer, variables) and not script_variables.is_distributed(variables):
            with tf.control_dependencies(waits):
                counter = script_variables.num_calls(optimizer)
                kept = own if counter is None else [*own, counter]
                before = [(variable, variable.read_value()) for variable in kept]
        return Applying(waits, before, own)

    def after_apply(self, applying: Applying) -> None:
        """Called after `optimizer.apply`: tests what an optimizer that is not trusted made of finite gradients."""
        graph = graphs.current()
        if applying.before:
            after = [(variable, variable.read_value()) for variable in applying.variables]
            check = self._check(graph, updates=after)
            check.before = [*applying.before, *check.before]
            self._add(graph, check, keep_history=False)
        self._sheet(graph).written += [variable.handle for variable in applying.variables]

    def on_assign(self, variable: Any, value: Any, kind: str) -> Any:
        """Called before a traced step writes a variable outside of an optimizer; gives what to wait for, or None."""
        graph = graphs.current()
        step = graphs.step_graph(graph)
        sheet = self._sheet(graph)
        if kind == "metric" or variable.name.startswith("nanguard"):
            return None
        if not sheet.checks and id(variable) not in sheet.before:
            with step.as_default(), tf.control_dependencies(None):
                sheet.before[id(variable)] = (variable, variable.read_value())
        tensor = tf.convert_to_tensor(value)
        if not flag.holds_floats(tensor):
            return None
        if kind == "weight" and sheet.checks:
            # Written by hand after the gradients: tested before the write, since nothing keeps the old value.
            if sheet.ring is not None and sheet.ring not in self.rings_of_hand:
                self.rings_of_hand.append(sheet.ring)
            check = self._check(graph, updates=[(variable, tensor)], ring=sheet.ring)
            op = self._add(graph, check, keep_history=False)
            sheet.written.append(variable.handle)
            return op
        if kind in ("weight", "state") and graph is step:
            sheet.state.append((variable, tensor))
        return None

    def finish(self, graph: Any) -> None:
        """Called when a function's trace ends: tests the state that no later check has tested."""
        sheet = self._sheets.get(graph)
        if sheet is not None and sheet.state:
            self._add(graph, self._check(graph, state=sheet.state), keep_history=False)
            sheet.state = []

    def _sheet(self, graph: Any) -> _Sheet:
        step = graphs.step_graph(graph)
        with self._lock:
            if step not in self._sheets:
                self._sheets[step] = _Sheet()
            return self._sheets[step]

    def _check(self, graph: Any, **parts: Any) -> Check:
        step = graphs.step_graph(graph)
        sheet = self._sheet(graph)
        inputs = [tensor for tensor in step.inputs if tensor.dtype not in _NOT_PASSED]
        inputs += [out for op in step.get_operations() if op.type in _RANDOM_OPS for out in op.outputs]
        return Check(step, inputs=inputs, before=list(sheet.before.values()), written=list(sheet.written), **parts)

    def _add(self, graph: Any, check: Check, *, keep_history: bool) -> Any:
        with tf.name_scope("nanguard"):
            norms = [flag.half_square(tensor) for _, tensor in check.gradients]
            others = [flag.half_square(tensor) for pairs in (check.updates, check.state) for _, tensor in pairs]
            losses = [
                tf.reduce_sum(tf.cast(loss, tf.float32)) if loss.shape.rank else tf.cast(loss, tf.float32)
                for loss in check.losses
            ]
            total = tf.add_n([*norms, *others, *losses]) if norms or others or losses else tf.zeros([])
            if keep_history:
                self._sheet(graph).ring = check.ring = Ring([variable for variable, _ in check.gradients])
                loss = tf.add_n(losses) if losses else tf.zeros([])
                check.ring.append(tf.stack([loss, *norms]))
            tensors = check.tensors
            result = tf.cond(
                tf.math.is_finite(total),
                tf.no_op,
                lambda: tf.py_function(self._judge(check), tensors, []),
            )
        op = graphs.conditional_of(result)
        graphs.run_unlowered(op)
        self._sheet(graph).checks.append((graph, op))
        return op

    def _judge(self, check: Check) -> Callable[..., None]:
        """The branch that runs when a check's sum is not finite: looks closely, and stops the step if it is true."""

        def judge(*arrays: Any) -> None:
            values = {id(tensor): array for tensor, array in zip(check.tensors, arrays, strict=True)}
            sighting = self._sighting(check, values)
            if not (sighting.has_bad_loss or sighting.bad_gradients or sighting.bad_updates or sighting.bad_state):
                self.huge = sighting  # finite, but too large to square: what the update makes of it is tested after it
                return
            with self._lock:
                self.sightings.append(sighting)
            if not sighting.is_only_scale:
                raise Veto

        return judge

    def _sighting(self, check: Check, values: dict[int, Any]) -> Sighting:
        def bad(pairs: list[tuple[Any, Any]]) -> list[int]:
            return [place for place, (_, tensor) in enumerate(pairs) if not is_finite(values[id(tensor)])]

        handles = _captured_handles(check.graph)
        snapshot = {
            key: execution.read_variable(handle, dtype)
            for key, (handle, dtype) in handles.items()
            if tf.raw_ops.VarIsInitializedOp(resource=handle)
        }
        for variable, tensor in check.before:
            snapshot[execution.identity_of(variable.handle)] = values[id(tensor)]
        bad_state = [
            place
            for place in bad(check.state)
            if is_finite(snapshot.get(execution.identity_of(check.state[place][0].handle), 0.0))
        ]
        return Sighting(
            check,
            values,
            snapshot,
            {key: handle for key, (handle, _) in handles.items()},
            has_bad_loss=any(not is_finite(values[id(loss)]) for loss in check.losses),
            bad_gradients=bad(check.gradients),
            bad_updates=bad(check.updates),
            bad_state=bad_state,
        )


def _captured_handles(graph: Any) -> dict[int, tuple[Any, Any]]:
    found = {}
    for _, inside in graph.captures:
        if inside.dtype == tf.resource:
            handle = graphs.external(graph, inside)
            dtype = script_variables.dtype_of(handle) if handle is not None else None
            if dtype is not None:
                found[execution.identity_of(handle)] = (handle, dtype)
    return found


def _float_variables(optimizer: Any, variables: list[Any]) -> list[Any]:
    every = [*variables, *script_variables.optimizer_variables(optimizer)]
    return [v for v in map(script_variables.raw, every) if v.dtype.is_floating]


def _sees(graph: Any, outer: Any) -> bool:
    """Whether a graph is nested in another, and so can take its tensors."""
    while graph is not None:
        if graph is outer:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def _identity(grad: Any) -> Any:
    if grad is None:
        return None
    if isinstance(grad, tf.IndexedSlices):
        return tf.IndexedSlices(tf.identity(grad.values), grad.indices, grad.dense_shape)
    return tf.identity(grad)
