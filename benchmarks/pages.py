"""What the measurements share: ratios and their spread, the conditions, and pages with marked sections."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Spread:
    """The median of some ratios and the quartiles around it."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Spread:
        """Takes the quartiles of at least two ratios."""
        return cls(*statistics.quantiles(ratios, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.lower:.3f} to {self.upper:.3f})"


def count(number: int, noun: str) -> str:
    """Puts a number before its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def conditions(*details: str) -> str:
    """Says on what it was measured, and the details, in one sentence."""
    versions = []
    for label, packages in {"TensorFlow": ("tensorflow", "tensorflow-cpu"), "Keras": ("keras",)}.items():
        for package in packages:
            try:
                versions.append(f"{label} {metadata.version(package)}")
                break
            except metadata.PackageNotFoundError:
                continue
    machine = f"{processor()}, {count(os.cpu_count() or 1, 'core')}, {platform.system()}"
    software = f"Python {platform.python_version()}, {', '.join(versions)}"
    return "; ".join((machine, software, *details)) + "."


def processor() -> str:
    """Gives the processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def verdict(is_met: bool) -> str:
    """Names the outcome of a bar."""
    return "pass" if is_met else "**miss**"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    """Gives the lines of a Markdown table whose first `texts` columns hold words and the others numbers."""
    rule = ["---"] * texts + ["--:"] * (len(head) - texts)
    return [table_row(*head), f"|{'|'.join(rule)}|", *(table_row(*row) for row in rows)]


def table_row(*cells: str) -> str:
    """Writes one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def write_section(path: Path, section: str, text: str) -> None:
    """Replaces what stands between the two markers of a section of a page.

    Raises:
        ValueError: If the page lacks the markers.
    """
    begin_marker, end_marker = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    page = path.read_text("utf-8")
    before, begin, rest = page.partition(begin_marker)
    _, end, after = rest.partition(end_marker)
    if not begin or not end:
        raise ValueError(
            f"`{path}` must hold the lines {begin_marker} and {end_marker}. Add them where the tables belong."
        )
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
