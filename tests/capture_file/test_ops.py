"""Which ops a capture may hold."""

from __future__ import annotations

import pytest
import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture_file import _ops
from nanguard.guard import eager
from nanguard.replay import program

REACHING = (
    "Abort", "Barrier", "BatchFunction", "Collective", "Dataset", "Debug", "Enqueue", "Fifo", "File",
    "GenerateVocab", "ImmutableConst", "Iterator", "Loa", "LookupTable", "PyFunc", "Reader", "Recv", "Remote",
    "Restore", "Rpc", "Save", "Send", "Sql", "Symbolic", "Table", "TensorArrayV", "Worker",
)  # fmt: skip


def all_ops() -> list[str]:
    """Names of all ops that TensorFlow gives to Python."""
    return [name for name in dir(tf.raw_ops) if execution.definition(name) is not None]


def test_no_op_that_reaches_out_is_allowed() -> None:
    """Of all ops that TensorFlow has, none with such a word in its name is allowed."""
    allowed = {name for name in all_ops() if _ops.is_allowed(name)} - _ops.NEVER_RUN
    assert {name for name in allowed for word in REACHING if word in name} == set()
    assert len(allowed) > 500


def test_all_allowed_ops_of_a_state_are_listed() -> None:
    """An op with a state is allowed by name alone, whatever TensorFlow brings next."""
    stateful = {name for name in all_ops() if execution.definition(name).is_stateful}  # type: ignore[union-attr]
    allowed = {name for name in stateful if _ops.is_allowed(name)}
    assert allowed <= _ops._STATEFUL | set(_ops.CALLS) | _ops.NEVER_RUN


@pytest.mark.parametrize("op", ["Conv2D", "FusedBatchNormV3", "ScatterNd", "TensorScatterUpdate", "TensorListReserve",
                                "StatelessRandomUniformV2", "Einsum", "ResourceScatterNdUpdate", "GatherNd",
                                "CTCLossV2", "Svd", "ResourceApplyAdam", "DecodePng"])  # fmt: skip
def test_what_trainings_are_made_of_is_allowed(op: str) -> None:
    """Ops that compute are allowed."""
    assert _ops.is_allowed(op)


def test_what_is_never_run_is_what_a_replay_leaves_out() -> None:
    """The ops that may stand in a graph because no replay runs them are indeed those that it leaves out."""
    assert _ops.NEVER_RUN - {"Placeholder"} <= program._LEFT_OUT


def test_what_is_given_is_what_is_not_repeated() -> None:
    """The ops that may stand in a recording with their outputs are indeed not run again."""
    assert _ops.GIVEN <= eager.NOT_REPEATABLE


def test_tensorflow_has_no_unavailable_op() -> None:
    """No op of TensorFlow's has the name of one that was left out."""
    assert not any(name.startswith(_ops.UNAVAILABLE) for name in all_ops())
