"""Where a bar is known to be missed: how far at most, and why. What is worse than written here is a fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from verification.sweep import Tally

ULP_BAR = 2.0


@dataclass(frozen=True)
class Known:
    """A bar that is missed for a reason.

    Args:
        subject: Name of the op, or title of the loss, as a pattern.
        column: Attribute of `Tally`.
        bound: The largest figure that the reason covers, as measured and rounded up. None for that of the peer on the
            same numbers.
        why: The reason, in a sentence.
        dtypes: Where it holds, as a pattern.
        modes: Where it holds, as a pattern.
    """

    subject: str
    column: str
    bound: float | None
    why: str
    dtypes: str = "*"
    modes: str = "*"

    def covers(self, subject: str, column: str, dtype: str, mode: str) -> bool:
        """Whether it speaks of a figure."""
        fits = (fnmatch(subject, self.subject), fnmatch(dtype, self.dtypes), fnmatch(mode, self.modes))
        return column == self.column and all(fits)


@dataclass(frozen=True)
class Miss:
    """A figure beyond its bar, and what is known of it."""

    subject: str
    column: str
    dtype: str
    mode: str
    figure: float
    where: tuple[object, ...]
    known: Known | None
    plain: float | None

    @property
    def is_fault(self) -> bool:
        """Whether nothing excuses it."""
        if self.known is None:
            return True
        if self.known.bound is None:
            return self.plain is None or self.figure > self.plain
        return self.figure > self.known.bound

    def __str__(self) -> str:
        figure = f"{self.figure:,.2f} ulp" if self.column == "ulp" else f"{int(self.figure):,} x {self.column}"
        plain = "" if self.plain is None or self.column != "ulp" else f" (plain {self.plain:,.2f})"
        return f"{self.dtype} {self.mode} {figure}{plain} at {', '.join(map(str, self.where))}"


def misses(
    subject: str, tallies: dict[tuple[str, str, str], Tally], *, ours: str, columns: tuple[str, ...]
) -> Iterator[Miss]:
    """Gives each figure of ours beyond its bar: 0 of anything that is counted, and 2 ulp."""
    for (arm, dtype, mode), tally in tallies.items():
        if arm != ours:
            continue
        peer = next((t for (a, d, m), t in tallies.items() if a != ours and (d, m) == (dtype, mode)), None)
        for column in columns:
            figure = float(getattr(tally, column) or 0)
            if figure <= (ULP_BAR if column == "ulp" else 0):
                continue
            known = next((known for known in KNOWN if known.covers(subject, column, dtype, mode)), None)
            where = tally.ulp_at if column == "ulp" else tally.example
            plain = None if peer is None else getattr(peer, column)
            yield Miss(subject, column, dtype, mode, figure, where, known, plain)


REGION = "a sum over the pixels, a product and a quotient, each of which is rounded"
EXPONENT = "the exponential of a difference that is rounded: at an exponent of 10 that is 4 ulp of the result"
POWER = "a power of a probability that comes out of an exponential: each rounding counts as many times as the power"

KNOWN: tuple[Known, ...] = (
    Known("[a-z]*", "ulp", None, "the value is that of the plain op, and so is its error"),
    Known("FocalTversky", "ulp", 3.0, REGION),
    Known("GeneralizedDice", "ulp", 4.0, REGION),
    Known("Jaccard", "ulp", 3.0, REGION),
    Known("GaussianNLL", "ulp", 5.5, EXPONENT),
    Known("NormalKL", "ulp", 5.5, EXPONENT),
    Known("SigmoidFocal*", "ulp", 12.0, POWER),
    Known("SoftmaxFocal*", "ulp", 5.0, POWER),
)
