"""Which ops a capture may hold: those that compute, and none that reaches out of the step.

A capture may come from a stranger, and a replay runs its ops. So the list is one of what is allowed: ops without
state that take no path, no address and no function, and the stateful ones that only touch variables, lists and random
numbers.
"""

from __future__ import annotations

import functools

from nanguard.backend import execution
from nanguard.errors import UsageError

# Their functions are run by the replay itself, op by op, and their ops are looked at like all others.
CALLS = {
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
    "Case": ("branches",),
    "StatelessCase": ("branches",),
    "While": ("cond", "body"),
    "StatelessWhile": ("cond", "body"),
}
# A replay passes them over. That they are nodes of a graph does no harm.
NEVER_RUN = frozenset({
    "Placeholder", "NoOp", "PrintV2", "Assert", "WriteScalarSummary", "WriteHistogramSummary", "WriteImageSummary",
    "WriteSummary", "WriteGraphSummary", "WriteRawProtoSummary", "FlushSummaryWriter", "CheckNumerics",
    "CheckNumericsV2",
})  # fmt: skip
# A recording is run event by event, and holds none of them.
NEVER_RECORDED = frozenset(NEVER_RUN - {"CheckNumerics", "CheckNumericsV2"})
# What a recording has the outputs of, and a replay takes those: they may stand in one, and are not run.
GIVEN = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless", "IteratorGetNext", "IteratorGetNextSync"})
_STATEFUL = frozenset({
    "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp", "DestroyResourceOp", "ReadVariableOp",
    "ResourceCountUpTo", "ResourceGather", "ResourceGatherNd", "ResourceScatterAdd", "ResourceScatterDiv",
    "ResourceScatterMax", "ResourceScatterMin", "ResourceScatterMul", "ResourceScatterNdAdd", "ResourceScatterNdMax",
    "ResourceScatterNdMin", "ResourceScatterNdSub", "ResourceScatterNdUpdate", "ResourceScatterSub",
    "ResourceScatterUpdate", "ResourceStridedSliceAssign", "VarHandleOp", "VarIsInitializedOp", "VariableShape",
    "ResourceApplyAdaMax", "ResourceApplyAdadelta", "ResourceApplyAdagrad", "ResourceApplyAdagradDA",
    "ResourceApplyAdagradV2", "ResourceApplyAdam", "ResourceApplyAdamWithAmsgrad", "ResourceApplyAddSign",
    "ResourceApplyCenteredRMSProp", "ResourceApplyFtrl", "ResourceApplyFtrlV2", "ResourceApplyGradientDescent",
    "ResourceApplyKerasMomentum", "ResourceApplyMomentum", "ResourceApplyPowerSign",
    "ResourceApplyProximalAdagrad", "ResourceApplyProximalGradientDescent", "ResourceApplyRMSProp",
    "ResourceSparseApplyAdadelta", "ResourceSparseApplyAdagrad", "ResourceSparseApplyAdagradV2",
    "ResourceSparseApplyCenteredRMSProp", "ResourceSparseApplyFtrl", "ResourceSparseApplyFtrlV2",
    "ResourceSparseApplyKerasMomentum", "ResourceSparseApplyMomentum", "ResourceSparseApplyRMSProp",
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal", "StatelessRandomGetAlg",
    "RngReadAndSkip", "StatefulStandardNormalV2", "StatefulTruncatedNormal", "StatefulUniform", "StatefulUniformInt",
    "StatefulUniformFullInt", "NonDeterministicInts", "StatelessRandomGetKeyCounter", "Timestamp",
    "CudnnRNN", "CudnnRNNV2", "CudnnRNNV3", "CudnnRNNBackprop", "CudnnRNNBackpropV2", "CudnnRNNBackpropV3",
})  # fmt: skip
# They take strings, but as data, not as the name of something.
_STRINGS = frozenset({
    "AsString", "Bincount", "DecodeBase64", "DecodeBmp", "DecodeCSV", "DecodeGif", "DecodeImage", "DecodeJpeg",
    "DecodePaddedRaw", "DecodePng", "DecodeRaw", "EncodeBase64", "RegexFullMatch", "RegexReplace",
    "StaticRegexFullMatch", "StaticRegexReplace", "StringJoin", "StringLength", "StringLower", "StringSplit",
    "StringSplitV2", "StringStrip", "StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong",
    "StringToNumber", "StringUpper", "Substr", "StringFormat", "RaggedTensorToTensor",
    "ReduceJoin", "UnicodeDecodeWithOffsets", "UnicodeScript",
})  # fmt: skip
# String attributes that say how to compute, beside those with a fixed list of values.
_WORDS = frozenset({
    "data_format", "direction", "element_dtype", "ellipsis", "equation", "input_mode", "message", "mode", "padding",
    "rnn_mode", "transformation", "reduce_op", "fill_mode", "interpolation", "activation_mode", "reduction_type",
    "bad_indices_policy", "src_format", "dst_format", "kernel_type", "noise", "set_operation", "combiner",
})  # fmt: skip
_NEVER = (
    "BatchFunction", "Checkpoint", "Collective", "Dataset", "Debug", "File", "Infeed", "Iterator", "LoadAnd", "Outfeed",
    "PyFunc", "Queue", "Reader", "Recv", "Remote", "Restore", "Rpc", "Save", "Send", "Summary", "TPU", "Table", "Xla",
)  # fmt: skip
# Before the name of an op that was left out of a file: TensorFlow knows no such op, so that a replay ends there.
UNAVAILABLE = "Unavailable/"


@functools.cache
def is_allowed(op: str) -> bool:
    """Whether a capture may hold an op of this type.

    Example:

    >>> is_allowed("MatMul"), is_allowed("ReadVariableOp"), is_allowed("ReadFile"), is_allowed("EagerPyFunc")
    (True, True, False, False)
    """
    if op in CALLS or op in NEVER_RUN or op in _STATEFUL or op.startswith(UNAVAILABLE):
        return True
    definition = execution.definition(op)
    if definition is None or definition.is_stateful or op.startswith("_") or any(word in op for word in _NEVER):
        return False
    if op in _STRINGS:
        return True
    if any(arg.type in (execution.STRING, execution.RESOURCE) for arg in definition.input_arg):
        return False
    if any(attr.type in ("func", "list(func)", "list(string)") for attr in definition.attr):
        return False
    words = (attr for attr in definition.attr if attr.type == "string" and not attr.HasField("allowed_values"))
    return all(attr.name in _WORDS for attr in words)


def check(op: str, path: str) -> None:
    """Refuses an op that a capture may not hold.

    Raises:
        UsageError: Which op it is, and why.
    """
    if is_allowed(op):
        return
    if execution.definition(op) is None:
        raise UsageError(
            f"{path} holds the op {op}, which this TensorFlow does not know. "
            "Replay it where the op is known: with the TensorFlow that wrote it, or a newer one."
        )
    raise UsageError(
        f"{path} holds the op {op}, which may reach files, processes, the network or Python. "
        "Such a capture is not replayed: run the script again with `nanguard run`."
    )


def check_recorded(op: str, path: str) -> None:
    """Refuses an op that a recording may not hold.

    Raises:
        UsageError: Which op it is, and why.
    """
    if op in NEVER_RECORDED or op in CALLS:
        raise UsageError(f"{path} is damaged: its recording holds the op {op}.")
    check(op, path)
