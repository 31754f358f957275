"""What was found: one hazard in one place with its evidence, and the incident that it caused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

BornIn = Literal["data", "forward", "backward", "update", "divergence"]
SeenIn = Literal["loss", "gradients", "weights", "state"]
Action = Literal["stopped", "skipped", "rolled back"]


@dataclass(frozen=True)
class Where:
    """A line of the user's own source.

    Args:
        file: Path as the interpreter knows it, relative to the working directory where it lies below it.
        line: Line number, from 1.
        function: Name of the function that the line stands in, `<module>` at the top level.
        code: Text of the line, stripped; empty where the source cannot be read.
    """

    file: str
    line: int
    function: str
    code: str


@dataclass(frozen=True)
class Operand:
    """What one operand of an op held when a number stopped being finite.

    Args:
        name: The operand as the user's line spells it, or the op's own name for it.
        dtype: TensorFlow's name of the dtype, such as `float32`.
        shape: Shape as it was in the failed step.
        min: Smallest finite value; None if there is none.
        max: Largest finite value; None if there is none.
        nan: Number of NaN values.
        posinf: Number of `+inf` values.
        neginf: Number of `-inf` values.
        example_index: Index of one value that the hazard struck; None where none could be singled out.
        example_value: That value.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float | None
    max: float | None
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    example_index: tuple[int, ...] | None = None
    example_value: float | None = None


@dataclass(frozen=True)
class Cure:
    """A change that treats the hazard.

    Args:
        text: The cure in words, one sentence.
        replacement: Code to write in the place of the user's, or None.
        verified: Whether the failed step was finite when replayed with the cure in place.
    """

    text: str
    replacement: str | None = None
    verified: bool = False


@dataclass(frozen=True)
class HistoryStep:
    """One of the last healthy steps before an incident.

    Args:
        step: The step's number, as in `Incident.step`.
        loss: The loss.
        gradient_norm: L2 norm of all gradients together.
        learning_rate: The learning rate, or None where no optimizer told it.
        layer_norms: L2 norm of the gradient by variable path.
    """

    step: int
    loss: float | None
    gradient_norm: float | None
    learning_rate: float | None
    layer_norms: dict[str, float] = field(default_factory=dict)


@dataclass
class Incident:
    """One step whose loss, gradients, weights or state were not finite, and why.

    The fields are those of the JSON report (`nanguard.report/1`); docs/report.md gives them one by one.
    """

    step: int
    epoch: int | None
    seen_in: tuple[SeenIn, ...]
    born_in: BornIn
    op: str | None = None
    forward_op: str | None = None
    where: Where | None = None
    layer: str | None = None
    operands: tuple[Operand, ...] = ()
    hazard: str | None = None
    hazard_name: str | None = None
    cause: str | None = None
    chain: tuple[str, ...] = ()
    batch_size: int | None = None
    rows: tuple[int, ...] | None = None
    dataset_rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    reproduced: bool = True
    cure: Cure | None = None
    action: Action = "stopped"
    # What the text report says beyond the JSON contract's fields; also written to the JSON.
    summary: str = ""  # one sentence: what happened
    needs: str = ""  # what the op needs of its operand, such as `x > 0`
    notes: tuple[str, ...] = ()  # honest remarks: the replay failed, the graph differs from eager, ...
    history: tuple[HistoryStep, ...] = ()
    first_to_grow: str | None = None  # for divergence: the variable or layer whose gradient grew first

    def to_json(self) -> dict[str, Any]:
        """Gives the incident as plain dicts, lists and numbers, ready for `json.dumps`."""
        from dataclasses import asdict

        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
