"""The recording of an eager step: each op as it runs, by reference, until the step has proved finite.

A plain eager loop cannot be run again, so what a replay needs is kept while it runs: the ops, and the tensors that no
op of the step made (batch, variables, random numbers). All other values can be computed again from these.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture import Event, RecordedStep
from nanguard.guard import source
from nanguard.guard.graph import HISTORY_STEPS

# What another run of the op would not give again.
NOT_REPEATABLE = frozenset({
    "ReadVariableOp", "ResourceGather", "IteratorGetNext", "IteratorGetNextSync", "EagerPyFunc", "PyFunc",
    "PyFuncStateless", "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "RandomGamma",
    "RandomPoissonV2", "RandomShuffle", "Multinomial", "ParameterizedTruncatedNormal", "VarIsInitializedOp",
})  # fmt: skip
ASSIGNMENTS = frozenset({
    "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterAdd", "ResourceScatterSub",
    "ResourceScatterUpdate",
})  # fmt: skip
_MOST_OUTSIDE = 4096
_MOST_OUTSIDE_BYTES = 64 << 20
_MOST_EVENTS = 2_000_000


class Recorder:
    """Records one thread's eager ops.

    Args:
        thread: What the thread is doing: its `layers`, the stack of Keras layers being called, and `forward`, the
            forward op whose gradient is being run.
    """

    def __init__(self, thread: Any) -> None:
        self.is_paused = False
        self.is_recording = False
        self._outside: deque[Event] = deque(maxlen=_MOST_OUTSIDE)
        self._outside_tensors: dict[int, Any] = {}
        self._outside_bytes = 0
        self._thread = thread
        self._history: deque[tuple[float, list[Any], list[float]]] = deque(maxlen=HISTORY_STEPS)
        self.start_step()

    def start_step(self) -> None:
        """Forgets the last step."""
        self.is_recording = False
        self.is_counted = False  # a Keras optimizer counts the step
        self.events: list[Event] = []
        self.tensors: dict[int, Any] = {}
        self.assigned: list[tuple[int, Any, Any]] = []  # handle's number, value, event
        self.has_gradients = False
        self._made: set[int] = set()

    def __call__(
        self,
        op_type: str | bytes,
        inputs: tuple[Any, ...],
        attrs: tuple[Any, ...],
        outputs: Any,
        op_name: str | None = None,
        graph: Any = None,
    ) -> None:
        """The callback that TensorFlow calls after each op."""
        if graph is not None or self.is_paused:
            return
        if isinstance(op_type, bytes):
            op_type = op_type.decode()
        outputs = outputs or ()
        event = Event(
            op_type,
            attrs,
            tuple([tensor._id for tensor in inputs]),
            tuple([tensor._id for tensor in outputs]),
            source.innermost(sys._getframe(1)),
            self._thread.layers[-1] if self._thread.layers else None,
            self._thread.forward,
        )
        if not self.is_recording:
            self._keep_outside(event, inputs, outputs)
            return
        made, tensors = self._made, self.tensors
        for number, tensor in zip(event.inputs, inputs, strict=True):
            if number not in made:
                tensors[number] = tensor
        made.update(event.outputs)
        if op_type in NOT_REPEATABLE or op_type.startswith("__"):
            for number, tensor in zip(event.outputs, outputs, strict=True):
                tensors[number] = tensor
        elif op_type in ASSIGNMENTS:
            self.assigned.append((event.inputs[0], inputs[-1], event))
        if len(self.events) < _MOST_EVENTS:
            self.events.append(event)

    def _keep_outside(self, event: Event, inputs: tuple[Any, ...], outputs: Any) -> None:
        # Preprocessing: kept so that a data set that it spoilt can be traced to its line.
        if event.op in ("ReadVariableOp", "AssignVariableOp", "VarHandleOp"):
            return
        self._outside.append(event)
        self._outside_bytes += sum(_num_bytes(tensor) for tensor in inputs)
        if self._outside_bytes < _MOST_OUTSIDE_BYTES:
            for number, tensor in zip(event.inputs, inputs, strict=True):
                self._outside_tensors[number] = tensor

    def before(self) -> RecordedStep | None:
        """The ops that ran outside of steps, as far as they are kept."""
        return RecordedStep(list(self._outside), dict(self._outside_tensors)) if self._outside else None

    def add_history(self, losses: list[Any], gradients: list[tuple[Any, Any]]) -> None:
        """Notes a healthy step: its losses and the L2 norms of its gradients."""
        norms = [float(tf.norm(tf.cast(grad, tf.float32))) for _, grad in gradients]
        loss = float(sum(np.sum(np.asarray(tensor).astype(np.float64)) for tensor in losses))
        self._history.append((loss, [variable for variable, _ in gradients], norms))

    def history(self, label: Callable[[Any], str], step: int) -> list[tuple[int, float, dict[str, float]]]:
        """The last healthy steps before step `step`: number, loss, gradient norm by what `label` calls the variable."""
        rows = list(self._history)
        return [
            (step - len(rows) + place, loss, dict(zip(map(label, variables), norms, strict=True)))
            for place, (loss, variables, norms) in enumerate(rows)
        ]


def _num_bytes(tensor: Any) -> int:
    return int(tensor.shape.num_elements() or 0) * int(tensor.dtype.size or 0)


def numbers(tensors: Any) -> tuple[int | None, ...]:
    """Numbers of eager tensors; None for what is none."""
    return tuple(
        execution.identity_of(tensor) if isinstance(tensor, execution.EagerTensor) else None for tensor in tensors or ()
    )
