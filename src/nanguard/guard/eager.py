"""The recording of an eager step: each op as it runs, by reference, until the step has proved finite.

A plain eager loop cannot be run again, so what a replay needs is kept while it runs: the ops, and the tensors that no
op of the step made (batch, variables, random numbers). All other values can be computed again from these.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from nanguard.backend import execution
from nanguard.capture import Event, RecordedStep
from nanguard.guard import source
from nanguard.guard.graph import HISTORY_STEPS

# What another run of the op would not give again; a variable made in the step would have another handle.
NOT_REPEATABLE = frozenset({
    "VarHandleOp", "ReadVariableOp", "ResourceGather", "IteratorGetNext", "IteratorGetNextSync", "EagerPyFunc",
    "PyFunc", "PyFuncStateless", "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal",
    "RandomGamma", "RandomPoissonV2", "RandomShuffle", "Multinomial", "ParameterizedTruncatedNormal",
    "VarIsInitializedOp",
})  # fmt: skip
ASSIGNMENTS = frozenset({
    "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterAdd", "ResourceScatterSub",
    "ResourceScatterUpdate",
})  # fmt: skip
_NO_PREPROCESSING = frozenset({
    "AnonymousIteratorV3", "AssignAddVariableOp", "AssignVariableOp", "BatchDatasetV2", "DeleteIterator",
    "DestroyResourceOp", "FlatMapDataset", "IteratorGetNext", "IteratorGetNextAsOptional", "IteratorGetNextSync",
    "MakeIterator", "MapDataset", "OptionalGetValue", "OptionalHasValue", "OptionsDataset", "PrefetchDataset",
    "RangeDataset", "ReadVariableOp", "TensorDataset", "TensorSliceDataset", "VarHandleOp", "VarIsInitializedOp",
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
        self._outside: deque[_Record] = deque(maxlen=_MOST_OUTSIDE)
        self._outside_tensors: dict[int, Any] = {}
        self._outside_bytes = 0
        self._thread = thread
        self._history: deque[tuple[float, list[Any], list[float]]] = deque(maxlen=HISTORY_STEPS)
        self.start_step()

    def start_step(self) -> None:
        """Forgets the last step."""
        self.is_recording = False
        self.is_counted = False  # a Keras optimizer counts the step
        self.has_gradients = False
        self.tensors: dict[int, Any] = {}
        self.assigned: list[tuple[int, Any]] = []  # handle's number and value
        self._records: list[_Record] = []
        self._made: set[int] = set()

    def __call__(
        self,
        op_type: Any,
        inputs: tuple[Any, ...],
        attrs: tuple[Any, ...],
        outputs: Any,
        op_name: str | None = None,
        graph: Any = None,
    ) -> None:
        """The callback that TensorFlow calls after each op; every microsecond here is one for each op of the script."""
        if graph is not None or self.is_paused:
            return
        if op_type.__class__ is bytes:
            op_type = op_type.decode()
        is_call = op_type[:2] == "__"
        if not self.is_recording and (is_call or op_type in _NO_PREPROCESSING):
            return
        taken = [tensor._id for tensor in inputs]
        given = [tensor._id for tensor in outputs] if outputs else []
        thread = self._thread
        layer = thread.layers[-1] if thread.layers else None
        record = (op_type, attrs, taken, given, source.place(sys._getframe(1)), layer, thread.forward)
        if not self.is_recording:
            self._keep_outside(record, inputs)
            return
        made, tensors = self._made, self.tensors
        for number, tensor in zip(taken, inputs):  # noqa: B905
            if number not in made:
                tensors[number] = tensor
        made.update(given)
        if is_call or op_type in NOT_REPEATABLE:
            tensors.update(zip(given, outputs or ()))  # noqa: B905
        elif op_type in ASSIGNMENTS:
            self.assigned.append((taken[0], inputs[-1]))
        if len(self._records) < _MOST_EVENTS:
            self._records.append(record)

    @property
    def events(self) -> list[Event]:
        """The ops of the step, oldest first."""
        return [_event(record) for record in self._records]

    @property
    def is_by_hand(self) -> bool:
        """Whether the step has made an update that no Keras optimizer counts."""
        return self.has_gradients and bool(self.assigned) and not self.is_counted

    def _keep_outside(self, record: _Record, inputs: tuple[Any, ...]) -> None:
        # Preprocessing: kept so that a data set that it spoilt can be traced to its line.
        self._outside.append(record)
        self._outside_bytes += sum(_num_bytes(tensor) for tensor in inputs)
        if self._outside_bytes < _MOST_OUTSIDE_BYTES and len(self._outside_tensors) < 4 * _MOST_OUTSIDE:
            self._outside_tensors.update(zip(record[2], inputs, strict=True))

    def before(self) -> RecordedStep | None:
        """The ops that ran outside of steps, as far as they are kept."""
        if not self._outside:
            return None
        return RecordedStep([_event(record) for record in self._outside], dict(self._outside_tensors))

    def add_history(self, loss: float, variables: list[Any], half_squares: list[float]) -> None:
        """Notes a healthy step: its loss, and half the squared L2 norm of each variable's gradient."""
        self._history.append((loss, variables, half_squares))

    def history(
        self, label: Callable[[Any], str], variables: list[Any], step: int
    ) -> list[tuple[int, float, dict[str, float]]]:
        """The last healthy steps before step `step` that trained the same variables.

        Args:
            label: What a variable is called.
            variables: The variables of the failed step.
            step: Number of the failed step.

        Returns:
            Step number, loss, and gradient norm by variable.
        """
        rows = [row for row in self._history if row[1] and variables and row[1][0] is variables[0]]
        return [
            (step - len(rows) + place, loss, dict(zip(map(label, trained), map(norm, half_squares), strict=True)))
            for place, (loss, trained, half_squares) in enumerate(rows)
        ]


_Record = tuple[str, tuple[Any, ...], list[int], list[int], Any, "str | None", Any]


def _event(record: _Record) -> Event:
    op, attrs, taken, given, place, layer, forward = record
    line = (place[0].co_filename, place[1], place[0].co_name) if place is not None else None
    return Event(op, attrs, tuple(taken), tuple(given), line, layer, forward)


def norm(half_square: float) -> float:
    """L2 norm from half its square."""
    return float((2.0 * max(half_square, 0.0)) ** 0.5)


def _num_bytes(tensor: Any) -> int:
    return int(tensor.shape.num_elements() or 0) * int(tensor.dtype.size or 0)


def numbers(tensors: Any) -> tuple[int | None, ...]:
    """Numbers of eager tensors; None for what is none."""
    return tuple(
        execution.identity_of(tensor) if isinstance(tensor, execution.EagerTensor) else None for tensor in tensors or ()
    )
