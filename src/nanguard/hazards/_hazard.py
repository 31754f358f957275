"""What a hazard is: a region of an operand where a number, or its gradient, stops being finite."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from nanguard.intervals import FLOAT_FORMATS, FloatFormat, Interval, exactly, float_format

Phase = Literal["data", "forward", "backward", "update", "divergence", "state"]
Rule: TypeAlias = "Interval | Callable[[FloatFormat], Interval]"

ANY_OP = "*"
"""In `Hazard.ops`: the hazard may be born in an op of any type."""

FLOATS = tuple(FLOAT_FORMATS)
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def subnormal(format: FloatFormat) -> Interval:
    """Gives 0 and the numbers around it that many kernels read as 0."""
    return Interval(-format.smallest_normal, format.smallest_normal, low_open=True, high_open=True)


@dataclass(frozen=True)
class Region:
    """Where an operand strikes a hazard.

    Several operands that must be struck together are one region with further parts: the elements of an elementwise
    op are struck where every part holds. A part may name the same operand again, for a reduction that takes in both
    `+inf` and `-inf`.

    Args:
        operand: Index of the operand of the forward op.
        within: The numbers that strike, or a rule that gives them for a float format.
        also: Parts that must hold as well.
        ops: Op types of the hazard that the region speaks of; all of them if empty.
        is_certain: Whether every number of the region does harm, given for a backward hazard a gradient other than 0
            from above. Where some do none, such as a negative base whose exponent is whole, the region only says
            where harm is possible.
    """

    operand: int
    within: Rule
    also: tuple[Region, ...] = ()
    ops: tuple[str, ...] = ()
    is_certain: bool = True

    @property
    def parts(self) -> tuple[Region, ...]:
        """The region's own part first, then those that must hold as well."""
        return (self, *self.also)

    def interval(self, dtype: str) -> Interval:
        """Gives the numbers of this part, without those of `also`, for operands of a dtype.

        Raises:
            UsageError: If the limits depend on the dtype and it is no float dtype that nanguard knows.
        """
        return self.within if isinstance(self.within, Interval) else self.within(float_format(dtype))

    def is_struck(self, operands: Sequence[Interval], dtype: str) -> bool:
        """Whether every part overlaps its operand. An operand that is not there overlaps nothing."""
        return all(
            part.operand < len(operands) and operands[part.operand].overlaps(part.interval(dtype))
            for part in self.parts
        )


def near_zero(operand: int, *, ops: tuple[str, ...] = ()) -> tuple[Region, Region]:
    """Gives the regions of an operand that must not be 0: 0 itself, and what a kernel may read as 0."""
    return Region(operand, exactly(0), ops=ops), Region(operand, subnormal, ops=ops, is_certain=False)


@dataclass(frozen=True, eq=False)
class Hazard:
    """One way in which a number stops being finite, told once for every reader of the catalogue.

    It is data. What no region can say, such as a NaN behind `tf.where`, has no `strikes`, and is found by a named
    pattern in the room that can see it.

    Args:
        code: `NG` and three digits, for machines; never used again for another hazard.
        name: The pattern in words with hyphens, for people; it reads after "allow".
        summary: One sentence that ends with a full stop.
        cause: Label of the cause in the JSON report; several hazards may share it.
        phase: Where the first non-finite number is born.
        other_phases: Phases in which the same ops may give birth to it as well.
        ops: TensorFlow's types of the ops that give birth to it; for the backward phase the forward ops; `ANY_OP` for
            all types. The most common one first.
        calls: The public functions that a source file calls to get there.
        strikes: Regions of the operands; where several are struck the first is the better explanation.
        dtypes: Operand dtypes that it concerns.
        needs: What the op needs of its operand, such as `x > 0`.
        cure: One sentence that says what to change.
        replacements: By op type, code to write in the place of the user's call. `{0}`, `{1}` stand for the operands,
            `{floor}`, `{eps}` and `{exp_limit}` for limits of their dtype.
        why: Why it bites, and the traps in it; two to five sentences.
        bad: A few lines of Python, with `tf`, `keras`, `np` and `ng` (nanguard) at hand, whose last expression is not
            finite.
        good: The same, cured; its last expression is finite.
        measured: Versions that all this was measured with.
        references: Where to read more.
    """

    code: str
    name: str
    summary: str
    cause: str
    phase: Phase
    needs: str
    cure: str
    why: str
    bad: str
    good: str
    ops: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    strikes: tuple[Region, ...] = ()
    dtypes: tuple[str, ...] = FLOATS
    other_phases: tuple[Phase, ...] = ()
    replacements: Mapping[str, str] = field(default_factory=dict)
    measured: str = "TensorFlow 2.21, Keras 3.15, on the CPU"
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("bad", "good"):
            object.__setattr__(self, name, inspect.cleandoc(getattr(self, name)))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases in which it may be born, the usual one first."""
        return (self.phase, *self.other_phases)

    def regions(self, op: str | None = None) -> tuple[Region, ...]:
        """Gives the regions that speak of an op type; those of the first of `ops` if None."""
        op = op if op is not None else next(iter(self.ops), ANY_OP)
        return tuple(region for region in self.strikes if not region.ops or op in region.ops)

    def struck_by(self, operands: Sequence[Interval], dtype: str, op: str | None = None) -> Region | None:
        """Gives the first region that the operands may lie in, or None.

        Args:
            operands: What each operand of the forward op may be, in the op's own order.
            dtype: TensorFlow's name of the operands' dtype. None is struck if the hazard does not concern it.
            op: The op's type. Defaults to the first of `ops`.

        Example:

        >>> from nanguard import hazards
        >>> from nanguard.intervals import Interval
        >>> hazards.DIVISION_BY_ZERO.struck_by([Interval(1, 2), Interval(0, 5)], "float32").operand
        1
        """
        if dtype not in self.dtypes:
            return None
        return next((region for region in self.regions(op) if region.is_struck(operands, dtype)), None)

    def rewrite(self, op: str, operands: Sequence[str], dtype: str) -> str | None:
        """Gives code to write in the place of the user's call, or None where no rewriting of one call is a cure.

        Args:
            op: The op's type.
            operands: The operands as the user's line spells them.
            dtype: TensorFlow's name of their dtype.

        Example:

        >>> from nanguard import hazards
        >>> hazards.LOG_OF_NONPOSITIVE.rewrite("Log", ["p"], "float32")
        'ng.ops.log(p)'
        """
        template = self.replacements.get(op)
        if template is None or dtype not in self.dtypes:
            return None
        format = float_format(dtype)
        return template.format(
            *operands, floor=f"{format.floor:.2g}", eps=f"{format.eps:.2g}", exp_limit=f"{int(format.exp_limit)}.0"
        )
