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
FOCUS = "the power of a probability, times a logarithm: the roundings of both add up"
SOFT = "for a soft label, two products and their sum, each of which is rounded"
XLA_LOG1P = "XLA's log1p is off by 2.5 ulp"
LOG1P = "TensorFlow's log1p is off by 3.8 ulp, and XLA's by 2.5"
ERROR = "the error is rounded before its function is taken, which grows as its square"
ANGLE = "two sums of squares, their roots, and two quotients, each of which is rounded"
RECIPROCALS = "it has the bits of l2_normalize, and so the rounding of two reciprocal roots, each off by 2 ulp"
EQUAL = "distances within the rounding of the products, at most 7 ulp and up to 14 below a power of two, count as 0"
GAMMAS = "TensorFlow's lgamma and digamma are off by some ulp each, and the terms of them cancel"
XLA_GAMMAS = "XLA's lgamma is off by 5e-7 near 1 and 2, where it is 0"
XLA_LGAMMA = "XLA's lgamma of 1 is off by 1e-15 in float64, which shows where the loss itself is 1e-10"
ERFINV = "TensorFlow's erfinv, that of float32, gives 0 for numbers below 1e-7"
LUCK = "where neither is within 2 ulp, which of the two is the nearer is chance"

KNOWN: tuple[Known, ...] = (
    Known("cosine_similarity", "ulp", 4.3, RECIPROCALS),
    Known("entropy", "ulp", 2.4, "TensorFlow's log is off by 3.2 ulp near 1"),
    Known("kl_bernoulli", "ulp", 4.7, "`1 - p` and a ratio are rounded before the logarithm, itself off by 3.8 ulp"),
    Known("kl_beta", "ulp", 16.0, XLA_GAMMAS, modes="xla"),
    Known("kl_beta", "ulp", 5.0, GAMMAS),
    Known("kl_dirichlet", "ulp", 5.0, GAMMAS),
    Known("kl_gamma", "ulp", 142.0, XLA_GAMMAS, modes="xla"),
    Known("kl_gamma", "ulp", 7.5, GAMMAS),
    Known("kl_poisson", "ulp", 2.4, "a ratio, its logarithm, a product and two differences, each of which is rounded"),
    Known("pairwise_distances", "ulp", 8.5, EQUAL),
    Known("erfinv", "ulp", 256.0, ERFINV, dtypes="bfloat16", modes="eager"),
    Known("[a-z]*", "ulp", None, "the value is that of the plain op, and so is its error"),
    Known("BetaNLL", "ulp", 64.0, XLA_LGAMMA, modes="xla"),
    Known("BinaryCrossentropy", "ulp", 2.4, SOFT),
    Known("BinaryCrossentropy, logits", "ulp", 2.5, XLA_LOG1P, modes="xla"),
    Known("BinaryFocalCrossentropy", "ulp", 4.0, FOCUS),
    Known("BinaryFocalCrossentropy", "farther", 50, LUCK),
    Known("BinaryFocalCrossentropy, logits", "ulp", 7.5, POWER),
    Known("BinaryFocalCrossentropy, logits", "farther", 120, LUCK),
    Known("CategoricalFocalCrossentropy*", "ulp", 2.7, FOCUS),
    Known("CategoricalFocalCrossentropy*", "farther", 5, LUCK),
    Known("CosineSimilarity", "ulp", 2.8, ANGLE),
    Known("CosineSimilarity", "farther", 7, LUCK),
    Known("FocalTversky", "ulp", 3.0, REGION),
    Known("GaussianNLL", "ulp", 5.5, EXPONENT),
    Known("GeneralizedDice", "ulp", 4.0, REGION),
    Known("Jaccard", "ulp", 3.0, REGION),
    Known("LogCosh", "ulp", 2.6, ERROR),
    Known("LogCosh", "farther", 4, LUCK),
    Known("MeanSquaredLogarithmicError", "ulp", 3.2, LOG1P),
    Known("MeanSquaredLogarithmicError", "farther", 9, LUCK),
    Known("NormalKL", "ulp", 5.5, EXPONENT),
    Known("SigmoidFocal", "ulp", 3.5, FOCUS),
    Known("SigmoidFocal, logits", "ulp", 9.0, POWER),
    Known("SoftmaxFocal", "ulp", 2.5, FOCUS),
    Known("SoftmaxFocal, logits", "ulp", 5.0, POWER),
)
